"""Recipes for a user's own folder of images, and for the embedded digits."""

from __future__ import annotations

from twins.data.transforms.config import AugmentConfig
from twins.engine.config import OptimizerConfig, ScheduleConfig, TrainConfig


def finetune() -> TrainConfig:
    """Adapt published weights to a folder of images: short, with rates that fall towards the first layers.

    Command: twins train --data DIR
    Hardware and hours: depend on the folder; one GPU, or a CPU for some hundred images.
    Expected: depends on the folder.
    """
    return TrainConfig(recipe="finetune")


def scratch() -> TrainConfig:
    """Train a small network from nothing on a small folder of images.

    Command: twins train --data DIR --model twins_svt_nano
    """
    return TrainConfig(
        recipe="scratch",
        model="twins_svt_nano",
        weights="none",
        epochs=100,
        size=64,
        fit="squash",
        batch_size=32,
        drop_path=0.05,
        eval_every=5.0,
        optimizer=OptimizerConfig(lr=1.5e-3, layer_decay=None, clip_grad=5.0),
        schedule=ScheduleConfig(warmup_epochs=5, warmup_lr=1e-6, min_lr=1e-5),
        augment=AugmentConfig(scale=(0.4, 1.0), rand_augment=None, erasing=0.1, mixup=0.0, cutmix=0.0, smoothing=0.1),
    )


def digits() -> TrainConfig:
    """Learn scikit-learn's handwritten digits from nothing, in about a minute on two cores.

    Command: twins demo
    """
    return TrainConfig(
        recipe="digits",
        data="digits",
        model="twins_svt_nano",
        weights="none",
        epochs=14,
        size=32,
        crop=1.0,
        batch_size=32,
        workers=0,
        drop_path=0.0,
        optimizer=OptimizerConfig(lr=1e-3, layer_decay=None, clip_grad=5.0),
        schedule=ScheduleConfig(warmup_epochs=1, warmup_lr=1e-5, min_lr=1e-6),
        augment=AugmentConfig(
            shift_pixels=3, hflip=0.0, rand_augment=None, erasing=0.0, mixup=0.0, cutmix=0.0, smoothing=0.1
        ),
    )
