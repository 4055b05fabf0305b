"""Seeds that depend only on (seed, step, pass, rank), and deterministic arithmetic on GPUs."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


def seed_for(*key: int) -> int:
    """Return a seed, 0..2^63, derived from a sequence of integers."""
    digest = hashlib.blake2b(",".join(map(str, key)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def reseed(*key: int) -> None:
    """Seed torch on every device from a key such as (seed, step, pass, rank)."""
    torch.manual_seed(seed_for(*key))


@contextmanager
def deterministic(device: torch.device) -> Iterator[None]:
    """Use deterministic algorithms on a GPU inside the block; on CPUs they are deterministic anyway."""
    if device.type != "cuda":
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    settings = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    deterministic_settings: Any = torch.utils.deterministic  # its property is invisible to type checkers
    fill = deterministic_settings.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    deterministic_settings.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(settings[0], warn_only=settings[1])
        deterministic_settings.fill_uninitialized_memory = fill
