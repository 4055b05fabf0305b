"""Randomness on the device as a pure function of what it is for, and arithmetic that repeats itself."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


def seed_for(*key: int) -> int:
    """Return a seed, 0..2^63, that is a pure function of a sequence of integers."""
    digest = hashlib.blake2b(",".join(map(str, key)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def reseed(*key: int) -> None:
    """Seed torch on every device from what the coming randomness is for: seed, step, pass, rank."""
    torch.manual_seed(seed_for(*key))


@contextmanager
def deterministic(device: torch.device) -> Iterator[None]:
    """Ask a GPU for arithmetic that gives the same bits each time; CPUs do so anyway. Restored on leaving."""
    if device.type != "cuda":
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    memory: Any = torch.utils.deterministic  # its setting is made by a property that types do not see
    fill = memory.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    memory.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        memory.fill_uninitialized_memory = fill
