"""The reference's training on ImageNet-1k (paper, section 4.1), one recipe for each published network."""

from __future__ import annotations

from twins.data.transforms.config import AugmentConfig
from twins.engine.config import OptimizerConfig, ScheduleConfig, TrainConfig


def imagenet_pcpvt_small() -> TrainConfig:
    """Twins-PCPVT-S on ImageNet-1k, from scratch.

    Command: torchrun --nproc-per-node 8 -m twins train --recipe imagenet_pcpvt_small --data IMAGENET
    Hardware: 8 GPUs in the reference's README; hours not known.
    Expected: top-1 81.2 % (paper, table 1). Not run here.
    """
    return _imagenet("twins_pcpvt_small", drop_path=0.2)


def imagenet_pcpvt_base() -> TrainConfig:
    """Twins-PCPVT-B on ImageNet-1k, from scratch.

    Command: torchrun --nproc-per-node 8 -m twins train --recipe imagenet_pcpvt_base --data IMAGENET
    Hardware: 8 GPUs in the reference's README; hours not known.
    Expected: top-1 82.7 % (paper, table 1). Not run here.
    """
    return _imagenet("twins_pcpvt_base", drop_path=0.3)


def imagenet_pcpvt_large() -> TrainConfig:
    """Twins-PCPVT-L on ImageNet-1k, from scratch.

    Command: torchrun --nproc-per-node 8 -m twins train --recipe imagenet_pcpvt_large --data IMAGENET
    Hardware: 8 GPUs in the reference's README; hours not known.
    Expected: top-1 83.1 % (paper, table 1). Not run here.
    """
    return _imagenet("twins_pcpvt_large", drop_path=0.5)


def imagenet_svt_small() -> TrainConfig:
    """Twins-SVT-S on ImageNet-1k, from scratch.

    Command: torchrun --nproc-per-node 8 -m twins train --recipe imagenet_svt_small --data IMAGENET
    Hardware: 8 GPUs in the reference's README; hours not known.
    Expected: top-1 81.7 % (paper, table 1). Not run here.
    """
    return _imagenet("twins_svt_small", drop_path=0.2)


def imagenet_svt_base() -> TrainConfig:
    """Twins-SVT-B on ImageNet-1k, from scratch.

    Command: torchrun --nproc-per-node 8 -m twins train --recipe imagenet_svt_base --data IMAGENET
    Hardware: 8 GPUs in the reference's README; hours not known.
    Expected: top-1 83.2 % (paper, table 1). Not run here.
    """
    return _imagenet("twins_svt_base", drop_path=0.3)


def imagenet_svt_large() -> TrainConfig:
    """Twins-SVT-L on ImageNet-1k, from scratch.

    Command: torchrun --nproc-per-node 8 -m twins train --recipe imagenet_svt_large --data IMAGENET
    Hardware: 8 GPUs in the reference's README; hours not known.
    Expected: top-1 83.7 % (paper, table 1). Not run here.
    """
    return _imagenet("twins_svt_large", drop_path=0.5)


def _imagenet(model: str, *, drop_path: float) -> TrainConfig:
    """Return what the six have in common."""
    return TrainConfig(
        recipe=f"imagenet_{model.removeprefix('twins_')}",
        model=model,
        weights="none",
        epochs=300,
        batch_size=1024,
        workers=8,
        drop_path=drop_path,
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
