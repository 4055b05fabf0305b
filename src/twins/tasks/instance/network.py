"""Instance segmentation: boxes with classes and masks, by Mask R-CNN on a Twins backbone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Self

from torch import Tensor, nn

from twins.backbone.network import Twins, fused, layer_groups
from twins.heads.layers import full_precision
from twins.heads.mask import paste_masks
from twins.heads.targets import Target, check_targets
from twins.predictions import Prediction
from twins.tasks.detection.network import (
    build_two_stages,
    check_detector,
    in_originals,
    propose,
    pyramid,
    two_stage_losses,
)
from twins.tasks.inference import SelectionConfig

if TYPE_CHECKING:
    from twins.weights.info import ModelInfo
    from twins.weights.loading import LoadReport

HEADS = ("mask_rcnn",)
"""The heads, the default first."""


class InstanceSegmentation(nn.Module):
    """The published Mask R-CNN: Faster R-CNN, see `Detection`, with a mask for each object.

    Args:
        backbone: gives four maps.
        info: what the network is and how its images are prepared.

    Attributes:
        load_report: what loading its weights did; `None` where none were loaded.
        inference: which of the objects found are given.

    Raises:
        ConfigError: an unknown head, no class, or a backbone without all four maps.
    """

    task = "instance"
    one_graph = False
    load_report: LoadReport | None = None

    def __init__(self, backbone: Twins, info: ModelInfo) -> None:
        super().__init__()
        check_detector(backbone, info, HEADS)
        self.info = info
        self.backbone = backbone
        self.neck, self.rpn_head, self.roi_head = build_two_stages(backbone, info, masks=True)
        self.inference = SelectionConfig()

    @property
    def num_classes(self) -> int:
        """Classes that the network tells apart, without background."""
        return self.info.num_classes

    def forward(self, images: Tensor, sizes: Tensor | None = None) -> dict[str, Tensor]:
        """Return the objects, padded to a fixed number `M`, with their masks.

        As published a mask is read inside an object's own box, not inside the region that was proposed, so what
        `inference` chooses is chosen here. Compiled and exported it is as Faster R-CNN, see `Detection.forward`.

        Args:
            images: normalised float `(B, C, H, W)`, `H, W >= 32`.
            sizes: true sizes in pixels, int `(B, 2)`, or `None`; see `Twins.forward`. What is found in an image is
                what is found in it alone.

        Returns:
            `boxes` `(B, M, 4)` in pixels of `images`; `scores` `(B, M)`, the surest first, 0 is padding; `labels`
            `(B, M)`; `masks` `(B, M, 28, 28)`, logits inside the boxes, 0 for padding; `sizes`, the images' true sizes
            `(B, 2)`.

        Raises:
            InputError: a wrong rank, number of channels or size.
        """
        levels = pyramid(self.backbone, self.neck, images, sizes)
        outputs = self.roi_head(levels, *propose(self.rpn_head, levels))
        chosen = self.inference
        boxes, scores, labels = self.roi_head.detections(
            outputs, score=chosen.score, overlap=chosen.nms, most=chosen.most, agnostic=chosen.agnostic
        )
        masks = self.roi_head.masks(levels, boxes, labels, scores > 0)
        return {"boxes": boxes, "scores": scores, "labels": labels, "masks": masks, "sizes": levels.extents}

    def losses(self, images: Tensor, targets: Sequence[Target], sizes: Tensor | None = None) -> dict[str, Tensor]:
        """Return the losses of Faster R-CNN, see `Detection.losses`, and `masks`.

        Args:
            images: normalised float `(B, C, H, W)`.
            targets: as `Detection.losses` takes them, with `masks` `(R, H, W)`, bool or uint8.
            sizes: true sizes in pixels, int `(B, 2)`, or `None`.

        Raises:
            InputError: as `Detection.losses`, or masks that are missing or of another size.
        """
        check_targets(targets, images, self.num_classes, sizes, masks=True)
        levels = pyramid(self.backbone, self.neck, images, sizes)
        return two_stage_losses(self.rpn_head, self.roi_head, levels, targets)

    def decode(
        self, outputs: dict[str, Tensor], sizes: Tensor | None, originals: Sequence[tuple[int, int]]
    ) -> list[Prediction]:
        """Turn outputs into one prediction per image: boxes and masks, the surest first, in the user's pixels.

        Args:
            outputs: what `forward` returned, which has the sizes in it.
            sizes: not needed here; part of every task's signature.
            originals: height and width of each of the users' images in pixels.
        """
        boxes, scores, labels, masks = (outputs[name].detach() for name in ("boxes", "scores", "labels", "masks"))
        boxes = in_originals(boxes, outputs["sizes"], originals)
        result = []
        for size, box, score, label, mask in zip(originals, boxes, scores, labels, masks, strict=True):
            meant = score > self.inference.score
            result.append(
                Prediction(
                    task=self.task,
                    size=size,
                    names=self.info.names,
                    colours=self.info.colours,
                    boxes=box[meant].float().cpu().numpy(),
                    scores=score[meant].float().cpu().numpy(),
                    labels=label[meant].cpu().numpy(),
                    masks=paste_masks(full_precision(mask[meant]).sigmoid(), box[meant], size),
                )
            )
        return result

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
