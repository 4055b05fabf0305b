from __future__ import annotations

import pytest

from twins.engine.config import OptimizerConfig, ScheduleConfig, TrainConfig
from twins.engine.progress import Plan, Progress
from twins.engine.schedule import ema_decay, extend_run, learning_rate, poly_rate, scheduled_rate, total_steps


def test_the_reference_recipe_has_the_rates_of_timms_scheduler() -> None:
    import torch
    from timm.scheduler import CosineLRScheduler

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1e-3)
    theirs = CosineLRScheduler(optimizer, t_initial=300, lr_min=1e-5, warmup_t=5, warmup_lr_init=1e-6)
    for epoch in (0, 1, 4, 5, 6, 100, 299):
        ours = learning_rate(epoch / 300, peak=1e-3, warmup=5 / 300, warmup_lr=1e-6, min_lr=1e-5)
        assert ours == pytest.approx(theirs._get_lr(epoch)[0], rel=1e-9)


def poly(share_done: float, **settings: float) -> float:
    return poly_rate(
        share_done, **({"peak": 1e-2, "power": 0.9, "warmup": 0.1, "warmup_lr": 1e-6, "min_lr": 1e-4} | settings)
    )


def test_poly_rises_to_the_curve_and_falls_to_min_lr_and_never_below() -> None:
    assert poly(0.0) == pytest.approx(1e-6, rel=1e-12)
    assert poly(0.0, warmup=0.0) == pytest.approx(1e-2, rel=1e-12)
    assert poly(1.0) == poly(1.5) == pytest.approx(1e-4, rel=1e-12)
    rates = [poly(step / 100) for step in range(101)]
    assert rates[:10] == sorted(rates[:10])
    assert rates[10:] == sorted(rates[10:], reverse=True)


def test_the_warm_up_of_poly_meets_its_curve_without_a_jump() -> None:
    assert poly(0.1 - 1e-9) == pytest.approx(poly(0.1), rel=1e-6)
    assert poly(0.1) == poly(0.1, warmup=0.0)  # the curve spans the whole run
    assert poly(0.05) < poly(0.05, warmup=0.0)


@pytest.mark.parametrize("power", [0.5, 0.9, 1.0, 2.0])
def test_poly_has_the_rates_of_pytorchs_polynomial_scheduler(power: float) -> None:
    import torch

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1e-2)
    theirs = torch.optim.lr_scheduler.PolynomialLR(optimizer, total_iters=40, power=power)
    for step in range(41):
        ours = poly(step / 40, power=power, warmup=0.0, min_lr=0.0)
        assert ours == pytest.approx(theirs.get_last_lr()[0], rel=1e-6, abs=1e-12)
        optimizer.step()
        theirs.step()


def test_a_run_of_given_steps_warms_up_in_steps_and_follows_its_schedule() -> None:
    schedule = ScheduleConfig(kind="poly", power=2.0, warmup_steps=50, warmup_lr=0.0, min_lr=0.0)
    config = TrainConfig(steps=200, optimizer=OptimizerConfig(lr=1.0, lr_batch=None), schedule=schedule)
    assert total_steps(config, 10) == 200
    rates = [scheduled_rate(config, step / 200) for step in (0, 25, 50, 100, 200)]
    assert rates == pytest.approx([0.0, 0.5 * (7 / 8) ** 2, 0.75**2, 0.25, 0.0], abs=1e-12)
    straight = TrainConfig(steps=200, optimizer=OptimizerConfig(lr=1.0), schedule=ScheduleConfig(warmup_steps=0))
    assert scheduled_rate(straight, 0.25) > 0.8  # cosine, the default


def test_the_rate_falls_even_if_the_run_is_shorter_than_its_warm_up() -> None:
    config = TrainConfig(epochs=1, optimizer=OptimizerConfig(lr=1e-3), schedule=ScheduleConfig(warmup_epochs=5))
    rates = [scheduled_rate(config, share_done) for share_done in (0.0, 0.25, 0.49, 1.0)]
    assert rates[0] < rates[1] < rates[2] > rates[3] == pytest.approx(1e-6)


def test_a_time_budget_replaces_epochs() -> None:
    config = TrainConfig(epochs=3, minutes=2)
    assert total_steps(config, 100) is None
    assert Plan(config, 100).share_done(Progress(step=10_000, seconds=60)) == 0.5
    assert Plan(config, 100).share_done(Progress(step=1, seconds=1000)) == 1.0


def test_steps_end_a_run_at_whichever_limit_comes_first() -> None:
    assert total_steps(TrainConfig(epochs=2.5), 10) == 25
    assert total_steps(TrainConfig(epochs=2.5, max_steps=7), 10) == 7
    assert total_steps(TrainConfig(epochs=0.001), 10) == 1
    assert Plan(TrainConfig(minutes=1, max_steps=10), 10).share_done(Progress(step=9, seconds=6)) == 0.9


@pytest.mark.parametrize(
    ("config", "step", "seconds", "due"),
    [
        (TrainConfig(minutes=3, eval_every=0.5), 300, 120.0, True),  # 60 s left, and an interval takes 20 s
        (TrainConfig(minutes=3, eval_every=0.5), 400, 171.0, False),  # 9 s left, an interval takes 21 s
        (TrainConfig(minutes=3, eval_every=0.5), 401, 180.0, True),
        (TrainConfig(minutes=3, eval_every=4.0), 400, 171.0, False),
        (TrainConfig(steps=401, eval_every=0.5), 400, 171.0, True),
        (TrainConfig(minutes=3, max_steps=401, eval_every=0.5), 400, 100.0, False),
    ],
)
def test_a_timed_run_is_not_evaluated_shortly_before_its_end(
    config: TrainConfig, step: int, seconds: float, due: bool
) -> None:
    plan = Plan(config, 100)
    progress = Progress(step=step, seconds=seconds)
    assert plan.evaluation_due(progress) == due
    progress.evaluated = step
    assert not plan.evaluation_due(progress)


def test_the_ema_decay_starts_small_and_grows_to_its_setting() -> None:
    assert ema_decay(0, 0.999) == pytest.approx(0.1)
    assert ema_decay(10**6, 0.999) == 0.999


def test_a_step_schedule_falls_to_a_tenth_at_each_drop() -> None:
    schedule = ScheduleConfig(kind="step", drop_epochs=(8.0, 11.0), warmup_epochs=0.5, warmup_lr=0.0, min_lr=0.0)
    config = TrainConfig(epochs=12, optimizer=OptimizerConfig(lr=1e-2), schedule=schedule)
    rates = [scheduled_rate(config, epoch / 12) for epoch in (0, 0.25, 0.5, 7.99, 8, 10.99, 11, 12)]
    assert rates == pytest.approx([0, 5e-3, 1e-2, 1e-2, 1e-3, 1e-3, 1e-4, 1e-4], rel=1e-9)


@pytest.mark.parametrize(
    ("planned", "added", "expected"),
    [
        ({"epochs": 10}, {"epochs": 5}, {"epochs": 15.0, "steps": None, "minutes": None}),
        ({"epochs": 10}, {"minutes": 2.0}, {"epochs": 10, "steps": None, "minutes": 12.0}),
        ({"minutes": 10.0}, {"epochs": 5}, {"epochs": 15.0, "steps": None, "minutes": None}),
        ({"steps": 500}, {"steps": 100}, {"steps": 600, "minutes": None}),
        ({"epochs": 20, "max_steps": 500}, {"steps": 100}, {"steps": 600, "max_steps": None}),
    ],
)
def test_a_length_is_added_to_what_was_done_and_the_rate_is_that_of_a_run_planned_so_long(
    planned: dict[str, float], added: dict[str, float], expected: dict[str, float | None]
) -> None:
    resumed = TrainConfig(**planned)  # type: ignore[arg-type]
    requested = TrainConfig(resume="run", extend=True, **added)  # type: ignore[arg-type]
    extended = extend_run(requested, resumed, step=500, epochs=10.0, seconds=600.0)
    assert {name: getattr(extended, name) for name in expected} == expected
    plan, progress = Plan(extended, 50), Progress(step=500, seconds=600.0)
    share = plan.share_done(progress)
    assert 0.6 < share < 0.9
    assert extended.schedule.min_lr < scheduled_rate(extended, share) < 0.6 * extended.lr


def test_a_length_of_another_unit_drops_the_warm_up_in_steps() -> None:
    schedule = ScheduleConfig(warmup_steps=100)
    resumed, requested = TrainConfig(steps=500, schedule=schedule), TrainConfig(minutes=1.0, extend=True)
    assert extend_run(requested, resumed, step=500, epochs=10.0, seconds=60.0).schedule.warmup_steps is None
