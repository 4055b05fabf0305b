"""Mixup and CutMix of a classifier's batch."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from twins.data.seeding import seeded


def mix(
    images: Tensor,
    targets: Tensor,
    *,
    mixup: float,
    cutmix: float,
    smoothing: float,
    num_classes: int,
    key: Sequence[int],
) -> tuple[Tensor, Tensor]:
    """Mix the images of a batch by timm's mixup or cutmix; all randomness depends only on `key`.

    Args:
        images: `(B, 3, H, W)`, `B` even.
        targets: class ids `(B,)`.
        mixup: alpha of mixup; 0 is off.
        cutmix: alpha of cutmix; 0 is off. With both on, each batch uses one of them, with equal probability.
        smoothing: share of each target that is spread over all classes.
        num_classes: `K`.
        key: seed, epoch and index of the first image.

    Returns:
        images of the same shape, and target probabilities `(B, K)`.
    """
    from timm.data import Mixup

    mixer = Mixup(mixup_alpha=mixup, cutmix_alpha=cutmix, label_smoothing=smoothing, num_classes=num_classes)
    with seeded(*key):
        mixed_images, soft_targets = mixer(images.clone(), targets)
    return mixed_images, soft_targets
