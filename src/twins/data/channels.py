"""Opening images with the number of channels that a network takes."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from twins.bands import AnyImage, Bands
from twins.data.base import Derived
from twins.data.images import is_tensor, open_file, open_image, pixels_last, to_rgb, type_error, uint8_pixels
from twins.errors import DataError, InputError, NotFoundError, few, number_of

RGB = 3
ARRAY_ENDINGS = (".npy", ".npz")
"""Endings of NumPy's files, in lower case."""
_SAMPLES_PER_PIXEL = 277
"""The TIFF tag of the number of channels; Pillow drops those that its mode has no place for."""
_PAGE_MODES = ("1", "L", "I;16", "I;16L", "I;16B")
"""Modes of pages that can be channels: their values have one scale, whatever the page holds."""


def open_channels(source: Any, channels: int) -> AnyImage:
    """Open an image for a network that takes a number of channels; the result shares no memory with its source.

    Three channels are RGB, as `open_image` returns it. One is grey, to which colours are converted as Pillow does. Any
    other number must be that of the image: an array or NumPy file `(H, W, C)`, a tensor `(C, H, W)`, a Pillow image or
    file with as many bands, such as RGBA or CMYK, or a TIFF of as many grey pages.

    Args:
        source: a path, also of a `.npy` or `.npz` file; the bytes of an image file; a Pillow image; `Bands`; an array
            or tensor, uint8 or float in 0..1.
        channels: number of channels.

    Raises:
        NotFoundError: there is no such file.
        DataError: the file is no image, is damaged, or has another number of channels.
        InputError: another type, or an array, tensor or image of another shape, range or number of channels.
    """
    if isinstance(source, str | Path) and Path(source).suffix.lower() in ARRAY_ENDINGS:
        return _open_array(Path(source), channels)
    if isinstance(source, Bands):
        _check_count(len(source.channels), channels, "the image", InputError)
        return source.copy()
    if channels in (1, RGB):
        image = open_image(source)
        return image if channels == RGB else image.convert("L")
    if isinstance(source, str | Path | bytes):
        return _open_bands(source, channels)
    if isinstance(source, Image.Image):
        return _split(source, channels, "the image", InputError)
    return Bands.from_array(_pixels(source, channels))


def in_channels(images: Any, channels: int) -> Any:
    """Return a set whose images have a number of channels; one of RGB images is returned itself."""
    return images if channels == RGB else _InChannels(images, channels)


class _InChannels(Derived):
    """A set of images that are opened with a number of channels."""

    def __init__(self, images: Any, channels: int) -> None:
        super().__init__(images)
        self.channels = channels

    def load(self, index: int) -> Any:
        """Return an image with its channels; raises DataError if it cannot be read or has another number of them."""
        path = self.images.path(index)
        return open_channels(path if os.path.isfile(path) else self.images.load(index), self.channels)


def _open_array(path: Path, channels: int) -> AnyImage:
    """Open an image that NumPy saved."""
    if not os.path.exists(path):
        raise NotFoundError(f"there is no image {path!s:.250}; check the path")
    try:
        content = np.load(path, allow_pickle=False)
        arrays = {"": content} if isinstance(content, np.ndarray) else dict(content)
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} is no array, or damaged ({error}); save it again with numpy.save") from error
    if len(arrays) != 1:
        names = f": {few(list(arrays))}" if arrays else ""
        raise DataError(f"{path} must hold one array, found {len(arrays)}{names}; save the image alone")
    try:
        return open_channels(next(iter(arrays.values())), channels)
    except InputError as error:
        raise DataError(f"{path}: {error}") from error


def _open_bands(source: str | Path | bytes, channels: int) -> Bands:
    """Open the bands, or the pages, of a file."""
    result: list[Bands] = []
    name = "the image" if isinstance(source, bytes) else str(source)

    def keep(image: Image.Image) -> Image.Image:
        result.append(_split(image, channels, name, DataError))
        return image

    open_file(source, keep)
    return result[0]


def _split(image: Image.Image, channels: int, name: str, error: Callable[[str], Exception]) -> Bands:
    """Return the bands of a Pillow image, or its pages."""
    if len(image.getbands()) == 1 and getattr(image, "n_frames", 1) == channels and image.format == "TIFF":
        return _pages(image, channels, name, error)
    image = ImageOps.exif_transpose(image)
    if image.mode == "PA" or (image.mode == "P" and "transparency" in image.info):
        image = image.convert("RGBA")
    samples = getattr(image, "tag_v2", {}).get(_SAMPLES_PER_PIXEL, 1)
    _check_count(max(samples, len(image.getbands())), channels, name, error)
    return Bands([band.copy() for band in image.split()])


def _pages(image: Image.Image, channels: int, name: str, error: Callable[[str], Exception]) -> Bands:
    """Return the grey pages of a TIFF as the channels of one image."""
    pages: list[Image.Image] = []
    for number in range(channels):
        image.seek(number)
        if image.mode not in _PAGE_MODES or (pages and image.size != pages[0].size):
            raise error(
                f"page {number + 1} of {name} has {image.width} x {image.height} pixels of mode {image.mode}; pages "
                "that are the channels of an image must be grey, of 8 or 16 bits, and of one size"
            )
        pages.append(to_rgb(image).convert("L"))
    return Bands(pages)


def _pixels(source: Any, channels: int) -> np.ndarray[Any, Any]:
    """Return an array or tensor as uint8 pixels `(H, W, C)`."""
    if is_tensor(source):
        shape, expected = tuple(source.shape), f"({channels}, H, W)"
        if source.ndim == 3 and len(source) == channels:
            return uint8_pixels(pixels_last(source))
    elif isinstance(source, np.ndarray):
        shape, expected = source.shape, f"(H, W, {channels})"
        if source.ndim == 3 and source.shape[2] == channels and 0 not in source.shape:
            return uint8_pixels(source)
    else:
        raise type_error(source)
    raise InputError(f"the network takes images of {number_of(channels, 'channel')}, {expected}, found {shape}")


def _check_count(count: int, channels: int, name: str, error: Callable[[str], Exception]) -> None:
    if count != channels:
        raise error(
            f"{name} has {number_of(count, 'channel')}, the network takes {channels}; give images of "
            f"{number_of(channels, 'channel')}, or another network"
        )
