"""Targets of a detector: the boxes, labels and masks of each image, and their checks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from twins.errors import InputError, number_of

Target = Mapping[str, Tensor]
"""Objects of one image: `boxes` `(R, 4)`, float xyxy in pixels of the network's input; `labels` `(R,)`, int class ids
from 0; for instance segmentation `masks` `(R, H, W)`, bool or uint8; optionally `crowd` `(C, 4)`, boxes of regions in
which a detection is neither right nor wrong."""

_INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
_EMPTY = torch.empty(0)


def check_targets(
    targets: Sequence[Target], images: Tensor, num_classes: int, sizes: Tensor | None = None, *, masks: bool = False
) -> None:
    """Check the targets of a batch of images.

    Args:
        targets: one per image.
        images: `(B, C, H, W)`.
        num_classes: classes of the network.
        sizes: true sizes in pixels, int `(B, 2)`, or `None`.
        masks: whether masks are required, of the size of the batch tensor or of the image.

    Raises:
        InputError: a target that does not fit; the message gives its index.
    """
    if isinstance(targets, Mapping | Tensor) or not isinstance(targets, Sequence):
        raise InputError(f"targets must be a list of one dictionary per image, found {type(targets).__name__}")
    if len(targets) != len(images):
        counts = f"{number_of(len(targets), 'target')} for {number_of(len(images), 'image')}"
        raise InputError(f"each image needs a target, found {counts}")
    for number, target in enumerate(targets):
        _check_shapes(f"targets[{number}]", target)
        if masks:
            batch_size = tuple(images.shape[2:])
            image_size = batch_size if sizes is None else tuple(sizes[number].tolist())
            _check_masks(f"targets[{number}]", target, batch_size, image_size)
    _check_values(targets, num_classes)


def _check_shapes(name: str, target: Target) -> None:
    if not isinstance(target, Mapping):
        raise InputError(f"{name} must be a dictionary of tensors, found {type(target).__name__}")
    for part in ("boxes", "labels", "masks", "crowd"):
        if not isinstance(value := target.get(part, _EMPTY), Tensor):
            raise InputError(f"{name} needs {part} as a tensor, found {type(value).__name__}; use torch.as_tensor")
    if missing := {"boxes", "labels"} - target.keys():
        raise InputError(f"{name} lacks {' and '.join(sorted(missing))}; it has {', '.join(target) or 'nothing'}")
    boxes, labels = target["boxes"], target["labels"]
    if boxes.ndim != 2 or boxes.shape[1] != 4 or not boxes.is_floating_point():
        raise InputError(f"{name} needs float boxes (R, 4), found {boxes.dtype} of shape {tuple(boxes.shape)}")
    if labels.shape != boxes.shape[:1] or labels.dtype not in _INTEGERS:
        raise InputError(
            f"{name} needs an int label for each box, found {number_of(len(boxes), 'box', 'boxes')} and labels "
            f"{labels.dtype} of shape {tuple(labels.shape)}"
        )
    if (crowd := target.get("crowd")) is not None and (crowd.ndim != 2 or crowd.shape[1] != 4):
        raise InputError(f"{name} needs crowd boxes (C, 4), found the shape {tuple(crowd.shape)}")


def _check_masks(name: str, target: Target, batch_size: tuple[int, ...], image_size: tuple[Any, ...]) -> None:
    shape = tuple(target["masks"].shape) if "masks" in target else None
    count = len(target["boxes"])
    if shape not in ((count, *batch_size), (count, *image_size)):
        raise InputError(f"{name} needs masks {(count, *image_size)}, one per box, found {shape or 'none'}")


def _check_values(targets: Sequence[Target], num_classes: int) -> None:
    boxes = torch.cat([target["boxes"] for target in targets])
    labels = torch.cat([target["labels"] for target in targets])
    bad_box = ~((boxes[:, 2:] > boxes[:, :2]).all(dim=1) & boxes.isfinite().all(dim=1))
    bad_label = (labels < 0) | (labels >= num_classes)
    if not bool((bad_box | bad_label).any()):
        return
    row = int(torch.where(bad_box | bad_label)[0][0])
    number = next(i for i in range(len(targets)) if row < sum(len(target["boxes"]) for target in targets[: i + 1]))
    if bad_box[row]:
        raise InputError(f"targets[{number}] has a box without area, {boxes[row].tolist()}; leave it out")
    raise InputError(f"targets[{number}] has the label {int(labels[row])}, the classes are 0 to {num_classes - 1}")
