"""The head of UPerNet (arXiv 1807.10221), in mmsegmentation's form and with its parameter names."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from twins.heads.layers import ConvNormAct, NormKind, init_head
from twins.heads.resampling import AveragePool, resize_map

POOLS = (1, 2, 3, 6)
"""Sides of the grids to which the last map is pooled (PSPNet, arXiv 1612.01105)."""


class UPerNetHead(nn.Module):
    """Pyramid pooling of the last map, a top-down path over all maps, and a classification layer on their fusion.

    Args:
        in_channels: channels of the input maps, high to low resolution.
        num_classes: `K`.
        channels: channels of the hidden maps.
        drop_rate: dropout of whole channels before the classification layer.
        norm: `batch` or `group`.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        num_classes: int,
        *,
        channels: int = 512,
        drop_rate: float = 0.1,
        norm: NormKind = "batch",
    ) -> None:
        super().__init__()
        last = in_channels[-1]
        self.psp_modules = nn.ModuleList(
            nn.Sequential(AveragePool(side), ConvNormAct(last, channels, 1, norm=norm)) for side in POOLS
        )
        self.bottleneck = ConvNormAct(last + len(POOLS) * channels, channels, 3, norm=norm)
        self.lateral_convs = nn.ModuleList(ConvNormAct(width, channels, 1, norm=norm) for width in in_channels[:-1])
        self.fpn_convs = nn.ModuleList(ConvNormAct(channels, channels, 3, norm=norm) for _ in in_channels[:-1])
        self.fpn_bottleneck = ConvNormAct(len(in_channels) * channels, channels, 3, norm=norm)
        self.dropout = nn.Dropout2d(drop_rate)
        self.conv_seg = nn.Conv2d(channels, num_classes, 1)
        init_head(self)

    def forward(self, maps: Sequence[Tensor], sizes: Sequence[Tensor] | None = None) -> Tensor:
        """Return logits `(B, K, H_0, W_0)` at the first map's resolution.

        Args:
            maps: high to low resolution.
            sizes: true sizes `(B, 2)` on each map; `None` if images fill them. The part of the logits inside an image
                equals the logits of that image alone; values outside are arbitrary.
        """
        map_sizes = [None] * len(maps) if sizes is None else sizes
        levels = [conv(x, size) for conv, x, size in zip(self.lateral_convs, maps, map_sizes, strict=False)]
        levels.append(self._pool(maps[-1], map_sizes[-1]))
        for i in range(len(levels) - 1, 0, -1):
            shape = levels[i - 1].shape[2:]
            levels[i - 1] = levels[i - 1] + resize_map(levels[i], shape, map_sizes[i], map_sizes[i - 1])
        fused = [conv(x, size) for conv, x, size in zip(self.fpn_convs, levels, map_sizes, strict=False)] + levels[-1:]
        shape = fused[0].shape[2:]
        resized = [resize_map(x, shape, size, map_sizes[0]) for x, size in zip(fused, map_sizes, strict=True)]
        x = self.fpn_bottleneck(torch.cat(resized, dim=1), map_sizes[0])
        return self.conv_seg(self.dropout(x))

    def _pool(self, x: Tensor, sizes: Tensor | None) -> Tensor:
        pooled = []
        for module in self.psp_modules:
            assert isinstance(module, nn.Sequential)
            pool, conv = module
            pooled.append(resize_map(conv(pool(x, sizes)), x.shape[2:], None, sizes))
        return self.bottleneck(torch.cat([x, *pooled], dim=1), sizes)
