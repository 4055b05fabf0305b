"""What to do when memory ran out: find how many images fit, and say which setting keeps the recipe."""

from __future__ import annotations

import gc
from collections.abc import Callable

import torch

from twins.engine.config import TrainConfig
from twins.errors import InputError, TrainingError

_SAYINGS = (
    "can't allocate memory",
    "not enough memory",
    "cannot allocate memory",
    "out of memory",
    "bad_alloc",
    "memoryerror",
    "could not create a memory object",
)
"""How PyTorch and what it calls say that there was no memory, lower case."""


class OutOfMemory(Exception):
    """A pass did not fit; its arguments are the number of its images, and of those that would fit."""


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that memory ran out, on a GPU or a CPU."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and is_out_of_memory_message(str(error))


def is_out_of_memory_message(text: str) -> bool:
    """Return whether a message says that memory ran out."""
    return any(saying in text.lower() for saying in _SAYINGS)


def free_memory() -> None:
    """Give back what nothing uses any more."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def largest_batch(images: int, probe: Callable[[int], None]) -> int:
    """Return the most images, found by halving, that a pass has memory for; 0 when none of those tried fits.

    Args:
        images: how many did not fit.
        probe: runs a pass with so many images, and raises when memory runs out.
    """
    count = images // 2
    while count:
        free_memory()
        try:
            probe(count)
            return count
        except InputError:  # too few images for the network's batch norm, so fewer need not be tried
            return 0
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        count //= 2
    return 0


def out_of_memory(config: TrainConfig, images: int, fits: int, processes: int, kept: str) -> TrainingError:
    """Return the error that says what fits.

    Args:
        config: the run's settings.
        images: images of the pass that did not fit, on one process.
        fits: images that do.
        processes: training processes.
        kept: where the newest state is.
    """
    what = f"memory ran out with {images} images of {config.size} pixels in a pass"
    if not fits:
        return TrainingError(
            f"{what} and no fewer fit; use `checkpointing`, a smaller `size` or a smaller model; {kept}"
        )
    share = config.batch_size // processes
    passes = next(n for n in range(config.accumulate, share + 1) if share % n == 0 and share // n <= fits)
    return TrainingError(
        f"{what}, {fits} fit: use `accumulate={passes}`, which keeps the recipe with {share // passes} images in a "
        f"pass, or `batch_size={fits * config.accumulate * processes}`; {kept}"
    )
