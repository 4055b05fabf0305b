"""What happens where memory ends: an allocation fails, its row says so, and the rows before it are kept."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

SAYINGS = (
    "out of memory",
    "can't allocate memory",
    "cannot allocate memory",
    "not enough memory",
    "bad_alloc",
    "memoryerror",
    "could not create a memory object",
)
"""How PyTorch and what it calls say that there was no memory, lower case."""


def out_of_memory(text: str) -> bool:
    """Whether an error's name and message say that memory was not enough."""
    return any(saying in text.lower() for saying in SAYINGS)


@contextmanager
def within_memory(device: torch.device) -> Iterator[None]:
    """Let what this machine has no memory for fail, on Linux, where the system would end the process instead."""
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


def _free() -> int | None:
    """Return the bytes that can still be had, a twentieth left to others; `None` where the system does not say."""
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
