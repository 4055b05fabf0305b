"""The second stage of Faster and Mask R-CNN (arXiv 1506.01497, 1703.06870), which follows mmdetection."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from twins.heads.boxes import clip_boxes, decode_boxes, encode_boxes, gather_rows, suppress_batch
from twins.heads.fpn import Levels
from twins.heads.layers import full_precision, init_normal
from twins.heads.mask import MaskHead, mask_loss
from twins.heads.matching import assign, sample, spread
from twins.heads.targets import Target
from twins.ops.private_torch import is_exporting

BOX_POOL_SIDE, MASK_POOL_SIDE = 7, 14
"""Height and width of a pooled region, for the box head and for the mask head."""
STDS = (0.1, 0.1, 0.2, 0.2)
"""Standard deviations by which the deltas are divided; see `encode_boxes`."""
POOLED_LEVELS = 4
"""Number of levels, from the finest, from which regions are pooled; coarser levels only give proposals."""
SAMPLES = 512
"""Regions of each image in the loss: as published, and always in the held-out loss."""
EVAL_MASKS = 32
"""Maximum number of masks per image in the held-out loss."""
FINEST_SIDE = 56
"""Regions with `sqrt(area)` below twice this, in pixels, use the finest level; the limit doubles with each level."""


class BoxHead(nn.Module):
    """Two shared fully connected layers, then class logits with background last, and box deltas for each class.

    Like torchvision's head, and unlike mmdetection's, it also has deltas for background, which are not used. Parameters
    have mmdetection's names.

    Args:
        in_channels: channels of the pyramid's levels.
        num_classes: `K`.
        channels: features of the fully connected layers.
    """

    def __init__(self, in_channels: int, num_classes: int, *, channels: int = 1024) -> None:
        super().__init__()
        widths = (in_channels * BOX_POOL_SIDE * BOX_POOL_SIDE, channels)
        self.shared_fcs = nn.ModuleList(nn.Linear(width, channels) for width in widths)
        self.fc_cls = nn.Linear(channels, num_classes + 1)
        self.fc_reg = nn.Linear(channels, (num_classes + 1) * 4)
        for layer in self.shared_fcs:
            assert isinstance(layer, nn.Linear)
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
        init_normal(self.fc_cls, 0.01)
        init_normal(self.fc_reg, 0.001)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits `(R, K + 1)` and deltas `(R, K, 4)` of regions `(R, C, 7, 7)`."""
        x = x.flatten(1)
        for layer in self.shared_fcs:
            x = F.relu(layer(x))
        return self.fc_cls(x), self.fc_reg(x).unflatten(1, (-1, 4))[:, :-1]


@dataclass(frozen=True)
class SampledRegions:
    """The `R` regions of a batch that are in the loss, image by image, those with an object first."""

    boxes: Tensor
    """`(R, 4)`."""
    image_indices: Tensor
    """The image of each region, `(R,)`."""
    labels: Tensor
    """The target class of each region, `(R,)`; `K` is background."""
    matches: Tensor
    """The index of each region's object in its image, `(R,)`; negative for background."""
    target_boxes: Tensor
    """The box of each region's object, `(R, 4)`; for background the region itself."""
    proposal_rows: Tensor
    """The row of each region in the flattened proposals, `(R,)`; -1 for an object's own box."""


class RoIHead(nn.Module):
    """Predicts class, box and, with a mask head, mask of each proposed region from features pooled from the pyramid.

    As in mmdetection, and unlike torchvision, RoIAlign is aligned by half a pixel and samples large regions more
    densely, background is the last class instead of the first, and the loss of the boxes is L1.

    Args:
        bbox_head: classes and boxes.
        mask_head: masks, or `None`.

    Attributes:
        samples: regions of each image in training's loss, at most a quarter of them with an object.
    """

    def __init__(self, bbox_head: BoxHead, mask_head: MaskHead | None = None) -> None:
        super().__init__()
        self.bbox_head = bbox_head
        self.mask_head = mask_head
        self.samples = SAMPLES

    @property
    def num_classes(self) -> int:
        """Number of classes without background."""
        return self.bbox_head.fc_cls.out_features - 1

    def forward(self, levels: Levels, proposals: Tensor, valid: Tensor) -> dict[str, Tensor]:
        """Return the class logits and deltas of the proposed regions.

        Args:
            levels: the pyramid.
            proposals: boxes `(B, P, 4)` inside their images.
            valid: which proposals are not padding, bool `(B, P)`.

        Returns:
            `proposals` `(B, P, 4)`; `logits` `(B, P, K + 1)`, background last; for padding its
            probability is 1; `deltas` `(B, P, K, 4)`; `sizes`, the images' true sizes `(B, 2)`.
        """
        pooled = pool_regions(levels, proposals.flatten(0, 1), _image_indices(valid), BOX_POOL_SIDE)
        logits, deltas = self.bbox_head(pooled)
        padding = F.pad(logits.new_full((self.num_classes,), -math.inf), (0, 1))
        return {
            "proposals": proposals,
            "logits": torch.where(valid[:, :, None], logits.unflatten(0, valid.shape), padding),
            "deltas": deltas.unflatten(0, valid.shape),
            "sizes": levels.image_sizes,
        }

    def detections(
        self,
        outputs: dict[str, Tensor],
        *,
        score_threshold: float,
        iou_threshold: float,
        max_detections: int,
        agnostic: bool = False,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the objects of each image in descending order of score; see `RetinaNetHead.detections`."""
        scores = full_precision(outputs["logits"]).softmax(dim=2)[:, :, :-1].transpose(1, 2)  # (B, K, P)
        deltas = full_precision(outputs["deltas"])
        boxes = decode_boxes(deltas, outputs["proposals"][:, :, None].to(deltas), STDS).transpose(1, 2)
        boxes = clip_boxes(boxes.flatten(1, 2), outputs["sizes"])  # (B, K * P, 4)
        groups = (1, boxes.shape[1]) if agnostic else tuple(scores.shape[1:])
        best, rows = suppress_batch(
            boxes.reshape(-1, *groups, 4),
            scores.reshape(-1, *groups),
            score_threshold=score_threshold,
            iou_threshold=iou_threshold,
            max_boxes=max_detections,
        )
        return gather_rows(boxes, rows), best.clamp(min=0), rows // scores.shape[2]

    def masks(self, levels: Levels, boxes: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
        """Return the mask logits `(B, M, 28, 28)` of boxes `(B, M, 4)`, each for its class in `labels` `(B, M)`.

        Boxes that are not `valid`, bool `(B, M)`, are padding: their masks are 0, and are not computed.
        """
        assert self.mask_head is not None
        boxes, flat_labels, images = boxes.flatten(0, 1), labels.flatten(), _image_indices(labels)
        # the first box always has a mask, as runtimes have no convolution of no regions
        rows = torch.where(valid.flatten() | (torch.arange(images.shape[0], device=images.device) == 0))[0]
        pooled = pool_regions(levels, boxes[rows], images[rows], MASK_POOL_SIDE)
        logits = self.mask_head(pooled, flat_labels[rows])
        masks = logits.new_zeros(images.shape[0], *logits.shape[1:]).index_copy(0, rows, logits)
        return torch.where(valid[:, :, None, None], masks.unflatten(0, labels.shape), 0)

    def losses(
        self,
        levels: Levels,
        proposals: Tensor,
        valid: Tensor,
        targets: Sequence[Target],
        outputs: dict[str, Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """Return the losses of sampled regions: cross-entropy of classes, L1 of deltas, binary cross-entropy of masks.

        In eval mode the regions are not sampled at random, but spread evenly: `SAMPLES` of each image, whatever
        `samples` is, so that networks can be compared, and at most `EVAL_MASKS` masks.

        Args:
            levels: the pyramid.
            proposals: boxes `(B, P, 4)` inside their images; the objects' own boxes are added to them.
            valid: which proposals are not padding, bool `(B, P)`.
            targets: objects of each image. Regions with an intersection over union of at least 0.5 with an object are
                positive, all others are background.
            outputs: result of `forward` for the same proposals, which saves computing it again for those sampled.
        """
        sampled = self._sample(proposals, valid, targets)
        logits, deltas = self._region_outputs(levels, sampled, outputs)
        logits, deltas = full_precision(logits), full_precision(deltas)
        positives = torch.where(sampled.labels < self.num_classes)[0]
        total = max(1, len(logits))
        target_deltas = encode_boxes(sampled.target_boxes[positives], sampled.boxes[positives], STDS).to(deltas)
        result = {
            "classification": F.cross_entropy(logits, sampled.labels, reduction="sum") / total,
            "boxes": F.l1_loss(deltas[positives, sampled.labels[positives]], target_deltas, reduction="sum") / total,
        }
        if self.mask_head is not None:
            if not self.training:
                positives = spread(positives, EVAL_MASKS * len(targets))
            boxes, images = sampled.boxes[positives], sampled.image_indices[positives]
            mask_logits = self.mask_head(pool_regions(levels, boxes, images, MASK_POOL_SIDE), sampled.labels[positives])
            result["masks"] = mask_loss(mask_logits, boxes, images, sampled.matches[positives], targets)
        return result

    def _region_outputs(
        self, levels: Levels, sampled: SampledRegions, outputs: dict[str, Tensor] | None
    ) -> tuple[Tensor, Tensor]:
        """Return logits `(R, K + 1)` and deltas `(R, K, 4)` of the sampled regions."""
        if outputs is None:
            return self.bbox_head(pool_regions(levels, sampled.boxes, sampled.image_indices, BOX_POOL_SIDE))
        own = torch.where(sampled.proposal_rows < 0)[0]  # objects' own boxes are not among the proposals
        pooled = pool_regions(levels, sampled.boxes[own], sampled.image_indices[own], BOX_POOL_SIDE)
        rows = sampled.proposal_rows.clamp(min=0)
        parts = zip(self.bbox_head(pooled), (outputs["logits"], outputs["deltas"]), strict=True)
        logits, deltas = (part.flatten(0, 1)[rows].index_copy(0, own, own_part) for own_part, part in parts)
        return logits, deltas

    @torch.no_grad()
    def _sample(self, proposals: Tensor, valid: Tensor, targets: Sequence[Target]) -> SampledRegions:
        """Match the proposals and the objects' own boxes to the objects of each image, and sample from them."""
        parts = []
        for image, target in enumerate(targets):
            object_boxes = target["boxes"].to(proposals)
            own, used = torch.full((len(object_boxes),), -1, device=valid.device), torch.where(valid[image])[0]
            rows = torch.cat([own, used + image * valid.shape[1]])
            boxes = torch.cat([object_boxes, proposals[image][used]])
            matches = assign(boxes, target, positive_iou=0.5, negative_iou=0.5)
            sampled = sample(matches, self.samples if self.training else SAMPLES, 0.25, random=self.training)
            boxes, matches = boxes[sampled], matches[sampled]
            labels = torch.full_like(matches, self.num_classes)
            target_boxes = boxes.clone()
            positives = torch.where(matches >= 0)[0]
            labels[positives] = target["labels"].to(matches)[matches[positives]]
            target_boxes[positives] = object_boxes[matches[positives]]
            parts.append((boxes, torch.full_like(matches, image), labels, matches, target_boxes, rows[sampled]))
        return SampledRegions(*(torch.cat(part) for part in zip(*parts, strict=True)))


def pool_regions(levels: Levels, boxes: Tensor, image_indices: Tensor, side: int) -> Tensor:
    """Pool regions by RoIAlign (arXiv 1703.06870), each from the pyramid level that matches its size.

    In a padded batch no padding enters a region at the border of its image.

    Args:
        levels: the pyramid.
        boxes: `(R, 4)` in pixels.
        image_indices: the image of each box, `(R,)`.
        side: height and width of a pooled region.

    Returns:
        `(R, C, side, side)`.
    """
    from torchvision.ops import roi_align

    size = (boxes[:, 2:] - boxes[:, :2]).prod(dim=1).sqrt()
    region_levels = (size / FINEST_SIDE + 1e-6).log2().floor().clamp(0, POOLED_LEVELS - 1)
    pooled, row_parts = [], []
    for level in range(POOLED_LEVELS):
        for x, image in _level_parts(levels, level):
            chosen = region_levels == level if image is None else (region_levels == level) & (image_indices == image)
            rows = torch.where(chosen)[0]
            batch_indices = image_indices[rows] if image is None else torch.zeros_like(rows)
            regions = torch.cat([batch_indices[:, None].to(boxes), boxes[rows]], dim=1)
            x = full_precision(x)
            pooled.append(roi_align(x, regions.to(x), (side, side), 1 / levels.strides[level], 0, aligned=True))
            row_parts.append(rows)
    rows = torch.cat(row_parts)
    inverse = torch.zeros_like(image_indices).scatter(0, rows, torch.arange(rows.shape[0], device=rows.device))  # (R,)
    return torch.cat(pooled).index_select(0, inverse).to(levels.maps[0])


def _level_parts(levels: Levels, level: int) -> list[tuple[Tensor, int | None]]:
    """Return a level for all images, or each image's part of it with the image's index.

    A traced graph has no parts: outside each image it repeats the image's last row and column. Regions lie inside their
    image, so they are the same there, unless the padding policy crops the map so far that a region ends beyond it.
    """
    x, sizes = levels.maps[level], levels.sizes_at(level)
    if sizes is None:
        return [(x, None)]
    if is_exporting():
        return [(_extend_border(x, sizes), None)]
    return [(x[i : i + 1, :, :height, :width], i) for i, (height, width) in enumerate(sizes.tolist())]


def _extend_border(x: Tensor, sizes: Tensor) -> Tensor:
    """Repeat the last row and column of each image in a map `(B, C, H, W)` outside its size, `(B, 2)` on the map."""
    batch, channels, height, width = x.shape
    rows, columns = torch.arange(height, device=x.device)[:, None], torch.arange(width, device=x.device)
    last_rows, last_columns = (sizes[:, axis].view(-1, 1, 1, 1) - 1 for axis in (0, 1))
    x = torch.where(rows > last_rows, x.gather(2, last_rows.expand(batch, channels, 1, width)), x)
    return torch.where(columns > last_columns, x.gather(3, last_columns.expand(batch, channels, height, 1)), x)


def _image_indices(padded: Tensor) -> Tensor:
    """Return the image of each row of a padded tensor `(B, N)`, flattened."""
    return torch.arange(padded.shape[0], device=padded.device)[:, None].expand(padded.shape).flatten()
