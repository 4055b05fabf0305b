"""Object detection: boxes with classes, by RetinaNet or Faster R-CNN on a Twins backbone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from twins.backbone.network import Twins
from twins.errors import ConfigError, nearest
from twins.heads import retinanet, rpn
from twins.heads.boxes import clip_boxes
from twins.heads.fpn import FeaturePyramid, Levels
from twins.heads.layers import planar
from twins.heads.mask import MaskHead
from twins.heads.retinanet import RetinaNetHead
from twins.heads.roi import BoxHead, RoIHead
from twins.heads.rpn import RPNHead
from twins.heads.targets import Target, check_targets
from twins.ops.padding import true_sizes
from twins.predictions import Prediction
from twins.tasks.detection.facts import FACTS
from twins.tasks.facts import TaskFacts
from twins.tasks.inference import SelectionConfig
from twins.tasks.network import Features, TaskNetwork
from twins.weights.info import ModelInfo

CANDIDATES, TRAIN_CANDIDATES = 1000, 2000
"""Anchors of each level that proposals are chosen from, in evaluation and in training."""
PROPOSALS = 1000
"""Most regions that a first stage passes on."""


class Stages(NamedTuple):
    """The parts of a detector after its backbone: one stage, `bbox_head`, or two."""

    neck: FeaturePyramid
    bbox_head: RetinaNetHead | None = None
    rpn_head: RPNHead | None = None
    roi_head: RoIHead | None = None


def _retinanet(backbone: Features, info: ModelInfo) -> Stages:
    width = info.width or FACTS.heads[info.head].width
    neck = FeaturePyramid(backbone.channels[1:], width, extra="convolutions")
    scale = info.anchor_scale or retinanet.ANCHOR_SCALE
    return Stages(neck, bbox_head=RetinaNetHead(width, info.num_classes, anchor_scale=scale))


def _faster_rcnn(backbone: Features, info: ModelInfo) -> Stages:
    neck, rpn_head, roi_head = build_two_stages(backbone, info, FACTS)
    return Stages(neck, rpn_head=rpn_head, roi_head=roi_head)


HEADS: dict[str | None, Callable[[Features, ModelInfo], Stages]] = {
    "retinanet": _retinanet,
    "faster_rcnn": _faster_rcnn,
}
"""How each head of `FACTS` is built."""


class Detection(TaskNetwork):
    """The published detectors: a backbone, a feature pyramid, and the head or heads on all its levels.

    RetinaNet reads the maps of strides 8, 16 and 32, and two more made from the last; Faster R-CNN all four and one
    more. Both are mmdetection's to the parameter; where torchvision's detectors differ, the heads say so.

    Args:
        backbone: gives four maps.
        info: what the network is and how its images are prepared; its `head` names the head.

    Attributes:
        selection: which of the objects found are given.

    Raises:
        ConfigError: an unknown head, no class, or a backbone without all four maps.
    """

    task = "detection"
    one_graph = False

    def __init__(self, backbone: Twins, info: ModelInfo) -> None:
        super().__init__(backbone, info)
        check_detector(backbone, info, FACTS)
        self.neck, self.bbox_head, self.rpn_head, self.roi_head = HEADS[info.head](backbone, info)
        self.selection = SelectionConfig()

    def forward(self, images: Tensor, sizes: Tensor | None = None) -> dict[str, Tensor]:
        """Return what the anchors say, or of Faster R-CNN the proposed regions.

        What comes back has fixed shapes. RetinaNet's compiles as one graph, with `sizes` and without. Faster R-CNN
        suppresses proposals, whose number follows from the image: without `sizes` `torch.export` takes it whole, and
        `torch.compile` breaks its graph there.

        Args:
            images: normalised float `(B, C, H, W)`, `H, W >= 32`.
            sizes: true sizes in pixels, int `(B, 2)`, or `None`; see `Twins.forward`. What is found in an image is
                what is found in it alone.

        Returns:
            see `RetinaNetHead.forward` and `RoIHead.forward`; `sizes` among it.

        Raises:
            InputError: a wrong rank, number of channels or size.
        """
        levels = pyramid(self.backbone, self.neck, images, sizes)
        if self.bbox_head is not None:
            return self.bbox_head(levels)
        assert self.rpn_head is not None
        assert self.roi_head is not None
        return self.roi_head(levels, *propose(self.rpn_head, levels))

    def losses(self, images: Tensor, targets: Sequence[Target], sizes: Tensor | None = None) -> dict[str, Tensor]:
        """Return the losses `classification` and `boxes`, and of Faster R-CNN `proposal_scores`, `proposal_boxes` too.

        What is sampled follows from torch's seed.

        Args:
            images: normalised float `(B, C, H, W)`.
            targets: each image's `boxes` `(R, 4)`, float xyxy in pixels of `images`, and `labels` `(R,)`, int class ids
                from 0; where there are any, `crowd` `(C, 4)`, boxes of regions that count for nothing.
            sizes: true sizes in pixels, int `(B, 2)`, or `None`.

        Raises:
            InputError: images as in `forward`; a target with a box without area, an unknown label, or another shape.
        """
        check_targets(targets, images, self.num_classes)
        levels = pyramid(self.backbone, self.neck, images, sizes)
        if self.bbox_head is not None:
            return self.bbox_head.losses(levels, targets)
        assert self.rpn_head is not None
        assert self.roi_head is not None
        return two_stage_losses(self.rpn_head, self.roi_head, levels, targets)

    def decode(
        self, outputs: dict[str, Tensor], sizes: Tensor | None, originals: Sequence[tuple[int, int]]
    ) -> list[Prediction]:
        """Return boxes, the surest first, in the user's pixels; see `TaskNetwork.decode`."""
        boxes, scores, labels = self.detections(outputs)
        boxes = in_originals(boxes, outputs["sizes"], originals)
        return [
            Prediction(
                task=self.task,
                size=size,
                names=self.info.names,
                colours=self.info.colours,
                boxes=box[score > 0].float().cpu().numpy(),
                scores=score[score > 0].float().cpu().numpy(),
                labels=label[score > 0].cpu().numpy(),
            )
            for size, box, score, label in zip(originals, boxes, scores, labels, strict=True)
        ]

    def detections(self, outputs: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Return boxes `(B, M, 4)` in pixels of the network's input, scores and labels `(B, M)`; 0 is no score."""
        head = self.bbox_head or self.roi_head
        assert head is not None
        chosen = self.selection
        outputs = {name: value.detach() for name, value in outputs.items()}
        return head.detections(
            outputs,
            score_threshold=chosen.score,
            iou_threshold=chosen.nms,
            max_detections=chosen.most,
            agnostic=chosen.agnostic,
        )


def check_detector(backbone: Twins, info: ModelInfo, facts: TaskFacts) -> None:
    """Raise ConfigError when a detector cannot be built so."""
    heads = [head for head in facts.heads if head is not None]
    if backbone.out_indices != (0, 1, 2, 3):
        raise ConfigError(f"a detector needs all four maps, found out_indices {backbone.out_indices}")
    if info.head not in heads:
        hint = nearest(info.head or "", heads)
        raise ConfigError(f"the head of {info.task} must be {' or '.join(heads)}, found {info.head!r}{hint}")
    if info.num_classes < 1:
        raise ConfigError(f"num_classes must be at least 1, found {info.num_classes}")
    if info.preprocess.fit != "keep":
        raise ConfigError(f"a detector sees whole images, with fit=keep, found fit={info.preprocess.fit}")
    if info.anchor_scale is not None and not info.anchor_scale > 0:
        raise ConfigError(f"anchor_scale must be above 0, found {info.anchor_scale}")


def build_two_stages(
    backbone: Features, info: ModelInfo, facts: TaskFacts, *, masks: bool = False
) -> tuple[FeaturePyramid, RPNHead, RoIHead]:
    """Return the pyramid, the first stage and the second of Faster R-CNN, or with masks of Mask R-CNN."""
    width, classes = info.width or facts.heads[info.head].width, info.num_classes
    neck = FeaturePyramid(backbone.channels, width, extra="pool")
    rpn_head = RPNHead(width, anchor_scale=info.anchor_scale or rpn.ANCHOR_SCALE)
    box_head = BoxHead(width, classes, channels=4 * width)
    return neck, rpn_head, RoIHead(box_head, MaskHead(width, classes, channels=width) if masks else None)


def pyramid(backbone: Twins, neck: FeaturePyramid, images: Tensor, sizes: Tensor | None) -> Levels:
    """Return the levels that a detector's heads read."""
    maps = [planar(x) for x in backbone(images, sizes)]
    used = len(neck.lateral_convs)
    strides = list(backbone.strides[-used:])
    while len(strides) < len(neck.channels):
        strides.append(2 * strides[-1])
    own = None
    if sizes is not None:
        sizes = sizes.to(images.device)
        own = neck.level_sizes(backbone.map_sizes(sizes)[-used:])
    return Levels(neck(maps[-used:], own), tuple(strides), own, true_sizes(images, sizes))


def propose(head: RPNHead, levels: Levels) -> tuple[Tensor, Tensor]:
    """Return the first stage's regions in evaluation; see `RPNHead.propose`."""
    return head.propose(head(levels), levels.image_sizes, candidates=CANDIDATES, max_proposals=PROPOSALS)


def two_stage_losses(
    rpn_head: RPNHead, roi_head: RoIHead, levels: Levels, targets: Sequence[Target]
) -> dict[str, Tensor]:
    """Return the losses of both stages, the second on what the first proposes."""
    rated = rpn_head(levels)
    proposals, meant = rpn_head.propose(rated, levels.image_sizes, candidates=TRAIN_CANDIDATES, max_proposals=PROPOSALS)
    return rpn_head.losses(rated, targets) | roi_head.losses(levels, proposals, meant, targets)


def in_originals(boxes: Tensor, sizes: Tensor, originals: Sequence[tuple[int, int]]) -> Tensor:
    """Scale boxes `(B, M, 4)` in images of `sizes` `(B, 2)` to the users' images, each axis by itself, and clip."""
    users = torch.tensor(originals, device=boxes.device)  # (B, 2)
    factors = (users.to(boxes) / sizes.to(boxes)).flip(1).repeat(1, 2)  # (B, 4): x, y, x, y
    return clip_boxes(boxes * factors[:, None], users)


def build(backbone: Twins, info: ModelInfo, *, drop_rate: float) -> Detection:
    """Return a fresh network, which has no dropout; see `twins.create_model`."""
    return Detection(backbone, info)
