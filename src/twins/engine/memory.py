"""Memory: what a step takes and what is free; when it runs out, how many images fit in a pass, and the advice."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

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


def start_peak() -> int:
    """Reset this process's peak memory on Linux and return its resident bytes."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # otherwise the steps reuse freed memory of the set-up, which is not counted
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak of the set-up and of the parent process
    return resident("VmRSS")


def resident(field: str) -> int:
    """Return bytes of this process on Linux: resident ones now, `VmRSS`, at their peak, `VmHWM`; data, `VmData`."""
    return _field(Path("/proc/self/status"), field)


def peak_of(step: Callable[[], Any], device: torch.device) -> float:
    """Return the peak memory of two calls beyond the memory in use before them, in MiB.

    On a GPU it is the memory handed out by the allocator, on a CPU the process's resident size.
    """
    cuda = device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated() if cuda else start_peak()
    step()
    step()
    return ((torch.cuda.max_memory_allocated() if cuda else resident("VmHWM")) - before) / 2**20


def available() -> int | None:
    """Return 95 % of the free bytes, to leave some to other processes; `None` if it is unknown."""
    info, group = Path("/proc/meminfo"), Path("/sys/fs/cgroup")
    if not info.exists():
        return None
    free = [_field(info, "MemAvailable")]
    maximum, current = group / "memory.max", group / "memory.current"
    if maximum.exists() and (limit := maximum.read_text().strip()) != "max":
        free.append(int(limit) - int(current.read_text()) + _file_cache(group / "memory.stat"))
    return max(0, min(free) * 19 // 20)


def _file_cache(path: Path) -> int:
    """Return the bytes of a control group's file cache, which the system frees when memory is short."""
    lines = (line.split() for line in path.read_text().splitlines()) if path.exists() else ()
    return sum(int(count) for name, count in lines if name in ("active_file", "inactive_file"))


def _field(path: Path, name: str) -> int:
    """Return a field of a file in `/proc`, in bytes."""
    line = next(line for line in path.read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024
