"""Feature pyramid (FPN, arXiv 1612.03144), in OpenMMLab's form and under its names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from twins.heads.layers import PlainConv, zero_outside_map

Extra = Literal["none", "pool", "convolutions"]
"""What a pyramid has above its last level: nothing, every second position of it, or P6 and P7."""
EXTRA_LEVELS = {"none": 0, "pool": 1, "convolutions": 2}


@dataclass(frozen=True)
class Levels:
    """A pyramid of maps, with what of them belongs to each image."""

    maps: tuple[Tensor, ...]
    """`(B, C, H_i, W_i)`, high to low resolution; anything may stand outside an image."""
    strides: tuple[int, ...]
    """Pixels per position of each map."""
    sizes: tuple[Tensor, ...] | None
    """True sizes `(B, 2)` in the units of each map; `None` when every image fills its map."""
    image_sizes: Tensor
    """True sizes of the images in pixels, int `(B, 2)`."""

    def own(self, level: int) -> Tensor | None:
        """Return the true sizes on one map, or `None`."""
        return None if self.sizes is None else self.sizes[level]


class FeaturePyramid(nn.Module):
    """Laterals, a top-down path by nearest neighbours, and a 3x3 convolution on each level.

    Args:
        in_channels: channels of the maps that come in, high to low resolution.
        channels: channels of every map that goes out.
        extra: levels above the last one. `pool` adds one, every second position of the last level, as Faster and Mask
            R-CNN have it; `convolutions` adds P6 from the last map that came in and P7 from P6, 3x3 with stride 2, as
            RetinaNet has them: without a ReLU before P7, as mmdetection, where torchvision has one.
    """

    def __init__(self, in_channels: Sequence[int], channels: int = 256, *, extra: Extra = "none") -> None:
        super().__init__()
        self.extra = extra
        self.lateral_convs = nn.ModuleList(PlainConv(width, channels, 1) for width in in_channels)
        self.fpn_convs = nn.ModuleList(PlainConv(channels, channels, 3) for _ in in_channels)
        if extra == "convolutions":
            self.fpn_convs.extend(PlainConv(width, channels, 3, stride=2) for width in (in_channels[-1], channels))
        self.channels = (channels,) * (len(in_channels) + EXTRA_LEVELS[extra])

    def forward(self, maps: Sequence[Tensor], sizes: Sequence[Tensor] | None = None) -> tuple[Tensor, ...]:
        """Return maps `(B, channels, H_i, W_i)` of the sizes of those that came in, and the extra ones.

        Args:
            maps: `(B, C_i, H_i, W_i)`, zero outside each image.
            sizes: true sizes `(B, 2)` on each map that goes out, see `level_sizes`; `None` when every image fills its
                maps. What belongs to an image is what it is for the image alone; anything may stand outside.
        """
        own = [None] * len(self.channels) if sizes is None else sizes
        laterals = [conv(x) for conv, x in zip(self.lateral_convs, maps, strict=True)]
        for level in range(len(laterals) - 1, 0, -1):
            below = laterals[level - 1]
            laterals[level - 1] = below + _grow(laterals[level], below.shape[2:], own[level], own[level - 1])
        levels = [conv(zero_outside_map(x, size)) for conv, x, size in zip(self.fpn_convs, laterals, own, strict=False)]
        if self.extra == "pool":
            levels.append(levels[-1][:, :, ::2, ::2])
        x = maps[-1]
        for conv, size in zip(list(self.fpn_convs)[len(maps) :], own[len(maps) - 1 :], strict=False):  # P6, P7
            x = conv(zero_outside_map(x, size))
            levels.append(x)
        return tuple(levels)

    def level_sizes(self, sizes: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return the true sizes `(B, 2)` on each map that goes out, from those on the maps that come in."""
        result = list(sizes)
        for _ in range(EXTRA_LEVELS[self.extra]):
            result.append((result[-1] + 1) // 2)
        return tuple(result)


def _grow(x: Tensor, size: Sequence[int], before: Tensor | None, after: Tensor | None) -> Tensor:
    """Enlarge a map by nearest neighbours, each image's own part by itself: from its true size to that `after`."""
    if before is None or after is None:
        return F.interpolate(x, size=size, mode="nearest")
    before, after = before.to(x.device), after.to(x.device)
    for axis in (0, 1):
        places = torch.arange(size[axis], device=x.device) * before[:, axis, None] // after[:, axis, None]  # (B, side)
        places = places.clamp(max=x.shape[2 + axis] - 1)
        x = x.take_along_dim(places[:, None, :, None] if axis == 0 else places[:, None, None, :], dim=2 + axis)
    return x
