"""How far a detector's result for an image depends on what it was batched with: ours, and torchvision's.

Command: python benchmarks/invariance.py
Three images of different shapes, each alone and in one padded batch. Heads have random weights that find dozens of
objects everywhere, so that borders are tried too. An object of the batch is found again where one of its class lies
within 0.05 pixels and has a score within 1e-3 of its own.
"""

from __future__ import annotations

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
Found = dict[str, NDArray[Any]]
Finder = Callable[[list[Tensor]], list[Found]]


def stir(network: nn.Module, backbone: str) -> nn.Module:
    """Give a detector's heads random weights that find something everywhere."""
    for name, parameter in network.named_parameters():
        if name.startswith(backbone):
            continue
        spread = 1.4 / parameter[0].numel() ** 0.5 if parameter.ndim > 1 else 0.1
        last = any(part in name for part in ("_reg.", "bbox_pred", "bbox_reg", "retina_cls", "cls_logits", "fc_cls"))
        nn.init.normal_(parameter, std=spread * (0.3 if last else 1.0))  # boxes stay near their anchors, scores below 1
    return network.eval()


def ours(head: str, dtype: torch.dtype) -> Finder:
    torch.manual_seed(0)
    network: Any = twins.create_model("twins_svt_small", task=OURS[head], head=head, num_classes=CLASSES)
    stir(network, "backbone.").to(dtype)

    def find(images: list[Tensor]) -> list[Found]:
        shapes = [tuple(image.shape[1:]) for image in images]
        batch = torch.zeros(len(images), 3, *(max(sides) for sides in zip(*shapes, strict=True)), dtype=dtype)
        for place, image in zip(batch, images, strict=True):
            place[:, : image.shape[1], : image.shape[2]] = image
        outputs = network(batch, torch.tensor(shapes) if len(images) > 1 else None)
        if head == "mask_rcnn":
            parts = outputs["boxes"], outputs["scores"], outputs["labels"]
        else:
            parts = network.detections(outputs)
        found = []
        for boxes, scores, labels in zip(*parts, strict=True):
            kept = scores > 0
            found.append({"boxes": boxes[kept].numpy(), "scores": scores[kept].numpy(), "labels": labels[kept].numpy()})
        return found

    return find


def theirs(name: str, dtype: torch.dtype) -> Finder:
    torch.manual_seed(0)
    network = getattr(detection, name)(
        weights=None, weights_backbone=None, num_classes=CLASSES + 1, _skip_resize=True, detections_per_img=100
    )
    stir(network, "backbone.").to(dtype)

    def find(images: list[Tensor]) -> list[Found]:
        return [{key: value.numpy() for key, value in found.items() if key != "masks"} for found in network(images)]

    return find


def compare(find: Finder, dtype: torch.dtype) -> tuple[int, int, float, float]:
    """Return objects found, how many of them are found again in the batch, and the largest differences of those."""
    generator = torch.Generator().manual_seed(1)
    images = [torch.randn(3, *size, generator=generator, dtype=torch.float64).to(dtype) for size in SIZES]
    with torch.inference_mode():
        together, alone = find(images), [find([image])[0] for image in images]
    count, again, box, score = 0, 0, 0.0, 0.0
    for one, other in zip(alone, together, strict=True):
        far = np.abs(one["boxes"][:, None] - other["boxes"]).max(axis=2)
        less = np.abs(one["scores"][:, None] - other["scores"])
        same = (far <= 0.05) & (less <= 1e-3) & (one["labels"][:, None] == other["labels"])
        count += len(one["boxes"])
        again += int(same.any(axis=1).sum())
        nearest = np.where(same, far, np.inf).min(axis=1, initial=np.inf)
        box = max(box, float(nearest[np.isfinite(nearest)].max(initial=0)))
        closest = np.where(same, less, np.inf).min(axis=1, initial=np.inf)
        score = max(score, float(closest[np.isfinite(closest)].max(initial=0)))
    return count, again, box, score


def main() -> None:
    print("| detector | precision | objects | found again | boxes differ by, px | scores differ by |")
    print("| --- | --- | --- | --- | --- | --- |")
    cases = [(f"twins_svt_small, {head}", ours, head) for head in OURS] + [(name, theirs, name) for name in THEIRS]
    for title, build, name in cases:
        for dtype in (torch.float64, torch.float32):
            count, again, box, score = compare(build(name, dtype), dtype)
            precision = str(dtype).removeprefix("torch.")
            share = again / max(1, count)
            print(f"| {title} | {precision} | {count} | {share:.1%} | {box:.1e} | {score:.1e} |", flush=True)


if __name__ == "__main__":
    main()
