"""Kernels for NVIDIA GPUs, written in Triton and registered as `torch.library` operators.

Each stands behind the function of `ops/` that defines what it computes, and is loaded when that function first meets
a tensor on a GPU. `serves` says when it is taken; everywhere else PyTorch's own operators do the same. Those of blocks
stand beside the blocks of `twins.backbone.fused`, which define them.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import warnings
from collections.abc import Iterator

import torch
from torch import Tensor

from twins.ops.tracing import exporting

_FOUND = importlib.util.find_spec("triton") is not None
_TYPES = (torch.float32, torch.bfloat16, torch.float16)
_TILE = 64
_enabled = True


def serves(x: Tensor) -> bool:
    """Whether kernels take a call on `x`: on an Ampere GPU or a newer one, unless exported, traced or watched."""
    if not (_FOUND and _enabled and x.device.type == "cuda" and x.dtype in _TYPES and x.numel()):
        return False
    if torch.compiler.is_compiling():  # first: a compiler cannot look into the rest, and needs Triton itself
        nvidia = not torch.version.hip and torch.cuda.get_device_capability(x.device)[0] >= 8
        return nvidia and not exporting()
    return (
        type(x) in (Tensor, torch.nn.Parameter)  # not a sharded one
        and not torch._C._is_tracing()
        and torch._C._len_torch_dispatch_stack() == 0  # who counts or records operators sees the standard one
        and torch._C._functorch.peek_interpreter_stack() is None
        and _ready(x.device.index)
    )


def hold(keys: int, channels: int, heads: int) -> bool:
    """Whether a program of attention's kernels holds so many keys, and the channels of a head."""
    return keys <= _TILE and channels <= _TILE * heads


@contextlib.contextmanager
def portable() -> Iterator[None]:
    """Let PyTorch's own operators do the work in this block, so that both can be compared."""
    global _enabled
    before, _enabled = _enabled, False
    try:
        yield
    finally:
        _enabled = before


@functools.cache
def _ready(index: int) -> bool:
    """Whether this GPU takes the kernels and this machine can build them: Triton needs a C compiler and headers."""
    if torch.version.hip or torch.cuda.get_device_capability(index)[0] < 8:
        return False
    try:
        from twins.ops.kernels.positions import depthwise_convolution

        x = torch.zeros(1, 1, 1, 16, device=f"cuda:{index}")
        depthwise_convolution(x, x.new_zeros(16, 1, 3, 3), None, residual=True)
    except Exception as error:  # whatever a driver, a compiler or a half-installed package raises
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        warnings.warn(f"Triton cannot build kernels here, so PyTorch's own operators are used: {reason}", stacklevel=2)
        return False
    return True
