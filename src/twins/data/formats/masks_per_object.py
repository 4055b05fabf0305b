"""Folders of one image and a mask for each of its objects, as the nuclei of Kaggle's Data Science Bowl 2018."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from twins.data.base import UNSPLIT, Opened
from twins.data.classes import build_table
from twins.data.formats.files import ImageFiles
from twins.data.formats.mask_names import role_of, stripped, subfolders
from twins.data.formats.mask_problems import WHITES
from twins.data.formats.masks import read_values
from twins.data.formats.source import MASKS, Source
from twins.data.images import list_images
from twins.data.parts import group_parts, part_of
from twins.errors import ConfigError, DataError

_FILLERS = frozenset(("stage",))
_CLASSES = build_table(("background", "foreground"))


class ObjectMaskFiles(ImageFiles):
    """Images in files, each with the mask files of its objects, whose union is the foreground."""

    classes, names = _CLASSES, _CLASSES.names

    def __init__(self, images: Mapping[Path, Sequence[Path]]) -> None:
        super().__init__(list(images))
        self.masks = list(images.values())

    def target(self, index: int) -> NDArray[np.uint8]:
        """Return the label map `(H, W)`: 1 where any mask is not 0, or above half of white if it holds white.

        Raises:
            DataError: a mask cannot be read.
        """
        total: NDArray[np.bool_] | None = None
        for path in self.masks[index]:
            pixels = read_values(path)
            top = int(pixels.max(initial=0))
            above = pixels > (top // 2 if top in WHITES else 0)  # soft edges are cut at half
            inside = np.asarray(above if pixels.ndim == 2 else above.any(axis=2), dtype=np.bool_)
            if total is not None and total.shape != inside.shape:
                raise DataError(f"{path} has another size than the masks beside it; save all at the image's size")
            total = inside if total is None else total | inside
        assert total is not None  # images without masks are passed over
        return total.astype(np.uint8)


def find_object_masks(source: Source) -> tuple[Path, ...]:
    """Return the folders of the first image and of its masks in this layout; none if it is another."""
    for folders in _parts(source).values():
        for folder in folders[:1]:
            return _inner(folder) or ()
    return ()


def open_object_masks(source: Source) -> Opened:
    """Open folders such as `ID/images/ID.png` and `ID/masks/*.png`, in the data folder or in folders of its parts.

    Raises:
        ConfigError: settings of masks, which do not apply.
        DataError: no image has masks.
    """
    if source.config.masks.values != "auto" or source.config.masks.classes != "auto" or source.config.masks.ignore:
        raise ConfigError(
            f"{source.root} has a mask for each object, whose union is the foreground; leave out the settings `masks`"
        )
    parts: dict[str, dict[Path, list[Path]]] = {}
    folders = _parts(source)
    for part, paths in folders.items():
        parts[part] = {}
        for path in paths:
            images, masks = _inner(path) or (path, path)
            files = list_images(masks)
            (image,) = list_images(images)
            if files:
                parts[part][image] = files
            else:
                source.pass_over("an image without a mask", image)
        source.use(MASKS, *(path for files in parts[part].values() for path in files))
    if not any(parts.values()):
        raise DataError(f"{source.root} leaves no image to train on; add images and masks")
    source.names_from = "the layout"
    source.notes.append("each image has a mask for each object; their union is the foreground")
    parents = {part: paths[0].parent for part, paths in folders.items()}
    if UNSPLIT not in parts:
        source.recognise(**{part: (source.relative(path),) for part, path in parents.items()})
    first = next(paths[0] for paths in folders.values())
    return Opened(
        {part: ObjectMaskFiles(images) for part, images in parts.items() if images},
        "a mask for each object",
        list(_inner(first) or (first,)),
        {part: source.relative(path) for part, path in parents.items()},
    )


def _parts(source: Source) -> dict[str, list[Path]]:
    """Return the folders of this layout by part; none if it is another."""
    settings = {part: [path for path in paths if path.is_dir()] for part, paths in source.part_paths().items()}
    groups = {part: paths for part, paths in settings.items() if paths}
    if not groups and not source.layout.images and not source.layout.annotations:
        groups = {UNSPLIT: [source.root]} if _holds(source.root) else group_parts(subfolders(source.root), _FILLERS)
    parts = {part: [path for base in bases for path in _holds(base)] for part, bases in groups.items()}
    return {part: paths for part, paths in parts.items() if paths}


def _holds(folder: Path) -> list[Path]:
    """Return the folders of one image and its masks in a folder; none unless nearly all are of this kind."""
    folders = subfolders(folder)
    if not folders or any(part_of(path.name) for path in folders) or _inner(folders[0]) is None:
        return []
    inside = [path for path in folders if _inner(path) is not None]
    return inside if 2 * len(inside) > len(folders) else []


def _inner(folder: Path) -> tuple[Path, Path] | None:
    """Return the folder of the one image and that of the masks of its objects; `None` for other folders."""
    roles = {path: role.kind for path in subfolders(folder) if (role := role_of(path.name)) and role.part is None}
    images = [path for path, kind in roles.items() if kind == "images"]
    masks = [path for path, kind in roles.items() if kind == "masks"]
    if len(images) != 1 or len(masks) != 1 or len(files := list_images(images[0])) != 1:
        return None
    names = {name for path in list_images(masks[0]) for name in (path.stem, stripped(path.stem, "masks"))}
    return None if {files[0].stem, stripped(files[0].stem, "images")} & names else (images[0], masks[0])
