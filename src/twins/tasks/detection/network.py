"""Object detection: boxes with classes, by RetinaNet or Faster R-CNN on a Twins backbone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor, nn

from twins.backbone.network import Twins, fused, layer_groups
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
from twins.tasks.inference import SelectionConfig

if TYPE_CHECKING:
    from twins.weights.info import ModelInfo
    from twins.weights.loading import LoadReport

HEADS = ("retinanet", "faster_rcnn")
"""The heads, the default first."""
WIDTH = 256
"""Channels of the published pyramids and heads; the fully connected layers have four times as many."""
CANDIDATES, TRAIN_CANDIDATES = 1000, 2000
"""Anchors of each level that proposals are chosen from, in evaluation and in training."""
PROPOSALS = 1000
"""Most regions that a first stage passes on."""


class Detection(nn.Module):
    """The published detectors: a backbone, a feature pyramid, and the head or heads on all its levels.

    RetinaNet reads the maps of strides 8, 16 and 32, and two more made from the last; Faster R-CNN all four and one
    more. Both are mmdetection's to the parameter; where torchvision's detectors differ, the heads say so.

    Args:
        backbone: gives four maps.
        info: what the network is and how its images are prepared; its `head` names the head.

    Attributes:
        load_report: what loading its weights did; `None` where none were loaded.
        inference: which of the objects found are given.

    Raises:
        ConfigError: an unknown head, no class, or a backbone without all four maps.
    """

    task = "detection"
    one_graph = False
    load_report: LoadReport | None = None

    def __init__(self, backbone: Twins, info: ModelInfo) -> None:
        super().__init__()
        check_detector(backbone, info, HEADS)
        self.info = info
        self.backbone = backbone
        self.bbox_head: RetinaNetHead | None = None
        self.rpn_head: RPNHead | None = None
        self.roi_head: RoIHead | None = None
        width = info.width or WIDTH
        if info.head == "retinanet":
            self.neck = FeaturePyramid(backbone.channels[1:], width, extra="convolutions")
            self.bbox_head = RetinaNetHead(
                width, info.num_classes, anchor_scale=info.anchor_scale or retinanet.ANCHOR_SCALE
            )
        else:
            self.neck, self.rpn_head, self.roi_head = build_two_stages(backbone, info)
        self.inference = SelectionConfig()

    @property
    def num_classes(self) -> int:
        """Classes that the network tells apart, without background."""
        return self.info.num_classes

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
        """Turn outputs into one prediction per image: boxes, the surest first, in the user's pixels.

        Args:
            outputs: what `forward` returned, which has the sizes in it.
            sizes: not needed here; part of every task's signature.
            originals: height and width of each of the users' images in pixels.
        """
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
        chosen = self.inference
        outputs = {name: value.detach() for name, value in outputs.items()}
        return head.detections(
            outputs, score=chosen.score, overlap=chosen.nms, most=chosen.most, agnostic=chosen.agnostic
        )

    def set_grad_checkpointing(self, enable: bool = True, *, selective: bool = False) -> None:
        """Compute blocks again in the backward pass, or, `selective`, hidden maps alone; results are the same."""
        self.backbone.set_grad_checkpointing(enable, selective=selective)

    def fuse(self) -> Self:
        """Return a copy for inference, whose backbone is the same function by exact algebra; see `fused`."""
        return fused(self)

    def no_weight_decay(self) -> set[str]:
        """Return the parameters, norms and biases aside, that are trained without weight decay: the PEG."""
        return {f"backbone.{name}" for name in self.backbone.no_weight_decay()}

    def group_matcher(self, coarse: bool = False) -> dict[str, object]:
        """Return timm's description of layers for layer decay: by stage when `coarse`, else by block."""
        return layer_groups("backbone.", coarse)


def check_detector(backbone: Twins, info: ModelInfo, heads: Sequence[str]) -> None:
    """Raise ConfigError when a detector cannot be built so."""
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
    backbone: Twins, info: ModelInfo, *, masks: bool = False
) -> tuple[FeaturePyramid, RPNHead, RoIHead]:
    """Return the pyramid, the first stage and the second of Faster R-CNN, or with masks of Mask R-CNN."""
    width, classes = info.width or WIDTH, info.num_classes
    return (
        FeaturePyramid(backbone.channels, width, extra="pool"),
        RPNHead(width, anchor_scale=info.anchor_scale or rpn.ANCHOR_SCALE),
        RoIHead(
            BoxHead(width, classes, channels=4 * width), MaskHead(width, classes, channels=width) if masks else None
        ),
    )


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
    return head.propose(head(levels), levels.extents, before=CANDIDATES, most=PROPOSALS)


def two_stage_losses(
    rpn_head: RPNHead, roi_head: RoIHead, levels: Levels, targets: Sequence[Target]
) -> dict[str, Tensor]:
    """Return the losses of both stages, the second on what the first proposes."""
    rated = rpn_head(levels)
    proposals, meant = rpn_head.propose(rated, levels.extents, before=TRAIN_CANDIDATES, most=PROPOSALS)
    return rpn_head.losses(rated, targets) | roi_head.losses(levels, proposals, meant, targets)


def in_originals(boxes: Tensor, sizes: Tensor, originals: Sequence[tuple[int, int]]) -> Tensor:
    """Scale boxes `(B, M, 4)` in images of `sizes` `(B, 2)` to the users' images, each axis by itself, and clip."""
    users = torch.tensor(originals, device=boxes.device)  # (B, 2)
    factors = (users.to(boxes) / sizes.to(boxes)).flip(1).repeat(1, 2)  # (B, 4): x, y, x, y
    return clip_boxes(boxes * factors[:, None], users)
