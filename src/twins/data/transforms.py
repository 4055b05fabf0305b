"""What happens to an image between file and network, in training and in evaluation."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from PIL import ImageOps

from twins.data.augment import AugmentConfig
from twins.data.preprocess import Preprocess

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

ImageTransform = Callable[["Image"], "Tensor"]


class ImageAlone:
    """A transform of images that leaves their targets as they are."""

    def __init__(self, transform: ImageTransform) -> None:
        self.transform = transform

    def __call__(self, image: Image, target: Any) -> tuple[Tensor, Any]:
        """Return the network's input `(3, H, W)` and the target."""
        return self.transform(image), target


def train_transform(augment: AugmentConfig, preprocess: Preprocess) -> ImageTransform:
    """Return a random transform of RGB images to normalised `(3, size, size)`.

    Crops, flips, RandAugment, colour and erasing are timm's, in the order of the reference's `build_transform`.
    """
    if augment.shift_pixels is not None:
        return Shift(augment.shift_pixels, preprocess)
    from timm.data import create_transform

    transform = create_transform(
        input_size=preprocess.size,
        is_training=True,
        scale=augment.scale,
        ratio=augment.ratio,
        hflip=augment.hflip,
        vflip=augment.vflip,
        color_jitter=augment.color_jitter or None,
        auto_augment=augment.rand_augment,
        interpolation=preprocess.interpolation,
        mean=preprocess.mean,
        std=preprocess.std,
        re_prob=augment.erasing,
        re_mode="pixel",
        re_count=1,
    )
    return _mend_posterize(transform)


class Shift:
    """Resize as in evaluation, then move the image by up to `pixels` each way; what comes in is black."""

    def __init__(self, pixels: int, preprocess: Preprocess) -> None:
        self.pixels, self.preprocess = pixels, preprocess

    def __call__(self, image: Image) -> Tensor:
        """Return a normalised tensor `(3, size, size)`."""
        image = self.preprocess.resize(image)
        x, y = (random.randint(-self.pixels, self.pixels) for _ in range(2))
        moved = image.crop((x, y, x + image.width, y + image.height))  # Pillow fills with black outside
        return self.preprocess.normalise(moved)


def _mend_posterize(transform: Any) -> ImageTransform:
    """Let timm's RandAugment reduce to 0 bits, which gives black, where newer Pillow refuses."""
    for step in transform.transforms:
        for operation in getattr(step, "ops", ()):
            if operation.name.startswith("Posterize"):
                operation.aug_fn = _posterize
    return transform


def _posterize(image: Image, bits: int, **_: object) -> Image:
    if bits >= 8:
        return image
    return ImageOps.posterize(image, bits) if bits >= 1 else image.point(lambda _: 0)
