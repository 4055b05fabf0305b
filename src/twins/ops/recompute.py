"""Activations that are recomputed in the backward pass instead of being kept for it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from twins.ops import dispatch


def recomputed(y: Tensor, recompute: Callable[[], Tensor]) -> contextlib.AbstractContextManager[Any]:
    """Recompute `y` in the backward pass of the operators in this block, which then do not keep it.

    Gradients are the same to the bit. In compiled code this does nothing: a compiler chooses what to keep. A caller's
    own hooks on saved tensors are not called in this block, because PyTorch calls the innermost hooks only.

    Args:
        y: an input of operators in the block.
        recompute: returns the values of `y`, computed from tensors that are kept anyway.
    """
    if not dispatch.can_recompute(y):
        return contextlib.nullcontext()
    address, shape, dtype = y.data_ptr(), y.shape, y.dtype

    def pack(saved: Tensor) -> Tensor | torch.Size:
        """Return only the shape if `saved` is `y` or a view of all its elements, otherwise the tensor."""
        is_y = saved.data_ptr() == address and saved.numel() == shape.numel() and saved.dtype == dtype
        return saved.shape if is_y and saved.is_contiguous() else saved

    def unpack(packed: Tensor | torch.Size) -> Tensor:
        if isinstance(packed, Tensor):
            return packed
        with torch.no_grad():
            return recompute().to(dtype).view(packed)

    return torch.autograd.graph.saved_tensors_hooks(pack, unpack)
