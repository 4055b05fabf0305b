"""Recipes of instance segmentation: the published Mask R-CNN trainings on COCO, and short ones for your own masks."""

from __future__ import annotations

from dataclasses import replace

from twins.engine.config import TrainConfig
from twins.tasks.detection.recipes import (
    LENGTHS,
    Schedule,
    choose,
    coco,
    detection_finetune,
    detection_scratch,
    scenes_detection,
)
from twins.tasks.recipes import Recipe, TaskRecipes, paper_name

AP: dict[Schedule, dict[str, tuple[float, float] | None]] = {
    "1x": {
        "pcpvt_small": (42.9, 40.0),
        "pcpvt_base": (44.6, 40.9),
        "pcpvt_large": (45.4, 41.5),
        "svt_small": (43.4, 40.3),
        "svt_base": (45.2, 41.5),
        "svt_large": (45.9, 41.6),
    },
    "3x": {
        "pcpvt_small": (46.8, 42.6),
        "pcpvt_base": (47.9, 43.2),
        "pcpvt_large": None,
        "svt_small": (46.8, 42.6),
        "svt_base": (48.0, 43.0),
        "svt_large": None,
    },
}
"""Mask R-CNN's box and mask AP in per cent by schedule and variant (paper); `None` is not published."""


def mask_rcnn(schedule: Schedule, variant: str) -> TrainConfig:
    """Mask R-CNN on {title}, COCO, {length}.

    Command: torchrun --nproc-per-node 8 -m twins train --recipe {name} --data coco
    Hardware: 8 GPUs with 2 images each, as published; hours not known.
    Expected: {expected}. Not run here.
    """
    lr = 2e-4 if schedule == "1x" else 1e-4  # the published 3x ran in fp16, which `precision` chooses
    return coco("instance", "mask_rcnn", schedule, variant, lr=lr)


def instance_finetune() -> TrainConfig:
    """Fine-tune published classification weights on a folder of images and masks of objects.

    Command: twins train --recipe instance_finetune --data DIR
    Hardware and hours: depend on the folder; one GPU.
    Expected: depends on the folder.
    """
    return replace(detection_finetune(), recipe="instance_finetune", task="instance")


def instance_scratch() -> TrainConfig:
    """Train a small network from random weights on a small folder of images and masks of objects.

    Command: twins train --recipe instance_scratch --data DIR
    Hardware and hours: depend on the folder; a CPU is enough.
    Expected: depends on the folder.
    """
    return replace(detection_scratch(), recipe="instance_scratch", task="instance")


def scenes_instance() -> TrainConfig:
    """Segment handwritten digits on photographs, from a backbone that was trained to classify digits.

    Command: twins demo --task instance
    Hardware: two cores, 5 minutes with the classifier before it.
    Expected: see docs/results/detection.md.
    """
    base = scenes_detection()
    detection, optimizer = replace(base.detection, samples=64), replace(base.optimizer, lr=2e-3)
    return replace(
        base,
        recipe="scenes_instance",
        task="instance",
        size=128,
        minutes=2.0,
        optimizer=optimizer,
        detection=detection,
    )


def _mask_rcnn(schedule: Schedule, variant: str, ap: tuple[float, float] | None) -> Recipe:
    expected = "box AP {} %, mask AP {} % (paper)".format(*ap) if ap else "no score is published"
    facts = {"title": paper_name(variant), "length": LENGTHS[schedule], "expected": expected}
    return Recipe.of(mask_rcnn, schedule, variant, **facts)


RECIPES = TaskRecipes(
    choose=choose,
    recipes=(
        *map(Recipe.of, (instance_finetune, instance_scratch, scenes_instance)),
        *(_mask_rcnn(schedule, *row) for schedule, rows in AP.items() for row in rows.items()),
    ),
)
"""Recipes of instance segmentation."""
