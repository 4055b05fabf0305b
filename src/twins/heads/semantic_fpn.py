"""The head of Semantic FPN (arXiv 1901.02446, section 3), in mmsegmentation's form and with its parameter names."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn

from twins.heads.layers import ConvNormAct, NormKind, init_head
from twins.heads.resampling import resize_map


class SemanticFPNHead(nn.Module):
    """Upsamples every pyramid level to the resolution of the first, adds them and classifies each position.

    A level of stride `s` passes through `log2(s / s_0)` 3x3 convolutions, each followed by a doubling of height and
    width. The first level passes through one convolution.

    Args:
        in_channels: channels of the pyramid's levels.
        strides: pixels per position of each level.
        num_classes: `K`.
        channels: channels of the hidden maps.
        drop_rate: dropout of whole channels before the classification layer.
        norm: `batch` or `group`.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        strides: Sequence[int],
        num_classes: int,
        *,
        channels: int = 128,
        drop_rate: float = 0.1,
        norm: NormKind = "batch",
    ) -> None:
        super().__init__()
        self.scale_heads = nn.ModuleList()
        for width, stride in zip(in_channels, strides, strict=True):
            doublings = int(math.log2(stride // strides[0]))
            steps: list[nn.Module] = []
            for step in range(max(doublings, 1)):
                steps.append(ConvNormAct(width if step == 0 else channels, channels, 3, norm=norm))
                if doublings:
                    steps.append(nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False))
            self.scale_heads.append(nn.Sequential(*steps))
        self.dropout = nn.Dropout2d(drop_rate)
        self.conv_seg = nn.Conv2d(channels, num_classes, 1)
        init_head(self)

    def forward(self, maps: Sequence[Tensor], sizes: Sequence[Tensor] | None = None) -> Tensor:
        """Return logits `(B, K, H_0, W_0)` at the first level's resolution.

        Args:
            maps: the levels, high to low resolution.
            sizes: true sizes `(B, 2)` on each level; `None` if images fill them. The part of the logits inside an image
                equals the logits of that image alone; values outside are arbitrary.
        """
        level_sizes = [None] * len(maps) if sizes is None else sizes
        x: Tensor | None = None
        for head, level, size in zip(self.scale_heads, maps, level_sizes, strict=True):
            assert isinstance(head, nn.Sequential)
            y, y_sizes = _upsample(head, level, size)
            x = y if x is None else x + resize_map(y, x.shape[2:], y_sizes, level_sizes[0])
        assert x is not None
        return self.conv_seg(self.dropout(x))


def _upsample(head: nn.Sequential, x: Tensor, sizes: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Return a level after its convolutions and doublings, with the true sizes on it."""
    for step in head:
        if isinstance(step, nn.Upsample):
            doubled = None if sizes is None else 2 * sizes
            x = resize_map(x, (2 * x.shape[2], 2 * x.shape[3]), sizes, doubled)
            sizes = doubled
        else:
            x = step(x, sizes)
    return x, sizes
