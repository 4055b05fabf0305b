"""Running out of memory: find how many images fit in a pass, and name the settings that keep the recipe."""

from __future__ import annotations

import gc
from collections.abc import Callable

import torch

from twins.engine.config import TrainConfig
from twins.errors import InputError, TrainingError, number_of

_MESSAGES = (
    "can't allocate memory",
    "not enough memory",
    "cannot allocate memory",
    "out of memory",
    "bad_alloc",
    "memoryerror",
    "could not create a memory object",
)
"""Out-of-memory messages of PyTorch and its libraries, in lower case."""


class OutOfMemory(Exception):
    """A pass did not fit; the arguments are the number of its images and the number that fits."""


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error means that memory ran out, on a GPU or a CPU."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and is_out_of_memory_message(str(error))


def is_out_of_memory_message(message: str) -> bool:
    """Return whether an error message means that memory ran out."""
    return any(pattern in message.lower() for pattern in _MESSAGES)


def free_memory() -> None:
    """Release unused memory."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def largest_batch(images: int, probe: Callable[[int], None]) -> int:
    """Return the largest number of images that fits in a pass, by halving; 0 if none of the tried numbers fits.

    Args:
        images: number of images that did not fit.
        probe: runs a pass with a given number of images, and raises if memory runs out.
    """
    count = images // 2
    while count:
        free_memory()
        try:
            probe(count)
            return count
        except InputError:  # too few images for the network's batch norm, so fewer do not work either
            return 0
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        count //= 2
    return 0


def out_of_memory(config: TrainConfig, images: int, fitting: int, processes: int, state_message: str) -> TrainingError:
    """Return the error, with advice on settings that fit.

    Args:
        config: settings of the run.
        images: number of images in the pass that did not fit, on one process.
        fitting: number of images that fit.
        processes: number of training processes.
        state_message: the part of the message on the newest saved state.
    """
    problem = f"memory ran out with {number_of(images, 'image')} of {config.size} pixels in a pass"
    if not fitting:
        return TrainingError(
            f"{problem} and no fewer fit; use `checkpointing`, a smaller `size` or a smaller model; {state_message}"
        )
    images_per_process = config.batch_size // processes
    passes = next(
        count
        for count in range(config.accumulate, images_per_process + 1)
        if images_per_process % count == 0 and images_per_process // count <= fitting
    )
    return TrainingError(
        f"{problem}, {fitting} fit: use `accumulate={passes}`, which keeps the recipe with "
        f"{number_of(images_per_process // passes, 'image')} in a pass, or "
        f"`batch_size={fitting * config.accumulate * processes}`; {state_message}"
    )
