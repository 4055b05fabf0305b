"""The published trainings of RetinaNet on COCO, and short ones for a user's own boxes."""

from __future__ import annotations

from dataclasses import replace

from twins.data.transforms.config import DetectionConfig
from twins.engine.config import OptimizerConfig, ScheduleConfig, TrainConfig

WARMUP = 500 / 7330
"""The published 500 steps of warm-up, in epochs of COCO's 117,266 images with objects by 16; the thousand without any
are learned from here too."""


def retinanet_1x_pcpvt_small() -> TrainConfig:
    """RetinaNet on Twins-PCPVT-S, COCO, 12 epochs.

    Command: torchrun --nproc-per-node 8 -m twins train --recipe retinanet_1x_pcpvt_small --data coco
    Hardware: 8 GPUs with 2 images each, as published; hours not known.
    Expected: box AP 43.0 % (paper). Not run here.
    """
    return _retinanet("twins_pcpvt_small", one_times())


def retinanet_1x_pcpvt_base() -> TrainConfig:
    """RetinaNet on Twins-PCPVT-B, COCO, 12 epochs.

    Command: torchrun --nproc-per-node 8 -m twins train --recipe retinanet_1x_pcpvt_base --data coco
    Hardware: 8 GPUs with 2 images each, as published; hours not known.
    Expected: box AP 44.3 % (paper). Not run here.
    """
    return _retinanet("twins_pcpvt_base", one_times())


def retinanet_1x_pcpvt_large() -> TrainConfig:
    """RetinaNet on Twins-PCPVT-L, COCO, 12 epochs.

    Command: torchrun --nproc-per-node 8 -m twins train --recipe retinanet_1x_pcpvt_large --data coco
    Hardware: 8 GPUs with 2 images each, as published; hours not known.
    Expected: box AP 45.1 % (paper). Not run here.
    """
    return _retinanet("twins_pcpvt_large", one_times())


def retinanet_1x_svt_small() -> TrainConfig:
    """RetinaNet on Twins-SVT-S, COCO, 12 epochs.

    Command: torchrun --nproc-per-node 8 -m twins train --recipe retinanet_1x_svt_small --data coco
    Hardware: 8 GPUs with 2 images each, as published; hours not known.
    Expected: box AP 43.0 % (paper). Not run here.
    """
    return _retinanet("twins_svt_small", one_times())


def retinanet_1x_svt_base() -> TrainConfig:
    """RetinaNet on Twins-SVT-B, COCO, 12 epochs.

    Command: torchrun --nproc-per-node 8 -m twins train --recipe retinanet_1x_svt_base --data coco
    Hardware: 8 GPUs with 2 images each, as published; hours not known.
    Expected: box AP 45.3 % (paper). Not run here.
    """
    return _retinanet("twins_svt_base", one_times())


def retinanet_1x_svt_large() -> TrainConfig:
    """RetinaNet on Twins-SVT-L, COCO, 12 epochs.

    Command: torchrun --nproc-per-node 8 -m twins train --recipe retinanet_1x_svt_large --data coco
    Hardware: 8 GPUs with 2 images each, as published; hours not known.
    Expected: box AP 45.7 % (paper). Not run here.
    """
    return _retinanet("twins_svt_large", one_times())


def retinanet_3x_pcpvt_small() -> TrainConfig:
    """RetinaNet on Twins-PCPVT-S, COCO, 36 epochs at several scales.

    Command: torchrun --nproc-per-node 8 -m twins train --recipe retinanet_3x_pcpvt_small --data coco
    Hardware: 8 GPUs with 2 images each, as published; hours not known.
    Expected: box AP 45.2 % (paper). Not run here.
    """
    return _retinanet("twins_pcpvt_small", three_times())


def retinanet_3x_pcpvt_base() -> TrainConfig:
    """RetinaNet on Twins-PCPVT-B, COCO, 36 epochs at several scales.

    Command: torchrun --nproc-per-node 8 -m twins train --recipe retinanet_3x_pcpvt_base --data coco
    Hardware: 8 GPUs with 2 images each, as published; hours not known.
    Expected: box AP 46.4 % (paper). Not run here.
    """
    return _retinanet("twins_pcpvt_base", three_times())


def retinanet_3x_pcpvt_large() -> TrainConfig:
    """RetinaNet on Twins-PCPVT-L, COCO, 36 epochs at several scales.

    Command: torchrun --nproc-per-node 8 -m twins train --recipe retinanet_3x_pcpvt_large --data coco
    Hardware: 8 GPUs with 2 images each, as published; hours not known.
    Expected: no score is published. Not run here.
    """
    return _retinanet("twins_pcpvt_large", three_times())


def retinanet_3x_svt_small() -> TrainConfig:
    """RetinaNet on Twins-SVT-S, COCO, 36 epochs at several scales.

    Command: torchrun --nproc-per-node 8 -m twins train --recipe retinanet_3x_svt_small --data coco
    Hardware: 8 GPUs with 2 images each, as published; hours not known.
    Expected: box AP 45.6 % (paper). Not run here.
    """
    return _retinanet("twins_svt_small", three_times())


def retinanet_3x_svt_base() -> TrainConfig:
    """RetinaNet on Twins-SVT-B, COCO, 36 epochs at several scales.

    Command: torchrun --nproc-per-node 8 -m twins train --recipe retinanet_3x_svt_base --data coco
    Hardware: 8 GPUs with 2 images each, as published; hours not known.
    Expected: box AP 46.9 % (paper). Not run here.
    """
    return _retinanet("twins_svt_base", three_times())


def retinanet_3x_svt_large() -> TrainConfig:
    """RetinaNet on Twins-SVT-L, COCO, 36 epochs at several scales.

    Command: torchrun --nproc-per-node 8 -m twins train --recipe retinanet_3x_svt_large --data coco
    Hardware: 8 GPUs with 2 images each, as published; hours not known.
    Expected: no score is published. Not run here.
    """
    return _retinanet("twins_svt_large", three_times())


def detection_finetune() -> TrainConfig:
    """Adapt published classification weights to a folder of images and boxes: short.

    Command: twins train --task detection --data DIR
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
    """Train a small network from nothing on a small folder of images and boxes.

    Command: twins train --task detection --data DIR --model twins_svt_nano
    Hardware and hours: depend on the folder; a CPU will do.
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
    """Find handwritten digits on photographs, on a backbone that has learned to read digits.

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
        size=112,
        minutes=3.5,
        batch_size=4,
        workers=1,
        drop_path=0.0,
        log_every=50,
        optimizer=OptimizerConfig(lr=2e-3, betas=(0.9, 0.98), weight_decay=0.05, layer_decay=None, clip_grad=5.0),
        schedule=ScheduleConfig(kind="poly", power=0.9, warmup_epochs=1, min_lr=0.0),
        detection=DetectionConfig(hflip=0.0),
    )


def _retinanet(model: str, config: TrainConfig) -> TrainConfig:
    """Return what all of RetinaNet have in common: AdamW at 1e-4, with a decay of 1e-4, of 36 epochs 0.05.

    Here norms, biases and the PEG have no decay; in the published 12 epochs they have.
    """
    times = config.recipe
    decay = 1e-4 if times == "1x" else 0.05
    return replace(
        config,
        recipe=f"retinanet_{times}_{model.removeprefix('twins_')}",
        task="detection",
        head="retinanet",
        model=model,
        optimizer=OptimizerConfig(lr=1e-4, weight_decay=decay, layer_decay=None, clip_grad=None),
    )


def one_times() -> TrainConfig:
    """Return 12 epochs of 16 images of one scale, with the rate a tenth of itself after 8 and after 11."""
    return TrainConfig(
        recipe="1x",
        weights="published",
        size=800,
        epochs=12,
        batch_size=16,
        workers=4,
        drop_path=0.2,
        save_every=1000,
        log_every=50,
        schedule=ScheduleConfig(kind="step", drop_epochs=(8.0, 11.0), warmup_epochs=WARMUP, warmup_lr=1e-7, min_lr=0.0),
    )


def three_times() -> TrainConfig:
    """Return 36 epochs at shorter sides of 480 to 800, every other image a crop resized, as DETR's augmentation."""
    schedule = replace(one_times().schedule, drop_epochs=(27.0, 33.0))
    detection = DetectionConfig(shorter=tuple(range(480, 801, 32)), crop=0.5)
    return replace(one_times(), recipe="3x", epochs=36, schedule=schedule, detection=detection)
