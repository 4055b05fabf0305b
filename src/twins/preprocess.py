"""`Preprocess`: resize, crop and normalisation of an image; saved with the weights."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar, overload

from twins.errors import ConfigError, InputError, number_of

if TYPE_CHECKING:
    from PIL.Image import Image, Resampling
    from torch import Tensor

    from twins.bands import AnyImage, Bands

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
Interpolation = Literal["bicubic", "bilinear", "nearest"]
Fit = Literal["crop", "squash", "keep"]
Picture = TypeVar("Picture", "Image", "Bands")
VERTICAL_FIRST_ASPECT = 1.5
"""Height over width from which Pillow may run its vertical pass first; it does so above 2 if that is less work."""
MAX_ASPECT = 20
"""Longer over shorter side above which only the middle of an image is resized for a centre crop."""


@dataclass(frozen=True, kw_only=True)
class Preprocess:
    """Size, crop, filter and normalisation; the defaults are the reference's evaluation protocol.

    A network keeps it as `model.info.preprocess`, which checkpoints save. Called with an RGB Pillow image, it returns
    the network's input: `model(preprocess(image)[None])`. Networks for other numbers of channels (C below) take grey
    Pillow images, or `twins.bands.Bands`. For batches, `pixels` returns uint8 images, and `normalise`
    converts them to floats on the network's device.

    Raises:
        ConfigError: a value is out of range.
    """

    size: int = 224
    """Side of the square input in pixels; with `fit="keep"` the shorter side."""
    crop: float = 0.875
    """Share of the resized image's shorter side that the centre crop keeps, in (0, 1]."""
    interpolation: Interpolation = "bicubic"
    """Pillow's resampling filter, with antialiasing."""
    mean: tuple[float, ...] = IMAGENET_MEAN
    """Mean of each channel, for values in 0..1."""
    std: tuple[float, ...] = IMAGENET_STD
    """Standard deviation of each channel, for values in 0..1."""
    fit: Fit = "crop"
    """`crop`: resize with the aspect ratio kept, then centre crop; `squash`: resize both sides to `size`; `keep`:
    resize with the aspect ratio kept, without a crop."""
    longest: int = 2048
    """With `fit="keep"`, the limit of the longer side in pixels; if it applies, the shorter side is below `size`."""

    def __post_init__(self) -> None:
        if self.size < 32:
            raise ConfigError(f"`size` must be at least 32 pixels, found {self.size}")
        if not 0.0 < self.crop <= 1.0:
            raise ConfigError(f"`crop` must be above 0 and at most 1, found {self.crop}")
        if self.interpolation not in ("bicubic", "bilinear", "nearest"):
            raise ConfigError(f"`interpolation` must be bicubic, bilinear or nearest, found {self.interpolation!r}")
        if self.fit not in ("crop", "squash", "keep"):
            raise ConfigError(f"`fit` must be crop, squash or keep, found {self.fit!r}")
        finite = all(map(math.isfinite, (*self.mean, *self.std)))
        if not self.mean or len(self.mean) != len(self.std) or not finite or min(self.std) <= 0.0:
            raise ConfigError(
                "`mean` and `std` must hold a number for each channel, three for RGB, `std` above 0, found "
                f"{self.mean} and {self.std}"
            )

    def for_channels(self, channels: int) -> Preprocess:
        """Return the preprocessing for images of a number of channels.

        Constants of RGB are averaged for one channel, and repeated in turn for others, as timm adapts the weights of
        the first convolution; a single constant is repeated, as in timm.

        Raises:
            ConfigError: the constants are for another number of channels, neither one nor three.
        """
        count = len(self.mean)
        if count == channels:
            return self
        if count not in (1, 3):
            raise ConfigError(
                f"`mean` and `std` of `preprocess` have {count} numbers, the network takes images of "
                f"{number_of(channels, 'channel')}; give a number for each channel"
            )
        if channels == 1:
            return replace(self, mean=(_average(self.mean),), std=(_average(self.std),))
        mean, std = (tuple(values[i % count] for i in range(channels)) for values in (self.mean, self.std))
        return replace(self, mean=mean, std=std)

    def __call__(self, image: AnyImage) -> Tensor:
        """Return an image as a normalised float32 tensor, `(C, size, size)`, or `(C, H, W)` with `fit="keep"`."""
        return self.normalise(self.pixels(image)[None])[0].contiguous()

    def pixels(self, image: AnyImage) -> Tensor:
        """Return a resized and cropped image as uint8, `(C, size, size)`, or `(C, H, W)` with `fit="keep"`."""
        return pixels_of(self.resize(image))

    @overload
    def resize(self, image: Image) -> Image: ...
    @overload
    def resize(self, image: Bands) -> Bands: ...
    def resize(self, image: Any) -> Any:
        """Resize and crop an image as torchvision does: to `size` x `size`, or with `fit="keep"` without a crop."""
        if self.fit == "keep":
            return image.resize(self.kept_size(image), self.resampling)
        if self.fit == "squash":
            return image.resize((self.size, self.size), self.resampling)
        return _resize_and_crop(image, self._shorter, self.size, self.resampling)

    def kept_size(self, image: AnyImage, factor: float = 1.0) -> tuple[int, int]:
        """Return the width and height of the resized image with `fit="keep"`, with sizes multiplied by a factor."""
        return fit_within(*image.size, factor * self.size, factor * self.longest)

    def output_size(self, image: AnyImage) -> tuple[int, int]:
        """Return the height and width of `pixels(image)`; only the size of `image` is read."""
        if self.fit != "keep":
            return self.size, self.size
        width, height = self.kept_size(image)
        return height, width

    def seen_part(self, width: int, height: int) -> tuple[float, float, float, float]:
        """Return the part of an image of `width` x `height` pixels that the network sees, xyxy in its pixels."""
        if self.fit != "crop":
            return 0.0, 0.0, float(width), float(height)
        left, top = 0, 0
        if max(width, height) > MAX_ASPECT * min(width, height):
            left, top, right, bottom = _strip_box(width, height)
            width, height = right - left, bottom - top
        resized_width, resized_height = _resized_sides((width, height), self._shorter)
        x0, x1 = (edge * width / resized_width for edge in _centre(resized_width, self.size))
        y0, y1 = (edge * height / resized_height for edge in _centre(resized_height, self.size))
        return left + x0, top + y0, left + x1, top + y1

    @property
    def _shorter(self) -> int:
        """Shorter side in pixels of the resized image before the centre crop."""
        return round(self.size / self.crop)

    @property
    def resampling(self) -> Resampling:
        """Pillow's filter for `interpolation`."""
        from PIL.Image import Resampling

        return Resampling[self.interpolation.upper()]

    def normalise(self, images: Tensor, sizes: Tensor | None = None) -> Tensor:
        """Normalise a batch on its device: `(x / 255 - mean) / std`. Every input of a network is normalised here.

        Args:
            images: uint8 `(B, C, H, W)`; float images count as normalised and are returned unchanged.
            sizes: true height and width of each image, int `(B, 2)`; padding outside becomes 0. `None`: no padding.

        Returns:
            float32 `(B, C, H, W)`, in the memory layout of `images`.

        Raises:
            InputError: the images have another number of channels than `mean`.
        """
        import torch

        if images.is_floating_point():
            return images
        if images.shape[1] != len(self.mean):
            found, expected = (number_of(count, "channel") for count in (images.shape[1], len(self.mean)))
            raise InputError(f"the images have {found}, `mean` and `std` are for {expected}; give other images")
        device = images.device
        mean, std = (torch.tensor(values, device=device).view(-1, 1, 1) for values in (self.mean, self.std))
        normalised = torch.empty_like(images, dtype=torch.float32)
        chunk = 1 if device.type == "cpu" else max(1, len(images))  # one image stays in the cache of a CPU
        for normal, pixels in zip(*(torch.split(tensor, chunk) for tensor in (normalised, images)), strict=True):
            normal.copy_(pixels).div_(255.0).sub_(mean).div_(std)
        if sizes is None:
            return normalised
        ends = sizes.to(device)[:, :, None]
        rows, columns = (torch.arange(side, device=device) >= ends[:, i] for i, side in enumerate(images.shape[2:]))
        return normalised.masked_fill_(rows[:, None, :, None] | columns[:, None, None], 0.0)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Preprocess:
        """Build a `Preprocess` from the values of `to_dict`.

        Raises:
            ConfigError: a field is unknown, or a value is out of range.
        """
        field_names = [field.name for field in fields(cls)]
        if unknown := sorted(set(values) - set(field_names)):
            raise ConfigError(
                f"preprocessing has no field {', '.join(unknown)}; the fields are {', '.join(field_names)}"
            )
        arguments: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in values.items()
        }
        return cls(**arguments)


@dataclass(frozen=True, kw_only=True)
class FixedPreprocess(Preprocess):
    """Preprocessing with `fit="keep"` for a file of fixed height or width: images are resized to lie inside them."""

    height: int | None = None
    """Height of the file's images in pixels; `None` is open."""
    width: int | None = None
    """Width of the file's images in pixels; `None` is open."""

    def kept_size(self, image: AnyImage, factor: float = 1.0) -> tuple[int, int]:
        """Return the width and height of the resized image."""
        limits = [limit / side for limit, side in zip((self.width, self.height), image.size, strict=True) if limit]
        if len(limits) < 2:
            limits.append(super().kept_size(image, factor)[0] / image.size[0])
        width, height = (max(1, round(side * min(limits))) for side in image.size)
        return min(width, self.width or width), min(height, self.height or height)


@dataclass(frozen=True, kw_only=True)
class NoResize(Preprocess):
    """Preprocessing of a file that resizes its images in the graph."""

    def resize(self, image: Any) -> Any:
        """Return the image unchanged."""
        return image

    def kept_size(self, image: AnyImage, factor: float = 1.0) -> tuple[int, int]:
        """Return the width and height of the image."""
        return image.size

    def output_size(self, image: AnyImage) -> tuple[int, int]:
        """Return the height and width of the image."""
        return image.height, image.width

    def seen_part(self, width: int, height: int) -> tuple[float, float, float, float]:
        """Return the whole image."""
        return 0.0, 0.0, float(width), float(height)


def pixels_of(image: AnyImage) -> Tensor:
    """Return an image as uint8 `(C, H, W)`, channels last in memory."""
    import numpy as np
    import torch

    from twins.bands import Bands

    pixels = image.to_array() if isinstance(image, Bands) else np.array(image, dtype=np.uint8)
    return torch.from_numpy(pixels if pixels.ndim == 3 else pixels[:, :, None]).permute(2, 0, 1)


def _average(values: tuple[float, ...]) -> float:
    return round(sum(values) / len(values), 6)


def keep_shape(preprocess: Preprocess, *, size: int, longest: int, setting: str) -> Preprocess:
    """Return preprocessing with `fit="keep"`, which keeps the aspect ratio of images.

    Args:
        preprocess: its normalisation is kept.
        size: shorter side in pixels.
        longest: limit of the longer side in pixels.
        setting: name of the setting that `longest` comes from, for messages.

    Raises:
        ConfigError: `size` is larger than `longest`.
    """
    if size > longest:
        raise ConfigError(
            f"`size` is the shorter side and cannot exceed `{setting}`, found {size} and {longest}; raise the latter"
        )
    return replace(preprocess, size=size, fit="keep", longest=longest, interpolation="bilinear")


def fit_within(width: float, height: float, shorter: float, longest: float) -> tuple[int, int]:
    """Return the new width and height of a resize that keeps the aspect ratio.

    As in mmdetection and mmsegmentation, the shorter side becomes `shorter`, or less if the longer one would exceed
    `longest`; both sides are at least 32 pixels.
    """
    scale = min(shorter / min(width, height), longest / max(width, height))
    new_width, new_height = (max(32, int(side * scale + 0.5)) for side in (width, height))
    return new_width, new_height


def _resize_and_crop(image: Picture, shorter: int, side: int, resampling: Resampling) -> Picture:
    """Resize an image's shorter side to `shorter` pixels, and crop the centre of `side` x `side` pixels.

    Bit-identical to Pillow's resize of the whole image with a crop. Only the centre is computed along an axis whose
    coordinates are exact in Pillow's float32 boxes, for example if the shorter side becomes 256; else the whole axis.
    """
    # a very long strip would need gigabytes for pixels that the crop discards
    if max(image.size) > MAX_ASPECT * min(image.size):
        image = _crop_strip(image)
    width, height = _resized_sides(image.size, shorter)
    if resampling.name == "NEAREST" or image.height >= VERTICAL_FIRST_ASPECT * image.width:
        (left, right), (top, bottom) = _centre(width, side), _centre(height, side)
        return image.resize((width, height), resampling).crop((left, top, right, bottom))
    columns, rows = _axis_resize(image.width, width, side), _axis_resize(image.height, height, side)
    first_row, last_row = rows.source_range(image.height)
    strip = image.crop((0, first_row, image.width, last_row))
    column_box = columns.low, 0, columns.high, strip.height
    strip = strip.resize((columns.pixels, strip.height), resampling, box=column_box)
    strip = strip.crop((columns.margin, 0, columns.margin + side, strip.height))
    row_box = 0, rows.low - first_row, side, rows.high - first_row
    strip = strip.resize((side, rows.pixels), resampling, box=row_box)
    return strip.crop((0, rows.margin, side, rows.margin + side))


def _resized_sides(size: tuple[int, int], shorter: int) -> tuple[int, int]:
    """Return the width and height of an image of `size` whose shorter side is resized to `shorter`."""
    shortest = min(size)
    width, height = (shorter if length == shortest else int(shorter * length / shortest) for length in size)
    return width, height


def _centre(resized: int, side: int) -> tuple[int, int]:
    """Return start and end of the middle `side` pixels of an axis."""
    margin = round((resized - side) / 2)
    return margin, margin + side


class _AxisResize(NamedTuple):
    """The part of an axis that is resized."""

    low: float
    high: float
    """Start and end of the part, in pixels of the source."""
    pixels: int
    """Size of the resized part in pixels."""
    margin: int
    """Pixels of the resized part before the centre crop."""

    def source_range(self, length: int) -> tuple[int, int]:
        """Return the first source pixel that the filter reads for this part, and the one after the last."""
        reach = 2 * max(1.0, (self.high - self.low) / self.pixels) + 1
        return max(0, math.floor(self.low - reach)), min(length, math.ceil(self.high + reach))


def _axis_resize(length: int, resized: int, side: int) -> _AxisResize:
    import numpy as np

    scale, (margin, end) = length / resized, _centre(resized, side)
    low, high = margin * scale, end * scale
    if all(float(np.float32(value)) == value for value in (scale, low, high)):
        return _AxisResize(low, high, side, 0)
    return _AxisResize(0, length, resized, margin)


def _crop_strip(image: Picture) -> Picture:
    """Crop the middle of a long strip, which is all that a centre crop needs."""
    return image.crop(_strip_box(*image.size))


def _strip_box(width: int, height: int) -> tuple[int, int, int, int]:
    """Return the middle of a long strip, left, top, right and bottom in pixels."""
    side = 2 * min(width, height)
    left, top = max(0, (width - side) // 2), max(0, (height - side) // 2)
    return left, top, min(width, left + side), min(height, top + side)
