"""Products with weights that do not change: laid out once, and in code compiled for a CPU left to oneDNN too.

In compiled code PyTorch would give float32 products to MKL, with a copy of the bias before each and a pass for the GELU
after it. The operators `twins::fixed_*` stand for oneDNN's there; they take the plain weight, so that neither a graph
nor a compiler's cache holds a packed one.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from twins.ops.linear import linear, linear_add, linear_gelu, onednn_pays, onednn_serves, rows_at_once
from twins.ops.precision import emulated
from twins.ops.tracing import exporting

_LARGE = 32 << 20
"""Bytes of a hidden map above which compiled code takes pieces: an allocator gives those fresh pages every time."""
_packed = WeakTensorKeyDictionary()
"""By weight, for as long as it lives: its state when it was laid out, and what was laid out of it."""


def fixed_linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return `twins.ops.linear.linear` of the same tensors; what was laid out of the weight is used again."""
    if _compiled(x, weight):
        return torch.ops.twins.fixed_linear(x, weight, bias)
    return (_linear if onednn_serves(x, weight) else linear)(x, weight, bias)


def fixed_linear_add(x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor) -> Tensor:
    """Return `twins.ops.linear.linear_add` of the same tensors, as `fixed_linear` does."""
    if _compiled(x, weight):
        return torch.ops.twins.fixed_linear_add(x, weight, bias, residual)
    return (_linear_add if onednn_serves(x, weight) else linear_add)(x, weight, bias, residual)


def fixed_feed_forward_add(x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, residual: Tensor) -> Tensor:
    """Return `residual`, `(..., C_out)`, and `twins.ops.feedforward.feed_forward` of the other tensors, in sum."""
    if _compiled(x, w1):
        return torch.ops.twins.fixed_feed_forward_add(x, w1, b1, w2, b2, residual)
    if onednn_serves(x, w1):
        return _feed_forward_add(x, w1, b1, w2, b2, residual)
    return linear_add(linear_gelu(x, w1, b1), w2, b2, residual)


def _compiled(x: Tensor, weight: Tensor) -> bool:
    """Whether a compiler reads this for a CPU on which oneDNN is faster, for no gradient of either kind or autocast."""
    return (
        torch.compiler.is_compiling()
        and not exporting()
        and x.device.type == "cpu"
        and x.dtype == weight.dtype
        and x.dtype in (torch.float32, torch.bfloat16)
        and onednn_pays()
        and not torch.is_grad_enabled()
        and torch.autograd.forward_ad._current_level < 0
        and not torch.is_autocast_enabled("cpu")
        and not emulated(x)
    )


def _laid_out(weight: Tensor, x: Tensor) -> Tensor:
    """Return a weight `(C_out, C_in)` as oneDNN reads it fastest for maps of about as many rows as the first `x`."""
    state = (0 if weight.is_inference() else weight._version, weight.data_ptr())
    before, found = _packed.get(weight, (None, None))
    if before != state:
        found = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), x.numel() // x.shape[-1])
        _packed[weight] = (state, found)
    return found


def _linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, _laid_out(weight, x), bias, "none", [], "")


def _linear_add(x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise.binary(x, residual, _laid_out(weight, x), bias, "add")


def _hidden(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, _laid_out(weight, x), bias, "gelu", [], "none")


def _feed_forward_add(x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, residual: Tensor) -> Tensor:
    rows = x.reshape(-1, x.shape[-1])
    if len(rows) * len(w1) * x.element_size() <= _LARGE:
        return _linear_add(_hidden(x, w1, b1), w2, b2, residual)
    y = torch.empty_like(residual, memory_format=torch.contiguous_format)
    count = rows_at_once(rows, len(w1))
    parts = (tensor.reshape(-1, tensor.shape[-1]).split(count) for tensor in (rows, residual, y))
    for some, rest, part in zip(*parts, strict=True):
        part.copy_(_linear_add(_hidden(some, w1, b1), w2, b2, rest))
    return y


def _like_input(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return x.new_empty(*x.shape[:-1], len(bias))


def _like_residual(*tensors: Tensor) -> Tensor:
    return torch.empty_like(tensors[-1], memory_format=torch.contiguous_format)


_library = torch.library.Library("twins", "FRAGMENT")
_library.define("fixed_linear(Tensor x, Tensor weight, Tensor bias) -> Tensor")
_library.define("fixed_linear_add(Tensor x, Tensor weight, Tensor bias, Tensor residual) -> Tensor")
_library.define(
    "fixed_feed_forward_add(Tensor x, Tensor w1, Tensor b1, Tensor w2, Tensor b2, Tensor residual) -> Tensor"
)
_library.impl("fixed_linear", _linear, "CPU")
_library.impl("fixed_linear_add", _linear_add, "CPU")
_library.impl("fixed_feed_forward_add", _feed_forward_add, "CPU")
torch.library.register_fake("twins::fixed_linear", _like_input, lib=_library)
torch.library.register_fake("twins::fixed_linear_add", _like_residual, lib=_library)
torch.library.register_fake("twins::fixed_feed_forward_add", _like_residual, lib=_library)
