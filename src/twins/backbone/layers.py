"""The parts of the network besides attention: linear layers, norms, patch embedding, PEG, feed-forward, drop path."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from twins.ops.convolutions import cell_convolution, positional_convolution
from twins.ops.feedforward import Keep, feed_forward, feed_forward_add
from twins.ops.linear import linear, linear_add, linear_gelu
from twins.ops.norms import add_norm, norm
from twins.ops.padding import Padding, fill_outside, fit_cells

PATCH_NORM_EPS = 1e-5
"""Epsilon of the layer norms after patch embedding and sub-sampling, as in the reference."""
NORM_EPS = 1e-6
"""Epsilon of all other layer norms, as in the reference."""


class Linear(nn.Linear):
    """`nn.Linear` by the fastest form: `(..., C_in)` to `(..., C_out)`."""

    packed = False
    """Whether packed weights may be kept, because the weight never changes."""

    def forward(self, x: Tensor) -> Tensor:
        """Return `x @ weight.T + bias`."""
        return linear(x, self.weight, self.bias)

    def gelu(self, x: Tensor) -> Tensor:
        """Return the exact GELU of `self(x)`."""
        return linear_gelu(x, self.weight, self.bias)

    def forward_add(self, x: Tensor, residual: Tensor) -> Tensor:
        """Return `self(x) + residual`."""
        return linear_add(x, self.weight, self.bias, residual)


class LayerNorm(nn.LayerNorm):
    """`nn.LayerNorm` over the channels by the fastest form, as the input of a linear layer: `(..., C)`."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the norm of `x`."""
        return norm(x, self.weight, self.bias, self.eps)

    def add_norm(self, x: Tensor, branch: Tensor) -> tuple[Tensor, Tensor]:
        """Return `x + branch` and the norm of that sum."""
        return add_norm(x, branch, self.weight, self.bias, self.eps)


class CellConvolution(nn.Conv2d):
    """Convolution over non-overlapping cells of a channels-last map: `(B, H, W, C_in)` to `(B, H / s, W / s, C)`.

    Its parameters are those of `nn.Conv2d`. The weight is channels-last in memory, so that the matrix product reads it
    without a copy.
    """

    def __init__(self, in_channels: int, channels: int, cell: int) -> None:
        super().__init__(in_channels, channels, cell, stride=cell)
        self.to(memory_format=torch.channels_last)

    def forward(self, x: Tensor) -> Tensor:
        """Return the convolution of a map; `s` divides its height and width."""
        return cell_convolution(x, self.weight, self.bias)


class PatchEmbed(nn.Module):
    """Patch embedding, a linear layer and a norm per patch: `(B, H, W, C_in)` to `(B, H / p, W / p, C)`."""

    def __init__(self, in_channels: int, channels: int, patch: int, *, padding: Padding) -> None:
        super().__init__()
        self.patch, self.padding = patch, padding
        self.proj = CellConvolution(in_channels, channels, patch)
        self.norm = nn.LayerNorm(channels, eps=PATCH_NORM_EPS)

    def forward(self, x: Tensor, sizes: Tensor | None = None) -> Tensor:
        """Return the embedded map; `sizes` `(B, 2)` are true sizes on the input map."""
        x = fit_cells(fill_outside(x, sizes), self.patch, self.padding)
        return self.norm(self.proj(x))


class PEG(nn.Module):
    """Positional encoding generator (PEG, arXiv 2102.10882): a depth-wise 3x3 convolution with a residual add."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)

    def forward(self, x: Tensor, sizes: Tensor | None = None) -> Tensor:
        """Return a map of the same shape, `(B, H, W, C)`."""
        return positional_convolution(fill_outside(x, sizes), self.conv.weight, self.conv.bias)


class FeedForward(nn.Module):
    """Feed-forward part of a block: two linear layers with a GELU between them, on the last dimension."""

    def __init__(self, channels: int, hidden: int, *, drop: float) -> None:
        super().__init__()
        self.fc1 = Linear(channels, hidden)
        self.fc2 = Linear(hidden, channels)
        self.drop = nn.Dropout(drop)

    def forward(self, x: Tensor, *, keep: Keep = "all") -> Tensor:
        """Return a map of the same shape, `(..., C)`; `keep` names the tensors kept for the backward pass."""
        if self.training and self.drop.p:
            return self.drop(self.fc2(self.drop(self.fc1.gelu(x))))
        return feed_forward(x, self.fc1.weight, self.fc1.bias, self.fc2.weight, self.fc2.bias, keep=keep)

    def forward_add(self, x: Tensor, residual: Tensor) -> Tensor:
        """Return `residual + self(x)`, for inference."""
        weights = (self.fc1.weight, self.fc1.bias, self.fc2.weight, self.fc2.bias)
        return feed_forward_add(x, *weights, residual, packed=self.fc1.packed)


class DropPath(nn.Module):
    """Stochastic depth (arXiv 1603.09382): drop the residual branch of an image as a whole; the mean is unchanged."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """Return a branch `(B, ...)`; in training each image's is dropped with probability `rate`, or scaled up."""
        if not self.training or self.rate == 0.0:
            return x
        mask = x.new_empty((x.shape[0],) + (1,) * (x.ndim - 1)).bernoulli_(1.0 - self.rate)
        return x * mask.div_(1.0 - self.rate)

    def extra_repr(self) -> str:
        """Return the rate, for the printed module."""
        return f"rate={self.rate:g}"
