"""Feature pyramid (FPN, arXiv 1612.03144), in mmsegmentation's form and under its names."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn


class FeaturePyramid(nn.Module):
    """Laterals, a top-down path by nearest neighbours, and a 3x3 convolution on each level.

    Args:
        in_channels: channels of the maps that come in, high to low resolution.
        channels: channels of every map that goes out.
    """

    def __init__(self, in_channels: Sequence[int], channels: int = 256) -> None:
        super().__init__()
        self.lateral_convs = nn.ModuleList(_Conv(width, channels, 1) for width in in_channels)
        self.fpn_convs = nn.ModuleList(_Conv(channels, channels, 3) for _ in in_channels)
        self.channels = (channels,) * len(in_channels)

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return maps `(B, channels, H_i, W_i)` of the sizes of those that came in."""
        laterals = [conv(x) for conv, x in zip(self.lateral_convs, maps, strict=True)]
        for level in range(len(laterals) - 1, 0, -1):
            above = F.interpolate(laterals[level], size=laterals[level - 1].shape[2:], mode="nearest")
            laterals[level - 1] = laterals[level - 1] + above
        return tuple(conv(x) for conv, x in zip(self.fpn_convs, laterals, strict=True))


class _Conv(nn.Module):
    """A convolution with bias, named as mmsegmentation's module of convolution, norm and activation names it."""

    def __init__(self, in_channels: int, channels: int, kernel: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, channels, kernel, padding=kernel // 2)
        nn.init.xavier_uniform_(self.conv.weight)
        nn.init.zeros_(self.conv.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)
