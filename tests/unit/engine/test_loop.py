from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from twins.data.loading.batch import Skipped
from twins.engine.config import OptimizerConfig, ScheduleConfig
from twins.engine.log import read_rows
from twins.engine.state import load_state
from twins.errors import DataError, TrainingError
from twins.weights.files import read_tensors

from .conftest import ToyTask


def _equal_weights(first: Any, second: Any) -> bool:
    return all(
        torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )


def test_a_run_learns_and_writes_its_log(toy: Any, tmp_path: Path) -> None:
    _, outcome = toy()
    assert outcome.reason == "finished"
    assert outcome.progress.step == 20
    assert outcome.metrics["top1"] > 0.8
    train, evals = read_rows(tmp_path, "train"), read_rows(tmp_path, "eval")
    assert [row["step"] for row in train] == [3, 6, 9, 12, 15, 18, 20]
    assert set(train[0]) == {"kind", "step", "epoch", "lr", "loss", "images_per_s"}
    assert [row["step"] for row in evals] == [5, 10, 15, 20]
    assert evals[0].keys() == {"kind", "step", "epoch", "top1", "loss"}
    assert evals[-1]["loss"] < evals[0]["loss"]
    assert train[-1]["loss"] < train[0]["loss"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [{}, {"ema_decay": 0.9}, {"accumulate": 1, "batch_size": 4}, {"save_every": 2}, {"precision": "bf16-true"}],
)
def test_a_run_stopped_by_a_signal_resumes_exactly(toy: Any, tmp_path: Path, settings: dict[str, Any]) -> None:
    uninterrupted, stopped = tmp_path / "uninterrupted", tmp_path / "stopped"
    uninterrupted.mkdir()
    stopped.mkdir()
    expected, _ = toy(folder=uninterrupted, **settings)

    def interrupt(step: int, index: int, batch: Any) -> None:
        if (step, index) == (7, 0):
            os.kill(os.getpid(), signal.SIGTERM)

    _, outcome = toy(interrupt, folder=stopped, **settings)
    assert outcome.reason == "stopped"
    assert outcome.progress.step == 8  # the step in progress is completed
    log = (stopped / "log.txt").read_text()
    assert f"twins train --resume {stopped}" in log
    resumed, outcome = toy(folder=stopped, resume=str(stopped), **settings)
    assert outcome.reason == "finished"
    assert _equal_weights(resumed, expected)
    for name in ("best.safetensors", "last/model.safetensors"):
        resumed_weights, expected_weights = (
            read_tensors(stopped / name).tensors,
            read_tensors(uninterrupted / name).tensors,
        )
        assert all(torch.equal(resumed_weights[key], expected_weights[key]) for key in expected_weights)
    columns = ("kind", "step", "loss", "top1", "lr")
    rows = [[{k: row[k] for k in columns if k in row} for row in read_rows(run)] for run in (uninterrupted, stopped)]
    assert rows[0] == rows[1]


def test_resuming_a_run_without_a_state_starts_at_step_0(toy: Any, tmp_path: Path) -> None:
    expected, _ = toy(folder=tmp_path)
    fresh = tmp_path / "fresh"
    fresh.mkdir()
    resumed, _ = toy(folder=fresh, resume=str(fresh))
    assert _equal_weights(resumed, expected)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_loss_that_is_not_finite_stops_before_the_weights_change(toy: Any, tmp_path: Path, accumulate: int) -> None:
    def spoil(step: int, index: int, batch: Any) -> None:
        if step == 6 and index == 0:
            batch.images[1] = float("nan")

    task = ToyTask()
    with pytest.raises(TrainingError) as caught:
        toy(spoil, task=task, accumulate=accumulate, batch_size=4 * accumulate)
    message = str(caught.value)
    assert "step 7" in message
    first = 6 * accumulate * 4 % 40
    assert f"point-{first}, point-{first + 1}" in message
    assert "\n" not in message
    state = load_state(tmp_path)
    assert state.progress.step == 6
    assert all(torch.equal(state.weights[key], value) for key, value in task.state_dict().items())
    assert all(value.isfinite().all() for value in task.parameters())


def test_a_step_with_a_loss_of_nan_does_not_change_the_running_statistics(toy: Any, tmp_path: Path) -> None:
    class Normed(ToyTask):
        def __init__(self) -> None:
            super().__init__()
            self.norm = torch.nn.BatchNorm1d(2)

        def forward(self, images: torch.Tensor, sizes: Any = None) -> torch.Tensor:
            return super().forward(self.norm(images))

    def spoil(step: int, index: int, batch: Any) -> None:
        if (step, index) == (6, 1):
            batch.images[1] = float("nan")

    with pytest.raises(TrainingError, match="loss is nan at step 7"):
        toy(spoil, task=Normed())
    state = load_state(tmp_path)
    (tmp_path / "short").mkdir()
    expected, _ = toy(task=Normed(), folder=tmp_path / "short", steps=6, schedule=ScheduleConfig(warmup_epochs=0))
    assert state.progress.step == 6
    assert state.weights["norm.num_batches_tracked"] == 12
    assert torch.equal(state.weights["norm.running_mean"], expected.norm.running_mean)
    assert torch.equal(state.weights["norm.running_var"], expected.norm.running_var)


def test_a_gradient_that_is_not_finite_stops_before_the_weights_change(toy: Any) -> None:
    task = ToyTask()
    before = {}

    def spoil(step: int, index: int, batch: Any) -> None:
        if step == 3 and index == 1:
            before.update({key: value.clone() for key, value in task.state_dict().items()})
            task.last.weight.register_hook(lambda grad: grad * float("inf"))

    with pytest.raises(TrainingError, match="gradients are not finite at step 4"):
        toy(spoil, task=task)
    assert all(torch.equal(before[key], value) for key, value in task.state_dict().items())


@pytest.mark.slow
def test_an_out_of_memory_error_names_the_batch_that_fits_and_keeps_the_state(toy: Any, tmp_path: Path) -> None:
    class Hungry(ToyTask):
        trained = 0

        def losses(self, images: Any, targets: Any, sizes: Any = None) -> Any:
            Hungry.trained += 1
            if Hungry.trained > 12 and len(images) > 2:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().losses(images, targets, sizes)

    with pytest.raises(TrainingError) as caught:
        toy(task=Hungry())
    assert "`accumulate=4`, which keeps the recipe with 2 images" in str(caught.value)
    assert load_state(tmp_path).progress.step == 6
    _, outcome = toy(resume=str(tmp_path), accumulate=4)
    assert outcome.progress.step == 20


def test_a_full_disk_stops_the_run_with_one_sentence_and_it_resumes_exactly(
    toy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "uninterrupted").mkdir()
    expected, _ = toy(folder=tmp_path / "uninterrupted")
    run, save, calls = tmp_path / "run", torch.save, []
    run.mkdir()

    def full(*arguments: Any, **settings: Any) -> None:
        calls.append(1)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        save(*arguments, **settings)

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(TrainingError, match="No space left on device"):
        toy(folder=run)
    assert load_state(run).progress.step == 5
    resumed, _ = toy(folder=run, resume=str(run))
    assert _equal_weights(resumed, expected)


def test_unreadable_images_are_named_once_and_too_many_end_the_run(toy: Any, tmp_path: Path) -> None:
    def spoil(step: int, index: int, batch: Any) -> None:
        batch.skipped.append(Skipped(f"broken-{step % 2}.jpg", "cut short"))

    toy(spoil, max_skipped=0.05)
    log = (tmp_path / "log.txt").read_text()
    assert log.count("broken-0.jpg") == 1
    assert log.count("broken-1.jpg") == 1
    (tmp_path / "more").mkdir()
    with pytest.raises(DataError, match=r"2 of 40 .*`max_skipped=0\.03`"):
        toy(spoil, folder=tmp_path / "more", max_skipped=0.03)


def test_a_run_with_too_many_unreadable_images_keeps_what_it_has_learned(toy: Any, tmp_path: Path) -> None:
    run, whole = tmp_path / "run", tmp_path / "whole"
    run.mkdir()
    whole.mkdir()
    expected, _ = toy(folder=whole)

    def spoil(step: int, index: int, batch: Any) -> None:
        batch.skipped += [Skipped(f"{step}.jpg", "cut short")] if step == 3 else []

    with pytest.raises(DataError, match=f'continue from step 4 with `resume="{run}"`'):
        toy(spoil, folder=run, max_skipped=0.0)
    with pytest.raises(DataError, match="continue from step 6"):
        toy(lambda step, *_: spoil(step - 2, *_), folder=run, resume=str(run), max_skipped=0.0)
    resumed, _ = toy(folder=run, resume=str(run), max_skipped=0.0)
    assert _equal_weights(resumed, expected)


def test_a_run_without_improvement_for_patience_evaluations_ends_early(toy: Any) -> None:
    _, outcome = toy(epochs=200, patience=3, optimizer=OptimizerConfig(lr=1e-9, layer_decay=None))
    assert outcome.reason == "patience"
    assert outcome.progress.step < 200 * 5


def test_a_run_that_ended_early_goes_on_with_a_new_length(toy: Any, tmp_path: Path) -> None:
    settings = {"patience": 2, "optimizer": OptimizerConfig(lr=1e-9, layer_decay=None)}
    _, outcome = toy(epochs=200, **settings)
    assert outcome.reason == "patience"
    step = outcome.progress.step
    _, outcome = toy(resume=str(tmp_path), epochs=step / 5 + 1, extend=True, **settings)
    assert (outcome.reason, outcome.progress.step) == ("finished", step + 5)


def test_a_row_has_the_parts_of_the_loss_and_their_sum_is_the_loss(toy: Any, tmp_path: Path) -> None:
    class TwoLosses(ToyTask):
        def losses(self, images: Any, targets: Any, sizes: Any = None) -> Any:
            loss = super().losses(images, targets, sizes)["toy"]
            return {"first": loss, "second": 0.5 * loss}

    toy(task=TwoLosses())
    for row in read_rows(tmp_path, "train"):
        assert row["loss"] == pytest.approx(row["loss_first"] + row["loss_second"])
        assert row["loss_second"] == pytest.approx(0.5 * row["loss_first"])


def test_a_time_budget_includes_the_time_before_a_stop(toy: Any, tmp_path: Path) -> None:
    def interrupt(step: int, index: int, batch: Any) -> None:
        if (step, index) == (3, 0):
            os.kill(os.getpid(), signal.SIGINT)

    _, outcome = toy(interrupt, minutes=1.0)
    assert outcome.reason == "stopped"
    state = load_state(tmp_path)
    assert 0 < state.progress.seconds < 60
    content = torch.load(tmp_path / "last" / "state.pt", weights_only=True)
    content["progress"]["seconds"] = 59.99
    torch.save(content, tmp_path / "last" / "state.pt")
    _, outcome = toy(resume=str(tmp_path), minutes=1.0)
    assert outcome.reason == "finished"
    assert outcome.progress.step < 100
    assert outcome.progress.evaluated == outcome.progress.step


def test_a_run_does_not_resume_with_other_data(toy: Any, tmp_path: Path) -> None:
    toy(epochs=1)
    content = torch.load(tmp_path / "last" / "state.pt", weights_only=True)
    content["fingerprint"] = "other"
    torch.save(content, tmp_path / "last" / "state.pt")
    with pytest.raises(DataError, match="have changed"):
        toy(resume=str(tmp_path), epochs=1)


def test_the_best_weights_are_those_of_the_ema(toy: Any, tmp_path: Path) -> None:
    task, _ = toy(ema_decay=0.95)
    best, average = read_tensors(tmp_path / "best.safetensors").tensors, load_state(tmp_path).average
    assert average is not None
    assert not torch.equal(average["last.weight"], task.state_dict()["last.weight"])
    assert any(not torch.equal(best[key], value) for key, value in task.state_dict().items())
