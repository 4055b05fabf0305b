"""Linear layers by oneDNN, which computes a GELU or a residual add inside the product, with weights packed once.

In compiled code PyTorch would give float32 products to MKL, with a copy of the bias before each and a pass for the GELU
after it. The operators `twins::packed_*` stand for oneDNN's there; they take the plain weight, so that neither a graph
nor a compiler's cache holds a packed one.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from twins.ops import chunks
from twins.ops.private_torch import onednn_linear, onednn_linear_add, onednn_pack, version_of

_packed = WeakTensorKeyDictionary()
"""By weight, for as long as it lives: its state when it was packed, and the packed weight."""


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, *, packed: bool = True) -> Tensor:
    """Return `twins.ops.linear.linear` of the same tensors; `packed` keeps the packed weight for the next call."""
    return onednn_linear(x, pack(weight, x) if packed else weight, bias, "none")


def linear_gelu(x: Tensor, weight: Tensor, bias: Tensor | None, *, packed: bool = True) -> Tensor:
    """Return `twins.ops.linear.linear_gelu` of the same tensors."""
    return onednn_linear(x, pack(weight, x) if packed else weight, bias, "gelu")


def linear_add(x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor, *, packed: bool = True) -> Tensor:
    """Return `twins.ops.linear.linear_add` of the same tensors."""
    return onednn_linear_add(x, pack(weight, x) if packed else weight, bias, residual)


def pack(weight: Tensor, x: Tensor) -> Tensor:
    """Return a weight `(C_out, C_in)` as oneDNN reads it fastest for maps of about as many rows as the first `x`."""
    state = (version_of(weight), weight.data_ptr())
    before, found = _packed.get(weight, (None, None))
    if before != state:
        found = onednn_pack(weight.detach(), x.numel() // x.shape[-1])
        _packed[weight] = (state, found)
    return found


def feed_forward_add(x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, residual: Tensor) -> Tensor:
    """Return `twins.ops.feedforward.feed_forward_add` of the same tensors, a large hidden map in chunks."""
    rows = x.reshape(-1, x.shape[-1])
    size = len(w1) * x.element_size()
    if len(rows) * size <= chunks.HIDDEN_BYTES_COMPILED:
        return linear_add(linear_gelu(x, w1, b1), w2, b2, residual)
    y = torch.empty_like(residual, memory_format=torch.contiguous_format)
    rest, out = (tensor.reshape(-1, tensor.shape[-1]) for tensor in (residual, y))
    for part in chunks.chunk_slices(len(rows), size, chunks.HIDDEN_BYTES):
        out[part] = linear_add(linear_gelu(rows[part], w1, b1), w2, b2, rest[part])
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
