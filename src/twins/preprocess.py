"""How an image becomes a network's input; it travels with the weights."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Literal

from twins.errors import ConfigError

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
Interpolation = Literal["bicubic", "bilinear", "nearest"]
Fit = Literal["crop", "squash", "keep"]
TALL = 1.5
"""Heights over widths from which Pillow may resize columns before rows, as it does above 2 where that is less work."""


@dataclass(frozen=True, kw_only=True)
class Preprocess:
    """Size, crop, resampling and normalisation; the defaults are the reference's evaluation protocol."""

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
            raise ConfigError(f"size must be at least 32 pixels, found {self.size}")
        if not 0.0 < self.crop <= 1.0:
            raise ConfigError(f"crop must be above 0 and at most 1, found {self.crop}")
        if self.interpolation not in ("bicubic", "bilinear", "nearest"):
            raise ConfigError(f"interpolation must be bicubic, bilinear or nearest, found {self.interpolation!r}")
        if self.fit not in ("crop", "squash", "keep"):
            raise ConfigError(f"fit must be crop, squash or keep, found {self.fit!r}")
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0.0:
            raise ConfigError(f"mean and std must be three numbers, std above 0, found {self.mean} and {self.std}")

    def __call__(self, image: Image) -> Tensor:
        """Turn an RGB image into a normalised float32 tensor, `(3, size, size)` unless its shape is kept."""
        return self.normalise(self.resize(image))

    def levels(self, image: Image) -> Tensor:
        """Turn an RGB image into what `normalise_levels` takes: uint8 `(3, size, size)` unless its shape is kept."""
        return levels_of(self.resize(image))

    def resize(self, image: Image) -> Image:
        """Resize and crop an RGB image to `size` x `size`, as torchvision does, or resize it in its own shape."""
        if self.fit == "keep":
            return image.resize(self.kept_size(image), _filter(self.interpolation))
        from torchvision.transforms import InterpolationMode
        from torchvision.transforms.v2 import functional as T

        from twins.data.transforms.resampling import resize_and_cut

        mode = InterpolationMode(self.interpolation)
        if self.fit == "squash":
            return T.resize(image, [self.size, self.size], interpolation=mode)
        # the longer side is bounded: an extreme strip would need gigabytes for pixels that the crop throws away
        width, height = image.size
        if max(width, height) > 20 * min(width, height):
            image = _cut_strip(image)
        shorter = round(self.size / self.crop)
        if self.interpolation != "nearest" and image.height < TALL * image.width:
            return resize_and_cut(image, shorter, self.size, _filter(self.interpolation))
        return T.center_crop(T.resize(image, [shorter], interpolation=mode), [self.size] * 2)

    def kept_size(self, image: Image, factor: float = 1.0) -> tuple[int, int]:
        """Return the width and height that an image is resized to where its shape is kept, times a factor."""
        return fit_within(*image.size, factor * self.size, factor * self.longest)

    def normalise(self, image: Image) -> Tensor:
        """Turn an RGB image into a normalised float32 tensor `(3, H, W)`."""
        return self.normalise_levels(levels_of(image)[None])[0].contiguous()

    def normalise_levels(self, levels: Tensor, sizes: Tensor | None = None) -> Tensor:
        """Normalise a batch where it lies; its layout in memory stays.

        Args:
            levels: uint8 `(B, 3, H, W)`.
            sizes: true height and width of each image, int `(B, 2)`; what lies outside becomes 0. `None`: all fill it.

        Returns:
            float32 `(B, 3, H, W)`.
        """
        import torch

        from twins.ops.padding import inside

        mean, std = (torch.tensor(values, device=levels.device).view(3, 1, 1) for values in (self.mean, self.std))
        pixels = torch.empty_like(levels, dtype=torch.float32)
        at_once = 1 if levels.device.type == "cpu" else len(levels)  # one image stays in a processor's cache
        for part, its in zip(*(torch.split(each, max(1, at_once)) for each in (pixels, levels)), strict=True):
            part.copy_(its).div_(255.0).sub_(mean).div_(std)
        if sizes is None:
            return pixels
        return pixels.masked_fill_(~inside(sizes.to(levels.device), *levels.shape[2:])[:, None], 0.0)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON-ready values."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Preprocess:
        """Build from what `to_dict` returned.

        Raises:
            ConfigError: an unknown field or a value out of range.
        """
        known = {field.name for field in fields(cls)}
        if unknown := sorted(set(values) - known):
            raise ConfigError(f"preprocessing has no field {', '.join(unknown)}; the fields are {', '.join(known)}")
        plain: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in values.items()
        }
        return cls(**plain)


def levels_of(image: Image) -> Tensor:
    """Return an RGB image's levels, uint8 `(3, H, W)`, the channels of a pixel side by side in memory."""
    import numpy as np
    import torch

    return torch.from_numpy(np.array(image, dtype=np.uint8)).permute(2, 0, 1)


def keep_shape(known: Preprocess, *, size: int, longest: int, flag: str) -> Preprocess:
    """Return a preparation that keeps an image's shape.

    Args:
        known: whose normalisation it has.
        size: the shorter side in pixels.
        longest: most pixels of the longer one.
        flag: what users call that.

    Raises:
        ConfigError: the shorter side could never be so long.
    """
    if size > longest:
        raise ConfigError(
            f"--size is the shorter side and cannot exceed {flag}, found {size} and {longest}; raise the latter"
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


def _filter(interpolation: Interpolation) -> Any:
    from PIL.Image import Resampling

    return Resampling[interpolation.upper()]


def _cut_strip(image: Image) -> Image:
    """Cut the middle out of an image that is over 20 times as long as it is wide: all that a centre crop sees."""
    width, height = image.size
    side = 2 * min(width, height)
    left, top = max(0, (width - side) // 2), max(0, (height - side) // 2)
    return image.crop((left, top, min(width, left + side), min(height, top + side)))
