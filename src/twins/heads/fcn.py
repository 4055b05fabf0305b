"""The fully convolutional head, in mmsegmentation's form and with its parameter names."""

from __future__ import annotations

from torch import Tensor, nn

from twins.heads.layers import ConvNormAct, NormKind, init_head


class FCNHead(nn.Module):
    """3x3 convolution and classification layer (arXiv 1411.4038): the auxiliary head in UPerNet's training.

    Args:
        in_channels: channels of the map.
        num_classes: `K`.
        channels: channels of the hidden map.
        drop_rate: dropout of whole channels before the classification layer.
        norm: `batch` or `group`.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        channels: int = 256,
        drop_rate: float = 0.1,
        norm: NormKind = "batch",
    ) -> None:
        super().__init__()
        self.convs = nn.Sequential(ConvNormAct(in_channels, channels, 3, norm=norm))
        self.dropout = nn.Dropout2d(drop_rate)
        self.conv_seg = nn.Conv2d(channels, num_classes, 1)
        init_head(self)

    def forward(self, x: Tensor, sizes: Tensor | None = None) -> Tensor:
        """Return logits `(B, K, H, W)`; `sizes` are the true sizes on the map, see `ConvNormAct.forward`."""
        return self.conv_seg(self.dropout(self.convs[0](x, sizes)))
