"""Whether a detector's result for an image depends on the other images of its batch: ours and torchvision's.

Command: python benchmarks/invariance.py
Three images of different shapes are predicted alone and in one padded batch. Heads have random weights that detect
dozens of objects everywhere, also at the borders. An object is found again in the batch if an object of the same class
has a box within 0.05 pixels and a score within 1e-3.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torchvision.models import detection

import twins

SIZES = ((160, 224), (200, 131), (97, 150))
CLASSES = 5
OURS = {"retinanet": "detection", "faster_rcnn": "detection", "mask_rcnn": "instance"}
THEIRS = ("retinanet_resnet50_fpn", "fasterrcnn_resnet50_fpn", "maskrcnn_resnet50_fpn")
Objects = dict[str, NDArray[Any]]
"""`boxes`, `scores` and `labels` of an image."""
Detect = Callable[[list[Tensor]], list[Objects]]


def randomise_heads(network: nn.Module, backbone: str) -> nn.Module:
    """Give a detector's heads random weights that detect objects everywhere."""
    for name, parameter in network.named_parameters():
        if name.startswith(backbone):
            continue
        spread = 1.4 / parameter[0].numel() ** 0.5 if parameter.ndim > 1 else 0.1
        last = any(part in name for part in ("_reg.", "bbox_pred", "bbox_reg", "retina_cls", "cls_logits", "fc_cls"))
        nn.init.normal_(parameter, std=spread * (0.3 if last else 1.0))  # boxes stay near their anchors, scores below 1
    return network.eval()


def ours(head: str, dtype: torch.dtype) -> Detect:
    """Return a function that runs our detector with a head."""
    torch.manual_seed(0)
    network: Any = twins.create_model("twins_svt_small", task=OURS[head], head=head, num_classes=CLASSES)
    randomise_heads(network, "backbone.").to(dtype)

    def detect(images: list[Tensor]) -> list[Objects]:
        shapes = [tuple(image.shape[1:]) for image in images]
        batch = torch.zeros(len(images), 3, *(max(sides) for sides in zip(*shapes, strict=True)), dtype=dtype)
        for padded, image in zip(batch, images, strict=True):
            padded[:, : image.shape[1], : image.shape[2]] = image
        outputs = network(batch, torch.tensor(shapes) if len(images) > 1 else None)
        if head == "mask_rcnn":
            parts = outputs["boxes"], outputs["scores"], outputs["labels"]
        else:
            parts = network.detections(outputs)
        result = []
        for boxes, scores, labels in zip(*parts, strict=True):
            real = scores > 0  # padding has a score of 0
            objects = {"boxes": boxes[real], "scores": scores[real], "labels": labels[real]}
            result.append({name: values.numpy() for name, values in objects.items()})
        return result

    return detect


def theirs(name: str, dtype: torch.dtype) -> Detect:
    """Return a function that runs torchvision's detector."""
    torch.manual_seed(0)
    network = getattr(detection, name)(
        weights=None, weights_backbone=None, num_classes=CLASSES + 1, _skip_resize=True, detections_per_img=100
    )
    randomise_heads(network, "backbone.").to(dtype)

    def detect(images: list[Tensor]) -> list[Objects]:
        return [{key: value.numpy() for key, value in each.items() if key != "masks"} for each in network(images)]

    return detect


def compare(detect: Detect, dtype: torch.dtype) -> tuple[int, int, float, float]:
    """Compare the objects of images alone and in a batch.

    Returns:
        the number of objects, the number found again in the batch, and the largest differences of boxes in pixels and
        of scores between an object and its match.
    """
    generator = torch.Generator().manual_seed(1)
    images = [torch.randn(3, *size, generator=generator, dtype=torch.float64).to(dtype) for size in SIZES]
    with torch.inference_mode():
        batched, alone = detect(images), [detect([image])[0] for image in images]
    count, matched, box_difference, score_difference = 0, 0, 0.0, 0.0
    for one, other in zip(alone, batched, strict=True):
        boxes = np.abs(one["boxes"][:, None] - other["boxes"]).max(axis=2)
        scores = np.abs(one["scores"][:, None] - other["scores"])
        matches = (boxes <= 0.05) & (scores <= 1e-3) & (one["labels"][:, None] == other["labels"])
        count += len(one["boxes"])
        matched += int(matches.any(axis=1).sum())
        box_difference = max(box_difference, _largest_of_nearest(boxes, matches))
        score_difference = max(score_difference, _largest_of_nearest(scores, matches))
    return count, matched, box_difference, score_difference


def _largest_of_nearest(differences: NDArray[Any], matches: NDArray[Any]) -> float:
    """Return each row's smallest difference among its matches, and of these the largest."""
    nearest = np.where(matches, differences, np.inf).min(axis=1, initial=np.inf)
    return float(nearest[np.isfinite(nearest)].max(initial=0))


def main() -> None:
    print("| detector | precision | objects | found again | boxes differ by, px | scores differ by |")
    print("| --- | --- | --- | --- | --- | --- |")
    cases = [(f"twins_svt_small, {head}", ours, head) for head in OURS] + [(name, theirs, name) for name in THEIRS]
    for title, build, name in cases:
        for dtype in (torch.float64, torch.float32):
            count, matched, box, score = compare(build(name, dtype), dtype)
            precision = str(dtype).removeprefix("torch.")
            share = matched / max(1, count)
            print(f"| {title} | {precision} | {count} | {share:.1%} | {box:.1e} | {score:.1e} |", flush=True)


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    main()
