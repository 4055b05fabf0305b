"""Peak memory of steps, and a memory limit that makes an allocation fail before the system kills the process."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


@contextmanager
def memory_limit(device: torch.device) -> Iterator[None]:
    """Within this context, make allocations beyond the free memory fail.

    Without the limit Linux would kill the process. On other systems and devices nothing changes.
    """
    free = _free_memory() if device.type == "cpu" else None
    if free is None:
        yield
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limit = _field(Path("/proc/self/status"), "VmData") + free
    finite = [value for value in (soft, hard, limit) if value != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_DATA, (min(finite), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


class LiveTensors(TorchDispatchMode):
    """Counts the memory of tensors that operators create within this context and that are still alive."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._storages: list[tuple[Any, int]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operator and record its results."""
        result = func(*args, **(kwargs or {}))
        storages = [leaf.untyped_storage() for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        self._storages += [(StorageWeakRef(storage), storage.nbytes()) for storage in storages]  # type: ignore[no-untyped-call]
        return result

    def bytes(self) -> int:
        """Return the bytes of the tensors that are alive now."""
        sizes: dict[int, int] = {reference.cdata: size for reference, size in self._storages if not reference.expired()}
        return sum(sizes.values())


def start_peak() -> int:
    """Reset this process's peak memory on Linux and return its resident bytes."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # otherwise the steps reuse freed memory of the set-up, which is not counted
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak of the set-up and of the parent process
    return resident("VmRSS")


def resident(field: str) -> int:
    """Return this process's resident bytes on Linux: now with `VmRSS`, at their peak with `VmHWM`."""
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


def _free_memory() -> int | None:
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
