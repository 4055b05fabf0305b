"""Where YOLO's images and label files are: the parts of a data set, and the label file of each image."""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from twins.data.base import UNSPLIT
from twins.data.config import PARTS
from twins.data.formats.names import FoundFiles, Match, find_files, read_list
from twins.data.formats.source import LISTS, Source, names_in
from twins.data.formats.yolo_settings import YoloSettings, dataset_folders
from twins.data.images import is_image_file, list_images
from twins.data.parts import group_parts
from twins.errors import DataError, number_of

IMAGE_FOLDERS = ("images", "image", "imgs", "img", "jpegimages")
LABEL_FOLDERS = ("labels", "label", "labels_yolo", "yolo_labels", "labeltxt", "annotations", "txt")
"""Names of the folders of images and of labels, in lower case, the likeliest first."""
_LIST_ENDINGS = (".txt", ".lst", ".list")


@dataclass
class ImagePart:
    """The images of a part."""

    images: list[Path] = field(default_factory=list)
    origins: list[Path] = field(default_factory=list)
    """The folders or lists that they are of."""


def find_images(source: Source, settings: YoloSettings) -> dict[str, ImagePart]:
    """Return the images of each part: one part if the set is unsplit, none if there are no images.

    Layout settings come first, then the folders and lists of the settings file, then folders and lists by their names.
    """
    if given := source.part_paths():
        return {part: _of_paths(paths, source) for part, paths in given.items()}
    if (images := source.path(source.layout.images)) is not None:
        return _in_folder(source, images, [images])
    for root in reversed(dataset_folders(source.root)):
        folder = child(root, IMAGE_FOLDERS)
        parts = _of_settings(source, settings, _part_folders(source, root, folder))
        if not parts:
            parts = _in_folder(source, root, [folder, root] if folder else [root])
        if parts:
            return parts
    return {}


def child(folder: Path, names: Sequence[str]) -> Path | None:
    """Return the folder in a folder that has one of some names in any case, the likeliest first."""
    return next(iter(children(folder, names)), None)


def children(folder: Path, names: Sequence[str]) -> list[Path]:
    """Return the folders in a folder that have one of some names in any case, the likeliest and exact first."""
    if not folder.is_dir():
        return []
    rank = {name: i for i, name in enumerate(names)}
    folders = [path for path in folder.iterdir() if path.name.lower() in rank and path.is_dir()]
    return sorted(folders, key=lambda path: (rank[path.name.lower()], path.name not in rank, path.name))


def record_layout(source: Source, parts: Mapping[str, ImagePart]) -> None:
    """Record the layout settings that give the same parts, and lists and images that are not used."""
    for part, found in parts.items():
        source.use(LISTS, *(path for path in found.origins if path.is_file()))
        if part != UNSPLIT:
            source.recognise(**{part: names_in(found.origins, source.root)})
        elif found.origins:
            source.recognise(images=names_in(found.origins, source.root)[0])
    if source.layout.annotations:
        source.recognise(annotations=source.layout.annotations)
    used = {str(image) for part in parts.values() for image in part.images}
    if any(path.is_file() for part in parts.values() for path in part.origins):
        others = {image for folder in {Path(image).parent for image in used} for image in _direct_images(folder)}
        source.pass_over("an image that no list names", *(image for image in others if str(image) not in used))


def _part_folders(source: Source, root: Path, images: Path | None) -> dict[str, list[Path]]:
    folders = (source.part_folders(images) if images else {}) or source.part_folders(root)
    if folders:
        return folders
    darknet = [path for path in root.iterdir() if path.is_dir() and path.name.lower().startswith("obj_")]
    return source.one_each(group_parts(darknet, {"obj"}))  # CVAT's `obj_train_data`


def _of_settings(source: Source, settings: YoloSettings, folders: Mapping[str, list[Path]]) -> dict[str, ImagePart]:
    """Return the parts that a settings file gives, else those of folders with the parts' names."""
    parts: dict[str, ImagePart] = {}
    entries = settings.entries
    for part in PARTS:
        entry = entries.get(part)
        found = _of_entry(source, settings, entry) if entry else ImagePart()
        shown = ", ".join(entry or ())
        if not found.images and part in folders and (found := _of_paths(folders[part], source)).images and entry:
            used = ", ".join(map(str, folders[part]))
            source.notes.append(
                f"{_name(settings)} of {source.root} leads to {shown:.250}, where no image is; {used} is read instead"
            )
        if found.images:
            parts[part] = found
        elif entry and "train" in parts and part != "test" and "test" not in folders:
            raise DataError(
                f"{_name(settings)} of {source.root} leads to {shown:.250}, which has no images; fix that entry"
            )
    return parts


def _in_folder(source: Source, root: Path, folders: Sequence[Path]) -> dict[str, ImagePart]:
    """Return the parts of lists or folders in a folder by their names, else the images of the first with any."""
    if root == source.path(source.layout.images):
        below = {part: _of_paths(paths, source) for part, paths in source.part_folders(root).items()}
        if any(part.images for part in below.values()):
            return {part: found for part, found in below.items() if found.images}
    lists = [path for path in sorted(root.glob("*.txt")) if _lists_images(path)]
    groups = source.one_each(group_parts(lists, {"autosplit", "list"}))
    if groups:
        return {part: _of_paths(paths, source) for part, paths in groups.items()}
    for folder in folders:
        images = list_images(folder) if folder.name.lower() in IMAGE_FOLDERS else _direct_images(folder)
        if images := images or _labelled_below(folder):
            return {UNSPLIT: ImagePart(images, [folder])}
    return {}


def _labelled_below(folder: Path) -> list[Path]:
    """Return the images in subfolders, if a text file lies beside the first."""
    images = list_images(folder)
    beside = any(image.with_suffix(".txt").is_file() for image in images[:50])
    return images if beside or (images and child(folder, LABEL_FOLDERS[:2])) else []


def _direct_images(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.iterdir()) if is_image_file(path)] if folder.is_dir() else []


def _lists_images(path: Path) -> bool:
    """Return whether the first line of a text file is the path of an image."""
    try:
        with path.open("rb") as file:
            data = file.read(2048)
    except OSError:
        return False
    encoding = "utf-16" if data.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    lines = data.decode(encoding, errors="replace").strip().splitlines()
    return bool(lines) and is_image_file(Path(lines[0].strip().replace("\\", "/")))


def _of_paths(paths: Iterable[Path], source: Source) -> ImagePart:
    """Return the images of folders, of the image folders in them, and of lists."""
    part = ImagePart()
    for path in paths:
        if path.is_dir():
            part.images += list_images(child(path, IMAGE_FOLDERS[:2]) or path)
        else:
            part.images += _listed_images(path, source)
        part.origins.append(path)
    part.images = list(dict.fromkeys(part.images))
    return part


def _of_entry(source: Source, settings: YoloSettings, entry: Sequence[str]) -> ImagePart:
    """Return the images that the entry of a settings file names, by folders or by lists."""
    paths = [path for item in entry if (path := _find_entry(source, settings, item)) is not None]
    return _of_paths(paths, source)


def _listed_images(path: Path, source: Source) -> list[Path]:
    """Return the images that a list names, each once: relative to the list, to the data folder, or in another spelling.

    Raises:
        DataError: the file is no list of images.
    """
    lines = read_list(path)
    if path.suffix.lower() not in _LIST_ENDINGS and not _lists_images(path):
        raise DataError(f"{path} is neither a folder nor a list of images (.txt); give one of these for its part")
    names = list(dict.fromkeys(line.removeprefix("./") for line in lines))
    if len(names) < len(lines):
        source.notes.append(f"{path} names {number_of(len(lines) - len(names), 'image')} more than once; read once")
    in_root = {name for name in names if _exists(source.root / name) and not _exists(path.parent / name)}
    found = find_files([name for name in names if name not in in_root], path.parent, search=source.root)
    source.notes += found.note(str(path))
    return [source.root / name if name in in_root else found.paths.get(name, path.parent / name) for name in names]


def _holds(path: Path, root: Path) -> bool:
    """Return whether a path is a folder around the data folder, which no entry means."""
    inner, outer = (Path(os.path.realpath(folder).replace("//", "/")) for folder in (root, path))
    return inner != outer and inner.is_relative_to(outer)


def _exists(path: Path) -> bool:
    return os.path.exists(path)


def _find_entry(source: Source, settings: YoloSettings, item: str) -> Path | None:
    """Return the folder or file that an entry names: relative to `path` or the root, else by its last folders.

    Entries of another machine lead to `C:\\data\\images\\train` or `/content/data/images/train`; then the longest end
    that exists below the root is taken. Roboflow writes `../train/images` for a folder beside the file.
    """
    root, inside = settings.root, re.sub(r"^(\.\.?/)+", "", item)
    for path in (root / settings.base / item, root / item, root / inside):
        if _exists(path) and not _holds(path, source.root):
            return Path(os.path.normpath(path))
    folders = [part for part in item.replace("\\", "/").split("/") if part not in ("", ".", "..")]
    bases = dict.fromkeys((root, source.root))
    ends = (base.joinpath(*folders[first:]) for first in range(len(folders)) for base in bases)
    end = next((path for path in ends if _exists(path)), None)
    if end is not None:
        source.notes.append(
            f"{_name(settings)} of {source.root} leads to {item:.250}, which does not exist; {end} is read instead"
        )
    return end


def _name(settings: YoloSettings) -> str:
    name = settings.file.name if settings.file else "data.yaml"
    return "the data.yaml" if name.endswith((".yaml", ".yml")) else f"the {name}"


class LabelFiles:
    """The label files of images: below `labels` if the image is below `images`, else beside it.

    Args:
        source: the data set.
    """

    def __init__(self, source: Source) -> None:
        self.root, self.given = source.root, source.path(source.layout.annotations)
        self._folders: dict[Path, Path] = {}
        self._tops: dict[Path, list[Path]] = {}

    def path(self, image: Path) -> Path:
        """Return the label file of an image, which may not exist."""
        folder = image.parent
        if folder not in self._folders:
            self._folders[folder] = self._find_folder(folder)
        return self._folders[folder] / f"{image.stem}.txt"

    def _find_folder(self, folder: Path) -> Path:
        """Return the folder of the label files of the images in a folder."""
        if self.given is not None and self.given.is_dir():
            return self._below(self.given, folder) or self.given
        parts, depth = folder.parts, len(self.root.parts) if folder.is_relative_to(self.root) else 0
        positions = reversed([i for i, part in enumerate(parts) if part.lower() in IMAGE_FOLDERS and i >= depth])
        pairs = [(top, Path(*parts[i + 1 :])) for i in positions for top in self._labels_in(Path(*parts[:i]))]
        same = [path for top, inside in pairs if (path := _descend(top, inside)) is not None]
        if best := next(filter(_has_texts, same), None):
            return best
        if _has_texts(folder):
            return folder
        own = [self.root] if self.root.name.lower() in LABEL_FOLDERS else []
        for top in (*(top for top, _ in pairs), *self._labels_in(self.root), *own):
            if labels := self._below(top, folder) or (top if _has_texts(top) else None):
                return labels
        return same[0] if same else folder

    def _labels_in(self, folder: Path) -> list[Path]:
        if folder not in self._tops:
            self._tops[folder] = children(folder, LABEL_FOLDERS)
        return self._tops[folder]

    @staticmethod
    def _below(labels: Path, folder: Path) -> Path | None:
        """Return the folder below the labels with the most of an image folder's last names."""
        ends = (labels.joinpath(*folder.parts[first:]) for first in range(1, len(folder.parts)))
        return next((path for path in ends if path.is_dir()), None)


def _descend(top: Path, inside: Path) -> Path | None:
    """Return a folder below another by its path in any case; `None` if there is none."""
    folder: Path | None = top
    for part in inside.parts:
        if folder is not None:
            folder = folder / part if (folder / part).is_dir() else child(folder, (part.lower(),))
    return folder


def _has_texts(folder: Path) -> bool:
    try:
        with os.scandir(folder) as entries:
            return any(entry.name.endswith(".txt") for entry in entries)
    except (OSError, ValueError):
        return False


def _texts_in(folder: Path) -> list[str]:
    """Return the names of the text files in a folder; none if it does not exist."""
    try:
        return sorted(name for name in os.listdir(folder) if name.endswith(".txt"))
    except (OSError, ValueError):
        return []


def find_labels(labels: Sequence[Path]) -> FoundFiles:
    """Find label files whose names are spelled in another way than those of their images."""
    names_in_folder: dict[Path, list[str]] = defaultdict(list)
    for label in labels:
        names_in_folder[label.parent].append(label.name)
    paths: dict[str, Path] = {}
    matches: dict[str, Match] = {}
    for folder, names in names_in_folder.items():
        found = find_files(names, folder, by_last_part=False)
        paths |= {str(folder / name): path for name, path in found.paths.items()}
        matches |= {str(folder / name): match for name, match in found.matches.items()}
    return FoundFiles(paths, matches)


def report_labels(source: Source, labels: Sequence[Path], images: Sequence[Path]) -> None:
    """Report label files without an image, and label files that several images have."""
    used = {str(label) for label in labels}
    folders = sorted({label.parent for label in labels})
    texts = [
        folder / name for folder in folders for name in _texts_in(folder) if os.path.join(folder, name) not in used
    ]
    strays = [path for path in texts if looks_like_labels(path, empty=False)]
    if strays:
        count = number_of(len(strays), "label file")
        source.notes.append(f"{count} in {strays[0].parent} without an image, left out; {strays[0].name:.100} first")
        source.pass_over("a label file without an image", *strays)
    images_of = Counter(str(label) for label in labels)
    if shared := [label for label, count in images_of.items() if count > 1 and os.path.isfile(label)]:
        both = [image.name for image, label in zip(images, labels, strict=True) if str(label) == shared[0]]
        source.problems.append(
            f"{number_of(len(shared), 'label file')} with two images, such as {' and '.join(both[:2]):.200} for "
            f"{shared[0]}; give each image its own"
        )


def looks_like_labels(path: Path, *, empty: bool = True) -> bool:
    """Return whether a text file begins with a class and four numbers; `empty` is the answer for an empty file."""
    try:
        with path.open("rb") as file:
            lines = file.read(4096).decode("utf-8-sig", errors="replace").strip().splitlines()
    except OSError:
        return False
    words = re.split(r"[\s,]+", lines[0].strip()) if lines else []
    numbers = [word for word in words if re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?", word)]
    return len(words) - len(numbers) < 4 and len(numbers) >= 4 if words else empty
