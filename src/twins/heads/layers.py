"""Layers of the dense heads, with mmsegmentation's parameter names (`conv`, `bn`)."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from twins.errors import ConfigError
from twins.ops import dispatch
from twins.ops.padding import valid_mask

NormKind = Literal["batch", "group"]
"""Normalisation of a head's convolutions; `batch` is the published one."""
GROUPS = 32
"""Groups of group norm, as in its paper (arXiv 1803.08494); fewer if channels are few."""
MIN_GROUP_CHANNELS = 4
"""Minimum number of channels in a group: a single channel of a one-pixel map has no variance."""
PUBLISHED_WIDTH = 256
"""Channels inside the heads of the published detectors."""


class ConvNormAct(nn.Module):
    """Convolution without bias, norm and ReLU: `(B, C_in, H, W)` to `(B, C, H, W)`."""

    def __init__(self, in_channels: int, channels: int, kernel: int, *, norm: NormKind = "batch") -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, channels, kernel, padding=kernel // 2, bias=False)
        self.bn = build_norm(norm, channels)

    def forward(self, x: Tensor, sizes: Tensor | None = None) -> Tensor:
        """Return a map of the same height and width.

        Args:
            x: the map; values outside an image are ignored, but must be finite.
            sizes: true sizes `(B, 2)` on the map, or `None` if images fill it. The part of the result inside an image
                equals the result for that image alone; values outside are arbitrary.
        """
        if self.conv.kernel_size != (1, 1):
            x = zero_outside_map(x, sizes)
        return F.relu(normalise_map(self.bn, self.conv(x), sizes), inplace=True)


class PlainConv(nn.Module):
    """Convolution with bias and optional ReLU: `(B, C_in, H, W)` to `(B, C, H / stride, W / stride)`."""

    def __init__(
        self, in_channels: int, channels: int, kernel: int, *, stride: int = 1, activation: bool = False
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, channels, kernel, stride=stride, padding=kernel // 2)
        self.activation = activation
        nn.init.xavier_uniform_(self.conv.weight)
        nn.init.zeros_(self.conv.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """Return a map; sides that the stride does not divide are rounded up."""
        x = self.conv(x)
        return F.relu(x, inplace=True) if self.activation else x


def build_norm(norm: NormKind, channels: int) -> nn.Module:
    """Build a norm of maps `(B, C, H, W)`; raises ConfigError for channels that do not divide into groups."""
    if norm == "batch":
        return nn.BatchNorm2d(channels)
    groups = min(GROUPS, channels // MIN_GROUP_CHANNELS)
    if not groups or channels % groups:
        raise ConfigError(
            f"group norm needs {GROUPS} equal groups, or groups of {MIN_GROUP_CHANNELS}, found {channels} channels"
        )
    return nn.GroupNorm(groups, channels)


def normalise_map(norm: nn.Module, x: Tensor, sizes: Tensor | None) -> Tensor:
    """Apply a norm of `build_norm` to a map; with `sizes` group norm's statistics are those inside each image."""
    if sizes is None or not isinstance(norm, nn.GroupNorm):
        return norm(x)
    sizes = sizes.to(x.device)
    inside = valid_mask(sizes, x.shape[2], x.shape[3])[:, None, None]  # (B, 1, 1, H, W)
    groups = full_precision(x).reshape(x.shape[0], norm.num_groups, -1, *x.shape[2:])  # (B, G, C / G, H, W)
    count = sizes.prod(dim=1).view(-1, 1, 1, 1, 1) * groups.shape[2]
    groups = groups - torch.where(inside, groups, 0.0).sum(dim=(2, 3, 4), keepdim=True) / count
    variance = torch.where(inside, groups, 0.0).square().sum(dim=(2, 3, 4), keepdim=True) / count
    x = (groups * (variance + norm.eps).rsqrt()).flatten(1, 2).to(x.dtype)
    return x * norm.weight[:, None, None] + norm.bias[:, None, None]


def init_head(head: nn.Module) -> None:
    """Initialise as mmsegmentation does: He's normal (fan-out) for convolutions, std 0.01 for the last one."""
    for name, module in head.named_modules():
        if isinstance(module, nn.Conv2d):
            if name.rpartition(".")[2] == "conv_seg":
                nn.init.normal_(module.weight, std=0.01)
            else:
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def init_hidden(conv: nn.Conv2d) -> None:
    """Initialise a convolution before a ReLU inside a detector's head, with as much signal as in a published head.

    The published standard deviation is 0.01 (arXiv 1708.02002, section 4.1); in a narrower head, whose outputs are sums
    of fewer terms, it is larger.
    """
    init_normal(conv, 0.01 * math.sqrt(PUBLISHED_WIDTH / conv.out_channels))


def init_normal(layer: nn.Module, std: float) -> None:
    """Initialise a layer's weight from a normal distribution and its bias with zeros."""
    assert isinstance(layer, nn.Conv2d | nn.Linear)
    assert layer.bias is not None
    nn.init.normal_(layer.weight, std=std)
    nn.init.zeros_(layer.bias)


def zero_outside_map(x: Tensor, sizes: Tensor | None) -> Tensor:
    """Zero a map `(B, C, H, W)` outside its images; `sizes` are their true sizes `(B, 2)` in units of the map."""
    if sizes is None:
        return x
    return torch.where(valid_mask(sizes, x.shape[2], x.shape[3])[:, None], x, x.new_zeros(()))


def full_precision(x: Tensor) -> Tensor:
    """Convert half precision to float32; return anything else unchanged."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def planar(x: Tensor) -> Tensor:
    """Make a map `(B, C, H, W)` planar for training on a CPU, where its convolutions then take a quarter less time.

    Measured on a training step of Semantic FPN at 512 x 512. Without a gradient, and on other devices, the map keeps
    its layout, which is faster there.
    """
    return x.contiguous() if dispatch.should_be_planar(x) else x
