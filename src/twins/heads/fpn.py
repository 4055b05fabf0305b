"""Feature pyramid (FPN, arXiv 1612.03144), in OpenMMLab's form and with its parameter names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from twins.heads.layers import PlainConv, zero_outside_map
from twins.heads.resampling import upsample_nearest

Extra = Literal["none", "pool", "convolutions"]
"""Levels above the last one: none, every second position of it, or P6 and P7."""
EXTRA_LEVELS = {"none": 0, "pool": 1, "convolutions": 2}


@dataclass(frozen=True)
class Levels:
    """The maps of a pyramid, with the true sizes of the images on each."""

    maps: tuple[Tensor, ...]
    """`(B, C, H_i, W_i)`, high to low resolution; values outside an image are arbitrary."""
    strides: tuple[int, ...]
    """Pixels per position of each map."""
    sizes: tuple[Tensor, ...] | None
    """True sizes `(B, 2)` in units of each map; `None` when every image fills its map."""
    image_sizes: Tensor
    """True sizes of the images in pixels, int `(B, 2)`."""

    def sizes_at(self, level: int) -> Tensor | None:
        """Return the true sizes on one map, or `None`."""
        return None if self.sizes is None else self.sizes[level]


class FeaturePyramid(nn.Module):
    """Lateral convolutions, a top-down path with nearest-neighbour upsampling, and a 3x3 convolution per level.

    Args:
        in_channels: channels of the input maps, high to low resolution.
        channels: channels of every output map.
        extra: levels above the last one. `pool` adds one, every second position of the last level, as in Faster and
            Mask R-CNN. `convolutions` adds P6 from the last input map and P7 from P6, both 3x3 with stride 2, as in
            RetinaNet.
        relu_before_p7: whether a ReLU precedes the convolution of P7, as in torchvision and detectron2; mmdetection
            has none.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        channels: int = 256,
        *,
        extra: Extra = "none",
        relu_before_p7: bool = False,
    ) -> None:
        super().__init__()
        self.extra, self.relu_before_p7 = extra, relu_before_p7
        self.lateral_convs = nn.ModuleList(PlainConv(width, channels, 1) for width in in_channels)
        self.fpn_convs = nn.ModuleList(PlainConv(channels, channels, 3) for _ in in_channels)
        if extra == "convolutions":
            self.fpn_convs.extend(PlainConv(width, channels, 3, stride=2) for width in (in_channels[-1], channels))
        self.channels = (channels,) * (len(in_channels) + EXTRA_LEVELS[extra])

    def forward(self, maps: Sequence[Tensor], sizes: Sequence[Tensor] | None = None) -> tuple[Tensor, ...]:
        """Return maps `(B, channels, H_i, W_i)`: one of the size of each input map, then the extra levels.

        Args:
            maps: `(B, C_i, H_i, W_i)`, zero outside each image.
            sizes: true sizes `(B, 2)` on each output map, see `level_sizes`; `None` when every image fills its maps.
                The part of an output inside an image equals the output for that image alone; values outside are
                arbitrary.
        """
        level_sizes = [None] * len(self.channels) if sizes is None else sizes
        laterals = [conv(x) for conv, x in zip(self.lateral_convs, maps, strict=True)]
        for level in range(len(laterals) - 1, 0, -1):
            below = laterals[level - 1]
            laterals[level - 1] = below + upsample_nearest(
                laterals[level], below.shape[2:], level_sizes[level], level_sizes[level - 1]
            )
        levels = [
            conv(zero_outside_map(x, size))
            for conv, x, size in zip(self.fpn_convs, laterals, level_sizes, strict=False)
        ]
        if self.extra == "pool":
            levels.append(levels[-1][:, :, ::2, ::2])
        x = maps[-1]
        for conv, size in zip(list(self.fpn_convs)[len(maps) :], level_sizes[len(maps) - 1 :], strict=False):  # P6, P7
            if self.relu_before_p7 and len(levels) > len(maps):
                x = F.relu(x)
            x = conv(zero_outside_map(x, size))
            levels.append(x)
        return tuple(levels)

    def level_sizes(self, sizes: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return the true sizes `(B, 2)` on each output map, given those on the input maps."""
        result = list(sizes)
        for _ in range(EXTRA_LEVELS[self.extra]):
            result.append((result[-1] + 1) // 2)
        return tuple(result)
