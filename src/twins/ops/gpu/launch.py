"""What launching any kernel takes: a form that is traced, its device, and tiles that a tensor core accepts."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import Tensor
from triton.runtime.jit import JITFunction


def wrap_triton(kernel: Any) -> Any:
    """Return PyTorch's wrapper, by which a compiler sees the kernel; under the interpreter the kernel as it is.

    PyTorch reads operators' sources for this name, so that what it has compiled is forgotten when a kernel changes.
    Kernels take no number with a fraction but as a constant: compiled code passes it in float64, and Triton would then
    compute in that.
    """
    return torch.library.wrap_triton(kernel) if isinstance(kernel, JITFunction) else kernel


def on_device(x: Tensor) -> contextlib.AbstractContextManager[Any]:
    """Make the GPU of `x` current, since Triton launches on the current one."""
    return torch.cuda.device_of(x) if x.is_cuda else contextlib.nullcontext()


def tile(length: int) -> int:
    """Return the side of a tile that holds `length`: a power of two, 16 at least."""
    return max(16, 1 << (length - 1).bit_length())
