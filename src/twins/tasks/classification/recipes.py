"""Recipes of classification: the published trainings on ImageNet-1k, and short ones for your own images and digits."""

from __future__ import annotations

from twins.backbone.config import PUBLISHED
from twins.data.transforms.config import AugmentConfig
from twins.engine.config import OptimizerConfig, ScheduleConfig, TrainConfig
from twins.tasks.default_recipe import Chooser, round_side, side_reason
from twins.tasks.recipes import Recipe, TaskRecipes, paper_name


def imagenet(variant: str) -> TrainConfig:
    """{title} on ImageNet-1k, from scratch.

    Command: torchrun --nproc-per-node 8 -m twins train --recipe {name} --data IMAGENET
    Hardware: 8 GPUs in the reference's README; hours not known.
    Expected: top-1 {top1} % (paper, table 1). Not run here.
    """
    model = f"twins_{variant}"  # settings of the reference (paper, section 4.1)
    return TrainConfig(
        recipe=f"imagenet_{variant}",
        model=model,
        weights="none",
        epochs=300,
        batch_size=1024,
        workers=8,
        drop_path=PUBLISHED[model].drop_path,
        save_every=1000,
        log_every=50,
        optimizer=OptimizerConfig(lr=5e-4, lr_batch=512, weight_decay=0.05, layer_decay=None, clip_grad=5.0),
        schedule=ScheduleConfig(warmup_epochs=5, warmup_lr=1e-6, min_lr=1e-5),
        augment=AugmentConfig(
            hflip=0.5,
            color_jitter=0.4,
            rand_augment="rand-m9-mstd0.5-inc1",
            erasing=0.25,
            mixup=0.8,
            cutmix=1.0,
            smoothing=0.1,
        ),
    )


def finetune() -> TrainConfig:
    """Fine-tune published weights on a folder of images, with layer-wise decay of the learning rate.

    Command: twins train --recipe finetune --data DIR
    Hardware and hours: depend on the folder; one GPU, or a CPU for some hundred images.
    Expected: depends on the folder.
    """
    return TrainConfig(recipe="finetune")


def scratch() -> TrainConfig:
    """Train a small network from random weights on a small folder of images.

    Command: twins train --recipe scratch --data DIR
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
    """Classify scikit-learn's handwritten digits, from random weights, in about a minute on two cores.

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


ENOUGH_IMAGES, MOST_PASSES = 15000.0, 40.0
"""Images that a training from random weights should see, and the passes that are enough for a small set."""


def choose(run: Chooser) -> None:
    """Choose the settings of a classifier's training."""
    data = run.data
    if run.published:
        run.choose_size(
            224, "as the weights were trained", smallest=96, least=min(5000.0, 10.0 * data.images), batch=32
        )
    else:
        ideal = round_side(data.shorter, 32, 224, data.shorter)
        least = min(ENOUGH_IMAGES, MOST_PASSES * data.images)
        smallest = max(32, 32 * round(ideal / 32) // 64 * 32)
        run.choose_size(ideal, side_reason(data.shorter, 224), smallest=smallest, least=least, batch=32)
        run.set("fit", "squash", "the whole image is seen")
        run.set("crop", 1.0, "the whole image is seen")
    run.choose_batch(run.config.size, smallest=8, largest=64, steps=600, passes=30.0 if run.published else 100.0)
    run.choose_rate(3e-4, 64) if run.published else run.choose_rate(1.5e-3, 32)
    run.choose_regularisation(layer_decay=0.75, drop_path=0.1)
    run.choose_schedule(run.config.size)
    _choose_augmentation(run)


def _choose_augmentation(run: Chooser) -> None:
    data, passes = run.data, run.passes
    run.choose_flip("augment.hflip")
    if data.shorter <= 40:
        run.set("augment.shift_pixels", run.config.size // 10, f"images of {data.shorter} pixels are too small to crop")
        return
    scale = (0.35, 1.0) if passes >= 20 else (0.6, 1.0)
    run.set("augment.scale", scale, run.repeats)
    policy = "rand-m6-mstd0.5-inc1" if passes >= 100 or run.published else None
    run.set("augment.rand_augment", policy, run.repeats)
    run.set("augment.erasing", 0.1 if passes >= 20 else 0.0, run.repeats)


def _imagenet(model: str) -> Recipe:
    variant = model.removeprefix("twins_")
    return Recipe.of(imagenet, variant, title=paper_name(variant), top1=PUBLISHED[model].top1)


RECIPES = TaskRecipes(
    choose=choose,
    recipes=(*map(Recipe.of, (finetune, scratch, digits)), *map(_imagenet, PUBLISHED)),
)
"""Recipes of classification."""
