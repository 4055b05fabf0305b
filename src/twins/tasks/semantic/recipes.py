"""Recipes of semantic segmentation: the published trainings on ADE20K, and short ones for your own masks."""

from __future__ import annotations

from dataclasses import dataclass

from twins.data.transforms.config import SemanticConfig
from twins.engine.config import OptimizerConfig, ScheduleConfig, TrainConfig
from twins.tasks.default_recipe import Chooser, round_side, side_reason
from twins.tasks.recipes import Recipe, TaskRecipes, paper_name

SEMANTIC_FPN = {
    "pcpvt_small": (44.3, 43.26),
    "pcpvt_base": (44.9, 45.66),
    "pcpvt_large": (46.4, 45.94),
    "svt_small": (43.2, 44.47),
    "svt_base": (45.3, 46.77),
    "svt_large": (46.7, 46.55),
}
"""Semantic FPN's mIoU in per cent by variant: the paper's (table 2) and mmsegmentation's."""


@dataclass(frozen=True, kw_only=True)
class UPerNetTraining:
    """A published training of UPerNet."""

    miou: tuple[float, float]
    """mIoU in per cent at one scale, and at several with flip (paper, table 2)."""
    step: float
    """Seconds per step in the reference's log."""
    gpu: str = "V100"
    """GPU model."""
    gpus: int = 8
    """Number of GPUs."""
    batch_size: int = 16
    """Images per step, over all GPUs."""
    note: str = ""
    """Addition to the expected score."""


UPERNET_STEPS = 160_000
"""Steps of all published trainings of UPerNet."""
UPERNET = {
    "pcpvt_small": UPerNetTraining(miou=(46.2, 47.5), step=0.402, gpu="A100", batch_size=32),
    "pcpvt_base": UPerNetTraining(miou=(47.1, 48.4), step=0.519, note="; the reference's log has 47.78 %"),
    "pcpvt_large": UPerNetTraining(miou=(48.6, 49.8), step=0.665),
    "svt_small": UPerNetTraining(miou=(46.2, 47.1), step=0.401),
    "svt_base": UPerNetTraining(miou=(47.7, 48.9), step=0.732, gpus=4),
    "svt_large": UPerNetTraining(miou=(48.8, 50.2), step=0.301, gpu="A100"),
}


def semantic_fpn(variant: str) -> TrainConfig:
    """Semantic FPN on {title}, ADE20K.

    Command: torchrun --nproc-per-node 8 -m twins train --recipe {name} --data ADEChallengeData2016
    Hardware: 8 GPUs with 4 images each in the reference's configs; hours not known.
    Expected: mIoU {paper} % (paper, table 2); mmsegmentation reports {mmseg} %. Not run here.
    """
    return TrainConfig(
        recipe=f"semantic_fpn_{variant}",
        task="semantic",
        head="semantic_fpn",
        model=f"twins_{variant}",
        weights="published",
        size=512,
        steps=80_000,
        batch_size=32,
        workers=4,
        drop_path=0.3 if variant == "svt_large" else 0.2,
        eval_every=12.7,
        save_every=1000,
        log_every=50,
        optimizer=OptimizerConfig(lr=1e-4, weight_decay=1e-4, layer_decay=None, clip_grad=None),
        schedule=ScheduleConfig(kind="poly", power=0.9, warmup_steps=0, min_lr=1e-6),
    )


def upernet(variant: str) -> TrainConfig:
    """UPerNet on {title}, ADE20K.

    Command: torchrun --nproc-per-node {gpus} -m twins train --recipe {name} --data ADEChallengeData2016
    Hardware: {gpus} {gpu} with {images} images each, {step} s a step (the reference's log): {hours} hours.
    Expected: mIoU {miou[0]} %, {miou[1]} % at several scales with flip (paper, table 2){note}. Not run here.
    """
    return TrainConfig(
        recipe=f"upernet_{variant}",
        task="semantic",
        head="upernet",
        model=f"twins_{variant}",
        weights="published",
        size=512,
        steps=UPERNET_STEPS,
        batch_size=UPERNET[variant].batch_size,
        workers=4,
        drop_path=0.3 if variant == "svt_large" else 0.2,
        eval_every=12.7,
        save_every=1000,
        log_every=50,
        optimizer=OptimizerConfig(lr=6e-5, weight_decay=0.01, layer_decay=None, clip_grad=None),
        schedule=ScheduleConfig(kind="poly", power=1.0, warmup_steps=1500, warmup_lr=6e-11, min_lr=0.0),
    )


def semantic_finetune() -> TrainConfig:
    """Fine-tune published classification weights on a folder of images and masks.

    Command: twins train --recipe semantic_finetune --data DIR
    Hardware and hours: depend on the folder; one GPU, or a CPU for some dozen images.
    Expected: depends on the folder.
    """
    return TrainConfig(
        recipe="semantic_finetune",
        task="semantic",
        size=512,
        epochs=80,
        batch_size=8,
        drop_path=0.2,
        eval_every=4.0,
        optimizer=OptimizerConfig(lr=2e-4, weight_decay=0.01, layer_decay=0.9, clip_grad=5.0),
        schedule=ScheduleConfig(kind="poly", warmup_epochs=4, min_lr=0.0),
    )


def semantic_scratch() -> TrainConfig:
    """Train a small network from random weights on a small folder of images and masks.

    Command: twins train --recipe semantic_scratch --data DIR
    Hardware and hours: depend on the folder; a CPU is enough.
    Expected: depends on the folder.
    """
    return TrainConfig(
        recipe="semantic_scratch",
        task="semantic",
        model="twins_svt_nano",
        weights="none",
        size=256,
        epochs=200,
        batch_size=8,
        drop_path=0.0,
        eval_every=10.0,
        optimizer=OptimizerConfig(lr=1.5e-3, weight_decay=0.05, layer_decay=None, clip_grad=5.0),
        schedule=ScheduleConfig(kind="poly", warmup_epochs=5, min_lr=0.0),
        semantic=SemanticConfig(crop=192, ratio=(0.75, 1.5), vflip=0.0),
    )


def scenes() -> TrainConfig:
    """Segment handwritten digits on photographs, from random weights, in about three minutes on two cores.

    Command: twins demo --task semantic
    Hardware: two cores, 3 minutes.
    Expected: mIoU 85 % (docs/results/semantic.md).
    """
    return TrainConfig(
        recipe="scenes",
        task="semantic",
        data="scenes",
        model="twins_svt_nano",
        weights="none",
        size=112,
        minutes=3.0,
        batch_size=4,
        workers=1,
        drop_rate=0.0,
        drop_path=0.0,
        log_every=50,
        optimizer=OptimizerConfig(lr=5e-3, betas=(0.9, 0.98), weight_decay=0.05, layer_decay=None, clip_grad=5.0),
        schedule=ScheduleConfig(kind="poly", power=0.9, warmup_epochs=2, min_lr=0.0),
        semantic=SemanticConfig(
            crop=112, ratio=(1.0, 1.0), max_share=1.0, hflip=0.0, photometric=False, prior_bias=True
        ),
    )


ENOUGH_CROPS = 2400.0
"""Training crops that a short training should see; on fewer, smaller crops teach more than large ones."""
PHOTOMETRIC_STEPS = 2000
"""Steps from which on colours are distorted; with them, a shorter run learns its training images less well than the
held-out ones."""
SEEN_REGION = 12
"""Pixels that narrow regions should measure on the network's input."""


def choose(run: Chooser) -> None:
    """Choose the settings of a semantic network's training."""
    data = run.data
    ideal, reason = round_side(data.shorter, 96, 512, data.shorter), side_reason(data.shorter, 512)
    if len(data.sides):
        narrow = data.quantile(0.25)
        ideal = round_side(SEEN_REGION / max(narrow, 1e-3), 96, 512, data.shorter)
        reason = f"a quarter of the regions are narrower than {narrow * ideal:.0f} pixels at this size"
    run.set("size", ideal, reason)
    largest = min(run.config.size, 512 if run.published else 192)
    crop = run.affordable(largest, smallest=96, least=ENOUGH_CROPS, batch=4)
    whole = "as large as the input" if crop == run.config.size else "smaller crops take less time than whole images"
    run.set("semantic.crop", crop, run.shortage(crop, largest, 4) if crop < largest else whole)
    crop = run.config.semantic.crop
    run.choose_batch(crop, smallest=4, largest=16, steps=1000, passes=80.0 if run.published else 200.0)
    run.choose_rate(2e-4, 8) if run.published else run.choose_rate(2e-3, 4)
    run.set("semantic.prior_bias", True, "the most frequent class need not be learned first")
    run.choose_regularisation(layer_decay=0.9, drop_path=0.2)
    if not run.published:
        run.set("drop_rate", 0.0, run.start)
    run.choose_schedule(run.config.size)
    run.choose_flip("semantic.hflip")
    many = run.passes >= 15
    run.set(
        "semantic.ratio",
        (0.75, 1.5) if many else (1.0, 1.0),
        run.repeats,
    )
    short = run.steps < PHOTOMETRIC_STEPS
    run.set("semantic.photometric", many and not short, run.shortness if many and short else run.repeats)


def _semantic_fpn(variant: str) -> Recipe:
    paper, mmseg = SEMANTIC_FPN[variant]
    return Recipe.of(semantic_fpn, variant, title=paper_name(variant), paper=paper, mmseg=mmseg)


def _upernet(variant: str) -> Recipe:
    row = UPERNET[variant]
    images, hours = row.batch_size // row.gpus, round(UPERNET_STEPS * row.step / 3600)
    return Recipe.of(upernet, variant, title=paper_name(variant), images=images, hours=hours, **vars(row))


RECIPES = TaskRecipes(
    choose=choose,
    recipes=(
        *map(Recipe.of, (semantic_finetune, semantic_scratch, scenes)),
        *map(_semantic_fpn, SEMANTIC_FPN),
        *map(_upernet, UPERNET),
    ),
)
"""Recipes of semantic segmentation."""
