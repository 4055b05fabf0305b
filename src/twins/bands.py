"""`Bands`: an image of any number of channels, for networks that do not see RGB or grey."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image, Resampling

AnyImage: TypeAlias = "Image | Bands"
"""A Pillow image, RGB or grey, or one of any number of channels."""


class Bands:
    """An image whose channels are Pillow images of 8 bits; it is resized and cropped like a Pillow image.

    Pillow has no images of most numbers of channels, and takes the last of two or four for opacity when it resizes.

    Args:
        channels: grey images of one size.
    """

    def __init__(self, channels: Sequence[Image]) -> None:
        self.channels = tuple(channels)

    @classmethod
    def from_array(cls, pixels: NDArray[np.uint8]) -> Bands:
        """Return an image of pixels `(H, W, C)`."""
        from PIL import Image

        return cls([Image.fromarray(pixels[:, :, channel].copy()) for channel in range(pixels.shape[2])])

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.channels[0].size

    @property
    def width(self) -> int:
        """Width in pixels."""
        return self.size[0]

    @property
    def height(self) -> int:
        """Height in pixels."""
        return self.size[1]

    def resize(
        self,
        size: tuple[int, int],
        resample: Resampling | None = None,
        box: tuple[float, float, float, float] | None = None,
    ) -> Bands:
        """Return the image, or the part `box` of it, at another width and height; as `Image.resize`."""
        return Bands([channel.resize(size, resample, box=box) for channel in self.channels])

    def crop(self, box: tuple[int, int, int, int]) -> Bands:
        """Return a part of the image, left, top, right and bottom in pixels; as `Image.crop`."""
        return Bands([channel.crop(box) for channel in self.channels])

    def copy(self) -> Bands:
        """Return a copy that shares no memory with this image."""
        return Bands([channel.copy() for channel in self.channels])

    def to_array(self) -> NDArray[np.uint8]:
        """Return the pixels `(H, W, C)`."""
        import numpy as np

        return np.stack([np.asarray(channel, dtype=np.uint8) for channel in self.channels], axis=2)

    def to_rgb(self) -> Image:
        """Return a picture of the image for drawings: the first three channels as RGB, the first of two as grey."""
        from PIL import Image

        shown: Any = self.channels[:3] if len(self.channels) > 2 else self.channels[:1] * 3
        return Image.merge("RGB", shown)


def to_rgb(image: AnyImage) -> Image:
    """Return an image as a picture to draw on; see `Bands.to_rgb`."""
    return image.to_rgb() if isinstance(image, Bands) else image
