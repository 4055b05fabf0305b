from __future__ import annotations

import pytest

from twins.engine.config import OptimizerConfig, ScheduleConfig, TrainConfig
from twins.engine.schedule import averaging_decay, learning_rate, progress_of, scheduled_rate, total_steps


def test_the_reference_recipe_has_the_rates_of_timms_scheduler() -> None:
    import torch
    from timm.scheduler import CosineLRScheduler

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1e-3)
    theirs = CosineLRScheduler(optimizer, t_initial=300, lr_min=1e-5, warmup_t=5, warmup_lr_init=1e-6)
    for epoch in (0, 1, 4, 5, 6, 100, 299):
        ours = learning_rate(epoch / 300, peak=1e-3, warmup=5 / 300, warmup_lr=1e-6, min_lr=1e-5)
        assert ours == pytest.approx(theirs._get_lr(epoch)[0], rel=1e-9)


def test_a_run_shorter_than_its_warm_up_still_comes_down() -> None:
    config = TrainConfig(epochs=1, optimizer=OptimizerConfig(lr=1e-3), schedule=ScheduleConfig(warmup_epochs=5))
    rates = [scheduled_rate(config, progress) for progress in (0.0, 0.25, 0.49, 1.0)]
    assert rates[0] < rates[1] < rates[2] > rates[3] == pytest.approx(1e-6)


def test_a_time_budget_drives_progress_and_replaces_epochs() -> None:
    config = TrainConfig(epochs=3, minutes=2)
    assert total_steps(config, 100) is None
    assert progress_of(config, step=10_000, steps=None, seconds=60) == 0.5
    assert progress_of(config, step=1, steps=None, seconds=1000) == 1.0


def test_steps_end_a_run_at_whichever_limit_comes_first() -> None:
    assert total_steps(TrainConfig(epochs=2.5), 10) == 25
    assert total_steps(TrainConfig(epochs=2.5, max_steps=7), 10) == 7
    assert total_steps(TrainConfig(epochs=0.001), 10) == 1
    assert progress_of(TrainConfig(minutes=1, max_steps=10), step=9, steps=10, seconds=6) == 0.9


def test_the_average_forgets_its_first_weights_soon_and_then_keeps_its_decay() -> None:
    assert averaging_decay(0, 0.999) == pytest.approx(0.1)
    assert averaging_decay(10**6, 0.999) == 0.999
