"""Helpers to launch a kernel: a wrapper that compilers trace, the device, and tile sizes that tensor cores accept."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import Tensor
from triton.runtime.jit import JITFunction


def wrap_triton(kernel: Any) -> Any:
    """Return the kernel in PyTorch's wrapper, which compilers trace; under Triton's interpreter the kernel itself.

    The name of this function is fixed: PyTorch looks for it in the source of an operator to find its kernels, and
    compiles again when one changes. Floats must be constants of a kernel: compiled code passes float arguments in
    float64, and Triton would then compute in float64.
    """
    return torch.library.wrap_triton(kernel) if isinstance(kernel, JITFunction) else kernel


def on_device(x: Tensor) -> contextlib.AbstractContextManager[Any]:
    """Make the GPU of `x` the current one in this block, because Triton launches there."""
    return torch.cuda.device_of(x) if x.is_cuda else contextlib.nullcontext()


def tile(length: int) -> int:
    """Return the smallest side of a tile that holds `length`: a power of two, at least 16."""
    return max(16, 1 << (length - 1).bit_length())
