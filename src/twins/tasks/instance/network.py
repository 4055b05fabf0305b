"""Instance segmentation: boxes with classes and masks, by Mask R-CNN on a Twins backbone."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from twins.backbone.network import Twins
from twins.heads.fpn import Levels
from twins.heads.layers import full_precision
from twins.heads.merging import Detections
from twins.heads.targets import Target, check_targets
from twins.predictions import Prediction
from twins.tasks.detection.network import (
    build_two_stages,
    check_detector,
    outputs_with_losses,
    predictions,
    propose,
    pyramid,
    two_stage_losses,
)
from twins.tasks.inference import SelectionConfig
from twins.tasks.instance.facts import FACTS
from twins.tasks.network import TaskNetwork
from twins.weights.info import ModelInfo


class InstanceSegmentation(TaskNetwork):
    """The published Mask R-CNN: Faster R-CNN (see `Detection`) with a mask for each object.

    Args:
        backbone: returns four maps.
        info: model, task, classes and preprocessing.

    Attributes:
        selection: score and NMS thresholds.

    Raises:
        ConfigError: an unknown head, no classes, or a backbone without all four maps.
    """

    task = "instance"
    one_graph = False

    def __init__(self, backbone: Twins, info: ModelInfo) -> None:
        super().__init__(backbone, info)
        check_detector(backbone, info, FACTS)
        self.neck, self.rpn_head, self.roi_head = build_two_stages(backbone, info, FACTS, masks=True)
        self.selection = SelectionConfig()

    def forward(self, images: Tensor, sizes: Tensor | None = None) -> dict[str, Tensor]:
        """Return the objects with their masks, padded to a fixed number `M`.

        As published, masks are predicted inside the final boxes, not the proposals, so `selection` applies here. For
        arguments, compilation and export see `Detection.forward` with Faster R-CNN.

        Returns:
            `boxes` `(B, M, 4)` in pixels of `images`; `scores` `(B, M)` in descending order, 0 is padding; `labels`
            `(B, M)`; `masks` `(B, M, 28, 28)`, logits inside the boxes, 0 in padding; `sizes`, the images' true sizes
            `(B, 2)`.
        """
        levels = pyramid(self.backbone, self.neck, images, sizes)
        return self._detect(levels, self.roi_head(levels, *propose(self.rpn_head, levels)))

    def _detect(self, levels: Levels, outputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the result of `forward` from the outputs of the second stage."""
        selection = self.selection
        boxes, scores, labels = self.roi_head.detections(
            outputs,
            score_threshold=selection.score,
            iou_threshold=selection.nms,
            max_detections=selection.most,
            agnostic=selection.agnostic,
        )
        masks = self.roi_head.masks(levels, boxes, labels, scores > 0)
        return {"boxes": boxes, "scores": scores, "labels": labels, "masks": masks, "sizes": levels.image_sizes}

    def losses(self, images: Tensor, targets: Sequence[Target], sizes: Tensor | None = None) -> dict[str, Tensor]:
        """Return the losses of Faster R-CNN (see `Detection.losses`) and `masks`.

        Args:
            images: normalised float `(B, C, H, W)`.
            targets: as for `Detection.losses`, with `masks` `(R, H, W)`, bool or uint8.
            sizes: true sizes in pixels, int `(B, 2)`, or `None`.

        Raises:
            InputError: as in `Detection.losses`; missing masks, or masks of another size.
        """
        check_targets(targets, images, self.num_classes, sizes, masks=True)
        levels = pyramid(self.backbone, self.neck, images, sizes)
        return two_stage_losses(self.rpn_head, self.roi_head, levels, targets)

    def forward_with_losses(
        self, images: Tensor, targets: Sequence[Target], sizes: Tensor | None = None
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return the outputs and the held-out losses; see `Detection.forward_with_losses`."""
        check_targets(targets, images, self.num_classes, sizes, masks=True)
        levels = pyramid(self.backbone, self.neck, images, sizes)
        outputs, losses = outputs_with_losses(self.rpn_head, self.roi_head, levels, targets)
        return self._detect(levels, outputs), losses

    def decode(
        self, outputs: dict[str, Tensor], sizes: Tensor | None, originals: Sequence[tuple[int, int]]
    ) -> list[Prediction]:
        """Return objects in descending order of score, in pixels of the user's images; see `TaskNetwork.decode`."""
        return predictions(self.info, self.objects(outputs), outputs["sizes"], originals)

    def objects(self, outputs: dict[str, Tensor]) -> list[Detections]:
        """Return each image's objects in descending order of score, in pixels of the network's input."""
        images = zip(*self.detections(outputs), strict=True)
        return [Detections(*(x[image[1] > self.selection.score] for x in image)) for image in images]

    def detections(self, outputs: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return boxes, scores, labels as `forward` does, and mask probabilities `(B, M, 28, 28)`."""
        boxes, scores, labels, masks = (outputs[name].detach() for name in ("boxes", "scores", "labels", "masks"))
        return boxes, scores, labels, full_precision(masks).sigmoid()


def build(backbone: Twins, info: ModelInfo, *, drop_rate: float) -> InstanceSegmentation:
    """Return a network around a backbone, with random weights in its heads; detectors have no dropout.

    See `twins.create_model`.
    """
    return InstanceSegmentation(backbone, info)
