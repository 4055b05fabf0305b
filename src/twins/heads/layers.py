"""What the dense heads are built of, under mmsegmentation's parameter names (`conv`, `bn`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from twins.errors import ConfigError

Norm = Literal["batch", "group"]
"""Normalisation of a head's convolutions; `batch` is the published one."""
GROUPS = 32
"""Groups of group norm, as its paper has them (arXiv 1803.08494); fewer where channels are few."""
SMALLEST = 4
"""Channels of a group at least: one alone in a map of one pixel has no variance."""


class ConvNormAct(nn.Module):
    """Convolution without bias, norm and ReLU: `(B, C_in, H, W)` to `(B, C, H, W)`."""

    def __init__(self, in_channels: int, channels: int, kernel: int, *, norm: Norm = "batch") -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, channels, kernel, padding=kernel // 2, bias=False)
        self.bn = build_norm(norm, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return a map of the same height and width."""
        return F.relu(self.bn(self.conv(x)), inplace=True)


def build_norm(norm: str, channels: int) -> nn.Module:
    """Return a norm of maps `(B, C, H, W)`.

    Raises:
        ConfigError: an unknown norm, or channels that the groups do not divide.
    """
    if norm == "batch":
        return nn.BatchNorm2d(channels)
    if norm != "group":
        raise ConfigError(f"a head's norm must be batch or group, found {norm!r}")
    groups = min(GROUPS, channels // SMALLEST)
    if not groups or channels % groups:
        raise ConfigError(f"group norm needs {GROUPS} equal groups, or groups of {SMALLEST}, found {channels} channels")
    return nn.GroupNorm(groups, channels)


def init_head(head: nn.Module) -> None:
    """Initialise as mmsegmentation's heads: He's normal for convolutions (fan-out), 0.01 for the last one."""
    for name, module in head.named_modules():
        if isinstance(module, nn.Conv2d):
            if name.rpartition(".")[2] == "conv_seg":
                nn.init.normal_(module.weight, std=0.01)
            else:
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def resize(x: Tensor, size: Sequence[int]) -> Tensor:
    """Resize a map `(B, C, H, W)` bilinearly, `align_corners` false; of this size already, it comes back as it is."""
    if tuple(x.shape[2:]) == tuple(size):
        return x
    return F.interpolate(x, size=list(size), mode="bilinear", align_corners=False)


def planar(x: Tensor) -> Tensor:
    """Lay a map `(B, C, H, W)` out channel by channel where a CPU is to learn: convolutions take a quarter less time.

    Measured on a step of Semantic FPN at 512 x 512. Without a gradient, and elsewhere, it stays as it lies, which is
    the faster way there.
    """
    return x.contiguous() if x.device.type == "cpu" and torch.is_grad_enabled() else x
