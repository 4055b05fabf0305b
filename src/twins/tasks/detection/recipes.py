"""Recipes of detection: the published RetinaNet trainings on COCO, and short ones for your own boxes."""

from __future__ import annotations

import math
from typing import Literal

from twins.data.transforms.config import DetectionConfig
from twins.engine.config import OptimizerConfig, ScheduleConfig, TrainConfig
from twins.errors import number_of
from twins.tasks.default_recipe import EVALUATION_TIME, Chooser, round_side
from twins.tasks.recipes import Recipe, TaskRecipes, paper_name
from twins.tasks.table import facts_of

Schedule = Literal["1x", "3x"]
"""12 epochs at one scale (`1x`), or 36 at several (`3x`)."""
LENGTHS: dict[Schedule, str] = {"1x": "12 epochs", "3x": "36 epochs at several scales"}
"""Names of the schedules in descriptions."""
WARMUP = 500 / 7330
"""The published 500 warm-up steps in epochs: COCO has 117,266 images with objects, in batches of 16. Training here also
uses the thousand images without objects."""
BOX_AP: dict[Schedule, dict[str, float | None]] = {
    "1x": {
        "pcpvt_small": 43.0,
        "pcpvt_base": 44.3,
        "pcpvt_large": 45.1,
        "svt_small": 43.0,
        "svt_base": 45.3,
        "svt_large": 45.7,
    },
    "3x": {
        "pcpvt_small": 45.2,
        "pcpvt_base": 46.4,
        "pcpvt_large": None,
        "svt_small": 45.6,
        "svt_base": 46.9,
        "svt_large": None,
    },
}
"""RetinaNet's box AP in per cent by schedule and variant (paper); `None` is not published."""


def retinanet(schedule: Schedule, variant: str) -> TrainConfig:
    """RetinaNet on {title}, COCO, {length}.

    Command: torchrun --nproc-per-node 8 -m twins train --recipe {name} --data coco
    Hardware: 8 GPUs with 2 images each, as published; hours not known.
    Expected: {expected}. Not run here.
    """
    return coco("detection", "retinanet", schedule, variant, lr=1e-4)


def coco(task: str, head: str, schedule: Schedule, variant: str, *, lr: float) -> TrainConfig:
    """Return the configuration of the published detectors: AdamW, batches of 16, two drops of the rate to a tenth.

    `1x` has one scale and a weight decay of 1e-4; here norms, biases and the PEG have none, unlike in the published
    trainings. `3x` has shorter sides of 480 to 800 pixels, DETR's random crop on half of the images, and a weight decay
    of 0.05.
    """
    long = schedule == "3x"
    return TrainConfig(
        recipe=f"{head}_{schedule}_{variant}",
        task=task,
        head=head,
        model=f"twins_{variant}",
        weights="published",
        size=800,
        epochs=36 if long else 12,
        batch_size=16,
        workers=4,
        drop_path=0.2,
        save_every=1000,
        log_every=50,
        optimizer=OptimizerConfig(lr=lr, weight_decay=0.05 if long else 1e-4, layer_decay=None, clip_grad=None),
        schedule=ScheduleConfig(
            kind="step",
            drop_epochs=(27.0, 33.0) if long else (8.0, 11.0),
            warmup_epochs=WARMUP,
            warmup_lr=1e-7,
            min_lr=0.0,
        ),
        detection=DetectionConfig(shorter=tuple(range(480, 801, 32)), crop=0.5) if long else DetectionConfig(),
    )


def detection_finetune() -> TrainConfig:
    """Fine-tune published classification weights on a folder of images and boxes.

    Command: twins train --recipe detection_finetune --data DIR
    Hardware and hours: depend on the folder; one GPU.
    Expected: depends on the folder.
    """
    return TrainConfig(
        recipe="detection_finetune",
        task="detection",
        size=640,
        epochs=36,
        batch_size=8,
        drop_path=0.2,
        eval_every=3.0,
        optimizer=OptimizerConfig(lr=2e-4, weight_decay=0.01, layer_decay=0.9, clip_grad=5.0),
        schedule=ScheduleConfig(warmup_epochs=2, min_lr=1e-7),
        detection=DetectionConfig(ratio=(0.8, 1.2)),
    )


def detection_scratch() -> TrainConfig:
    """Train a small network from random weights on a small folder of images and boxes.

    Command: twins train --recipe detection_scratch --data DIR
    Hardware and hours: depend on the folder; a CPU is enough.
    Expected: depends on the folder.
    """
    return TrainConfig(
        recipe="detection_scratch",
        task="detection",
        model="twins_svt_nano",
        weights="none",
        size=320,
        epochs=60,
        batch_size=8,
        drop_path=0.0,
        eval_every=5.0,
        optimizer=OptimizerConfig(lr=1e-3, weight_decay=0.05, layer_decay=None, clip_grad=5.0),
        schedule=ScheduleConfig(warmup_epochs=3, min_lr=1e-6),
        detection=DetectionConfig(ratio=(0.8, 1.2)),
    )


def scenes_detection() -> TrainConfig:
    """Detect handwritten digits on photographs, from a backbone that was trained to classify digits.

    Command: twins demo --task detection
    Hardware: two cores, 5 minutes with the classifier before it.
    Expected: see docs/results/detection.md.
    """
    return TrainConfig(
        recipe="scenes_detection",
        task="detection",
        data="scenes",
        model="twins_svt_nano",
        weights="none",
        size=160,
        minutes=3.5,
        batch_size=2,
        workers=1,
        drop_path=0.0,
        log_every=50,
        optimizer=OptimizerConfig(lr=1.4e-3, betas=(0.9, 0.98), weight_decay=0.05, layer_decay=None, clip_grad=5.0),
        schedule=ScheduleConfig(kind="poly", power=0.9, warmup_epochs=1, min_lr=0.0),
        detection=DetectionConfig(hflip=0.0),
    )


SEEN_OBJECT, SMALLEST_OBJECT = 48, 12
"""Side in pixels that small objects, a tenth of all, should have on the network's input, and what they need at least.
"""
ENLARGED = 800 / 480
"""How much images may be enlarged so that their small objects are seen: as published, for COCO's of 480 pixels."""
ENOUGH_IMAGES = 1000.0
"""Images that a short training should see; on fewer, smaller images teach more than fine ones."""
MOST_PASSES = 80.0
"""Passes over the images that are enough for a small set."""
REGIONS_PER_OBJECT = 8
"""Regions on which a second stage trains for each object. A quarter of the regions are objects' at most, so with fewer
it rarely trains on all objects of an image; more take more time than they gain in a short run."""
MANY_PASSES = 20
"""Passes over the images from which on objects are seen in several sizes: between the published trainings of 12 epochs,
which have one scale, and those of 36, which have several."""
SECOND_STAGE_TIME = 1.2
"""Time of evaluating an image with a second stage, relative to training on it: it predicts for up to 1,000 regions."""
ANCHOR, ANCHOR_STRIDE = 32, {"retinanet": 8}
"""Side of the smallest published anchors in pixels, and the stride of their map by head, 4 for the others."""


def choose(run: Chooser) -> None:
    """Choose the settings of a detector's training."""
    data = run.data
    small = data.quantile(0.1) if len(data.sides) else 0.1
    enlarged = min(ENLARGED * data.shorter, run.config.detection.longest / data.aspect)
    largest = max(data.shorter, 32 * int(enlarged / 32))
    ideal = round_side(SEEN_OBJECT / max(small, 1e-3), 96, 800, largest)
    head = run.config.head or next(iter(facts_of(run.config.task).heads)) or ""
    if head != "retinanet":
        samples = min(512, max(64, 2 ** round(math.log2(max(1.0, REGIONS_PER_OBJECT * data.per_image)))))
        run.set("detection.samples", samples, f"images have about {number_of(round(data.per_image), 'object')}")
    smallest = round_side(SMALLEST_OBJECT / max(small, 1e-3), 96, ideal, data.shorter)
    reason = f"a tenth of the objects are below {small * ideal:.0f} pixels at this size"
    run.choose_size(ideal, reason, smallest=smallest, least=min(ENOUGH_IMAGES, MOST_PASSES * data.images), batch=2)
    run.choose_batch(run.config.size, smallest=2, largest=16, steps=1000, passes=36.0 if run.published else 100.0)
    _choose_anchors(run, small * run.config.size, ANCHOR_STRIDE.get(head, 4))
    run.choose_rate(2e-4, 8) if run.published else run.choose_rate(2e-3, 4 if head == "retinanet" else 2)
    run.choose_regularisation(layer_decay=0.9, drop_path=0.2)
    evaluation = EVALUATION_TIME if head == "retinanet" else SECOND_STAGE_TIME
    run.choose_schedule(run.config.size, kind="poly", evaluation=evaluation)
    run.choose_flip("detection.hflip")
    run.set("detection.ratio", (0.8, 1.25) if run.passes >= MANY_PASSES else (1.0, 1.0), run.repeats)


def _choose_anchors(run: Chooser, side: float, stride: int) -> None:
    """Choose smaller anchors than the published ones where small objects, of this side in pixels, need them."""
    if side < 0.7 * ANCHOR:
        scale = round(max(side, 1.5 * stride) / stride, 1)
        reason = f"a tenth of the objects are below {side:.0f} pixels; the published anchors begin at {ANCHOR}"
        run.set("detection.anchor_scale", scale, reason)


def _retinanet(schedule: Schedule, variant: str, box_ap: float | None) -> Recipe:
    expected = f"box AP {box_ap} % (paper)" if box_ap else "no score is published"
    facts = {"title": paper_name(variant), "length": LENGTHS[schedule], "expected": expected}
    return Recipe.of(retinanet, schedule, variant, **facts)


RECIPES = TaskRecipes(
    choose=choose,
    recipes=(
        *map(Recipe.of, (detection_finetune, detection_scratch, scenes_detection)),
        *(_retinanet(schedule, *row) for schedule, rows in BOX_AP.items() for row in rows.items()),
    ),
)
"""Recipes of detection."""
