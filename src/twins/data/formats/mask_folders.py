"""Data sets of a folder of images and a folder of masks, in the common layouts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from twins.data.base import UNSPLIT, Opened
from twins.data.classes import ClassTable, built_in, find_table_file, read_table
from twins.data.formats.files import ImageFiles
from twins.data.formats.masks import MaskReader, build_reader
from twins.data.formats.names import find_listed, match_stems, read_list
from twins.data.formats.source import LISTS, MASKS, Source
from twins.data.images import list_images
from twins.data.parts import group_parts
from twins.errors import DataError, number_of

IMAGE_FOLDERS = ("images", "image", "imgs", "img", "JPEGImages", "leftImg8bit")
MASK_FOLDERS = ("masks", "mask", "annotations", "labels", "label", "gt", "gtFine", "SegmentationClass")
_MASK_ENDINGS = ("_gtFine_labelIds", "_gtFine_labelTrainIds", "_mask", "-mask", "_label", "_labelIds", "_gt", "_seg")
_IMAGE_ENDINGS = ("_leftImg8bit", "_image", "_img", "_rgb")
_ALL_VALUES = {"ade20k": range(151), "cityscapes": range(34)}
"""The mask values that a built-in data set can have; those without a class are ignored."""

Pairs = list[tuple[Path, Path]]
"""Images and their masks."""


class MaskedFiles(ImageFiles):
    """Images in files, each with a mask file."""

    def __init__(self, pairs: Pairs, reader: MaskReader) -> None:
        super().__init__([image for image, _ in pairs])
        self.masks, self.reader = [mask for _, mask in pairs], reader
        self.classes, self.names = reader.classes, reader.classes.names

    def target(self, index: int) -> NDArray[np.uint8]:
        """Return the label map `(H, W)`; raises DataError if the mask cannot be read."""
        return self.reader(self.masks[index])


def open_mask_folders(source: Source) -> Opened | None:
    """Open a folder of images and masks with the same names; `None` if it has no such layout.

    Layouts: `images/train` and `masks/train` (also ADE20K's `images/training` and `annotations/training`);
    `train/images` and `train/masks`; `images` and `masks` without parts;
    VOC's (`JPEGImages`, `SegmentationClass`, `ImageSets/Segmentation`); and Cityscapes' (`leftImg8bit`, `gtFine`).

    Raises:
        ConfigError: `masks.ignore` names a class that does not exist.
        DataError: an image or mask is missing, or masks contradict the classes.
    """
    layout = _find_layout(source)
    if layout is None:
        return None
    pairs = [pair for part in layout.parts.values() for pair in part]
    if not pairs:
        raise DataError(f"{source.root} leaves no image to train on; add images and masks")
    classes, ignored = _classes(source, layout)
    masks = [mask for _, mask in pairs]
    reader, notes = build_reader(source.config.masks, masks, classes, ignored=ignored)
    source.notes += notes + layout.notes
    source.names_from = source.names_from or "the values in the masks"
    source.use(MASKS, *masks)
    return Opened(
        {part: MaskedFiles(pairs, reader) for part, pairs in layout.parts.items()},
        layout.name,
        layout.folders,
        layout.origins,
    )


@dataclass
class _Layout:
    """A folder's pairs of image and mask, by part."""

    name: str
    """Name, for people."""
    parts: dict[str, Pairs]
    """The pairs of each part."""
    built_in_classes: str | None
    """Name of the layout's built-in class table; `None` if it has none."""
    notes: list[str]
    folders: list[Path]
    """Folders by which it was recognised."""
    origins: dict[str, str] = field(default_factory=dict)
    """Where each part comes from."""


def _find_layout(source: Source) -> _Layout | None:
    root = source.root
    if (root / "JPEGImages").is_dir() and (root / "SegmentationClass").is_dir():
        return _voc(source)
    folders = _folders(root)
    if folders and not list_images(folders[1]):
        folders = None
    below = _parts_below(source, *folders) if folders else _parts_above(source)
    if not below:
        return None
    notes: list[str] = []
    return _Layout(
        "a folder of images and a folder of masks",
        {part: _pair(*pair_of_folders, notes) for part, pair_of_folders in below.items()},
        _layout_classes(root, *folders) if folders else None,
        notes,
        list(folders or next(iter(below.values()))),
        {part: " and ".join(map(source.relative, pair_of_folders)) for part, pair_of_folders in below.items()},
    )


def _folders(root: Path) -> tuple[Path, Path] | None:
    """Return the folder of images and the folder of masks in a folder; `None` if one is missing."""
    images, masks = (
        next((root / name for name in names if (root / name).is_dir()), None) for names in (IMAGE_FOLDERS, MASK_FOLDERS)
    )
    return (images, masks) if images and masks else None


def _parts_above(source: Source) -> dict[str, tuple[Path, Path]]:
    """Return the image and mask folders of `train/images` and `train/masks`, and those of the other parts."""
    parts = {part: paths[0] for part, paths in source.part_folders(source.root).items()}
    pairs = {part: _folders(folder) for part, folder in parts.items()}
    existing = {part: pair for part, pair in pairs.items() if pair is not None}
    if existing and "val" in pairs and pairs["val"] is None:
        first = parts[next(iter(existing))]
        raise DataError(f"{parts['val']} needs a folder of images and one of masks, as {first} has")
    return existing


def _parts_below(source: Source, images: Path, masks: Path) -> dict[str, tuple[Path, Path]]:
    """Return the image and mask folders of each part below `images` and `masks`, or these two if they are unsplit."""
    image_folders, mask_folders = source.part_folders(images), source.part_folders(masks)
    parts = {}
    for part, (folder, *_) in image_folders.items():
        names = [part, *(other for other in ("val", "test") if part != "train" and other not in image_folders)]
        candidates = [masks / folder.name, *(mask_folders[name][0] for name in names if name in mask_folders)]
        if (mask_folder := next((path for path in candidates if path.is_dir()), None)) is None:
            raise DataError(f"{masks} has no folder {folder.name} for the images in {folder}; add it")
        parts[part] = folder, mask_folder
    return parts or {UNSPLIT: (images, masks)}


def _layout_classes(root: Path, images: Path, masks: Path) -> str | None:
    """Return the name of a layout's built-in class table, or `None`."""
    if any(root.glob("objectInfo150.*")) or root.name.startswith("ADEChallengeData2016"):
        return "ade20k"
    return "cityscapes" if (images.name, masks.name) == ("leftImg8bit", "gtFine") else None


def _voc(source: Source) -> _Layout:
    root, notes = source.root, []
    folders = root / "JPEGImages", root / "SegmentationClass"
    pairs = _pair(*folders, [])  # most of VOC's images have no mask
    lists = source.one_each(group_parts((root / "ImageSets" / "Segmentation").glob("*.txt")))
    by_name = {image.stem: (image, mask) for image, mask in pairs}
    parts = {}
    for part, (path, *_) in lists.items():
        words = [word for line in read_list(path) for word in ([line] if line in by_name else line.split())]
        names, spellings = find_listed(words, path, by_name.keys())
        notes += spellings
        if missing := [name for name in names if name not in by_name]:
            raise DataError(
                f"{path} lists {missing[0]:.250}, but {root} has no image of that name with a mask; "
                f"{number_of(len(missing), 'such name')}"
            )
        parts[part] = [by_name[name] for name in names]
        source.use(LISTS, path)
    origins = {part: source.relative(paths[0]) for part, paths in lists.items()}
    return _Layout("Pascal VOC's masks", parts or {UNSPLIT: pairs}, "voc", notes, list(folders), origins)


def _pair(images: Path, masks: Path, notes: list[str]) -> Pairs:
    """Match images and masks by subfolder and name; images and masks without partner are reported in `notes`.

    The mask of an image has, in this order of preference, the image's exact name; its name if endings such as `_mask`
    or `_rgb` are removed; or that name directly in the folder of masks, where the image is in a subfolder.
    """
    by_name = _by_key(_list_masks(masks), masks, ())
    shortened = _by_key(list(by_name.values()), masks, _MASK_ENDINGS)
    pairs, unpaired = [], {}
    for key, image in _by_key(list_images(images), images, _IMAGE_ENDINGS).items():
        mask = by_name.get(_key(image, images, ())) or shortened.get(key) or shortened.get(key.rpartition("/")[2])
        if mask is None:
            unpaired[key] = image
        else:
            pairs.append((image, mask))
    used = {mask for _, mask in pairs}
    found = match_stems(unpaired, {key: mask for key, mask in shortened.items() if mask not in used})
    notes += found.note(f"masks of {images}")
    pairs = sorted([*pairs, *((unpaired.pop(key), mask) for key, mask in found.paths.items())])
    unused = sorted(set(by_name.values()) - {mask for _, mask in pairs})
    missing = list(unpaired.values())
    if missing and not pairs:
        raise DataError(
            f"no image in {images} has a mask of its name in {masks}, {missing[0].name} first; give both the same name"
        )
    if unused and pairs:
        count, verb = number_of(len(unused), "mask"), "has" if len(unused) == 1 else "have"
        notes.append(f"{count} in {masks} {verb} no image in {images}, {unused[0].name} first")
    if missing:
        count, verbs = number_of(len(missing), "image"), ("has", "is") if len(missing) == 1 else ("have", "are")
        notes.append(
            f"{count} in {images} {verbs[0]} no mask in {masks} and {verbs[1]} left out, {missing[0].name} first"
        )
    return pairs


def _list_masks(folder: Path) -> list[Path]:
    """Return the mask files below a folder; of Cityscapes' files only those with label ids, else with training ids."""
    files = list_images(folder)
    label_ids = [path for path in files if path.stem.endswith("_gtFine_labelIds")]
    return label_ids or [path for path in files if not path.stem.endswith(("_gtFine_color", "_gtFine_instanceIds"))]


def _by_key(paths: Sequence[Path], folder: Path, endings: Sequence[str]) -> dict[str, Path]:
    """Return files by their `_key`; raises DataError if two have the same."""
    by_key: dict[str, Path] = {}
    for path in paths:
        earlier = by_key.setdefault(_key(path, folder, endings), path)
        if earlier is not path:
            raise DataError(f"{earlier} and {path} have the same name, so they cannot be paired; keep one of them")
    return by_key


def _key(path: Path, folder: Path, endings: Sequence[str]) -> str:
    """Return the key that an image shares with its mask: subfolder and name, without the first matching ending."""
    stem = next((path.stem.removesuffix(ending) for ending in endings if path.stem.endswith(ending)), path.stem)
    return "/".join((*path.relative_to(folder).parts[:-1], stem))


def _classes(source: Source, layout: _Layout) -> tuple[ClassTable | None, tuple[int, ...]]:
    """Return the classes, and the mask values that are ignored because they have no class.

    The classes are those of the settings, else of a class table in the folder, else of the layout; `None` if there are
    none.
    """
    name = source.config.masks.classes
    if name == "auto":
        if (path := find_table_file(source.root)) is not None:
            source.use_names(path)
            return read_table(path), ()
        if layout.built_in_classes is None:
            return None, ()
        name = layout.built_in_classes
    if Path(name).is_file():
        source.use_names(Path(name))
        return read_table(Path(name)), ()
    source.names_from = f"the built-in table {name}"
    classes = built_in(name)
    first_mask = next(mask for pairs in layout.parts.values() for _, mask in pairs)
    if name == "cityscapes" and first_mask.stem.endswith("labelTrainIds"):
        # the values of these masks are class ids
        return ClassTable(classes.names, tuple(range(len(classes))), classes.colours), ()
    return classes, tuple(value for value in _ALL_VALUES.get(name, ()) if value not in classes.values)
