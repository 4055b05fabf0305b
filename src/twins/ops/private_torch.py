"""Every private name of PyTorch that `ops/` and `backbone/` use, each behind a function.

`tests/contract/test_private_names.py` lists these and the package's other private names, with the reason for each and
what to use instead, and looks each of them up in the installed PyTorch.
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
    """Whether oneDNN is enabled; `torch.backends.mkldnn.flags` turns it off."""
    return torch._C._get_mkldnn_enabled()


def has_arithmetic(dtype: torch.dtype) -> bool:
    """Whether this processor has the instructions that oneDNN needs for `bfloat16` or `float16`."""
    if dtype == torch.bfloat16:
        return torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return torch.ops.mkldnn._is_mkldnn_fp16_supported()


def onednn_linear(x: Tensor, weight: Tensor, bias: Tensor | None, after: Literal["none", "gelu"]) -> Tensor:
    """Return `x @ weight.T + bias` by oneDNN, with the exact GELU on request."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, after, [], "none" if after == "gelu" else "")


def onednn_linear_add(x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor) -> Tensor:
    """Return `x @ weight.T + bias + residual` by oneDNN."""
    return torch.ops.mkldnn._linear_pointwise.binary(x, residual, weight, bias, "add")


def onednn_pack(weight: Tensor, rows: int) -> Tensor:
    """Pack a weight `(C_out, C_in)` in the layout that oneDNN reads fastest for inputs of about `rows` rows."""
    return torch.ops.mkldnn._reorder_linear_weight(weight, rows)


def version_of(x: Tensor) -> int:
    """Return the counter of a tensor's in-place changes; always 0 for tensors made in inference mode."""
    return 0 if x.is_inference() else x._version


def is_exporting() -> bool:
    """Whether `torch.export` traces; torch 2.11 compiles the public `torch.compiler.is_exporting` to true."""
    return torch.compiler._is_exporting_flag


@contextlib.contextmanager
def any_open_size() -> Iterator[None]:
    """Make `torch.export` trace open sizes in this block for all their values, 1 included, and faster.

    PyTorch's cache of what it infers of operators is off in this block: with formulas of open sizes, a look into the
    cache takes longer than inferring the result again.
    """
    from torch._dynamo import config
    from torch.fx.experimental import _config

    with (
        _config.patch(backed_size_oblivious=True),  # type: ignore[attr-defined]
        config.patch(fake_tensor_cache_enabled=False),
    ):
        yield


@contextlib.contextmanager
def as_if_compiled(*, exporting: bool = False) -> Iterator[None]:
    """Make `torch.compiler.is_compiling`, and `is_exporting` on request, true in this block, as in a compiler."""
    before = torch.compiler._is_compiling_flag, torch.compiler._is_exporting_flag
    torch.compiler._is_compiling_flag, torch.compiler._is_exporting_flag = True, exporting
    try:
        yield
    finally:
        torch.compiler._is_compiling_flag, torch.compiler._is_exporting_flag = before


def is_traced() -> bool:
    """Whether `torch.jit.trace` traces the call, or a transform of `torch.func` is active."""
    return torch._C._is_tracing() or torch._C._functorch.peek_interpreter_stack() is not None


def is_watched() -> bool:
    """Whether a dispatch mode, such as a FLOP counter, is active; it expects the standard operators."""
    return torch._C._len_torch_dispatch_stack() > 0


def is_differentiated_forward() -> bool:
    """Whether forward-mode differentiation is active."""
    return torch.autograd.forward_ad._current_level >= 0


def saved_tensors_hooks_work() -> bool:
    """Whether hooks on saved tensors are allowed; a transform of `torch.func` forbids them."""
    return torch._C._autograd._saved_tensors_hooks_is_enabled()  # type: ignore[attr-defined]


def is_hooked(module: nn.Module) -> bool:
    """Whether a module has forward hooks or forward pre-hooks."""
    return bool(module._forward_hooks or module._forward_pre_hooks)


def inductor_cache() -> str:
    """Return the default cache folder of `torch.compile`."""
    from torch._inductor.runtime.cache_dir_utils import default_cache_dir

    return default_cache_dir()
