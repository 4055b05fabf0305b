from __future__ import annotations

import pytest
import torch

from twins.engine.config import TrainConfig
from twins.engine.memory import is_out_of_memory, largest_batch, out_of_memory


@pytest.mark.slow
def test_halving_finds_the_largest_batch_that_fits() -> None:
    tried = []

    def probe(count: int) -> None:
        tried.append(count)
        if count > 9:
            raise torch.OutOfMemoryError("out of memory")

    assert largest_batch(64, probe) == 8
    assert tried == [32, 16, 8]
    assert largest_batch(1, probe) == 0


def test_other_errors_of_a_probe_are_raised() -> None:
    def probe(count: int) -> None:
        raise ValueError("something else")

    with pytest.raises(ValueError, match="something else"):
        largest_batch(8, probe)


@pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError("x"), RuntimeError("can't allocate memory")])
def test_out_of_memory_errors_are_recognised(error: Exception) -> None:
    assert is_out_of_memory(error)
    assert not is_out_of_memory(RuntimeError("shapes differ"))


def test_the_advice_fits_and_keeps_the_batch() -> None:
    advice = str(out_of_memory(TrainConfig(batch_size=96, accumulate=2), 24, 7, 2, "kept"))
    assert "`accumulate=8`" in advice  # 96 images / 2 processes / 8 passes = 6 <= 7, and 8 divides 48
    assert "6 images" in advice
    nothing = str(out_of_memory(TrainConfig(), 64, 0, 1, "kept"))
    assert "`checkpointing`" in nothing
