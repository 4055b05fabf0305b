"""Object detection: boxes with classes, by RetinaNet or Faster R-CNN on a Twins backbone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from twins.backbone.network import Twins
from twins.errors import ConfigError, nearest
from twins.heads import retinanet, rpn
from twins.heads.boxes import clip_boxes, decode_boxes
from twins.heads.fpn import FeaturePyramid, Levels
from twins.heads.layers import full_precision, planar
from twins.heads.mask import MaskHead, paste_masks
from twins.heads.merging import Detections, Merged
from twins.heads.retinanet import RetinaNetHead
from twins.heads.roi import STDS, BoxHead, RoIHead
from twins.heads.rpn import RPNHead, RPNOutputs
from twins.heads.targets import Target, check_targets
from twins.ops.padding import true_sizes
from twins.predictions import Prediction
from twins.tasks.detection.facts import FACTS
from twins.tasks.facts import TaskFacts
from twins.tasks.inference import SelectionConfig
from twins.tasks.network import Features, TaskNetwork
from twins.weights.info import ModelInfo

CANDIDATES, TRAIN_CANDIDATES = 1000, 2000
"""Highest-scoring anchors of each level that proposals are selected from, in evaluation and in training."""
PROPOSALS = 1000
"""Maximum number of proposals per image of the first stage."""


class Stages(NamedTuple):
    """The modules of a detector after its backbone: `bbox_head` (one stage), or `rpn_head` and `roi_head` (two)."""

    neck: FeaturePyramid
    bbox_head: RetinaNetHead | None = None
    rpn_head: RPNHead | None = None
    roi_head: RoIHead | None = None


def _retinanet(backbone: Features, info: ModelInfo) -> Stages:
    width = info.width or FACTS.heads[info.head].width
    neck = FeaturePyramid(backbone.channels[1:], width, extra="convolutions", relu_before_p7=info.relu_before_p7)
    scale = info.anchor_scale or retinanet.ANCHOR_SCALE
    return Stages(neck, bbox_head=RetinaNetHead(width, info.num_classes, anchor_scale=scale))


def _faster_rcnn(backbone: Features, info: ModelInfo) -> Stages:
    neck, rpn_head, roi_head = build_two_stages(backbone, info, FACTS)
    return Stages(neck, rpn_head=rpn_head, roi_head=roi_head)


HEADS: dict[str | None, Callable[[Features, ModelInfo], Stages]] = {
    "retinanet": _retinanet,
    "faster_rcnn": _faster_rcnn,
}
"""The function that builds each head of `FACTS`."""


class Detection(TaskNetwork):
    """A published detector: backbone, feature pyramid, and one or two stages of heads on all its levels.

    RetinaNet uses the maps of strides 8, 16 and 32 and two further levels; Faster R-CNN uses all four maps and one
    further level. Both have mmdetection's parameters; the heads' docstrings name the differences to torchvision.

    Args:
        backbone: returns four maps.
        info: model, task, classes and preprocessing; `info.head` names the head.

    Attributes:
        selection: score and NMS thresholds.

    Raises:
        ConfigError: an unknown head, no classes, or a backbone without all four maps.
    """

    task = "detection"
    one_graph = False

    def __init__(self, backbone: Twins, info: ModelInfo) -> None:
        super().__init__(backbone, info)
        check_detector(backbone, info, FACTS)
        self.neck, self.bbox_head, self.rpn_head, self.roi_head = HEADS[info.head](backbone, info)
        self.selection = SelectionConfig()

    def forward(self, images: Tensor, sizes: Tensor | None = None) -> dict[str, Any]:
        """Return the outputs for each anchor (RetinaNet) or for each proposal (Faster R-CNN), in fixed shapes.

        RetinaNet compiles as one graph, with and without `sizes`. Faster R-CNN applies NMS to its proposals, whose
        number depends on the image: `torch.export` takes it whole without `sizes`, `torch.compile` breaks the graph.

        Args:
            images: normalised float `(B, C, H, W)`, `H, W >= 32`.
            sizes: true sizes in pixels, int `(B, 2)`, or `None`; see `Twins.forward`. An image's objects are the same
                as without the others in the batch.

        Returns:
            see `RetinaNetHead.forward` and `RoIHead.forward`; includes `sizes`.

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
        """Return the losses `classification` and `boxes`, and with Faster R-CNN `proposal_scores`, `proposal_boxes`.

        Sampling depends on torch's random state.

        Args:
            images: normalised float `(B, C, H, W)`.
            targets: for each image `boxes` `(R, 4)`, float xyxy in pixels of `images`, and `labels` `(R,)`, int class
                ids; optionally `crowd` `(C, 4)`, boxes of crowd regions, which are ignored.
            sizes: true sizes in pixels, int `(B, 2)`, or `None`.

        Raises:
            InputError: images as in `forward`; a target with an empty box, an unknown label, or another shape.
        """
        check_targets(targets, images, self.num_classes)
        levels = pyramid(self.backbone, self.neck, images, sizes)
        if self.bbox_head is not None:
            return self.bbox_head.losses(self.bbox_head(levels), targets, padded=sizes is not None)
        assert self.rpn_head is not None
        assert self.roi_head is not None
        return two_stage_losses(self.rpn_head, self.roi_head, levels, targets)

    def forward_with_losses(
        self, images: Tensor, targets: Sequence[Target], sizes: Tensor | None = None
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return the outputs and the held-out losses; for arguments see `losses`.

        Faster R-CNN computes the losses from the proposals of evaluation, and samples evenly instead of at random.
        """
        check_targets(targets, images, self.num_classes)
        if self.bbox_head is not None:
            outputs = self(images, sizes)
            return outputs, self.bbox_head.losses(outputs, targets, padded=sizes is not None)
        assert self.rpn_head is not None
        assert self.roi_head is not None
        levels = pyramid(self.backbone, self.neck, images, sizes)
        return outputs_with_losses(self.rpn_head, self.roi_head, levels, targets)

    def decode(
        self, outputs: dict[str, Tensor], sizes: Tensor | None, originals: Sequence[tuple[int, int]]
    ) -> list[Prediction]:
        """Return objects in descending order of score, in pixels of the user's images; see `TaskNetwork.decode`."""
        return predictions(self.info, self.objects(outputs), outputs["sizes"], originals)

    def objects(self, outputs: dict[str, Tensor]) -> list[Detections]:
        """Return each image's objects in descending order of score, in pixels of the network's input."""
        images = zip(*self.detections(outputs), strict=True)
        return [Detections(box[score > 0], score[score > 0], label[score > 0]) for box, score, label in images]

    def detections(self, outputs: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Return boxes `(B, M, 4)` in pixels of the network's input, scores and labels `(B, M)`; score 0 is padding."""
        head = self.bbox_head or self.roi_head
        assert head is not None
        selection = self.selection
        outputs = {name: value.detach() if isinstance(value, Tensor) else value for name, value in outputs.items()}
        return head.detections(
            outputs,
            score_threshold=selection.score,
            iou_threshold=selection.nms,
            max_detections=selection.most,
            agnostic=selection.agnostic,
        )


def check_detector(backbone: Twins, info: ModelInfo, facts: TaskFacts) -> None:
    """Raise ConfigError for a backbone or settings that detectors cannot have."""
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
    """Return the feature pyramid and both stages of Faster R-CNN, or with `masks` of Mask R-CNN."""
    width, classes = info.width or facts.heads[info.head].width, info.num_classes
    neck = FeaturePyramid(backbone.channels, width, extra="pool")
    rpn_head = RPNHead(width, anchor_scale=info.anchor_scale or rpn.ANCHOR_SCALE)
    box_head = BoxHead(width, classes, channels=4 * width)
    return neck, rpn_head, RoIHead(box_head, MaskHead(width, classes, channels=width) if masks else None)


def pyramid(backbone: Twins, neck: FeaturePyramid, images: Tensor, sizes: Tensor | None) -> Levels:
    """Return the feature pyramid's levels."""
    maps = [planar(x) for x in backbone(images, sizes)]
    used = len(neck.lateral_convs)
    strides = list(backbone.strides[-used:])
    while len(strides) < len(neck.channels):
        strides.append(2 * strides[-1])
    level_sizes = None
    if sizes is not None:
        sizes = sizes.to(images.device)
        level_sizes = neck.level_sizes(backbone.map_sizes(sizes)[-used:])
    return Levels(neck(maps[-used:], level_sizes), tuple(strides), level_sizes, true_sizes(images, sizes))


def propose(head: RPNHead, levels: Levels) -> tuple[Tensor, Tensor]:
    """Return the first stage's proposals in evaluation; see `RPNHead.propose`."""
    return _propose(head, head(levels), levels)


def _propose(head: RPNHead, outputs: RPNOutputs, levels: Levels) -> tuple[Tensor, Tensor]:
    return head.propose(outputs, levels.image_sizes, candidates=CANDIDATES, max_proposals=PROPOSALS)


def two_stage_losses(
    rpn_head: RPNHead, roi_head: RoIHead, levels: Levels, targets: Sequence[Target]
) -> dict[str, Tensor]:
    """Return the losses of both stages; the second is trained on the proposals of the first."""
    outputs = rpn_head(levels)
    proposals, valid = rpn_head.propose(
        outputs, levels.image_sizes, candidates=TRAIN_CANDIDATES, max_proposals=PROPOSALS
    )
    return rpn_head.losses(outputs, targets) | roi_head.losses(levels, proposals, valid, targets)


def outputs_with_losses(
    rpn_head: RPNHead, roi_head: RoIHead, levels: Levels, targets: Sequence[Target]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the outputs of the second stage, and the held-out losses of both; the heads are in eval mode."""
    rpn_outputs = rpn_head(levels)
    proposals = _propose(rpn_head, rpn_outputs, levels)
    outputs = roi_head(levels, *proposals)
    return outputs, rpn_head.losses(rpn_outputs, targets) | roi_head.losses(levels, *proposals, targets, outputs)


def scale_objects(objects: Detections, inner_size: Tensor, size: tuple[int, int]) -> Detections:
    """Scale boxes from an image of `inner_size` `(2,)` to the user's image of `size`, per axis, and clip them."""
    target_size = torch.tensor(size, device=objects.boxes.device)
    factors = (target_size.to(objects.boxes) / inner_size.to(objects.boxes)).flip(0).repeat(2)  # x, y, x, y
    return objects._replace(boxes=clip_boxes((objects.boxes * factors)[None], target_size[None])[0])


def predictions(
    info: ModelInfo, images: Sequence[Detections], inner_sizes: Iterable[Tensor], originals: Sequence[tuple[int, int]]
) -> list[Prediction]:
    """Return the predictions of images in the coordinates of the user's images.

    Args:
        info: description of the network.
        images: each image's objects in descending order of score, in pixels of the network's input.
        inner_sizes: height and width `(2,)` of each image in the network's input.
        originals: height and width of each user's image in pixels.
    """
    result = []
    for found, inner_size, size in zip(images, inner_sizes, originals, strict=True):
        objects = scale_objects(found, inner_size, size)
        masks = None if objects.masks is None else paste_masks(objects.masks, objects.boxes, size)
        result.append(objects_prediction(info, objects, size, masks))
    return result


def object_value(
    outputs: dict[str, Any], label: int, score: float, box: NDArray[np.float32], size: tuple[int, int]
) -> Tensor:
    """Return the value in a detector's outputs that an object's score comes from, a scalar with gradient.

    It is the logit of its anchor or proposal for its class; of a network with masks, whose outputs are objects, the
    score. Several candidates can have nearly the object's score, or nearly its box, but not both.

    Args:
        outputs: of `forward` for one image.
        label: class id of the object.
        score: of the object.
        box: of the object, xyxy in pixels of the user's image.
        size: height and width of the user's image in pixels.
    """
    with torch.no_grad():
        scores, boxes = _candidates(outputs, label)
        factors = outputs["sizes"][0].to(boxes) / torch.tensor(size).to(boxes)
        distances = (boxes - torch.from_numpy(box).to(boxes) * factors.flip(0).repeat(2)).abs().amax(dim=1)
        row = (distances + (scores - score).abs()).argmin()
    if "logits" in outputs:
        return outputs["logits"][0, row, label]
    return outputs["scores"][0, row]


def _candidates(outputs: dict[str, Any], label: int) -> tuple[Tensor, Tensor]:
    """Return the scores `(N,)` for a class and the boxes `(N, 4)`, in pixels of the input, that objects come from."""
    if "logits" not in outputs:
        return outputs["scores"][0].masked_fill(outputs["labels"][0] != label, -torch.inf), outputs["boxes"][0]
    logits, deltas = full_precision(outputs["logits"][0]), full_precision(outputs["deltas"][0])
    if "anchors" in outputs:
        scores, boxes = logits[:, label].sigmoid(), decode_boxes(deltas, outputs["anchors"])
    else:
        scores = logits.softmax(dim=1)[:, label]
        boxes = decode_boxes(deltas[:, label], outputs["proposals"][0].to(deltas), STDS)
    return scores, clip_boxes(boxes[None], outputs["sizes"])[0]


def objects_prediction(
    info: ModelInfo, objects: Detections | Merged, size: tuple[int, int], masks: NDArray[np.bool_] | None = None
) -> Prediction:
    """Return the prediction of an image of `size` with objects, and with their masks `(R, H, W)`."""
    boxes, scores, labels = (x.cpu() for x in objects[:3])
    return Prediction(
        task=info.task,
        size=size,
        names=info.names,
        colours=info.colours,
        boxes=boxes.float().numpy(),
        scores=scores.float().numpy(),
        labels=labels.numpy(),
        masks=masks,
    )


def build(backbone: Twins, info: ModelInfo, *, drop_rate: float) -> Detection:
    """Return a network around a backbone, with random weights in its heads; detectors have no dropout.

    See `twins.create_model`.
    """
    return Detection(backbone, info)
