"""Parameters and multiply-adds of a network, counted on the meta device without computing anything."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from twins.errors import InputError
from twins.factory import create_model

MAX_SIZE = 65536
"""Largest side of the input, in pixels."""


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Parameters and multiply-adds of a classifier of 1000 classes, for one image."""

    name: str
    """Canonical name."""
    params: int
    """Parameters."""
    gmacs_with_attention: float
    """Billions of multiply-adds of all matrix products and convolutions."""
    gmacs_without_attention: float
    """The same without attention's two products, as the reference's README counts."""
    size: int
    """Side of the input in pixels."""


class _AttentionMacs(TorchFunctionMode):
    """Counts attention's two products at the call of attention, and hides them from `FlopCounterMode`."""

    def __init__(self) -> None:
        super().__init__()
        self.macs = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not F.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        query, key, value = args[:3]
        self.macs += _product(query, key) + _product(query, key) // query.shape[-1] * value.shape[-1]
        return torch.empty_like(query[..., :1].expand(*query.shape[:-1], value.shape[-1]))


def model_counts(name: str, *, size: int = 224) -> Counts:
    """Count a network's parameters and its multiply-adds for one square image, with torch's own counter.

    Args:
        name: any name of the model.
        size: side of the image in pixels.

    Raises:
        NotFoundError: an unknown model.
        InputError: a size below 32 or above `MAX_SIZE`.
    """
    if not 32 <= size <= MAX_SIZE:
        raise InputError(f"the size must be at least 32 and at most {MAX_SIZE} pixels, found {size}")
    with torch.device("meta"):
        model = create_model(name).eval()
        images = torch.empty(1, 3, size, size)
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter, _AttentionMacs() as attention:
        model(images)
    other_macs = counter.get_total_flops() // 2
    return Counts(
        name=model.info.model,
        params=sum(parameter.numel() for parameter in model.parameters()),
        gmacs_with_attention=(other_macs + attention.macs) / 1e9,
        gmacs_without_attention=other_macs / 1e9,
        size=size,
    )


def _product(query: Tensor, key: Tensor) -> int:
    """Return the multiply-adds of queries `(B, h, N, d)` times keys `(B, h, M, d)`."""
    return query.numel() * key.shape[-2]
