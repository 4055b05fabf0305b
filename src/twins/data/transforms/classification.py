"""Transforms of classification: random augmentation in training, and a wrapper for transforms of images alone."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image as Pillow
from PIL import ImageOps

from twins.data.transforms import resampling
from twins.data.transforms.config import AugmentConfig
from twins.data.transforms.deferred_fills import DeferredFill, PixelsWithFills
from twins.errors import ConfigError
from twins.preprocess import Preprocess, pixels_of

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from twins.data.transforms.resampling import Pixels

ImageTransform = Callable[["Image"], "Tensor | PixelsWithFills"]
_FAST_OPERATIONS = {
    "ShearX": resampling.shear_x,
    "ShearY": resampling.shear_y,
    "TranslateXRel": resampling.translate_x,
    "TranslateYRel": resampling.translate_y,
    "Sharpness": resampling.sharpen,
    "SharpnessIncreasing": resampling.sharpen,
}
"""RandAugment operations that are slow in Pillow, by timm's names, and faster ones; shears and shifts are bicubic."""
_PER_VALUE = ("Invert", "Posterize", "Solarize", "Brightness")
"""Prefixes of timm's names of operations that map each value by itself."""
_ERASED_AREA, _ERASED_RATIO = (0.02, 1.0 / 3.0), (0.3, 1.0 / 0.3)
"""Ranges of an erased rectangle's share of the image and aspect ratio (arXiv 1708.04896, as in timm)."""
_TRIES = 10
"""Attempts to sample a rectangle that fits into the image."""


class ImageAlone:
    """A transform that changes images and not their targets."""

    def __init__(self, transform: ImageTransform) -> None:
        self.transform = transform

    def __call__(self, image: Image, target: Any) -> tuple[Tensor | PixelsWithFills, Any]:
        """Return the network's input `(3, H, W)` and the target."""
        return self.transform(image), target


def train_transform(augment: AugmentConfig, preprocess: Preprocess) -> ImageTransform:
    """Return the random transform from RGB images to uint8 `(3, size, size)` that a config describes."""
    if augment.shift_pixels is not None:
        return Shift(augment.shift_pixels, preprocess)
    return AugmentedCrop(augment, preprocess)


class Shift:
    """Resize as in evaluation, then shift at random by up to `pixels` in each direction; uncovered pixels are black."""

    def __init__(self, pixels: int, preprocess: Preprocess) -> None:
        self.pixels, self.preprocess = pixels, preprocess

    def __call__(self, image: Image) -> Tensor:
        """Return uint8 `(3, size, size)`."""
        image = self.preprocess.resize(image)
        x, y = (random.randint(-self.pixels, self.pixels) for _ in range(2))
        return pixels_of(image.crop((x, y, x + image.width, y + image.height)))  # Pillow fills with black outside


class AugmentedCrop:
    """Random resized crop, flips, RandAugment or colour jitter, and random erasing, as in the reference.

    Random numbers are used in the order of timm's `create_transform`, so that a seed gives the same result, except for
    rounding and the noise of erasing. RandAugment and colour jitter are timm's; some of their operations are computed
    by `twins.data.transforms.resampling`.
    """

    def __init__(self, augment: AugmentConfig, preprocess: Preprocess) -> None:
        from timm.data import create_transform

        self.augment, self.preprocess = augment, preprocess
        try:
            _, steps, _ = create_transform(
                input_size=preprocess.size,
                is_training=True,
                color_jitter=augment.color_jitter or None,
                auto_augment=augment.rand_augment,
                interpolation=preprocess.interpolation,
                mean=preprocess.mean,
                std=preprocess.std,
                separate=True,
            )
        except (AssertionError, ValueError) as error:  # timm's, for a policy that it cannot parse
            raise ConfigError(
                f"`augment.rand_augment` must be a policy of timm such as rand-m9-mstd0.5-inc1, found "
                f"{augment.rand_augment!r}"
            ) from error
        self.steps = [_on_pixels(step, preprocess.interpolation) for step in steps.transforms]

    def __call__(self, image: Image) -> PixelsWithFills:
        """Return uint8 `(3, size, size)` with the deferred fill of erasing."""
        from timm.data.transforms import RandomResizedCropAndInterpolation as Crop

        augment, side = self.augment, self.preprocess.size
        top, left, height, width = Crop.get_params(image, augment.scale, augment.ratio)
        crop = image.crop((left, top, left + width, top + height))
        if _sample_flip(augment.hflip):
            crop = crop.transpose(Pillow.Transpose.FLIP_LEFT_RIGHT)
        if _sample_flip(augment.vflip):
            crop = crop.transpose(Pillow.Transpose.FLIP_TOP_BOTTOM)
        pixels = resampling.resize_pixels(crop, (side, side), self.preprocess.interpolation)
        for step in self.steps:
            pixels = step(pixels)
        return PixelsWithFills(torch.from_numpy(pixels).permute(2, 0, 1), _sample_erasing(augment.erasing, side))


def _sample_flip(probability: float) -> bool:
    """Decide at random on a flip, as torchvision does: a probability of 0 uses no random number."""
    return probability > 0.0 and bool(torch.rand(1) < probability)


def _sample_erasing(probability: float, side: int) -> tuple[DeferredFill, ...]:
    """Sample the rectangle of an image that noise replaces, as timm does: one or none."""
    if probability <= 0.0 or random.random() > probability:
        return ()
    for _ in range(_TRIES):
        area = random.uniform(*_ERASED_AREA) * side * side
        aspect = math.exp(random.uniform(*map(math.log, _ERASED_RATIO)))
        height, width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if height < side and width < side:
            top, left = random.randint(0, side - height), random.randint(0, side - width)
            return (DeferredFill(top, left, height, width, noise_seed=int(torch.randint(2**63 - 1, ()))),)
    return ()


def _on_pixels(step: Any, interpolation: str) -> Callable[[Pixels], Pixels]:
    """Make a step of timm's transforms, or each operation of its RandAugment, map pixels `(H, W, 3)` to pixels."""
    from timm.data.auto_augment import RandAugment

    if not isinstance(step, RandAugment):
        return partial(_through_pillow, step)
    for operation in step.ops:
        bicubic_only = operation.name.startswith(("Shear", "Translate"))
        if operation.name.startswith("Posterize"):
            operation.aug_fn = _posterize
        if operation.name in _FAST_OPERATIONS and (interpolation == "bicubic" or not bicubic_only):
            operation.aug_fn = _FAST_OPERATIONS[operation.name]
        elif operation.name.startswith(_PER_VALUE):
            operation.aug_fn = partial(_by_table, operation.aug_fn)
        else:
            operation.aug_fn = partial(_through_pillow, operation.aug_fn)
    return step


def _through_pillow(change: Callable[..., Image], pixels: Pixels, *arguments: Any, **settings: Any) -> Pixels:
    """Apply a function of Pillow images to pixels."""
    return np.array(change(Pillow.fromarray(pixels), *arguments, **settings))


def _by_table(change: Callable[..., Image], pixels: Pixels, *arguments: Any, **settings: Any) -> Pixels:
    """Apply a function of Pillow images that maps each value by itself, by a table of its 256 results."""
    ramp = Pillow.fromarray(np.arange(256, dtype=np.uint8)[None, :, None].repeat(3, axis=2))
    table = np.asarray(change(ramp, *arguments, **settings))[0, :, 0].tobytes()
    return np.frombuffer(bytearray(pixels.tobytes().translate(table)), np.uint8).reshape(pixels.shape)


def _posterize(image: Image, bits: int, **_: object) -> Image:
    """Keep the upper bits of each value; 0 bits give black, although newer Pillow refuses them."""
    if bits >= 8:
        return image
    return ImageOps.posterize(image, bits) if bits >= 1 else image.point(lambda _: 0)
