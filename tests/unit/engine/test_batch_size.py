from __future__ import annotations

from typing import Any

import pytest
import torch
from accelerate import Accelerator

from twins.engine import batch_size
from twins.engine.batch_size import fitting_batch, trial_pass

from .conftest import ToySource, ToyTask


def _passes(limit: int) -> Any:
    """Return a pass that runs out of memory with more than `limit` images, and the list of what was tried."""
    tried: list[int] = []

    def run_pass(images: int) -> None:
        tried.append(images)
        if images > limit:
            raise torch.OutOfMemoryError("CUDA out of memory")

    return run_pass, tried


@pytest.fixture(autouse=True)
def _no_collection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_size, "free_memory", lambda: None)


class Gpu:
    """An accelerator of one process on a GPU."""

    device, num_processes = torch.device("cuda"), 1


@pytest.mark.parametrize("limit", [1, 7, 24, 1000])
def test_on_a_gpu_the_batch_is_the_largest_that_fits_less_a_margin(limit: int) -> None:
    run_pass, tried = _passes(limit)
    choice = fitting_batch(run_pass, recipe=8, accumulate=2, train_count=10**6, accelerator=Gpu())  # type: ignore[arg-type]
    images = choice.value // 2  # in each of two passes
    assert 0.8 * limit <= images <= max(1, 0.9 * limit)
    assert len(tried) < 20
    assert choice.setting == "batch_size"


def test_a_batch_leaves_several_steps_in_an_epoch() -> None:
    run_pass, tried = _passes(1000)
    choice = fitting_batch(run_pass, recipe=8, accumulate=1, train_count=205, accelerator=Gpu())  # type: ignore[arg-type]
    assert choice.value == max(tried) == 20
    assert "steps in an epoch" in choice.reason


@pytest.mark.parametrize(("free_mib", "expected"), [(10_000, 64), (1_000, 25), (10, 1)])
def test_on_a_cpu_the_batch_takes_half_of_the_free_memory_and_is_at_most_the_recipes(
    monkeypatch: pytest.MonkeyPatch, free_mib: int, expected: int
) -> None:
    monkeypatch.setattr(batch_size, "available", lambda: free_mib * 2**20)
    monkeypatch.setattr(batch_size, "peak_of", lambda step, device: 40.0)  # two images
    monkeypatch.setattr(batch_size.sys, "platform", "linux")
    choice = fitting_batch(
        lambda images: None, recipe=64, accumulate=1, train_count=9999, accelerator=Accelerator(cpu=True)
    )
    assert choice.value == expected
    assert "an image takes about 20 MiB" in choice.reason


def test_a_trial_pass_changes_no_weights_no_statistics_and_no_gradients() -> None:
    class Normed(ToyTask):
        def __init__(self) -> None:
            super().__init__()
            self.norm = torch.nn.BatchNorm1d(2)

        def forward(self, images: torch.Tensor, sizes: Any = None) -> torch.Tensor:
            return super().forward(self.norm(images))

    task, source = Normed(), ToySource()
    before = {name: value.clone() for name, value in task.state_dict().items()}

    def batch_of(images: int) -> Any:
        batch = source.batch(list(range(images)))
        return batch.images, batch.targets, None

    trial_pass(task, batch_of, Accelerator(cpu=True))(4)  # type: ignore[arg-type]
    assert all(torch.equal(value, before[name]) for name, value in task.state_dict().items())
    assert all(parameter.grad is None for parameter in task.parameters())
