"""Data sets of images and masks in files, in the layouts that toolboxes and labelling tools use."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from twins.data.base import UNSPLIT, Opened
from twins.data.classes import ClassTable, build_table
from twins.data.formats.class_names import alike_problems
from twins.data.formats.files import ImageFiles
from twins.data.formats.mask_classes import MaskSet, find_classes
from twins.data.formats.mask_layouts import FolderPair, MaskLayout, find_layout
from twins.data.formats.mask_lists import find_lists, parts_by_lists
from twins.data.formats.mask_pairs import Paired, Pairs, further_masks, pair_by_endings, pair_folders
from twins.data.formats.masks import IGNORE, MaskReader, build_reader, sampled_values
from twins.data.formats.masks_per_object import find_object_masks, open_object_masks
from twins.data.formats.source import LISTS, MASKS, NAMES, Source, names_in
from twins.errors import DataError, number_of

_LABEL_STUDIO = re.compile(r"task-\d+-annotation-\d+-.*tag-.*\.(png|npy)")
_TRIMAPS = build_table(("pet", "background", "border"), (1, 2, 3))
"""Oxford-IIIT Pet's classes."""
NO_MASK, NO_IMAGE, UNLISTED, FURTHER = (
    "an image without a mask",
    "a mask without an image",
    "an image or a mask that no list names",
    "a further mask of an image that has one",
)
"""Reasons why files are passed over."""


class MaskedFiles(ImageFiles):
    """Images in files, each with a mask file."""

    def __init__(self, pairs: Pairs, reader: MaskReader) -> None:
        super().__init__([image for image, _ in pairs])
        self.masks, self.reader = [mask for _, mask in pairs], reader
        self.classes, self.names = reader.classes, reader.classes.names

    def target(self, index: int) -> NDArray[np.uint8]:
        """Return the label map `(H, W)`; raises DataError if the mask cannot be read."""
        return self.reader(self.masks[index])


@dataclass
class _Parts:
    """The pairs of image and mask by part."""

    pairs: dict[str, Pairs]
    origins: dict[str, str]
    """Where each part comes from."""
    lists: dict[str, list[Path]] = field(default_factory=dict)


def find_mask_folders(source: Source) -> tuple[Path, ...]:
    """Return the folders of images and of masks in a data folder; none if it has no such layout."""
    probe = deepcopy(source)  # keeps the record of what is read
    try:
        layout = find_layout(probe)
    except DataError:  # opening says it
        return ()
    return find_object_masks(probe) or (() if layout is None else tuple(layout.folders))


def open_mask_folders(source: Source) -> Opened | None:
    """Open a folder of images and masks with the same names; `None` if it has no such layout.

    Layouts, each with the folders' usual names in any case: `images` and `masks`, with parts by folders below
    (`images/train`, `masks/train`; ADE20K's, Cityscapes'), by folders above (`train/images`, `train/masks`), by the
    names (`train_images`, `train_masks`; CamVid's `train`, `trainannot`), or by lists (`train.txt`, VOC's
    `ImageSets/Segmentation`); masks beside their images (`a.jpg`, `a_mask.png`); and a folder of masks for each image.

    Raises:
        ConfigError: `masks.ignore` names a class that does not exist.
        DataError: an image or mask is missing, two layouts fit, or masks contradict the classes.
    """
    if find_object_masks(source):
        return open_object_masks(source)
    layout = find_layout(source)
    if layout is None:
        _refuse_label_studio(source.root)
        return None
    parts = _pair(source, layout)
    masks = [mask for pairs in parts.pairs.values() for _, mask in pairs]
    if not masks:
        raise DataError(f"{source.root} leaves no image to train on; add images and masks")
    found = MaskSet(masks, layout.all_folders, _own_classes(source, layout), _own_table(layout))
    classes = find_classes(source, found)
    _drop_dummy_test(source, parts, found)
    masks = [mask for pairs in parts.pairs.values() for _, mask in pairs]
    reader, notes = build_reader(
        source.config.masks,
        masks,
        classes.classes,
        ignored=classes.ignored,
        ignored_colours=classes.ignored_colours,
        problems=source.problems,
    )
    source.notes += notes
    source.names_from = source.names_from or "the values in the masks"
    source.problems += alike_problems(reader.classes.names, source.names_from)
    source.use(MASKS, *masks)
    _recognise(source, layout, parts)
    sets = {part: MaskedFiles(pairs, reader) for part, pairs in parts.pairs.items()}
    return Opened(sets, layout.name, layout.folders, parts.origins)


def _pair(source: Source, layout: MaskLayout) -> _Parts:
    """Return the pairs of all parts, and record what is left over."""
    paired = {part: _pair_all(pairs) for part, pairs in layout.parts.items()}
    parts = _Parts({part: result.pairs for part, result in paired.items()}, _origins(source, layout))
    results = list(paired.values())
    used = {path for result in results for pair in result.pairs for path in pair}
    images = sorted({path for result in results for path in result.images} - used)
    masks = sorted({path for result in results for path in result.masks} - used)
    images, masks = _drop_further(source, [pair for result in results for pair in result.pairs], images, masks)
    source.notes += dict.fromkeys(note for result in results for note in result.notes)
    source.pass_over("another form of the masks that are read", *(p for result in results for p in result.other_masks))
    for part, result in paired.items():
        if result.images and not result.pairs:
            first = layout.parts[part][0]
            raise DataError(
                f"no image in {first.images} has a mask of its name in {first.masks}, {result.images[0].name} first; "
                "give both the same name"
            )
    lists = find_lists(source, layout.lists_in, parts.pairs, images) if UNSPLIT in parts.pairs else {}
    if lists:
        parts = _by_lists(source, parts, lists, images)
    else:
        _note_rest(source, layout, images, masks)
    source.pass_over(NO_MASK, *images)
    source.pass_over(NO_IMAGE, *masks)
    return parts


def _drop_further(source: Source, pairs: Pairs, images: list[Path], masks: list[Path]) -> tuple[list[Path], list[Path]]:
    """Return files without a partner but for further masks of images that have one, which are a problem."""
    further = further_masks(pairs, [*images, *masks])
    if not further:
        return images, masks
    first, used = next(iter(further.items()))
    source.problems.append(
        f"{number_of(len(further), 'file')} that may be a further mask of an image, {source.relative(first)} beside "
        f"{source.relative(used)} first: only one is read; join the masks of an image in one file"
    )
    source.pass_over(FURTHER, *further)
    return [path for path in images if path not in further], [path for path in masks if path not in further]


def _pair_all(pairs: list[FolderPair]) -> Paired:
    """Return the pairs of one part, which may have several folders."""
    total = Paired()
    for pair in pairs:
        one = pair_by_endings(pair.images) if pair.images == pair.masks else pair_folders(pair.images, pair.masks)
        for name in ("pairs", "images", "masks", "other_masks", "notes"):
            getattr(total, name).extend(getattr(one, name))
    return total


def _origins(source: Source, layout: MaskLayout) -> dict[str, str]:
    return {
        part: ", ".join(
            " and ".join(dict.fromkeys((source.relative(pair.images), source.relative(pair.masks)))) for pair in pairs
        )
        for part, pairs in layout.parts.items()
    }


def _by_lists(source: Source, parts: _Parts, lists: Mapping[str, list[Path]], images: list[Path]) -> _Parts:
    """Return the parts that lists make of the pairs; others are passed over."""
    pairs = parts.pairs[UNSPLIT]
    listed, notes = parts_by_lists(pairs, images, lists)
    source.notes += notes
    source.use(LISTS, *(path for paths in lists.values() for path in paths))
    chosen = {path for part in listed.values() for pair in part for path in pair}
    source.pass_over(UNLISTED, *(path for pair in pairs for path in pair if path not in chosen))
    origins = {part: ", ".join(map(source.relative, paths)) for part, paths in lists.items()}
    return _Parts(listed, origins, dict(lists))


def _note_rest(source: Source, layout: MaskLayout, images: list[Path], masks: list[Path]) -> None:
    """Note images without a mask and masks without an image, by folder."""
    for pair in dict.fromkeys(pair for pairs in layout.parts.values() for pair in pairs):
        alone = [path for path in masks if path.is_relative_to(pair.masks)]
        without = [path for path in images if path.is_relative_to(pair.images)]
        if alone:
            source.notes.append(
                f"{number_of(len(alone), 'mask')} in {pair.masks} without an image in {pair.images}, "
                f"{alone[0].name} first"
            )
        if without:
            source.notes.append(
                f"{number_of(len(without), 'image')} in {pair.images} without a mask in {pair.masks}, left out, "
                f"{without[0].name} first"
            )


def _own_classes(source: Source, layout: MaskLayout) -> str | None:
    """Return the name of a layout's built-in class table, or `None`."""
    first = next(iter(layout.parts.values()))[0]
    around = [path for path in first.images.parents if path == source.root or path.is_relative_to(source.root)]
    signs = [path for folder in around for path in folder.glob("objectInfo150.*")]
    if signs or any(folder.name.startswith("ADEChallengeData2016") for folder in around):
        source.use(NAMES, *signs)
        return "ade20k"
    names = {path.name for path in (first.images, first.masks, first.images.parent, first.masks.parent)}
    if "leftImg8bit" in names and {"gtFine", "gtCoarse"} & names:
        return "cityscapes"
    return "voc" if layout.is_voc else None


def _own_table(layout: MaskLayout) -> ClassTable | None:
    """Return the classes of Oxford-IIIT Pet's trimaps; `None` for other masks."""
    first = next(iter(layout.parts.values()))[0]
    return _TRIMAPS if first.masks.name.lower() == "trimaps" else None


def _drop_dummy_test(source: Source, parts: _Parts, found: MaskSet) -> None:
    """Leave out Cityscapes' test part, whose masks are dummies without classes."""
    test = parts.pairs.get("test")
    if found.name != "cityscapes" or not test or len(parts.pairs) == 1:
        return
    dummies = {IGNORE} if test[0][1].stem.endswith("labelTrainIds") else {*range(7), IGNORE}
    if (values := sampled_values([mask for _, mask in test])) and values <= dummies:
        reason = "Cityscapes' test part, whose masks are dummies without classes"
        source.pass_over(reason, *(path for pair in test for path in pair))
        source.notes.append(f"{reason}, is not used")
        del parts.pairs["test"]
        parts.origins.pop("test", None)


def _recognise(source: Source, layout: MaskLayout, parts: _Parts) -> None:
    """Record the layout settings that open the same images again."""
    root = source.root
    if layout.base is not None:
        source.recognise(
            images=names_in([layout.base.images], root)[0], annotations=names_in([layout.base.masks], root)[0]
        )
    given = parts.lists or {} if UNSPLIT in layout.parts else layout.given
    source.recognise(**{part: names_in(given[part], root) for part in parts.pairs if part in given and part != UNSPLIT})


def _refuse_label_studio(root: Path) -> None:
    """Raise DataError for Label Studio's export of masks."""
    for parent, folders, files in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if name := next((name for name in sorted(files) if _LABEL_STUDIO.fullmatch(name)), None):
            raise DataError(
                f"{Path(parent) / name} is of Label Studio's export of brush labels, which has a file for each label "
                "and none of the images; export COCO instead, or join the files of an image in one mask of class values"
            )
