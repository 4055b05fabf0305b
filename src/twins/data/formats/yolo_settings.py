"""The settings files of YOLO's data sets: `data.yaml`, darknet's `obj.data`, and files of names."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from twins.data.classes import TABLE_FILES, ClassTable, read_table, with_bright_colours
from twins.data.formats.names import read_list
from twins.data.formats.source import LAYOUT_FILE, Source
from twins.data.formats.values import read_whole
from twins.data.parts import part_of
from twins.errors import DataError


@dataclass(frozen=True)
class YoloSettings:
    """What a settings file says, or nothing."""

    file: Path | None = None
    content: Mapping[str, Any] = field(default_factory=dict)
    """Its keys and values, as texts, lists and dictionaries of texts."""
    names_file: Path | None = None
    """The file of class names that it leads to, or that lies there without it."""
    root: Path = Path()
    """The folder that its paths begin in."""

    @property
    def base(self) -> str:
        """The folder that its paths are in, as written."""
        return str(self.content.get("path") or "")

    @property
    def task(self) -> str:
        """The task that it says, such as `segment`, `pose` or `obb`; empty if it says none."""
        return str(self.content.get("task") or "").strip().lower()

    @property
    def entries(self) -> dict[str, list[str]]:
        """What it gives for each part: folders or lists, as written."""
        entries: dict[str, list[str]] = {}
        for key, value in self.content.items():
            part = part_of(str(key))
            if value and part and part not in entries:
                entries[part] = [str(item) for item in (value if isinstance(value, list) else [value]) if item]
        return entries

    def classes(self, source: Source) -> ClassTable | None:
        """Return the classes, and record the file that they are of; `None` if it names none."""
        path = self.names_file or (self.file if "names" in self.content else None)
        if path is None:
            return None
        source.use_names(path)
        return with_bright_colours(read_table(path))

    def problems(self, classes: ClassTable) -> list[str]:
        """Return a sentence if the number of classes, `nc` or `classes`, is not that of the names."""
        count = read_whole(self.content.get("nc", self.content.get("classes")))
        if count is None or count == len(classes):
            return []
        return [f"{self.file} says {count} classes and gives {len(classes)} names; fix one of them"]


def find_settings(source: Source) -> YoloSettings:
    """Return the settings of a data set: those given as the data, a `data.yaml` or another, or darknet's.

    Raises:
        DataError: the file is damaged or has no `names`, or two files contradict each other.
    """
    if source.settings_file is not None:
        return _from_yaml(source.settings_file, required=True)
    for root in dataset_folders(source.root):
        if settings := _one_of(source, _yaml_settings(root)) or _one_of(source, _darknet_settings(root)):
            return settings
    names = (_only_names_file(root) for root in dataset_folders(source.root))
    return YoloSettings(root=source.root, names_file=next(filter(None, names), None))


def dataset_folders(root: Path) -> list[Path]:
    """Return a folder, and the only folder in it if it holds nothing else, as archives are often unpacked."""
    folders = [root]
    for _ in range(2):
        entries = [path for path in folders[-1].iterdir() if not path.name.startswith(".") and path.name != LAYOUT_FILE]
        if len(entries) != 1 or not entries[0].is_dir() or part_of(entries[0].name) or _is_content(entries[0]):
            break
        folders.append(entries[0])
    return folders


def _is_content(folder: Path) -> bool:
    return folder.name.lower() in ("images", "labels")


def _yaml_settings(root: Path) -> list[YoloSettings]:
    """Return the YAML files in a folder that have names, `data.yaml` first or alone."""
    paths = sorted((*root.glob("*.yaml"), *root.glob("*.yml")), key=lambda path: (path.stem != "data", path.name))
    found = []
    for path in paths:
        if path.name != LAYOUT_FILE and (settings := _from_yaml(path)).content:
            found.append(settings)
            if path.stem == "data":
                break
    others = [settings for settings in found if settings.file and settings.file.name not in TABLE_FILES]
    return others or found


def _from_yaml(path: Path, *, required: bool = False) -> YoloSettings:
    import yaml

    try:
        content = yaml.load(path.read_text(encoding="utf-8-sig"), Loader=yaml.BaseLoader)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise DataError(f"{path} is no YAML ({str(error).partition(chr(10))[0]}); fix it") from error
    if not isinstance(content, dict) or "names" not in content:
        if required:
            raise DataError(f"{path} has no `names`, so it is no data.yaml; give the data folder, or another file")
        return YoloSettings()
    names = content["names"]
    names_file = _find_file(names, [path.parent]) if isinstance(names, str) and names else None
    return YoloSettings(path, content, names_file, path.parent)


def _one_of(source: Source, found: Sequence[YoloSettings]) -> YoloSettings | None:
    """Return the settings of several files that say the same; raises DataError if they contradict each other."""
    if not found:
        return None
    first = found[0]
    for other in found[1:]:
        if any(first.content.get(key) != other.content.get(key) for key in ("names", *_part_keys(found))):
            raise DataError(
                f"{source.relative(first.file or source.root)} and {source.relative(other.file or source.root)} in "
                f"{source.root} name different classes or images; give the one to use in place of the folder, as `data`"
            )
    if others := [other.file for other in found[1:] if other.file]:
        source.pass_over("a settings file that says the same as another", *others)
    return first


def _part_keys(found: Iterable[YoloSettings]) -> list[str]:
    return sorted({str(key) for settings in found for key in settings.content if part_of(str(key))})


def _darknet_settings(root: Path) -> list[YoloSettings]:
    """Return darknet's settings in a folder, in one of its folders, or beside it if they lead into it."""
    folders = [root, *sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))]
    for folder in folders:
        if found := [settings for path in sorted(folder.glob("*.data")) if (settings := _from_darknet(path, root))]:
            return found
    above = [_from_darknet(path, root) for path in sorted(root.absolute().parent.glob("*.data"))]
    return [settings for settings in above if settings and _leads_into(settings, root)]


def _leads_into(settings: YoloSettings, root: Path) -> bool:
    items = (item for entry in settings.entries.values() for item in entry)
    paths = (_find_file(item, [root, root.absolute().parent]) for item in items)
    return any(root.name in line for path in paths if path for line in read_list(path)[:1])


def _from_darknet(path: Path, root: Path) -> YoloSettings | None:
    """Return the settings in a file of lines such as `train = data/train.txt`; `None` if it is no such file."""
    try:
        lines = [line.partition("=") for line in read_list(path) if "=" in line and not line.startswith("#")]
    except DataError:
        return None
    content = {key.strip().lower(): value.strip() for key, _, value in lines}
    if not content.keys() & {"names", "train", "valid"}:
        return None
    names = content.pop("names", "")
    names_file = _find_file(names, [path.parent, root]) or _only_names_file(path.parent)
    return YoloSettings(path, content, names_file, path.parent if path.parent in root.absolute().parents else root)


def _find_file(name: str, folders: Iterable[Path]) -> Path | None:
    """Return the file that a path of another machine leads to: the longest end of it that is in a folder."""
    parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".", "..")]
    if "\0" in name or not parts:
        return None
    folders = list(folders)
    ends = [folder.joinpath(*parts[first:]) for first in range(len(parts)) for folder in folders]
    ends = [Path(name), *ends] if os.path.isabs(name) else ends
    return next((path for path in ends if os.path.isfile(path)), None)


def _only_names_file(folder: Path) -> Path | None:
    """Return the file in a folder that ends in `.names`, as `obj.names` of darknet.

    Raises:
        DataError: two such files have different names.
    """
    paths = [path for path in sorted(folder.glob("*.names")) if path.is_file() and not path.name.startswith(".")]
    for path in paths[1:]:
        if read_list(path) != read_list(paths[0]):
            raise DataError(
                f"{paths[0]} and {path} list different class names; remove one, or say which is right with `names` in "
                "a data.yaml or obj.data"
            )
    return paths[0] if paths else None


def other_names_problems(
    source: Source, settings: YoloSettings, classes: ClassTable, beside: Sequence[Path]
) -> list[str]:
    """Return a sentence for each other file that lists class names beside those used, and lists different ones.

    Args:
        source: the data set.
        settings: its settings.
        classes: the classes that are used.
        beside: files of class names among the label files.
    """
    root = settings.root
    paths = [*(root / name for name in TABLE_FILES), *sorted(root.glob("*.names"))]
    paths += [path for path in beside if path.is_relative_to(source.root)]
    paths += [path for found in _darknet_files(root) if (path := found.names_file)]
    used = {settings.file, settings.names_file} if source.config.boxes.classes == "auto" else {settings.file}
    problems = []
    for path in dict.fromkeys(paths):
        if path in used or not path.is_file() or source.relative(path) == source.names_from:
            continue
        try:
            names = read_table(path).names
        except DataError:
            continue
        if names != classes.names:
            problems.append(
                f"{source.relative(path)} lists other classes than {source.names_from}, which is used, such as "
                f"{names[0]!r:.50} for {classes.names[0]!r:.50}; remove one of them"
                if names[0] != classes.names[0]
                else f"{source.relative(path)} lists other classes than {source.names_from}, which is used; remove one"
            )
        source.pass_over("class names that another file gives", path)
    return problems


def _darknet_files(root: Path) -> list[YoloSettings]:
    return [settings for path in sorted(root.glob("*.data")) if (settings := _from_darknet(path, root))]
