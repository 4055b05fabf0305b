"""Images and their masks, matched by the names of their files."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from twins.data.formats.mask_names import mask_ending, stripped
from twins.data.formats.names import find_listed, match_stems, with_slashes
from twins.data.images import is_image_file, list_images
from twins.errors import DataError, few, number_of

Pairs = list[tuple[Path, Path]]
"""Images and their masks."""
_CITYSCAPES = ("_labelIds", "_labelTrainIds", "_color")
"""Cityscapes' forms of a mask with the classes, the first one that exists is read."""
_NUMBERED = re.compile(r"[ _-]?\(\d+\)$|[ _-]\d+$")
"""The number at the end of a further mask's name."""
MAX_FOLDERS = 8
"""Number of folders, and the name, by which a list may name an image."""


@dataclass
class Paired:
    """The pairs of a folder, and what is left over."""

    pairs: Pairs = field(default_factory=list)
    images: list[Path] = field(default_factory=list)
    """Images without a mask."""
    masks: list[Path] = field(default_factory=list)
    """Masks without an image."""
    other_masks: list[Path] = field(default_factory=list)
    """Other forms of the same masks."""
    notes: list[str] = field(default_factory=list)
    """Decisions made while pairing, one sentence each."""


def pair_folders(images: Path, masks: Path) -> Paired:
    """Match the images and masks below two folders by subfolder and name.

    The mask of an image has, in this order of preference, the image's exact name; its name if endings such as `_mask`
    or `_rgb` are removed; that name directly in the folder of masks, where the image is in a subfolder; or that name in
    another spelling.

    Raises:
        DataError: two images or two masks have the same name, or no image has a mask.
    """
    mask_files, other_masks = _list_masks(masks)
    exact, no_images = _by_key(mask_files, masks), {*mask_files, *other_masks}
    image_of = _by_key([path for path in list_images(images) if path not in no_images], images)
    pairs = {key: exact[key] for key in image_of if key in exact}
    if image_of and exact:
        pairs |= _by_short_names(image_of, exact, pairs)
    free = {key: image for key, image in image_of.items() if key not in pairs}
    used = set(pairs.values())
    rest = {_short(key, "masks"): mask for key, mask in exact.items() if mask not in used}
    found = match_stems([_short(key, "images") for key in free], rest)
    pairs |= {key: path for key in free if (path := found.paths.get(_short(key, "images"))) is not None}
    used = set(pairs.values())
    return Paired(
        sorted((image_of[key], mask) for key, mask in pairs.items()),
        [image for key, image in image_of.items() if key not in pairs],
        sorted(set(mask_files) - used),
        other_masks,
        found.note(f"masks of {images}"),
    )


def pair_by_endings(folder: Path) -> Paired:
    """Match the images and masks of one folder, where only a mask's name has an ending such as `_mask`.

    Raises:
        DataError: images have masks of two kinds, or two images or two masks have the same name.
    """
    files = list_images(folder)
    images = _by_key([path for path in files if not mask_ending(path.stem)], folder)
    masks: dict[str, dict[str, Path]] = defaultdict(dict)
    for path in files:
        key = _key(path, folder)
        if not (ending := mask_ending(path.stem)) or (short := _short(key, "masks")) not in images:
            continue
        if (earlier := masks[ending].setdefault(short, path)) is not path:
            raise _same_name(earlier, path)
    if len(masks) > 1:
        raise DataError(
            f"images in {folder} have masks of several kinds, ending in {few(sorted(masks))}; move those to use into a "
            "folder of their own and give it as `layout.annotations`"
        )
    pairs = next(iter(masks.values()), {})
    used = set(pairs.values())
    return Paired(
        sorted((images[key], mask) for key, mask in pairs.items()),
        [path for key, path in images.items() if key not in pairs],
        [path for path in files if mask_ending(path.stem) and path not in used],
    )


def further_masks(pairs: Pairs, rest: Iterable[Path]) -> dict[Path, Path]:
    """Return the files that look like another mask of an image that has one, `a_mask_1.png` beside `a_mask.png`, each
    with that one.

    Args:
        pairs: the images and their masks.
        rest: the files without a partner.
    """
    mask_of = {(mask.parent, mask.stem): mask for _, mask in pairs}
    keys = {path: (path.parent, _NUMBERED.sub("", path.stem)) for path in rest if _NUMBERED.search(path.stem)}
    return {path: mask_of[key] for path, key in keys.items() if key in mask_of}


def select_listed(pairs: Pairs, images: Iterable[Path], lines: Sequence[str], path: Path) -> tuple[Pairs, list[str]]:
    """Return the pairs that a list names, and notes on names in another spelling or without a mask.

    A line is a name or a path with or without ending, optionally followed by flags, or by the path of the mask.

    Args:
        pairs: all images with their masks.
        images: the images without a mask.
        lines: the lines of the list.
        path: the list, for messages.

    Raises:
        DataError: the list names what is no image, or the mask of another image.
    """
    index = _name_index(pairs, images)
    notes: list[str] = []
    chosen: dict[str, Path] = {}
    missing: list[str] = []
    for line in lines:
        images_of = {word: _look_up(word, index) for word in _readings(line, index)}
        if len({image for image in images_of.values() if image is not None}) > 1:
            raise DataError(
                f"{path} has the line {line:.250}, with names of two images; an image and its mask are paired by their "
                "names, so give both the same one"
            )
        missing += [word for word, image in images_of.items() if image is None]
        chosen |= {str(image): image for image in images_of.values() if image is not None}
    if missing:
        names, notes = find_listed(missing, path, index.keys())
        if unknown := [name for name in names if name not in index]:
            raise DataError(
                f"{path} lists {unknown[0]:.250}, but {_common(index.values())} has no image of that name with a mask; "
                f"{len(unknown)} such names"
            )
        chosen |= {str(index[name]): index[name] for name in names}
    mask_of = dict(pairs)
    without = [image for image in chosen.values() if image not in mask_of]
    if without:
        count = number_of(len(without), "image")
        notes = [*notes, f"{count} that {path} lists without a mask, left out, {without[0]} first"]
    return [(image, mask_of[image]) for image in chosen.values() if image in mask_of], notes


def names_any(pairs: Pairs, images: Iterable[Path], lines: Sequence[str]) -> bool:
    """Return whether a list names one of the images, as it is written, or several by one name."""
    index = _name_index(pairs, images)
    stems = {image.stem for image in (*(image for image, _ in pairs), *images)}
    words = {word for line in lines for word in _readings(line, index)}
    return any(_look_up(word, index) or _without_image(word).rpartition("/")[2] in stems for word in words)


def _readings(line: str, index: Mapping[str, Path]) -> list[str]:
    """Return the names in a line: all of it, or each of its words, without flags behind the first."""
    for text in (line, re.sub(r"(\s+-?\d+)+$", "", line)):
        if _without_image(text) in index:
            return [text]
    first, *words = (line.replace(",", " ") if "," in line else line).split() or [line]
    words = [first, *(word for word in words if not word.lstrip("-").isdigit())]
    are_names = len(words) > 1 and all(_look_up(word, index) for word in words)
    return [line] if not are_names and _look_up(line, index) is not None else words


def _name_index(pairs: Pairs, images: Iterable[Path]) -> dict[str, Path]:
    """Return images by every name that a list may give them: with all, some or none of their folders, or their mask's.

    Names that two images share are not in it.
    """
    index: dict[str, Path | None] = {}
    every = [(image, image) for image, _ in pairs] + [(image, image) for image in images]
    for file, image in [*every, *((mask, image) for image, mask in pairs)]:
        parts = (*file.parts[:-1], file.stem)
        for start in range(1, min(len(parts), MAX_FOLDERS)):
            name = "/".join(parts[-start:])
            index[name] = image if index.get(name, image) == image else None
    return {name: image for name, image in index.items() if image is not None}


def _look_up(word: str, index: Mapping[str, Path]) -> Path | None:
    """Return the image of a name, with fewer and fewer of the folders in front."""
    for name in (_without_image(word), str(_as_path(word))):
        parts = [part for part in name.split("/") if part]
        for start in range(len(parts)):
            image = index.get("/".join(parts[start:]))
            if image is not None:
                return image
    return None


def _as_path(word: str) -> Path:
    return Path(with_slashes(word.strip("\"'")))


def _without_image(word: str) -> str:
    """Return a name of a list without an image's ending."""
    path = _as_path(word)
    return str(path.with_suffix("")) if is_image_file(path) else str(path)


def _common(images: Iterable[Path]) -> Path:
    """Return the folder that all images are in."""
    return Path(os.path.commonpath([str(path.parent) for path in images] or ["."]))


def _by_short_names(
    image_of: Mapping[str, Path], mask_of: Mapping[str, Path], pairs: Mapping[str, Path]
) -> dict[str, Path]:
    """Return masks by the keys of images whose names agree when endings and beginnings are removed."""
    taken = set(pairs.values())
    free = {key: mask for key, mask in mask_of.items() if mask not in taken}
    short: dict[str, Path] = {}
    for key, mask in free.items():
        name = _short(key, "masks")
        if (earlier := pairs.get(name) or short.get(name)) is not None:
            raise _same_name(earlier, mask)
        short[name] = mask
    found: dict[str, Path] = {}
    owners: dict[Path, str] = {}
    for key in image_of:
        names = (key, _short(key, "images"))
        candidates = [name for name in (*names, *(name.rpartition("/")[2] for name in names)) if name in short]
        if key in pairs or not candidates:
            continue
        mask = short[candidates[0]]
        if mask in owners:
            raise _same_name(image_of[owners[mask]], image_of[key])
        owners[mask], found[key] = key, mask
    return found


def _same_name(first: Path, second: Path) -> DataError:
    return DataError(f"{first} and {second} have the same name, so they cannot be paired; keep one of them")


def _list_masks(folder: Path) -> tuple[list[Path], list[Path]]:
    """Return the mask files below a folder and those that are other forms of them, as Cityscapes has them."""
    files = list_images(folder)
    for form in _CITYSCAPES:
        masks = [path for path in files if path.stem.endswith(("_gtFine" + form, "_gtCoarse" + form))]
        if masks:
            return masks, sorted(set(files) - set(masks))
    return files, []


def _by_key(paths: Sequence[Path], folder: Path) -> dict[str, Path]:
    """Return files by their `_key`; raises DataError if two have the same."""
    by_key: dict[str, Path] = {}
    for path in paths:
        earlier = by_key.setdefault(_key(path, folder), path)
        if earlier is not path:
            raise _same_name(earlier, path)
    return by_key


def _key(path: Path, folder: Path) -> str:
    """Return the key that an image shares with its mask: subfolder and name."""
    return "/".join((*path.relative_to(folder).parts[:-1], path.stem))


def _short(key: str, kind: str) -> str:
    parent, separator, name = key.rpartition("/")
    return parent + separator + stripped(name, "masks" if kind == "masks" else "images")
