"""What happens to an image between file and network, in training and in evaluation."""

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
from twins.data.transforms.patches import Patch, Patched
from twins.preprocess import Preprocess, pixels_of

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from twins.data.transforms.resampling import Pixels

ImageTransform = Callable[["Image"], "Tensor | Patched"]
_QUICK = {
    "ShearX": resampling.shear_x,
    "ShearY": resampling.shear_y,
    "TranslateXRel": resampling.translate_x,
    "TranslateYRel": resampling.translate_y,
    "Sharpness": resampling.sharpen,
    "SharpnessIncreasing": resampling.sharpen,
}
"""Operations of RandAugment that take Pillow milliseconds, by timm's names; moves are bicubic."""
_BY_VALUE = ("Invert", "Posterize", "Solarize", "Brightness")
"""Beginnings of timm's names of operations that look at one value at a time."""
_AREA, _ASPECT = (0.02, 1.0 / 3.0), (0.3, 1.0 / 0.3)
"""Share of the image and aspect ratio of what is erased (arXiv 1708.04896, as in timm)."""
_TRIES = 10


class ImageAlone:
    """A transform of images that leaves their targets as they are."""

    def __init__(self, transform: ImageTransform) -> None:
        self.transform = transform

    def __call__(self, image: Image, target: Any) -> tuple[Tensor | Patched, Any]:
        """Return the network's input `(3, H, W)` and the target."""
        return self.transform(image), target


def train_transform(augment: AugmentConfig, preprocess: Preprocess) -> ImageTransform:
    """Return a random transform of RGB images to uint8 `(3, size, size)`."""
    if augment.shift_pixels is not None:
        return Shift(augment.shift_pixels, preprocess)
    return RandomPart(augment, preprocess)


class Shift:
    """Resize as in evaluation, then move the image by up to `pixels` each way; what comes in is black."""

    def __init__(self, pixels: int, preprocess: Preprocess) -> None:
        self.pixels, self.preprocess = pixels, preprocess

    def __call__(self, image: Image) -> Tensor:
        """Return uint8 `(3, size, size)`."""
        image = self.preprocess.resize(image)
        x, y = (random.randint(-self.pixels, self.pixels) for _ in range(2))
        return pixels_of(image.crop((x, y, x + image.width, y + image.height)))  # Pillow fills with black outside


class RandomPart:
    """A random part at the network's size, flipped, coloured and erased: timm's transforms, in the reference's order.

    What is random is drawn as timm's `create_transform` draws it, so that a seed shows what it shows there, except
    for rounding and the noise in erased rectangles. RandAugment's and the colours' operations are timm's too, some
    of them computed by `twins.data.transforms.resampling`.
    """

    def __init__(self, augment: AugmentConfig, preprocess: Preprocess) -> None:
        from timm.data import create_transform

        self.augment, self.preprocess = augment, preprocess
        _, changes, _ = create_transform(
            input_size=preprocess.size,
            is_training=True,
            color_jitter=augment.color_jitter or None,
            auto_augment=augment.rand_augment,
            interpolation=preprocess.interpolation,
            mean=preprocess.mean,
            std=preprocess.std,
            separate=True,
        )
        self.changes = [_quickened(step, preprocess.interpolation) for step in changes.transforms]

    def __call__(self, image: Image) -> Patched:
        """Return uint8 `(3, size, size)`, with what is to be erased once it is normalised."""
        from timm.data.transforms import RandomResizedCropAndInterpolation as Crop

        augment, side = self.augment, self.preprocess.size
        top, left, height, width = Crop.get_params(image, augment.scale, augment.ratio)
        box = left, top, left + width, top + height
        part = image.crop(box)
        if _happens(augment.hflip):
            part = part.transpose(Pillow.Transpose.FLIP_LEFT_RIGHT)
        if _happens(augment.vflip):
            part = part.transpose(Pillow.Transpose.FLIP_TOP_BOTTOM)
        pixels = resampling.resize_pixels(part, (side, side), self.preprocess.interpolation)
        for change in self.changes:
            pixels = change(pixels)
        return Patched(torch.from_numpy(pixels).permute(2, 0, 1), _erased(augment.erasing, side))


def _happens(probability: float) -> bool:
    """Draw whether a flip happens, as torchvision does: one that never happens draws nothing."""
    return probability > 0.0 and bool(torch.rand(1) < probability)


def _erased(probability: float, side: int) -> tuple[Patch, ...]:
    """Draw the rectangle of a square that noise takes the place of, as timm does; mostly there is none."""
    if probability <= 0.0 or random.random() > probability:
        return ()
    for _ in range(_TRIES):
        area = random.uniform(*_AREA) * side * side
        aspect = math.exp(random.uniform(*map(math.log, _ASPECT)))
        height, width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if height < side and width < side:
            top, left = random.randint(0, side - height), random.randint(0, side - width)
            return (Patch(top, left, height, width, noise=int(torch.randint(2**63 - 1, ()))),)
    return ()


def _quickened(step: Any, interpolation: str) -> Callable[[Pixels], Pixels]:
    """Let a step of timm's transforms take and give pixels `(H, W, 3)`; RandAugment's operations one by one."""
    from timm.data.auto_augment import RandAugment

    if not isinstance(step, RandAugment):
        return partial(_on_pictures, step)
    for operation in step.ops:
        moves = operation.name.startswith(("Shear", "Translate"))
        if operation.name.startswith("Posterize"):
            operation.aug_fn = _posterize
        if operation.name in _QUICK and (interpolation == "bicubic" or not moves):
            operation.aug_fn = _QUICK[operation.name]
        elif operation.name.startswith(_BY_VALUE):
            operation.aug_fn = partial(_by_value, operation.aug_fn)
        else:
            operation.aug_fn = partial(_on_pictures, operation.aug_fn)
    return step


def _on_pictures(change: Callable[..., Image], pixels: Pixels, *arguments: Any, **settings: Any) -> Pixels:
    """Return what a function of Pillow images makes of pixels."""
    return np.array(change(Pillow.fromarray(pixels), *arguments, **settings))


def _by_value(change: Callable[..., Image], pixels: Pixels, *arguments: Any, **settings: Any) -> Pixels:
    """Return what a function of Pillow images that looks at one value at a time makes of pixels: asked of all 256."""
    ramp = Pillow.fromarray(np.arange(256, dtype=np.uint8)[None, :, None].repeat(3, axis=2))
    table = np.asarray(change(ramp, *arguments, **settings))[0, :, 0].tobytes()
    return np.frombuffer(bytearray(pixels.tobytes().translate(table)), np.uint8).reshape(pixels.shape)


def _posterize(image: Image, bits: int, **_: object) -> Image:
    """Keep some bits of each value; 0 bits give black, which newer Pillow refuses."""
    if bits >= 8:
        return image
    return ImageOps.posterize(image, bits) if bits >= 1 else image.point(lambda _: 0)
