"""The parts of a data set of VOC's XML files: by lists, by folders, or as the layout settings say."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from twins.data.base import UNSPLIT
from twins.data.config import PARTS
from twins.data.formats.names import find_listed, read_list
from twins.data.formats.source import LISTS, Source, names_in
from twins.data.formats.voc_layout import (
    Pair,
    Pool,
    check_rivals,
    choose,
    find_lists,
    find_units,
    part_folders_in,
    read_pool,
    unused_list_notes,
)
from twins.data.images import list_images
from twins.errors import DataError, number_of


@dataclass
class VocPart:
    """The images of a part with their XML files."""

    pairs: list[Pair] = field(default_factory=list)
    origins: list[Path] = field(default_factory=list)
    """Lists or folders that say so."""
    pools: list[Pool] = field(default_factory=list)
    """The images and XML files that they are of."""


def find_parts(source: Source) -> dict[str, VocPart]:
    """Return the parts of a data set, or the whole set as `UNSPLIT`; nothing if it has no VOC files.

    Raises:
        DataError: several data sets, two lists of one part, or a setting that leads to no image.
    """
    units = find_units(source)
    if None in units:
        chosen = choose(units[None], source)
        for unit in chosen:
            check_rivals(unit, source)
        pools = [read_pool(unit) for unit in chosen]
        parts = {part: found for part, found in _select(pools, source).items() if found.pairs}
        _recognise(source, pools, parts)
    else:
        parts = {part: _whole([read_pool(unit) for unit in units[part]]) for part in PARTS if part in units}
        pools = [pool for part in parts.values() for pool in part.pools]
        _report_unannotated(source, parts)
        source.recognise(**{part: names_in(found.origins, source.root) for part, found in parts.items()})
    source.notes += [note for pool in pools for note in pool.notes]
    source.problems += [problem for pool in pools for problem in pool.problems]
    _check_images(source, pools)
    _account(source, pools, parts)
    return parts


def _check_images(source: Source, pools: Sequence[Pool]) -> None:
    if any(pool.images for pool in pools):
        return
    count = number_of(sum(len(pool.xmls) for pool in pools), "XML file")
    raise DataError(
        f"{source.root} holds {count} of VOC's, and no images are in {source.relative(pools[0].unit.images)}; give the "
        "folder that holds both, or say where the images are with `layout.images`"
    )


def _report_unannotated(source: Source, parts: Mapping[str, VocPart]) -> None:
    """Report the folders of parts that have images and no XML file."""
    for part, paths in source.part_folders(source.root).items():
        for path in paths if part not in parts else ():
            if images := list_images(path):
                source.pass_over(WITHOUT_XML, *images)
                count = number_of(len(images), "image")
                source.notes.append(f"{count} in {path} without XML files, so this {part} part is left out")


def _whole(pools: Sequence[Pool]) -> VocPart:
    pairs = [pool.pair(name) for pool in pools for name in sorted(pool.xmls)]
    return VocPart(pairs, [pool.unit.base for pool in pools], list(pools))


def _select(pools: Sequence[Pool], source: Source) -> dict[str, VocPart]:
    """Return the parts of the images in some folders."""
    if given := source.part_paths():
        return {part: _chosen(part, paths, pools, source) for part, paths in given.items()}
    (pool,) = pools
    if lists := find_lists(pool, source):
        parts = {part: _listed(paths, pools, source) for part, paths in lists.items()}
        if any(part.pairs for part in parts.values()):
            return parts
        if not source.layout.images and not source.layout.annotations:
            shown = ", ".join(source.relative(path) for paths in lists.values() for path in paths)
            raise DataError(
                f"no name in {shown:.200} of {source.root} is that of an image in {source.relative(pool.unit.images)}; "
                "fix the lists, or say where the parts are with `layout.train` and `layout.val`"
            )
    source.notes += unused_list_notes(pool, source)
    if folders := part_folders_in(pool.unit, source):
        return {part: _below(paths, pools) for part, paths in folders.items()}
    return {UNSPLIT: _whole(pools)}


def _chosen(part: str, paths: Sequence[Path], pools: Sequence[Pool], source: Source) -> VocPart:
    """Return the part that the layout settings give, by folders or lists."""
    folders, lists = [path for path in paths if path.is_dir()], [path for path in paths if not path.is_dir()]
    below, listed = _below(folders, pools), _listed(lists, pools, source)
    if not below.pairs and not listed.pairs:
        shown = ", ".join(map(str, paths))
        raise DataError(f"`layout.{part}` leads to {shown:.250}, which gives no image with an XML file; fix it")
    return VocPart(list(dict.fromkeys(below.pairs + listed.pairs)), list(paths), list(pools))


def _below(folders: Sequence[Path], pools: Sequence[Pool]) -> VocPart:
    """Return the pairs whose image or XML file is in some folders."""
    bases = [Path(os.path.abspath(folder)) for folder in folders]

    def is_below(pair: Pair) -> bool:
        return any(Path(os.path.abspath(path)).is_relative_to(base) for path in pair for base in bases)

    pairs = [pair for pool in pools for name in sorted(pool.xmls) if is_below(pair := pool.pair(name))]
    return VocPart(pairs, list(folders), list(pools))


def _listed(paths: Sequence[Path], pools: Sequence[Pool], source: Source) -> VocPart:
    """Return the pairs that lists name, each once."""
    pairs: dict[Pair, None] = {}
    for path in paths:
        base = Path(os.path.abspath(path))
        pool = next((pool for pool in pools if base.is_relative_to(os.path.abspath(pool.unit.base))), pools[0])
        pairs |= dict.fromkeys(_read_list(path, pool, source))
    return VocPart(list(pairs), list(paths), list(pools))


def _read_list(path: Path, pool: Pool, source: Source) -> list[Pair]:
    """Return the pairs that a list names; an image without XML file is left out and reported.

    A name that neither has is kept, and reported when it is read. A list of which no name has either is passed over.
    """
    lines = read_list(path)
    names, spellings = find_listed(list(dict.fromkeys(lines)), path, pool.names)
    if not pool.names.intersection(names):
        source.pass_over("a list that names no image", path)
        source.problems.append(f"{path} names no image in {pool.unit.images}, so it is passed over; fix or remove it")
        return []
    source.use(LISTS, path)
    source.notes += spellings
    missing = [name for name in names if name not in pool.xmls and name in pool.images and name not in pool.xml_names]
    if missing:
        count = number_of(len(missing), "image")
        sentence = f"{path} names {count} without an XML file in {pool.unit.annotations}, left out"
        if len(missing) < len(names):
            source.problems.append(f"{sentence}; {missing[0]:.100} first")
        else:  # a test part whose annotations are not public, as of Oxford-IIIT's pets
            source.notes.append(f"{sentence}; no other image is in this list")
        source.pass_over(WITHOUT_XML, *(image for name in missing for image in pool.images[name]))
    left_out = set(missing)
    pairs = [pool.pair(name) for name in names if name not in left_out]
    if doubled := len(lines) - len(dict.fromkeys(pairs)) - len(missing):
        source.notes.append(f"{path} names {number_of(doubled, 'image')} more than once; each is read once")
    return pairs


WITHOUT_XML = "an image without an XML file"


def _recognise(source: Source, pools: Sequence[Pool], parts: Mapping[str, VocPart]) -> None:
    origins = {part: names_in(found.origins, source.root) for part, found in parts.items() if part != UNSPLIT}
    source.recognise(**origins)
    if len(pools) == 1:
        images, annotations = names_in(pools[0].unit, source.root)
        source.recognise(images=images, annotations=annotations)


def _account(source: Source, pools: Iterable[Pool], parts: Mapping[str, VocPart]) -> None:
    """Say which images and XML files are not used, and which are in two parts."""
    pairs = [pair for part in parts.values() for pair in part.pairs]
    used = {str(path) for pair in pairs for path in pair}
    by_list = any(path.is_file() for part in parts.values() for path in part.origins)
    outside = "that no list names" if by_list else "outside the folders of the parts"
    for pool in pools:
        masks = (pool.unit.base / name for name in ("SegmentationClass", "SegmentationObject"))
        source.pass_over("masks, which objects with boxes do not need", *(path for path in masks if path.is_dir()))
        unannotated = pool.unannotated()
        if unannotated and not by_list:
            first = pool.images[unannotated[0]][0].name
            source.notes.append(
                f"{number_of(len(unannotated), 'image')} in {pool.unit.images} without an XML file in "
                f"{pool.unit.annotations}, left out; {first} first"
            )
        source.pass_over(WITHOUT_XML, *(image for name in unannotated for image in pool.images[name]))
        images = [image for name in pool.xmls for image in _images_of(pool, name) if str(image) not in used]
        source.pass_over(f"an image {outside}", *images)
        xmls = [path for path in pool.xmls.values() if str(path) not in used]
        source.pass_over(f"the XML file of an image {outside}", *xmls)


def _images_of(pool: Pool, name: str) -> list[Path]:
    return pool.images.get(pool.image_names.get(name, name), [])
