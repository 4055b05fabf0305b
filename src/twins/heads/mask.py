"""The mask head of Mask R-CNN (arXiv 1703.06870), in mmdetection's form and under its names."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from twins.heads.layers import PlainConv, full_precision
from twins.heads.targets import Target

SIDE = 28
"""Height and width of a mask before it is pasted."""
PIXELS = 1 << 26
"""Pixels of the objects' masks that are read at a time."""


class MaskHead(nn.Module):
    """Four 3x3 convolutions, a doubling, and a mask for each class.

    Args:
        in_channels: channels of the pyramid's levels.
        num_classes: `K`.
        channels: width inside.
    """

    def __init__(self, in_channels: int, num_classes: int, *, channels: int = 256) -> None:
        super().__init__()
        widths = (in_channels, channels, channels, channels)
        self.convs = nn.ModuleList(PlainConv(width, channels, 3, activation=True) for width in widths)
        self.upsample = nn.ConvTranspose2d(channels, channels, 2, stride=2)
        self.conv_logits = nn.Conv2d(channels, num_classes, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        """Turn regions `(R, C, 14, 14)` into mask logits `(R, 28, 28)`, each of the class in `labels` `(R,)`."""
        for conv in self.convs:
            x = conv(x)
        x = self.conv_logits(F.relu(self.upsample(x)))
        return x[torch.arange(len(x), device=x.device), labels]


def mask_loss(logits: Tensor, boxes: Tensor, owners: Tensor, matches: Tensor, targets: Sequence[Target]) -> Tensor:
    """Return the binary cross-entropy of masks, each against its object's mask inside its box; 0 where none is.

    Args:
        logits: `(R, 28, 28)`.
        boxes: the regions `(R, 4)`.
        owners: the image that each belongs to, `(R,)`, ascending.
        matches: the number of its object in its image, `(R,)`.
        targets: each image's objects, with masks.
    """
    wanted = [
        crop_masks(target["masks"], matches[owners == number], boxes[owners == number])
        for number, target in enumerate(targets)
    ]
    logits = full_precision(logits)
    total = F.binary_cross_entropy_with_logits(logits, torch.cat(wanted).to(logits), reduction="sum")
    return total / max(1, logits.numel())


def crop_masks(masks: Tensor, numbers: Tensor, boxes: Tensor) -> Tensor:
    """Return what of the masks `(N, H, W)` with some numbers `(R,)` lies in boxes `(R, 4)`: 0 or 1, `(R, 28, 28)`.

    As in mmdetection a position belongs to an object when at least half of it does.
    """
    from torchvision.ops import roi_align

    step = max(1, PIXELS // max(1, masks.shape[1:].numel()))
    result = [boxes.new_zeros(0, SIDE, SIDE)]
    for first in range(0, len(boxes), step):
        part = boxes[first : first + step]
        chosen = masks[numbers[first : first + step].to(masks.device)].to(part)[:, None]
        rows = torch.arange(len(part), device=part.device)[:, None]
        cropped = roi_align(chosen, torch.cat([rows.to(part), part], dim=1), (SIDE, SIDE), 1.0, 0, aligned=True)
        result.append((cropped[:, 0] >= 0.5).to(boxes))
    return torch.cat(result)


def paste_masks(masks: Tensor, boxes: Tensor, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Lay masks `(R, 28, 28)`, probabilities, into their boxes `(R, 4)` on an image: bool `(R, H, W)`.

    Bilinearly, with nothing outside a box, and from a half on, as mmdetection does; one at a time, and no further than
    a box reaches, so that little besides the result is held.
    """
    height, width = size
    result = np.zeros((len(masks), height, width), dtype=np.bool_)
    for mask, box, canvas in zip(masks, boxes, result, strict=True):
        left, top, right, bottom = box.tolist()
        rows = _inside(top, bottom, height)
        columns = _inside(left, right, width)
        down, across = (
            ((torch.arange(part.start, part.stop).to(mask) + 0.5 - low) / (high - low)) * 2 - 1
            for part, low, high in ((rows, top, bottom), (columns, left, right))
        )
        grid = torch.stack(torch.meshgrid(across, down, indexing="xy"), dim=2)  # (h, w, 2)
        values = F.grid_sample(mask[None, None], grid[None], align_corners=False)[0, 0]
        canvas[rows, columns] = (values >= 0.5).cpu().numpy()
    return result


def _inside(low: float, high: float, limit: int) -> slice:
    """Return the pixels of a side that an interval touches."""
    return slice(max(0, int(low)), min(limit, int(high) + 1))
