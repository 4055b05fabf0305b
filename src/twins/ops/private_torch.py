"""Every private name of PyTorch that `ops/` and `backbone/` use, and nothing else.

No other file there uses one. `tests/unit/ops/test_private_torch.py` looks each of them up in the installed PyTorch, so
that a check against a nightly build says which one has moved.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor, nn


def has_onednn() -> bool:
    """Whether this PyTorch was built with oneDNN."""
    return torch._C._has_mkldnn


def onednn_is_enabled() -> bool:
    """Whether nobody has turned oneDNN off, as `torch.backends.mkldnn.flags` does."""
    return torch._C._get_mkldnn_enabled()


def has_arithmetic(dtype: torch.dtype) -> bool:
    """Whether oneDNN finds arithmetic for `bfloat16` or `float16` in this processor."""
    if dtype == torch.bfloat16:
        return torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return torch.ops.mkldnn._is_mkldnn_fp16_supported()


def onednn_linear(x: Tensor, weight: Tensor, bias: Tensor | None, after: Literal["none", "gelu"]) -> Tensor:
    """Return oneDNN's `x @ weight.T + bias`, or the exact GELU of it."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, after, [], "none" if after == "gelu" else "")


def onednn_linear_add(x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor) -> Tensor:
    """Return oneDNN's `x @ weight.T + bias + residual`."""
    return torch.ops.mkldnn._linear_pointwise.binary(x, residual, weight, bias, "add")


def onednn_pack(weight: Tensor, rows: int) -> Tensor:
    """Return a weight `(C_out, C_in)` packed as oneDNN reads it fastest for about so many rows."""
    return torch.ops.mkldnn._reorder_linear_weight(weight, rows)


def version_of(x: Tensor) -> int:
    """Return a number that grows whenever a tensor is changed in place; 0 for tensors of inference mode."""
    return 0 if x.is_inference() else x._version


def is_exporting() -> bool:
    """Whether `torch.export` traces; torch 2.11 compiles the public `torch.compiler.is_exporting` as true."""
    return torch.compiler._is_exporting_flag


@contextlib.contextmanager
def as_if_compiled(*, exporting: bool = False) -> Iterator[None]:
    """Let `torch.compiler.is_compiling`, and `is_exporting` on request, be true in this block, as a compiler does."""
    before = torch.compiler._is_compiling_flag, torch.compiler._is_exporting_flag
    torch.compiler._is_compiling_flag, torch.compiler._is_exporting_flag = True, exporting
    try:
        yield
    finally:
        torch.compiler._is_compiling_flag, torch.compiler._is_exporting_flag = before


def is_traced() -> bool:
    """Whether `torch.jit.trace` records the call, or a transform of `torch.func` is at work."""
    return torch._C._is_tracing() or torch._C._functorch.peek_interpreter_stack() is not None


def is_watched() -> bool:
    """Whether a dispatch mode counts or records operators, which is to see the standard ones."""
    return torch._C._len_torch_dispatch_stack() > 0


def is_differentiated_forward() -> bool:
    """Whether forward-mode derivatives are computed."""
    return torch.autograd.forward_ad._current_level >= 0


def saved_tensors_hooks_work() -> bool:
    """Whether hooks on saved tensors may be set; a transform of `torch.func` forbids them."""
    return torch._C._autograd._saved_tensors_hooks_is_enabled()  # type: ignore[attr-defined]


def is_hooked(module: nn.Module) -> bool:
    """Whether somebody watches what a module takes or gives."""
    return bool(module._forward_hooks or module._forward_pre_hooks)


def inductor_cache() -> str:
    """Return the default folder of what `torch.compile` has compiled."""
    from torch._inductor.runtime.cache_dir_utils import default_cache_dir

    return default_cache_dir()
