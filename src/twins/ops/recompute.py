"""Less to keep for the backward pass: what is cheap to recompute there is not kept."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from twins.ops import dispatch


def recomputed(y: Tensor, again: Callable[[], Tensor]) -> contextlib.AbstractContextManager[Any]:
    """Let operators in this block not keep `y` for their backward pass, but recompute it by `again`.

    The gradients are the same to the bit. Compiled code, which chooses for itself what to keep, is left alone. Hooks
    that a caller has set on saved tensors do not see what this block saves, since PyTorch asks the innermost alone.

    Args:
        y: a tensor that operators in the block read.
        again: returns its values, from tensors that are kept anyway.
    """
    if not dispatch.can_recompute(y):
        return contextlib.nullcontext()
    place, shape, kind = y.data_ptr(), y.shape, y.dtype

    def pack(kept: Tensor) -> Tensor | torch.Size:
        """Keep the shape alone of what is `y`, or a view of all of it."""
        same = kept.data_ptr() == place and kept.numel() == shape.numel() and kept.dtype == kind
        return kept.shape if same and kept.is_contiguous() else kept

    def unpack(kept: Tensor | torch.Size) -> Tensor:
        if isinstance(kept, Tensor):
            return kept
        with torch.no_grad():
            return again().to(kind).view(kept)

    return torch.autograd.graph.saved_tensors_hooks(pack, unpack)
