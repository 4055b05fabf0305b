"""Linear layers by oneDNN, with the GELU or the residual add inside the matrix product, and with packed weights.

In compiled code PyTorch calls MKL for float32 products: it copies the bias before each, and computes the GELU in a
second pass. The operators `twins::packed_*` call oneDNN there. They take the plain weight, so that neither the graph
nor the compiler's cache holds a packed one.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from twins.ops import chunks
from twins.ops.private_torch import onednn_linear, onednn_linear_add, onednn_pack, version_of

_packed = WeakTensorKeyDictionary()
"""Packed weights by plain weight, for the lifetime of the latter, each with the plain weight's state when packed."""


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, *, packed: bool = True) -> Tensor:
    """Return `twins.ops.linear.linear` of the same tensors; `packed` keeps packed weights for the next call."""
    return onednn_linear(x, pack(weight, x) if packed else weight, bias, "none")


def linear_gelu(x: Tensor, weight: Tensor, bias: Tensor | None, *, packed: bool = True) -> Tensor:
    """Return `twins.ops.linear.linear_gelu` of the same tensors."""
    return onednn_linear(x, pack(weight, x) if packed else weight, bias, "gelu")


def linear_add(x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor, *, packed: bool = True) -> Tensor:
    """Return `twins.ops.linear.linear_add` of the same tensors."""
    return onednn_linear_add(x, pack(weight, x) if packed else weight, bias, residual)


def pack(weight: Tensor, x: Tensor) -> Tensor:
    """Return a weight `(C_out, C_in)` packed for oneDNN, in the layout that is fastest for the rows of the first `x`.

    A weight is packed at its first call, and again after a change in place.
    """
    state = (version_of(weight), weight.data_ptr())
    packed_state, packed = _packed.get(weight, (None, None))
    if packed_state != state:
        packed = onednn_pack(weight.detach(), x.numel() // x.shape[-1])
        _packed[weight] = (state, packed)
    return packed


def feed_forward_add(x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, residual: Tensor) -> Tensor:
    """Return `twins.ops.feedforward.feed_forward_add` of the same tensors; a large hidden map is taken in chunks."""
    rows = x.reshape(-1, x.shape[-1])
    size = len(w1) * x.element_size()
    if len(rows) * size <= chunks.HIDDEN_BYTES_COMPILED:
        return linear_add(linear_gelu(x, w1, b1), w2, b2, residual)
    y = torch.empty_like(residual, memory_format=torch.contiguous_format)
    residual_rows, y_rows = (tensor.reshape(-1, tensor.shape[-1]) for tensor in (residual, y))
    for part in chunks.chunk_slices(len(rows), size, chunks.HIDDEN_BYTES):
        y_rows[part] = linear_add(linear_gelu(rows[part], w1, b1), w2, b2, residual_rows[part])
    return y


def _like_input(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return x.new_empty(*x.shape[:-1], len(bias))


def _like_residual(*tensors: Tensor) -> Tensor:
    return torch.empty_like(tensors[-1], memory_format=torch.contiguous_format)


_library = torch.library.Library("twins", "FRAGMENT")
for _signature, _compute, _shape in (
    ("linear(Tensor x, Tensor weight, Tensor bias)", linear, _like_input),
    ("linear_add(Tensor x, Tensor weight, Tensor bias, Tensor residual)", linear_add, _like_residual),
    (
        "feed_forward_add(Tensor x, Tensor w1, Tensor b1, Tensor w2, Tensor b2, Tensor residual)",
        feed_forward_add,
        _like_residual,
    ),
):
    _name = "packed_" + _signature.partition("(")[0]
    _library.define(f"packed_{_signature} -> Tensor")
    _library.impl(_name, _compute, "CPU")
    torch.library.register_fake(f"twins::{_name}", _shape, lib=_library)
