"""Pillow's resampling inside a graph, so that a file takes images at their own size.

An axis is resized by a matrix product with the weights of Pillow's filter, which are computed in the graph from the
length of the axis. As in Pillow, the width comes first, and each pass rounds to whole values in 0..255. Results differ
from Pillow's where its fixed-point sums round differently, by 1, and for images more than twice as high as wide, whose
height Pillow resizes first.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from twins.preprocess import Preprocess

SUPPORTS = {"nearest": 0.0, "bilinear": 1.0, "bicubic": 2.0}
"""Reach of each filter in pixels of the smaller image."""
SHARPNESS = -0.5
"""Parameter of Pillow's bicubic filter."""


class ResizeInGraph(nn.Module):
    """Resizes images `(B, H, W, C)` of any size as `Preprocess.resize` does, to a fixed size.

    Args:
        preprocess: with `fit="keep"` the image is resized to lie inside `height` and `width`.
        height: height of the result in pixels.
        width: width of the result in pixels.
    """

    def __init__(self, preprocess: Preprocess, height: int, width: int) -> None:
        super().__init__()
        self.preprocess, self.height, self.width = preprocess, height, width

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return resized images, float `(B, height, width, C)` with whole values, and their size inside, int `(2,)`."""
        lengths = torch.stack([_length(images, axis) for axis in (1, 2)])
        inner, margins = self._plan(lengths)
        x = images.to(torch.float32).permute(0, 3, 1, 2)
        rows = self._weights(images.shape[1], lengths[0], inner[0], margins[0], self.height)
        columns = self._weights(images.shape[2], lengths[1], inner[1], margins[1], self.width)
        x = _rounded(x @ columns.T)
        x = _rounded(rows @ x)
        limits = torch.tensor([self.height, self.width])
        return x.permute(0, 2, 3, 1), torch.minimum(inner, limits)

    def _plan(self, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Return the resized lengths of both axes, and how many of their pixels the crop leaves out before it."""
        limits = torch.tensor([self.height, self.width])
        if self.preprocess.fit == "squash":
            return limits, torch.zeros_like(limits)
        if self.preprocess.fit == "keep":
            factor = (limits / lengths).amin(dim=0)
            return torch.minimum((lengths * factor).round().to(torch.int64).clamp(min=1), limits), limits * 0
        shorter = round(self.preprocess.size / self.preprocess.crop)
        resized = torch.div(shorter * lengths, lengths.amin(dim=0), rounding_mode="floor")
        return resized, ((resized - limits) / 2).round().to(torch.int64)

    def _weights(self, length: int, source: Tensor, resized: Tensor, margin: Tensor, side: int) -> Tensor:
        """Return the weights `(side, length)` of the source pixels in each pixel of the crop."""
        scale = source / resized
        centres = (torch.arange(side) + margin + 0.5) * scale  # (side,)
        positions = torch.arange(length) + 0.5
        if self.preprocess.interpolation == "nearest":
            weights = (torch.arange(length) == centres.floor()[:, None]).to(torch.float32)
        else:
            stretch = scale.clamp(min=1.0)
            reach = SUPPORTS[self.preprocess.interpolation] * stretch
            first, last = (centres - reach + 0.5).floor(), (centres + reach + 0.5).floor()
            inside = (positions > first[:, None]) & (positions < last[:, None])
            weights = self._filter((positions - centres[:, None]) / stretch) * inside
            weights = weights / weights.sum(dim=1, keepdim=True)
        return weights * (torch.arange(side) < resized)[:, None]

    def _filter(self, x: Tensor) -> Tensor:
        """Return Pillow's filter at distances in pixels of the smaller image."""
        x = x.abs()
        if self.preprocess.interpolation == "bilinear":
            return (1 - x).clamp(min=0)
        a = SHARPNESS
        near = ((a + 2) * x - (a + 3)) * x * x + 1
        far = (((x - 5) * x + 8) * x - 4) * a
        return torch.where(x < 1, near, torch.where(x < 2, far, 0.0))


def _length(images: Tensor, axis: int) -> Tensor:
    """Return the length of an axis as a tensor, also while it is traced as an open one."""
    return torch.full((), images.shape[axis], dtype=torch.int64)


def _rounded(x: Tensor) -> Tensor:
    """Round to whole values in 0..255, halves up."""
    return (x + 0.5).floor().clamp(0, 255)
