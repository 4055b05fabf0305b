"""Opening any image as upright 8-bit RGB."""

from __future__ import annotations

import io
import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from twins.errors import DataError, InputError, NotFoundError
from twins.files import is_invalid_path

_NO_PIXELS = frozenset(("BUFR", "EPS", "GRIB", "HDF5", "IPTC", "MPEG", "PALM", "PCD", "PDF", "WMF"))
"""Formats of Pillow that it cannot decode by itself, and endings of documents, data, videos and point clouds."""
UNREAD_ENDINGS = frozenset((
    ".3fr", ".arw", ".avif", ".cr2", ".cr3", ".crw", ".czi", ".dcm", ".dng", ".emf", ".eps", ".erf", ".exr", ".heic",
    ".heics", ".heif", ".heifs", ".hif", ".jp2", ".jxl", ".jxr", ".lsm", ".mrw", ".nd2", ".nef", ".nrw", ".orf", ".pef",
    ".pict", ".ps", ".raf", ".rw2", ".sr2", ".srw", ".svg", ".svs", ".vsi", ".wdp", ".wmf", ".x3f",
))  # fmt: skip
"""File name endings of pictures that Pillow reads in no version or only with some libraries, in lower case."""
_MAX_FLOAT = 65535.0
"""Greatest float that is a pixel's value; programs mark missing pixels by -1e38 and its like."""
_OVERSHOOT = 2.0
"""Value to which resampling may raise floats in 0..1."""
SYSTEM_NAMES = frozenset((
    "thumbs.db", "desktop.ini", "__macosx", "@eadir", "__pycache__", "$recycle.bin", "system volume information",
    "lost+found",
))  # fmt: skip
"""Names of files and folders that systems write, in lower case."""
NO_DATA = "no_data"
"""Key in an image's `info`: the number of pixels without a value, which are read as black."""
SCALED = "scaled"
"""Key in an image's `info`: what its pixels were before they were scaled to 8 bits, and the factor."""
ORIENTATION = 0x0112
"""The EXIF tag of an image's orientation; from 5 on, height and width are swapped."""


@cache
def image_endings() -> frozenset[str]:
    """Return the file name endings of images that the installed Pillow reads, in lower case."""
    Image.init()
    readable = {"MPO", *Image.OPEN} - _NO_PIXELS
    return frozenset(ending for ending, kind in Image.registered_extensions().items() if kind in readable)


def is_image_file(path: Path) -> bool:
    """Return whether a path has the name of an image that can be read; hidden files do not count."""
    return path.suffix.lower() in image_endings() and not path.name.startswith(".")


def list_images(folder: Path) -> list[Path]:
    """Return all image files below a folder, also in linked folders, sorted, without hidden ones and a system's."""
    return list(iter_images(folder))


def iter_images(folder: Path) -> Iterator[Path]:
    """Yield the files that `list_images` returns while the folder is read; `walk` yields them in the order of paths."""
    endings = image_endings()
    return (folder / name for name in walk(folder, hidden=False) if os.path.splitext(name)[1].lower() in endings)


def walk(folder: Path, *, hidden: bool = True) -> Iterator[str]:
    """Yield the files below a folder, also in linked folders, as paths relative to it; `hidden` ones too if true."""
    if not is_invalid_path(str(folder)):
        yield from _walk(str(folder), "", (os.path.realpath(folder),), hidden)


def _walk(folder: str, inside: str, parents: tuple[str, ...], hidden: bool) -> Iterator[str]:
    """Walk one folder; `parents` are the real paths of the folders around it, which a link may lead back to."""
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:
        return  # a folder that may not be read holds nothing that can be used
    for entry in entries:
        if not hidden and is_hidden(entry.name):
            continue
        name = f"{inside}/{entry.name}" if inside else entry.name
        if not is_folder(entry):
            yield name
        elif not entry.is_symlink():
            yield from _walk(entry.path, name, (*parents, os.path.join(parents[-1], entry.name)), hidden)
        elif (real := os.path.realpath(entry.path)) not in parents:
            yield from _walk(entry.path, name, (*parents, real), hidden)


def is_hidden(name: str) -> bool:
    """Return whether a file or folder is hidden, or written by a system, such as a bin or a folder of thumbnails."""
    return name.startswith(".") or name.lower() in SYSTEM_NAMES


def subfolders(folder: Path) -> list[Path]:
    """Return the folders in a folder, sorted, without hidden ones; none if it cannot be read."""
    try:
        entries = list(os.scandir(folder))
    except OSError:
        return []
    return sorted(folder / entry.name for entry in entries if not is_hidden(entry.name) and is_folder(entry))


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Return whether an entry of a folder is one or leads to one; a link to itself does not."""
    try:
        return entry.is_dir()
    except OSError:
        return False  # a link to itself, or through a file


def count_unread(folder: Path) -> dict[str, int]:
    """Return how many pictures below a folder the installed Pillow cannot read, by file name ending."""
    endings = UNREAD_ENDINGS - image_endings()
    files = (os.path.splitext(name)[1].lower() for name in walk(folder, hidden=False))
    return dict(Counter(ending for ending in files if ending in endings))


def open_image(source: Any) -> Image.Image:
    """Open an image as upright 8-bit RGB; the result shares no memory with its source.

    Args:
        source: a path; the bytes of an image file; a Pillow image; an array `(H, W)`, `(H, W, 1 | 3)`; or a tensor
            `(1 | 3, H, W)`. Arrays and tensors are RGB, uint8 in 0..255 or float in 0..1.

    Raises:
        NotFoundError: there is no such file.
        DataError: the file is no image, is damaged, or has more pixels than is safe.
        InputError: another type, or an array or tensor of another shape or range.
    """
    if isinstance(source, str | Path | bytes):
        return open_file(source, to_rgb)
    if isinstance(source, Image.Image):
        if not source.width or not source.height:
            raise InputError(f"an image must have pixels, found {source.width} x {source.height}")
        upright = to_rgb(source)
        return source.copy() if upright is source else upright
    if isinstance(source, np.ndarray):
        return _from_array(source)
    if is_tensor(source):
        if source.ndim != 3 or source.shape[0] not in (1, 3):
            raise InputError(f"an image tensor must be (3, H, W) or (1, H, W), found {tuple(source.shape)}")
        return _from_array(pixels_last(source))
    raise type_error(source)


def is_tensor(source: Any) -> bool:
    """Return whether an image is a tensor of PyTorch, which this module does not import."""
    return hasattr(source, "detach") and hasattr(source, "permute")


def pixels_last(tensor: Any) -> np.ndarray[Any, Any]:
    """Return a tensor `(C, H, W)` as an array `(H, W, C)`; floats of any precision become float32."""
    tensor = tensor.detach().cpu().permute(1, 2, 0)
    return np.asarray((tensor.float() if tensor.is_floating_point() else tensor).numpy())


def type_error(source: Any) -> InputError:
    """Return the error for an image of another type."""
    shown = "None" if source is None else type(source).__name__
    return InputError(
        f"an image must be a path, the bytes of a file, a Pillow image, a numpy array or a tensor, found {shown}"
    )


def image_size(path: Path) -> tuple[int, int]:
    """Return the height and width of the image that `open_image` returns for a file, read from its header.

    Raises:
        NotFoundError: there is no such file.
        DataError: the file is no image, or is damaged.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                width, height = image.size
                return (width, height) if image.getexif().get(ORIENTATION, 1) in range(5, 9) else (height, width)
    except Exception:  # whatever Pillow raises for a damaged file
        opened = open_image(path)  # raises an error that says what is wrong
        return opened.height, opened.width


def is_turned(path: Path) -> bool:
    """Return whether an image's EXIF tag turns or mirrors it; false if the file cannot be read."""
    try:
        with Image.open(path) as image:
            return bool(image.getexif().get(ORIENTATION, 1) in range(2, 9))
    except Exception:  # whatever Pillow raises for a damaged file
        return False


def open_file(
    source: str | Path | bytes, convert: Callable[[Image.Image], Image.Image] = Image.Image.copy
) -> Image.Image:
    """Open the image of a file, unchanged or converted.

    Args:
        source: path of the file, or its bytes.
        convert: applied while the file is open; by default a copy.

    Raises:
        NotFoundError: there is no such file.
        DataError: the file is no image, is damaged, or has more pixels than is safe.
    """
    if not isinstance(source, bytes):
        _check_path(Path(source))
        return decode(source, Path(source), convert)
    if not source:
        raise DataError("an image must have bytes, found none; read the file again")
    return decode(f"an image of {len(source):,} bytes", io.BytesIO(source), convert)


def _check_path(path: Path) -> None:
    """Raise NotFoundError or DataError if a path does not lead to a file with content."""
    if not os.path.exists(path):  # never an error, also of names that no file can have
        raise NotFoundError(f"there is no image {path!s:.250}; check the path")
    if path.is_dir():
        raise DataError(f"{path} is a folder, not an image")
    if path.stat().st_size == 0:
        raise DataError(f"{path} is empty (0 bytes); remove it or copy it again")


def decode(
    name: object, file: Path | BinaryIO, convert: Callable[[Image.Image], Image.Image] = Image.Image.copy
) -> Image.Image:
    """Decode an image, unchanged or converted.

    Args:
        name: path or address of the image, for errors.
        file: its path, or its bytes as a stream.
        convert: applied while the file is open; by default a copy.

    Raises:
        DataError: the file is no image, is damaged, or has more pixels than is safe.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(file) as image:
                image.load()
                return convert(image)
    except UnidentifiedImageError as error:
        raise DataError(f"{name} is no image in a known format; remove it or convert it") from error
    except Image.DecompressionBombError as error:
        raise DataError(f"{name} would unpack to more pixels than is safe ({error}); make it smaller") from error
    except (OSError, ValueError, SyntaxError, IndexError, TypeError, EOFError, ArithmeticError) as error:
        raise DataError(f"{name} is damaged ({error}); remove it or copy it again") from error


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert an image to upright 8-bit RGB: transparency becomes white, 16 bits are scaled.

    An image that is so already is returned itself.
    """
    if image.getexif().get(ORIENTATION, 1) != 1:
        image = ImageOps.exif_transpose(image)
    if image.mode == "F":
        return _from_floats(np.asarray(image))
    if image.mode.startswith("I"):
        return _from_integers(np.asarray(image))
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("RGB") if image.mode != "RGB" else image


def _from_integers(values: np.ndarray[Any, Any]) -> Image.Image:
    """Return grey values of more than 8 bits as an image."""
    scaled, factor = _to_8_bit(values)
    image = _from_array(scaled)
    image.info[SCALED] = f"{8 * values.dtype.itemsize}-bit grey", factor
    return image


def _from_floats(values: np.ndarray[Any, Any]) -> Image.Image:
    """Return grey floats as an image; those without a value, NaN or beyond 16 bits, become black."""
    has_value = np.abs(values) <= _MAX_FLOAT  # false for NaN
    scaled, factor = _to_8_bit(np.where(has_value, values, 0))
    image = _from_array(scaled)
    image.info[SCALED] = "of floats", factor
    if missing := values.size - int(has_value.sum()):
        image.info[NO_DATA] = missing
    return image


def _to_8_bit(values: np.ndarray[Any, Any]) -> tuple[np.ndarray[Any, Any], str]:
    """Scale grey values to 8 bits: floats in 0..1 by 255, uint16 by 1 / 257, others by 1 / 257 if one exceeds 255.

    Floats in 0..1 may exceed 1 where an image was resampled. The factor is also returned as text.
    """
    top = float(values.max(initial=0))
    scale = 1.0 if top <= 255.0 else 1 / 257.0
    if np.issubdtype(values.dtype, np.floating) and (top <= 1.0 or (top <= _OVERSHOOT and _has_fractions(values))):
        scale = 255.0
    if np.issubdtype(values.dtype, np.unsignedinteger) and values.dtype.itemsize == 2:
        scale = 1 / 257.0
    scaled = np.clip(np.round(values.astype(np.float64) * scale), 0, 255).astype(np.uint8)
    return scaled, f"{scale:g}" if scale >= 1 else "1/257"


def _has_fractions(values: np.ndarray[Any, Any]) -> bool:
    return bool((values != np.round(values)).any())


def _from_array(array: np.ndarray[Any, Any]) -> Image.Image:
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim == 3 and array.shape[2] == 4:
        raise InputError(
            f"an image array of 4 channels may be RGBA or another image, found {array.shape}; give the three channels "
            "of RGB, or Image.fromarray(array) for RGBA, whose transparency becomes white"
        )
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] != 3) or 0 in array.shape:
        raise InputError(f"an image array must be (H, W) or (H, W, 3), found {array.shape}")
    return to_rgb(Image.fromarray(np.ascontiguousarray(uint8_pixels(array))))


def uint8_pixels(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return uint8 pixels, or floats in 0..1, as uint8; raises InputError for other values."""
    if np.issubdtype(array.dtype, np.floating):
        if not np.isfinite(array).all() or array.min() < 0.0 or array.max() > 1.0:
            raise InputError("a float image must hold values in 0..1; divide by 255, and do not normalise it")
        array = np.round(array * 255.0)
    elif array.dtype != np.uint8:
        raise InputError(f"an image array must be uint8 or float, found {array.dtype}")
    return array.astype(np.uint8)
