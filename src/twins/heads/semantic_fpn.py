"""The head of Semantic FPN (arXiv 1901.02446, section 3), in mmsegmentation's form and with its parameter names."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn

from twins.heads.layers import ConvNormAct, NormKind, init_head, resize_map


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

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Return logits `(B, K, H_0, W_0)` at the first level's resolution."""
        x = self.scale_heads[0](maps[0])
        for head, level in zip(self.scale_heads[1:], maps[1:], strict=True):
            x = x + resize_map(head(level), x.shape[2:])
        return self.conv_seg(self.dropout(x))
