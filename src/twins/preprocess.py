"""How an image becomes a network's input: resize, crop, normalisation. It travels with the weights."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from twins.errors import ConfigError

if TYPE_CHECKING:
    from PIL.Image import Image, Resampling
    from torch import Tensor

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
Interpolation = Literal["bicubic", "bilinear", "nearest"]
Fit = Literal["crop", "squash", "keep"]
TALL = 1.5
"""Heights over widths from which Pillow may resize columns before rows, as it does above 2 where that is less work."""
STRIP = 20
"""Longer over shorter sides of an image above which only its middle is resized for a centre crop."""


@dataclass(frozen=True, kw_only=True)
class Preprocess:
    """Size, crop, resampling and normalisation; the defaults are the reference's evaluation protocol.

    A network has its own as `model.info.preprocess`, which checkpoints keep. Called with an RGB Pillow image it returns
    the network's input, `model(preprocess(image)[None])`. For batches `pixels` gives uint8 images, and `normalise`
    turns them into floats on the network's device.

    Raises:
        ConfigError: a value out of range.
    """

    size: int = 224
    """Side of the square input in pixels; the shorter side of one that keeps its shape."""
    crop: float = 0.875
    """Share of the resized image's shorter side that the centre crop keeps, in (0, 1]."""
    interpolation: Interpolation = "bicubic"
    """Resampling filter, Pillow's, with its antialiasing."""
    mean: tuple[float, float, float] = IMAGENET_MEAN
    """Mean of each RGB channel, of values in 0..1."""
    std: tuple[float, float, float] = IMAGENET_STD
    """Standard deviation of each RGB channel, of values in 0..1."""
    fit: Fit = "crop"
    """`crop` keeps the aspect ratio and cuts the centre out; `squash` resizes both sides to `size`; `keep` keeps the
    whole image and its aspect ratio."""
    longest: int = 2048
    """Most pixels of the longer side where the shape is kept; the shorter one is then below `size`."""

    def __post_init__(self) -> None:
        if self.size < 32:
            raise ConfigError(f"`size` must be at least 32 pixels, found {self.size}")
        if not 0.0 < self.crop <= 1.0:
            raise ConfigError(f"`crop` must be above 0 and at most 1, found {self.crop}")
        if self.interpolation not in ("bicubic", "bilinear", "nearest"):
            raise ConfigError(f"interpolation must be bicubic, bilinear or nearest, found {self.interpolation!r}")
        if self.fit not in ("crop", "squash", "keep"):
            raise ConfigError(f"fit must be crop, squash or keep, found {self.fit!r}")
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0.0:
            raise ConfigError(f"mean and std must be three numbers, std above 0, found {self.mean} and {self.std}")

    def __call__(self, image: Image) -> Tensor:
        """Return an RGB image as a normalised float32 tensor, `(3, size, size)` unless its shape is kept."""
        return self.normalise(self.pixels(image)[None])[0].contiguous()

    def pixels(self, image: Image) -> Tensor:
        """Return a resized and cropped RGB image as uint8, `(3, size, size)` unless its shape is kept."""
        return pixels_of(self.resize(image))

    def resize(self, image: Image) -> Image:
        """Resize and crop an RGB image to `size` x `size` as torchvision does, or resize it in its own shape."""
        if self.fit == "keep":
            return image.resize(self.kept_size(image), self.resampling)
        if self.fit == "squash":
            return image.resize((self.size, self.size), self.resampling)
        return _resize_and_crop(image, round(self.size / self.crop), self.size, self.resampling)

    def kept_size(self, image: Image, factor: float = 1.0) -> tuple[int, int]:
        """Return the width and height that an image is resized to where its shape is kept, times a factor."""
        return fit_within(*image.size, factor * self.size, factor * self.longest)

    @property
    def resampling(self) -> Resampling:
        """Pillow's filter of the interpolation."""
        from PIL.Image import Resampling

        return Resampling[self.interpolation.upper()]

    def normalise(self, images: Tensor, sizes: Tensor | None = None) -> Tensor:
        """Normalise a batch on its device: `(x / 255 - mean) / std`. All that a network sees comes through here.

        Args:
            images: uint8 `(B, 3, H, W)`; float images are normalised already and returned as they are.
            sizes: true height and width of each image, int `(B, 2)`; what lies outside becomes 0. `None`: all fill it.

        Returns:
            float32 `(B, 3, H, W)`, in the memory layout of `images`.
        """
        import torch

        if images.is_floating_point():
            return images
        device = images.device
        mean, std = (torch.tensor(values, device=device).view(3, 1, 1) for values in (self.mean, self.std))
        found = torch.empty_like(images, dtype=torch.float32)
        at_once = 1 if device.type == "cpu" else max(1, len(images))  # one image stays in a processor's cache
        for part, its in zip(*(torch.split(each, at_once) for each in (found, images)), strict=True):
            part.copy_(its).div_(255.0).sub_(mean).div_(std)
        if sizes is None:
            return found
        ends = sizes.to(device)[:, :, None]
        rows, columns = (torch.arange(side, device=device) >= ends[:, i] for i, side in enumerate(images.shape[2:]))
        return found.masked_fill_(rows[:, None, :, None] | columns[:, None, None], 0.0)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON-ready values."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Preprocess:
        """Build from what `to_dict` returned.

        Raises:
            ConfigError: an unknown field or a value out of range.
        """
        known = [field.name for field in fields(cls)]
        if unknown := sorted(set(values) - set(known)):
            raise ConfigError(f"preprocessing has no field {', '.join(unknown)}; the fields are {', '.join(known)}")
        plain: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in values.items()
        }
        return cls(**plain)


def pixels_of(image: Image) -> Tensor:
    """Return an RGB image as uint8 `(3, H, W)`, the channels of a pixel side by side in memory."""
    import numpy as np
    import torch

    return torch.from_numpy(np.array(image, dtype=np.uint8)).permute(2, 0, 1)


def keep_shape(known: Preprocess, *, size: int, longest: int, setting: str) -> Preprocess:
    """Return preprocessing that keeps an image's shape.

    Args:
        known: whose normalisation it has.
        size: the shorter side in pixels.
        longest: most pixels of the longer one.
        setting: the setting of a run that says `longest`.

    Raises:
        ConfigError: the shorter side could never be so long.
    """
    if size > longest:
        raise ConfigError(
            f"`size` is the shorter side and cannot exceed `{setting}`, found {size} and {longest}; raise the latter"
        )
    return replace(known, size=size, fit="keep", longest=longest, interpolation="bilinear")


def fit_within(width: float, height: float, shorter: float, longest: float) -> tuple[int, int]:
    """Return the width and height that something is resized to where its shape is kept.

    As in mmdetection and mmsegmentation: its shorter side becomes `shorter`, unless the longer one then exceeds
    `longest`; no side falls below 32 pixels.
    """
    scale = min(shorter / min(width, height), longest / max(width, height))
    across, down = (max(32, int(side * scale + 0.5)) for side in (width, height))
    return across, down


def _resize_and_crop(image: Image, shorter: int, side: int, resampling: Resampling) -> Image:
    """Resize an image's shorter side to `shorter` pixels and cut out the square centre, of at most as many.

    To the bit what Pillow gives for the whole. Along a side whose coordinates are exact in Pillow's float32 boxes, as
    they are where 256 pixels come of the shorter one, only the centre is computed; along another all of it.
    """
    # an extreme strip would need gigabytes for pixels that the crop throws away
    if max(image.size) > STRIP * min(image.size):
        image = _cut_strip(image)
    factor = min(image.size)
    width, height = (shorter if length == factor else int(shorter * length / factor) for length in image.size)
    if resampling.name == "NEAREST" or image.height >= TALL * image.width:
        left, top = round((width - side) / 2), round((height - side) / 2)
        return image.resize((width, height), resampling).crop((left, top, left + side, top + side))
    columns, rows = _along(image.width, width, side), _along(image.height, height, side)
    first, last = rows.seen(image.height)
    strip = image.crop((0, first, image.width, last))
    across = columns.low, 0, columns.high, strip.height
    strip = strip.resize((columns.pixels, strip.height), resampling, box=across)
    strip = strip.crop((columns.skip, 0, columns.skip + side, strip.height))
    down = 0, rows.low - first, side, rows.high - first
    strip = strip.resize((side, rows.pixels), resampling, box=down)
    return strip.crop((0, rows.skip, side, rows.skip + side))


class _Along(NamedTuple):
    """What is resampled along one side."""

    low: float
    high: float
    """The part of the side, in its pixels."""
    pixels: int
    """What it becomes."""
    skip: int
    """Of those, how many lie before the centre."""

    def seen(self, length: int) -> tuple[int, int]:
        """Return the first pixel of the side that the part is computed from, and the one after the last."""
        reach = 2 * max(1.0, (self.high - self.low) / self.pixels) + 1
        return max(0, math.floor(self.low - reach)), min(length, math.ceil(self.high + reach))


def _along(length: int, resized: int, side: int) -> _Along:
    import numpy as np

    scale, skip = length / resized, round((resized - side) / 2)
    low, high = skip * scale, (skip + side) * scale
    if all(float(np.float32(value)) == value for value in (scale, low, high)):
        return _Along(low, high, side, 0)
    return _Along(0, length, resized, skip)


def _cut_strip(image: Image) -> Image:
    """Cut the middle out of a long strip: all that a centre crop sees."""
    width, height = image.size
    side = 2 * min(width, height)
    left, top = max(0, (width - side) // 2), max(0, (height - side) // 2)
    return image.crop((left, top, min(width, left + side), min(height, top + side)))
