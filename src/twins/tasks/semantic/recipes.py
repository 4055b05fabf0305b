"""The published trainings of semantic segmentation on ADE20K, and short ones for a user's own masks."""

from __future__ import annotations

from twins.data.transforms.config import SemanticConfig
from twins.engine.config import OptimizerConfig, ScheduleConfig, TrainConfig


def semantic_fpn_pcpvt_small() -> TrainConfig:
    """Semantic FPN on Twins-PCPVT-S, ADE20K.

    Command: torchrun --nproc-per-node 8 -m twins train --recipe semantic_fpn_pcpvt_small --data ADEChallengeData2016
    Hardware: 8 GPUs with 4 images each in the reference's configs; hours not known.
    Expected: mIoU 44.3 % (paper, table 2); mmsegmentation reports 43.26 %. Not run here.
    """
    return _semantic_fpn("twins_pcpvt_small")


def semantic_fpn_pcpvt_base() -> TrainConfig:
    """Semantic FPN on Twins-PCPVT-B, ADE20K.

    Command: torchrun --nproc-per-node 8 -m twins train --recipe semantic_fpn_pcpvt_base --data ADEChallengeData2016
    Hardware: 8 GPUs with 4 images each in the reference's configs; hours not known.
    Expected: mIoU 44.9 % (paper, table 2); mmsegmentation reports 45.66 %. Not run here.
    """
    return _semantic_fpn("twins_pcpvt_base")


def semantic_fpn_pcpvt_large() -> TrainConfig:
    """Semantic FPN on Twins-PCPVT-L, ADE20K.

    Command: torchrun --nproc-per-node 8 -m twins train --recipe semantic_fpn_pcpvt_large --data ADEChallengeData2016
    Hardware: 8 GPUs with 4 images each in the reference's configs; hours not known.
    Expected: mIoU 46.4 % (paper, table 2); mmsegmentation reports 45.94 %. Not run here.
    """
    return _semantic_fpn("twins_pcpvt_large")


def semantic_fpn_svt_small() -> TrainConfig:
    """Semantic FPN on Twins-SVT-S, ADE20K.

    Command: torchrun --nproc-per-node 8 -m twins train --recipe semantic_fpn_svt_small --data ADEChallengeData2016
    Hardware: 8 GPUs with 4 images each in the reference's configs; hours not known.
    Expected: mIoU 43.2 % (paper, table 2); mmsegmentation reports 44.47 %. Not run here.
    """
    return _semantic_fpn("twins_svt_small")


def semantic_fpn_svt_base() -> TrainConfig:
    """Semantic FPN on Twins-SVT-B, ADE20K.

    Command: torchrun --nproc-per-node 8 -m twins train --recipe semantic_fpn_svt_base --data ADEChallengeData2016
    Hardware: 8 GPUs with 4 images each in the reference's configs; hours not known.
    Expected: mIoU 45.3 % (paper, table 2); mmsegmentation reports 46.77 %. Not run here.
    """
    return _semantic_fpn("twins_svt_base")


def semantic_fpn_svt_large() -> TrainConfig:
    """Semantic FPN on Twins-SVT-L, ADE20K.

    Command: torchrun --nproc-per-node 8 -m twins train --recipe semantic_fpn_svt_large --data ADEChallengeData2016
    Hardware: 8 GPUs with 4 images each in the reference's configs; hours not known.
    Expected: mIoU 46.7 % (paper, table 2); mmsegmentation reports 46.55 %. Not run here.
    """
    return _semantic_fpn("twins_svt_large", drop_path=0.3)


def upernet_pcpvt_small() -> TrainConfig:
    """UPerNet on Twins-PCPVT-S, ADE20K.

    Command: torchrun --nproc-per-node 8 -m twins train --recipe upernet_pcpvt_small --data ADEChallengeData2016
    Hardware: 8 A100 with 4 images each, 0.402 s a step (the reference's log): 18 hours.
    Expected: mIoU 46.2 %, 47.5 % at several scales with flip (paper, table 2). Not run here.
    """
    return _upernet("twins_pcpvt_small", batch_size=32)


def upernet_pcpvt_base() -> TrainConfig:
    """UPerNet on Twins-PCPVT-B, ADE20K.

    Command: torchrun --nproc-per-node 8 -m twins train --recipe upernet_pcpvt_base --data ADEChallengeData2016
    Hardware: 8 V100 with 2 images each, 0.519 s a step (the reference's log): 23 hours.
    Expected: mIoU 47.1 %, 48.4 % at several scales with flip (paper, table 2); the reference's log has 47.78 %. Not
    run here.
    """
    return _upernet("twins_pcpvt_base")


def upernet_pcpvt_large() -> TrainConfig:
    """UPerNet on Twins-PCPVT-L, ADE20K.

    Command: torchrun --nproc-per-node 8 -m twins train --recipe upernet_pcpvt_large --data ADEChallengeData2016
    Hardware: 8 V100 with 2 images each, 0.665 s a step (the reference's log): 30 hours.
    Expected: mIoU 48.6 %, 49.8 % at several scales with flip (paper, table 2). Not run here.
    """
    return _upernet("twins_pcpvt_large")


def upernet_svt_small() -> TrainConfig:
    """UPerNet on Twins-SVT-S, ADE20K.

    Command: torchrun --nproc-per-node 8 -m twins train --recipe upernet_svt_small --data ADEChallengeData2016
    Hardware: 8 V100 with 2 images each, 0.401 s a step (the reference's log): 18 hours.
    Expected: mIoU 46.2 %, 47.1 % at several scales with flip (paper, table 2). Not run here.
    """
    return _upernet("twins_svt_small")


def upernet_svt_base() -> TrainConfig:
    """UPerNet on Twins-SVT-B, ADE20K.

    Command: torchrun --nproc-per-node 4 -m twins train --recipe upernet_svt_base --data ADEChallengeData2016
    Hardware: 4 V100 with 4 images each, 0.732 s a step (the reference's log): 33 hours.
    Expected: mIoU 47.7 %, 48.9 % at several scales with flip (paper, table 2). Not run here.
    """
    return _upernet("twins_svt_base")


def upernet_svt_large() -> TrainConfig:
    """UPerNet on Twins-SVT-L, ADE20K.

    Command: torchrun --nproc-per-node 8 -m twins train --recipe upernet_svt_large --data ADEChallengeData2016
    Hardware: 8 A100 with 2 images each, 0.301 s a step (the reference's log): 13 hours.
    Expected: mIoU 48.8 %, 50.2 % at several scales with flip (paper, table 2). Not run here.
    """
    return _upernet("twins_svt_large", drop_path=0.3)


def semantic_finetune() -> TrainConfig:
    """Adapt published classification weights to a folder of images and masks: short.

    Command: twins train --task semantic --data DIR
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
    """Train a small network from nothing on a small folder of images and masks.

    Command: twins train --task semantic --data DIR --model twins_svt_nano
    Hardware and hours: depend on the folder; a CPU will do.
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
    """Find handwritten digits on photographs, from nothing, in about three minutes on two cores.

    Command: twins demo --task semantic
    Hardware: two cores, 3 minutes.
    Expected: mIoU 84 % (docs/results/semantic.md).
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
        semantic=SemanticConfig(crop=112, ratio=(1.0, 1.0), max_share=1.0, hflip=0.0, photometric=False),
    )


def _semantic_fpn(model: str, *, drop_path: float = 0.2) -> TrainConfig:
    """Return what the six of Semantic FPN have in common: 80,000 steps of 32 images, as the reference's configs."""
    return TrainConfig(
        recipe=f"semantic_fpn_{model.removeprefix('twins_')}",
        task="semantic",
        head="semantic_fpn",
        model=model,
        weights="published",
        size=512,
        steps=80_000,
        batch_size=32,
        workers=4,
        drop_path=drop_path,
        eval_every=12.7,
        save_every=1000,
        log_every=50,
        optimizer=OptimizerConfig(lr=1e-4, weight_decay=1e-4, layer_decay=None, clip_grad=None),
        schedule=ScheduleConfig(kind="poly", power=0.9, warmup_steps=0, min_lr=1e-6),
    )


def _upernet(model: str, *, batch_size: int = 16, drop_path: float = 0.2) -> TrainConfig:
    """Return what the six of UPerNet have in common: 160,000 steps, as the reference's configs."""
    return TrainConfig(
        recipe=f"upernet_{model.removeprefix('twins_')}",
        task="semantic",
        head="upernet",
        model=model,
        weights="published",
        size=512,
        steps=160_000,
        batch_size=batch_size,
        workers=4,
        drop_path=drop_path,
        eval_every=12.7,
        save_every=1000,
        log_every=50,
        optimizer=OptimizerConfig(lr=6e-5, weight_decay=0.01, layer_decay=None, clip_grad=None),
        schedule=ScheduleConfig(kind="poly", power=1.0, warmup_steps=1500, warmup_lr=6e-11, min_lr=0.0),
    )
