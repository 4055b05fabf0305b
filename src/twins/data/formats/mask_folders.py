"""Data sets of a folder of images and a folder of masks, in the common layouts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from twins.data.base import TRAIN_NAMES, VAL_NAMES, Opened, find_subfolder, hold_out, list_images
from twins.data.classes import ClassTable, built_in, find_table, read_table
from twins.data.config import DataConfig
from twins.data.formats.files import ImageFiles
from twins.data.formats.masks import MaskReader, build_reader
from twins.data.formats.names import find_listed, match_stems, read_list
from twins.errors import DataError

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


def open_mask_folders(root: Path, config: DataConfig) -> Opened | None:
    """Open a folder of images and masks with the same names; `None` if it has no such layout.

    Layouts: `images/train` and `masks/train` (also ADE20K's `images/training` and `annotations/training`);
    `train/images` and `train/masks`; `images` and `masks` without parts, with a share held out at random;
    VOC's (`JPEGImages`, `SegmentationClass`, `ImageSets/Segmentation`); and Cityscapes' (`leftImg8bit`, `gtFine`).

    Raises:
        ConfigError: `masks.ignore` names a class that does not exist.
        DataError: an image or mask is missing, or masks contradict the classes.
    """
    layout = _find_layout(root)
    if layout is None:
        return None
    parts = layout.parts
    if len(parts) == 1:
        indices = hold_out(len(parts[0]), config.seed, config.val_share)
        parts = [[parts[0][i] for i in part] for part in indices]
    train, val = parts
    if not train or not val:
        raise DataError(f"{root} leaves no image to {'train on' if not train else 'evaluate on'}; add images and masks")
    classes, ignored = _classes(root, layout, config)
    reader, notes = build_reader(config.masks, [mask for _, mask in train + val], classes, ignored=ignored)
    return Opened([MaskedFiles(part, reader) for part in parts], notes + layout.notes)


@dataclass
class _Layout:
    """A folder's pairs of image and mask, by part."""

    parts: list[Pairs]
    """Training and validation part, or the one part of an unsplit set."""
    built_in_classes: str | None
    """Name of the layout's built-in class table; `None` if it has none."""
    notes: list[str]


def _find_layout(root: Path) -> _Layout | None:
    if (root / "JPEGImages").is_dir() and (root / "SegmentationClass").is_dir():
        return _voc(root)
    notes: list[str] = []
    if (folders := _folders(root)) and list_images(folders[1]):
        return _Layout([_pair(*part, notes) for part in _parts_below(*folders)], _layout_classes(root, *folders), notes)
    parts = [_pair(*part, notes) for part in _parts_above(root)]
    return _Layout(parts, None, notes) if parts else None


def _folders(root: Path) -> tuple[Path, Path] | None:
    """Return the folder of images and the folder of masks in a folder; `None` if one is missing."""
    images, masks = (
        next((root / name for name in names if (root / name).is_dir()), None) for names in (IMAGE_FOLDERS, MASK_FOLDERS)
    )
    return (images, masks) if images and masks else None


def _parts_above(root: Path) -> Iterator[tuple[Path, Path]]:
    """Yield the image and mask folders of `train/images` and `train/masks`, then those of the validation part."""
    train, val = find_subfolder(root, TRAIN_NAMES), find_subfolder(root, VAL_NAMES)
    if train is None or (folders := _folders(train)) is None:
        return
    yield folders
    if val is not None:
        if (folders := _folders(val)) is None:
            raise DataError(f"{val} needs a folder of images and one of masks, as {train} has")
        yield folders


def _parts_below(images: Path, masks: Path) -> Iterator[tuple[Path, Path]]:
    """Yield the image and mask folders of each part below `images` and `masks`, or these two if they are unsplit."""
    if find_subfolder(images, TRAIN_NAMES) is None:
        yield images, masks
        return
    for names in (TRAIN_NAMES, VAL_NAMES):
        if (part := find_subfolder(images, names)) is not None:
            mask_part = masks / part.name if (masks / part.name).is_dir() else find_subfolder(masks, names)
            if mask_part is None:
                raise DataError(f"{masks} has no folder {part.name} for the images in {part}; add it")
            yield part, mask_part


def _layout_classes(root: Path, images: Path, masks: Path) -> str | None:
    """Return the name of a layout's built-in class table, or `None`."""
    if any(root.glob("objectInfo150.*")) or root.name.startswith("ADEChallengeData2016"):
        return "ade20k"
    return "cityscapes" if (images.name, masks.name) == ("leftImg8bit", "gtFine") else None


def _voc(root: Path) -> _Layout:
    lists = root / "ImageSets" / "Segmentation"
    notes: list[str] = []
    pairs = _pair(root / "JPEGImages", root / "SegmentationClass", [])  # most of VOC's images have no mask
    if not (lists / "train.txt").is_file() or not (lists / "val.txt").is_file():
        return _Layout([pairs], "voc", [])
    by_name = {image.stem: (image, mask) for image, mask in pairs}
    parts = []
    for part in ("train", "val"):
        path = lists / f"{part}.txt"
        words = [word for line in read_list(path) for word in ([line] if line in by_name else line.split())]
        names, spellings = find_listed(words, path, by_name.keys())
        notes += spellings
        if missing := [name for name in names if name not in by_name]:
            raise DataError(
                f"{path} lists {missing[0]:.250}, but {root} has no image of that name with a mask; "
                f"{len(missing)} such names"
            )
        parts.append([by_name[name] for name in names])
    return _Layout(parts, "voc", notes)


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
        notes.append(f"{len(unused)} masks in {masks} have no image in {images}, {unused[0].name} first")
    if missing:
        notes.append(
            f"{len(missing)} images in {images} have no mask in {masks} and are left out, {missing[0].name} first"
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


def _classes(root: Path, layout: _Layout, config: DataConfig) -> tuple[ClassTable | None, tuple[int, ...]]:
    """Return the classes, and the mask values that are ignored because they have no class.

    The classes are those of the settings, else of a class table in the folder, else of the layout; `None` if there are
    none.
    """
    name = config.masks.classes
    if name == "auto":
        if (folder_classes := find_table(root)) is not None:
            return folder_classes, ()
        if layout.built_in_classes is None:
            return None, ()
        name = layout.built_in_classes
    if Path(name).is_file():
        return read_table(Path(name)), ()
    classes = built_in(name)
    if name == "cityscapes" and layout.parts[0][0][1].stem.endswith("labelTrainIds"):
        # the values of these masks are class ids
        return ClassTable(classes.names, tuple(range(len(classes))), classes.colours), ()
    return classes, tuple(value for value in _ALL_VALUES.get(name, ()) if value not in classes.values)
