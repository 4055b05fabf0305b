"""The files of annotated images, and the parts that they belong to, for the formats of `shapes`."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from pathlib import Path, PurePath

from twins.data.base import UNSPLIT
from twins.data.config import PARTS
from twins.data.formats.names import FoundFiles, match_names, read_list, with_slashes
from twins.data.formats.outlines import Box
from twins.data.formats.shape_files import ShapeFile, ShapeImage
from twins.data.formats.source import LISTS, Source, names_in
from twins.data.images import is_image_file, list_images, walk
from twins.data.parts import group_parts, part_of
from twins.errors import DataError, number_of

FILLERS = frozenset((
    "annotation", "annotations", "labels", "label", "boxes", "bbox", "bboxes", "box", "oidv", "via", "region",
    "regions", "export", "tasks", "project", "min", "json", "xml", "csv", "cvat", "detections", "objects", "human",
))  # fmt: skip
"""Words beside the part in the name of an annotation file, as in `oidv6-train-annotations-bbox.csv`."""
_SAMPLE = 20
"""Number of files of a folder that are looked at before it is passed over."""
_MAX_DEPTH = 4
"""Folders below the data folder in which annotation files are looked for."""


def annotation_files(source: Source, ending: str, is_one: Callable[[Path], bool], *, alike: bool = False) -> list[Path]:
    """Return the annotation files of a format: those of the layout settings, else all that look like it.

    Args:
        source: the data set.
        ending: their file name ending.
        is_one: whether the beginning of a file is of the format.
        alike: whether all files of a folder belong to the format if one does.
    """
    given = [path for paths in source.part_paths().values() for path in paths]
    files = [path for path in given if path.is_file() and path.suffix.lower() == ending]
    annotations = source.path(source.layout.annotations)
    if annotations is not None and annotations.is_file():
        files += [annotations] if annotations.suffix.lower() == ending and annotations not in files else []
    if files or (annotations is not None and annotations.is_file()):
        return [path for path in files if is_one(path)]
    folders = [annotations] if annotations else [path for path in given if path.is_dir()]
    found = [path for folder in folders for path in _matching(source, folder, ending, is_one, alike=alike)]
    return found if found or annotations else list(_matching(source, source.root, ending, is_one, alike=alike))


def _matching(
    source: Source, folder: Path, ending: str, is_one: Callable[[Path], bool], *, alike: bool
) -> Iterator[Path]:
    """Yield the files below a folder that look like a format; of each folder at first only some are looked at."""
    groups: dict[str, list[Path]] = defaultdict(list)
    for name in source.list_files() if folder == source.root else walk(folder, hidden=False):
        if name.lower().endswith(ending) and name.count("/") <= _MAX_DEPTH:
            groups[os.path.dirname(name)].append(folder / name)
    for files in groups.values():
        if any(map(is_one, files[:: max(1, len(files) // _SAMPLE)])):
            yield from files if alike else filter(is_one, files)


def files_of_parts(source: Source, files: Sequence[ShapeFile]) -> Sequence[ShapeFile]:
    """Return the annotation files that are named like parts if there are any and the layout settings give none."""
    named = [file for file in files if part_of(file.path.stem, FILLERS)]
    others = [file.path for file in files if file not in named]
    if not named or not others or source.part_paths():
        return files
    source.pass_over("an annotation file of no part, beside files of parts", *others)
    shown = ", ".join(map(source.relative, others[:5]))
    source.notes.append(f"{shown:.200} left out, of no part, beside {source.relative(named[0].path)}")
    return named


def locate_images(
    source: Source, images: Sequence[ShapeImage], *, subset: bool = False, per_image: bool = False
) -> list[ShapeImage]:
    """Find the files of images, and return the images without those that another annotation file has already.

    Args:
        source: the data set; names in another spelling are noted.
        images: the images; their `path` is set.
        subset: whether images without a file are left out.
        per_image: whether each image has an annotation file of its own.

    Raises:
        DataError: no image has a file, or two files annotate the same images differently.
    """
    taken = _find_by_name(source, images)
    _match_others(source, [image for image in images if image.path is None], taken)
    missing = [image for image in images if image.path is None and image.read_copy is None]
    if images and len(missing) == len(images):
        raise DataError(
            f"the images of {images[0].file}, such as {images[0].names[0]:.250}, are not in {source.root}; put them in "
            f"{source.root / 'images'}, or give their folder as `layout.images`"
        )
    if subset and missing:
        count = number_of(len(missing), "image")
        source.notes.append(f"{count} of {missing[0].file} are not in {source.root}, left out")
    used = [image for image in images if not subset or image.path is not None]
    if not per_image:
        _check_copies(source, used)
    return _different(source, used)


def _find_by_name(source: Source, images: Sequence[ShapeImage]) -> set[str]:
    """Find the files of images in the usual folders, those of the likeliest names first; return the files."""
    part_folders, taken = _part_folders(source.root), set[str]()
    for position in range(max((len(image.names) for image in images), default=0)):
        for image in (image for image in images if image.path is None and position < len(image.names)):
            paths = (folder / image.names[position] for folder in _folders(source, image, part_folders))
            free = (path for path in paths if position == 0 or os.path.abspath(path) not in taken)
            there = (path for path in free if os.path.isfile(path))
            image.path = next((path for path in there if not _is_of_other_part(source, path, image.file)), None)
            image.read_copy = None if image.path else image.read_copy
        taken |= {os.path.abspath(image.path) for image in images if image.path}
    return taken


def _is_of_other_part(source: Source, path: Path, file: Path) -> bool:
    """Return whether an image is below the folder of another part than its annotation file."""
    names = (PurePath(os.path.relpath(item, source.root)).parts[:-1] for item in (path, file))
    part, other = (next(filter(None, map(part_of, inside)), None) for inside in names)
    return part is not None and other is not None and part != other


def _check_copies(source: Source, images: Sequence[ShapeImage]) -> None:
    """Raise DataError if all images of a file have other shapes in another file, as in a later export."""
    first: dict[Path, ShapeImage] = {}
    others: dict[tuple[Path, Path], list[bool]] = defaultdict(list)
    for image in images:
        other = first.setdefault(image.path, image) if image.path else image
        if other.file != image.file:
            others[other.file, image.file].append(_boxes(other) != _boxes(image))
    counts = Counter(image.file for image in images)
    for (file, copy), differs in others.items():
        if len(differs) in (counts[file], counts[copy]) and any(differs):
            raise DataError(
                f"{source.relative(file)} and {source.relative(copy)} in {source.root} annotate the same images "
                "differently; give the one to use as `layout.annotations`, or remove the other"
            )


def _boxes(image: ShapeImage) -> list[tuple[str, Box]]:
    return [(shape.name, shape.outline.box) for shape in image.shapes]


def _different(source: Source, images: Sequence[ShapeImage]) -> list[ShapeImage]:
    """Return images without those whose file is another's; these are faults."""
    first: dict[str, ShapeImage] = {}
    for image in images:
        key = os.path.abspath(image.path) if image.path else f"{image.file}\0{image.names[0]}"
        other = first.setdefault(key, image)
        if other is not image:
            source.faults.append(
                f"{image.file} annotates {source.relative(image.path) if image.path else image.names[0]:.250}, which "
                f"{other.file} annotates already; join them or remove one"
            )
    return list(first.values())


def _part_folders(root: Path) -> dict[str, list[Path]]:
    """Return the folders in a data folder or in its `images` whose names say a part."""
    parents = [path for path in (root, root / "images") if path.is_dir()]
    return group_parts(path for parent in parents for path in parent.iterdir() if path.is_dir())


def _folders(source: Source, image: ShapeImage, part_folders: Mapping[str, Sequence[Path]]) -> list[Path]:
    """Return the folders that an image may be in, or its name be relative to, the likeliest first."""
    given, beside, root = source.path(source.layout.images), image.file.parent, source.root
    inside = beside.relative_to(root).parts if beside.is_relative_to(root) else ()
    folders = [given] if given else [beside, beside / "images", beside.parent / "images" if inside else beside, root]
    if not given:
        folders += [root / "images", root.joinpath("images", *inside[1:])]
        folders += [root / image.part, root / "images" / image.part] if image.part else []
        part = part_of(image.part) or part_of(image.file.stem, FILLERS)
        folders += [path for folder in part_folders.get(part or "", ()) for path in (folder, folder / "images")]
    return folders


def _match_others(source: Source, images: Sequence[ShapeImage], taken: Set[str]) -> None:
    """Find the files of images by names in another spelling, without an ending, or with other folders."""
    if not images:
        return
    base = source.path(source.layout.images) or source.root
    names_of_images = (name for name in walk(base, hidden=False) if is_image_file(Path(name)))
    files = [name for name in names_of_images if os.path.abspath(base / name) not in taken]
    _match_stems(source, base, files, images)
    for position in range(max(len(image.names) for image in images)):
        waiting: dict[str, list[ShapeImage]] = defaultdict(list)
        for image in images:
            if image.path is None and image.read_copy is None and position < len(image.names):
                waiting[_from_root(source, image, position)].append(image)
        names = {name: items[0] for name, items in waiting.items() if len(items) == 1}
        matches = match_names(names, files)
        for name, match in matches.items():
            names[name].path = base / match.file
        paths = {name: base / match.file for name, match in matches.items()}
        source.notes += FoundFiles(paths, matches).note(str(images[0].file)) if position == 0 else []


def _match_stems(source: Source, base: Path, files: Sequence[str], images: Sequence[ShapeImage]) -> None:
    """Find the files of names that have no ending, such as Open Images' ids."""
    by_stem: dict[str, list[str]] = defaultdict(list)
    for file in files:
        by_stem[os.path.splitext(file)[0]].append(file)
    waiting: dict[str, list[ShapeImage]] = defaultdict(list)
    for image in images:
        if not is_image_file(Path(name := with_slashes(image.names[0]))):
            waiting[name].append(image)
    matches = match_names(waiting, [stem for stem, group in by_stem.items() if len(group) == 1])
    for name, match in matches.items():
        for image in waiting[name]:
            image.path = base / by_stem[match.file][0]
    others = {name: match for name, match in matches.items() if "/" in name and match.file != name}
    found = FoundFiles({name: base / by_stem[match.file][0] for name, match in others.items()}, others)
    source.notes += found.note(str(images[0].file))


def _from_root(source: Source, image: ShapeImage, position: int) -> str:
    """Return a name relative to the data folder, as the folder of its annotation file says."""
    name, beside = with_slashes(image.names[position]), source.relative(image.file.parent)
    return name if beside in (".", "") or name.startswith("/") else with_slashes(f"{beside}/{name}")


def assign_parts(
    source: Source, images: Sequence[ShapeImage], *, per_image: bool
) -> tuple[dict[str, list[ShapeImage]], dict[str, str]]:
    """Return the images of each part and where it comes from, and record the layout settings that say the same.

    The parts are those of the layout settings; else as the annotations say; else by the names of several annotation
    files; else by the folders of the annotation files or of the images.

    Raises:
        DataError: two files or folders are of the same part, or the annotations name some parts only.
    """
    if source.part_paths():
        parts = _given_parts(source, images)
        origins = {part: ", ".join(source.layout.parts[part]) for part in parts}
        source.recognise(annotations=source.layout.annotations, **source.layout.parts)
        return parts, origins
    groups = _named_parts(images)
    if groups:
        source.recognise(annotations=_single_file(source, images))
        return groups, {part: f"as {source.relative(items[0].file)} says" for part, items in groups.items()}
    by_path = {} if per_image else _by_file_name(images)
    by_path = by_path or _by_folder(source, images)
    if not by_path:
        source.recognise(annotations=source.layout.annotations or (None if per_image else _single_file(source, images)))
        return {UNSPLIT: list(images)}, {
            UNSPLIT: source.relative(images[0].file.parent if per_image else images[0].file)
        }
    return _parts_of_paths(source, by_path, images, per_image=per_image)


def _parts_of_paths(
    source: Source, by_path: dict[Path, list[ShapeImage]], images: Sequence[ShapeImage], *, per_image: bool
) -> tuple[dict[str, list[ShapeImage]], dict[str, str]]:
    """Return the parts of files or folders, one each."""
    groups: dict[str, list[Path]] = defaultdict(list)
    for path in by_path:
        groups[_part(path) or ""].append(path)
    paths = {part: items[0] for part, items in source.one_each(groups).items()}
    parts = {part: by_path[path] for part, path in paths.items()}
    _note_others(source, [image for items in parts.values() for image in items], images)
    settings = {part: names_in([path], source.root) for part, path in paths.items()}
    folder_of_images = not per_image and any(path.is_dir() for path in paths.values())
    source.recognise(
        annotations=_single_file(source, images) if folder_of_images else source.layout.annotations, **settings
    )
    return parts, {part: source.relative(path) for part, path in paths.items()}


def _part(path: Path) -> str | None:
    return part_of(path.name) if path.is_dir() else part_of(path.stem, FILLERS)


def _given_parts(source: Source, images: Sequence[ShapeImage]) -> dict[str, list[ShapeImage]]:
    """Return the images of each part by the layout settings: of annotation files, in folders, or by lists."""
    parts: dict[str, list[ShapeImage]] = {}
    for part, paths in source.part_paths().items():
        files = {os.path.abspath(path) for path in paths}
        lists = [path for path in paths if path.suffix.lower() == ".txt" and path.is_file()]
        listed = {id(image) for path in lists for image in _listed_images(source, path, images)}
        parts[part] = [
            image
            for image in images
            if os.path.abspath(image.file) in files
            or id(image) in listed
            or any(_is_in(path, image) for path in paths if path.is_dir())
        ]
        if not parts[part]:
            shown = ", ".join(source.layout.parts[part])
            raise DataError(f"`layout.{part}` is {shown:.250}, where no image of {images[0].file} is; check the path")
    _note_others(source, [image for items in parts.values() for image in items], images)
    return {part: parts[part] for part in PARTS if part in parts}


def _listed_images(source: Source, path: Path, images: Sequence[ShapeImage]) -> Iterator[ShapeImage]:
    """Yield the images that a list names, with or without their endings and their folders.

    Raises:
        DataError: several images have a name.
    """
    source.use(LISTS, path)
    by_end: dict[str, list[ShapeImage]] = defaultdict(list)
    for image in images:
        for end in _ends(source.relative(image.path) if image.path else image.names[0]):
            by_end[end].append(image)
    missing = []
    for line in read_list(path):
        alike = next((by_end[end] for end in _ends(line) if end in by_end), [])
        if len(alike) > 1:
            raise DataError(f"{path} lists {line:.250}, the name of {len(alike)} images; give it with its folder")
        missing += [] if alike else [line]
        yield from alike
    if missing:
        count = number_of(len(missing), "name")
        source.notes.append(f"{count} in {path} without an annotated image, {missing[0]:.100} first")


def _ends(name: str) -> list[str]:
    """Return a name without its ending, and without one more of its upper folders each, the longest first."""
    path = PurePath(with_slashes(name))
    bare = path.with_suffix("") if is_image_file(Path(path)) or path.suffix.lower() in (".json", ".xml") else path
    return ["/".join(bare.parts[depth:]) for depth in range(len(bare.parts))]


def _is_in(folder: Path, image: ShapeImage) -> bool:
    above = os.path.join(os.path.abspath(folder), "")
    return any(os.path.abspath(path).startswith(above) for path in (image.file, image.path) if path)


def _named_parts(images: Sequence[ShapeImage]) -> dict[str, list[ShapeImage]]:
    """Return the images by the part that their annotations name; none if no name is a part's."""
    groups: dict[str, list[ShapeImage]] = defaultdict(list)
    for image in images:
        groups[part_of(image.part) or ""].append(image)
    if not groups.keys() - {""}:
        return {}
    if "trainval" in groups and not groups.keys() & {"train", "val"}:
        groups["train"] = groups.pop("trainval")
    if "" in groups or "trainval" in groups:
        first = (groups.get("") or groups["trainval"])[0]
        known = ", ".join(sorted(groups.keys() - {""}))
        raise DataError(
            f"{first.file} has images of the parts {known}, and {first.names[0]:.100} of {first.part or 'none'}; name "
            "its part there, or give lists of image names as `layout.train` and `layout.val`"
        )
    return {part: groups[part] for part in PARTS if part in groups}


def _by_file_name(images: Sequence[ShapeImage]) -> dict[Path, list[ShapeImage]]:
    """Return the images of annotation files that are named like parts, by file."""
    groups: dict[Path, list[ShapeImage]] = defaultdict(list)
    for image in images:
        if part_of(image.file.stem, FILLERS):
            groups[image.file].append(image)
    return dict(groups)


def _by_folder(source: Source, images: Sequence[ShapeImage]) -> dict[Path, list[ShapeImage]]:
    """Return the images below folders that are named like parts, by the folder of annotations, else of images."""
    for of_annotations in (True, False):
        groups: dict[Path, list[ShapeImage]] = defaultdict(list)
        for image in images:
            path = image.file if of_annotations else image.path
            inside = PurePath(os.path.relpath(path, source.root)).parts[:-1] if path else ()
            depth = next((depth for depth, name in enumerate(inside) if part_of(name)), None)
            if depth is not None:
                groups[source.root.joinpath(*inside[: depth + 1])].append(image)
        if groups:
            return dict(groups)
    return {}


def _single_file(source: Source, images: Sequence[ShapeImage]) -> str | None:
    files = {image.file for image in images}
    return names_in(files, source.root)[0] if len(files) == 1 else source.layout.annotations


def _note_others(source: Source, used: Sequence[ShapeImage], images: Sequence[ShapeImage]) -> None:
    """Report annotated images that are of no part."""
    ids = {id(image) for image in used}
    others = [image for image in images if id(image) not in ids]
    if others:
        first = others[0].path or others[0].file
        count = number_of(len(others), "annotated image")
        source.notes.append(f"{count} of no part, left out; {source.relative(first)} first")
        source.pass_over("an annotated image of no part", *(image.path for image in others if image.path))


def unlisted_images(source: Source, images: Sequence[ShapeImage]) -> list[Path]:
    """Return the image files of the data folder that are of none of these images."""
    known = {os.path.abspath(image.path) for image in images if image.path}
    return [path for path in list_images(source.root) if os.path.abspath(path) not in known]
