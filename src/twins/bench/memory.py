"""Peak memory of steps, and a limit under which an allocation fails before the system ends the process."""

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
def within_memory(device: torch.device) -> Iterator[None]:
    """Let allocations beyond this machine's memory fail, on Linux, where the system would end the process instead."""
    free = _free() if device.type == "cpu" else None
    if free is None:
        yield
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    wanted = _field(Path("/proc/self/status"), "VmData") + free
    known = [limit for limit in (soft, hard, wanted) if limit != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_DATA, (min(known), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


class LiveTensors(TorchDispatchMode):
    """Counts the memory of tensors that operators make inside this block and that are still alive."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._storages: list[tuple[Any, int]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Note an operator's results."""
        result = func(*args, **(kwargs or {}))
        storages = [leaf.untyped_storage() for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        self._storages += [(StorageWeakRef(storage), storage.nbytes()) for storage in storages]  # type: ignore[no-untyped-call]
        return result

    def bytes(self) -> int:
        """Return the bytes of those that are alive now."""
        sizes: dict[int, int] = {reference.cdata: size for reference, size in self._storages if not reference.expired()}
        return sum(sizes.values())


def start_peak() -> int:
    """Begin to watch this process's peak memory on Linux; return its resident bytes now."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what setting up has freed would serve the steps unseen
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak of setting up, and of the parent process
    return resident("VmRSS")


def resident(which: str) -> int:
    """Return this process's resident bytes: `VmRSS` now, `VmHWM` at their peak."""
    return _field(Path("/proc/self/status"), which)


def peak_of(step: Callable[[], Any], device: torch.device) -> float:
    """Return the most memory that two calls take beyond what is held before them, in MiB.

    On a GPU it is what the allocator handed out, on a CPU the process's resident size.
    """
    cuda = device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated() if cuda else start_peak()
    step()
    step()
    return ((torch.cuda.max_memory_allocated() if cuda else resident("VmHWM")) - before) / 2**20


def _free() -> int | None:
    """Return the bytes still available, a twentieth left to others; `None` where the system does not say."""
    info, group = Path("/proc/meminfo"), Path("/sys/fs/cgroup")
    if not info.exists():
        return None
    free = [_field(info, "MemAvailable")]
    most, now = group / "memory.max", group / "memory.current"
    if most.exists() and (limit := most.read_text().strip()) != "max":
        free.append(int(limit) - int(now.read_text()) + _cached(group / "memory.stat"))
    return max(0, min(free) * 19 // 20)


def _cached(path: Path) -> int:
    """Return the bytes of files that a control group holds in memory and would give up."""
    lines = (line.split() for line in path.read_text().splitlines()) if path.exists() else ()
    return sum(int(count) for name, count in lines if name in ("active_file", "inactive_file"))


def _field(path: Path, name: str) -> int:
    """Return a field of a file of `/proc` in bytes."""
    line = next(line for line in path.read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024
