"""The mask head of Mask R-CNN (arXiv 1703.06870), in mmdetection's form and with its parameter names."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from twins.heads.layers import PlainConv, full_precision
from twins.heads.targets import Target

MASK_SIDE = 28
"""Height and width of a mask before it is pasted."""
CHUNK_PIXELS = 1 << 26
"""Maximum number of pixels of target masks that are converted to floats at once."""


class MaskHead(nn.Module):
    """Four 3x3 convolutions, a transposed convolution that doubles the side, and one mask per class.

    Args:
        in_channels: channels of the pyramid's levels.
        num_classes: `K`.
        channels: channels of the hidden maps.
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
        """Return mask logits `(R, 28, 28)` of regions `(R, C, 14, 14)`, each for its class in `labels` `(R,)`."""
        for conv in self.convs:
            x = conv(x)
        x = self.conv_logits(F.relu(self.upsample(x)))
        return x[torch.arange(x.shape[0], device=x.device), labels]


def mask_loss(
    logits: Tensor, boxes: Tensor, image_indices: Tensor, matches: Tensor, targets: Sequence[Target]
) -> Tensor:
    """Return the mean binary cross-entropy of masks against their objects' masks, cropped to the boxes; 0 if none.

    Args:
        logits: `(R, 28, 28)`.
        boxes: the regions `(R, 4)`.
        image_indices: the image of each region, `(R,)`, ascending.
        matches: the index of each region's object in its image, `(R,)`.
        targets: each image's objects, with masks.
    """
    target_masks = [
        crop_masks(target["masks"], matches[image_indices == image], boxes[image_indices == image])
        for image, target in enumerate(targets)
    ]
    logits = full_precision(logits)
    total = F.binary_cross_entropy_with_logits(logits, torch.cat(target_masks).to(logits), reduction="sum")
    return total / max(1, logits.numel())


def crop_masks(masks: Tensor, indices: Tensor, boxes: Tensor) -> Tensor:
    """Crop masks `(N, H, W)` to boxes `(R, 4)`, each from the mask at its index `(R,)`: 0 or 1, `(R, 28, 28)`.

    As in mmdetection a position is 1 when the mask covers at least half of it.
    """
    from torchvision.ops import roi_align

    step = max(1, CHUNK_PIXELS // max(1, masks.shape[1:].numel()))
    result = [boxes.new_zeros(0, MASK_SIDE, MASK_SIDE)]
    for first in range(0, len(boxes), step):
        part = boxes[first : first + step]
        object_masks = masks[indices[first : first + step].to(masks.device)].to(part)[:, None]
        rows = torch.arange(len(part), device=part.device)[:, None]
        regions = torch.cat([rows.to(part), part], dim=1)
        cropped = roi_align(object_masks, regions, (MASK_SIDE, MASK_SIDE), 1.0, 0, aligned=True)
        result.append((cropped[:, 0] >= 0.5).to(boxes))
    return torch.cat(result)


def paste_masks(
    masks: Tensor, boxes: Tensor, size: tuple[int, int], owners: Sequence[int] | None = None
) -> NDArray[np.bool_]:
    """Paste mask probabilities `(R, 28, 28)` into their boxes `(R, 4)` on an image of `size`: bool `(R, H, W)`.

    As in mmdetection masks are resized bilinearly, are 0 outside their box, and true from a probability of 0.5. They
    are pasted one at a time and only inside their box, so that memory stays close to that of the result.

    Args:
        masks: probabilities.
        boxes: xyxy in pixels.
        size: height and width of the image.
        owners: the object, from 0, that each mask is a part of, ascending; the result is then the union of each
            object's parts, with a row per object. `None`: each mask is an object.
    """
    height, width = size
    owners = range(len(masks)) if owners is None else owners
    result = np.zeros((max(owners, default=-1) + 1, height, width), dtype=np.bool_)
    for mask, box, owner in zip(masks, boxes, owners, strict=True):
        canvas = result[owner]
        left, top, right, bottom = box.tolist()
        rows = _touched_pixels(top, bottom, height)
        columns = _touched_pixels(left, right, width)
        ys, xs = (
            ((torch.arange(part.start, part.stop).to(mask) + 0.5 - low) / (high - low)) * 2 - 1
            for part, low, high in ((rows, top, bottom), (columns, left, right))
        )
        grid = torch.stack(torch.meshgrid(xs, ys, indexing="xy"), dim=2)  # (h, w, 2)
        values = F.grid_sample(mask[None, None], grid[None], align_corners=False)[0, 0]
        canvas[rows, columns] |= (values >= 0.5).cpu().numpy()
    return result


def _touched_pixels(low: float, high: float, limit: int) -> slice:
    """Return the pixels of a row or column that an interval touches."""
    return slice(max(0, int(low)), min(limit, int(high) + 1))
