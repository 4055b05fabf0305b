"""A data set that is being opened: its folder, the settings that decide, and the record of what is read."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import asdict, fields, replace
from itertools import chain, combinations
from pathlib import Path
from typing import Any
from unicodedata import normalize

from twins.data.base import UNSPLIT, ImageSet, Opened, Splits, hold_out_images, missing_folder
from twins.data.config import PARTS, DataConfig, LayoutConfig
from twins.data.images import walk
from twins.data.parts import group_parts
from twins.data.plan import ReadingPlan, account, name_of
from twins.errors import DataError, nearest, number_of
from twins.files import is_invalid_path

LAYOUT_FILE, FORMAT = "twins.yaml", 1
"""File beside the data with the settings of `LayoutConfig`, and its version."""
_SETTINGS = tuple(field.name for field in fields(LayoutConfig))
IMAGES, ANNOTATIONS, MASKS, LISTS, NAMES, LAYOUT = (
    "images",
    "annotation files",
    "masks",
    "lists",
    "files of class names",
    "layout files",
)
"""Kinds of files that are used."""


class SeveralSetsError(DataError):
    """A folder holds several data sets, and the message names them."""


class LayoutUnknownError(DataError):
    """A folder has no layout of the targets that are asked for, or the layout of others."""


class Source:
    """The folder of a data set, the settings that decide how it is read, and a record of what is read.

    Args:
        config: the data set.
        expected: what to give instead of a folder that does not exist.

    Raises:
        DataError: the folder does not exist, its `twins.yaml` cannot be read, or a layout setting leads to nothing.
    """

    def __init__(self, config: DataConfig, expected: str) -> None:
        path = Path(config.data)
        is_yaml = path.suffix.lower() in (".yaml", ".yml") and path.is_file()
        self.settings_file = path if is_yaml and path.name != LAYOUT_FILE else None
        """The `data.yaml` that was given as the data."""
        self.root = path.parent if is_yaml else path
        if not self.root.is_dir():
            raise missing_folder(self.root, expected)
        self.config = config
        self.notes: list[str] = []
        """Decisions made while opening, one sentence each."""
        self.faults: list[str] = []
        """Annotations left out because they contradict their file, one sentence each."""
        self.problems: list[str] = []
        """Annotations that are used although they cannot be right, one sentence each kind."""
        self.names_from = ""
        """Where the class names come from."""
        self.found = LayoutConfig()
        """The layout as it was recognised, for `twins.yaml`."""
        self._used: dict[str, str] = {}
        self._reasons: dict[str, str] = {}
        self._files: list[str] | None = None
        self.layout = self._merge_layout(config.layout)

    def path(self, name: str | None) -> Path | None:
        """Return the path of a layout setting; `None` if it is not set."""
        return None if name is None else Path(os.path.normpath(self.root / name))

    def list_files(self) -> list[str]:
        """Return all files that are not hidden as paths relative to the folder, listed once for all formats."""
        self._files = list(walk(self.root, hidden=False)) if self._files is None else self._files
        return self._files

    def part_paths(self) -> dict[str, list[Path]]:
        """Return the paths that the layout settings give for each part, in order of `PARTS`."""
        return {part: [self.root / name for name in names] for part, names in self.layout.parts.items()}

    def part_folders(self, parent: Path) -> dict[str, list[Path]]:
        """Return the folders of the parts in a folder: those of the layout settings if any is in it, else by name.

        `trainval` is the training part where there is none of that name; beside one, it is passed over.

        Raises:
            DataError: two folders have names of the same part.
        """
        given = {
            part: [path for path in paths if path.is_dir() and _is_below(path, parent)]
            for part, paths in self.part_paths().items()
        }
        if any(given.values()):
            return {part: paths for part, paths in given.items() if paths}
        if any(path.is_dir() for paths in self.part_paths().values() for path in paths) and parent == self.root:
            return {}
        folders = [] if not parent.is_dir() else [path for path in parent.iterdir() if path.is_dir()]
        return self.one_each(group_parts(path for path in folders if not path.name.startswith(".")))

    def one_each(self, groups: Mapping[str, list[Path]]) -> dict[str, list[Path]]:
        """Return paths by part, one each, with `trainval` as training part where there is no other.

        Raises:
            DataError: two paths are of the same part; the sentence names the setting that decides.
        """
        groups = dict(groups)
        union = groups.pop("trainval", [])
        if union and "train" not in groups and "val" not in groups:
            groups["train"] = union
        elif union:
            self.pass_over("the union of other parts, or a part with their images", *union)
        for part, paths in groups.items():
            if len(paths) > 1:
                names = " and ".join(os.path.relpath(path, self.root) for path in paths)
                raise DataError(
                    f"{names} in {self.root} could each be the {part} part; give the one to use, or several, as "
                    f"`layout.{part}`"
                )
        return {part: groups[part] for part in (*PARTS, UNSPLIT) if part in groups}

    def use(self, kind: str, *paths: Path) -> None:
        """Record files that are read besides the images of the parts."""
        self._used |= {os.path.abspath(path): kind for path in paths}

    def uses(self, path: Path) -> bool:
        """Return whether a file was recorded by `use`."""
        return os.path.abspath(path) in self._used

    def use_names(self, path: Path) -> None:
        """Record the file that the class names come from."""
        self.use(NAMES, path)
        self.names_from = self.relative(path)

    def pass_over(self, reason: str, *paths: Path) -> None:
        """Record files, or folders with all that is in them, that are not used."""
        self._reasons |= {os.path.abspath(path): reason for path in paths}

    def recognise(self, **settings: Any) -> None:
        """Record the layout settings that say what was recognised; `twins check --write-layout` writes them."""
        self.found = replace(self.found, **settings)

    def relative(self, path: Path) -> str:
        """Return a path relative to the data folder, or as it is if it is outside."""
        return os.path.relpath(path, self.root) if _is_below(path, self.root) else str(path)

    def plan(self, opened: Opened, parts: Mapping[str, ImageSet], origins: Mapping[str, str]) -> ReadingPlan:
        """Return what was read and what was passed over; adds problems and notes on images in two parts.

        Args:
            opened: the data set as its files define it.
            parts: its parts as they are used.
            origins: where these come from.

        Raises:
            DataError: nothing is used of what a layout setting gives.
        """
        base = os.path.abspath(self.root)
        images_of = {
            part: {_inside(os.path.abspath(images.path(index)), base) for index in range(len(images))}
            for part, images in opened.parts.items()
        }
        self._report_doubled(opened, images_of)
        self._report_shared(images_of)
        used = {_inside(path, base): kind for path, kind in self._used.items()}
        used |= dict.fromkeys(chain(*images_of.values()), IMAGES)
        self._check_settings(opened, used, images_of)
        kinds, passed, total = account(self.root, used, self._reasons)
        return ReadingPlan(
            layout=opened.layout,
            recognised_by=tuple(dict.fromkeys(map(self.relative, opened.recognised_by))),
            parts={
                name: {"images": len(images), "origin": origins[name]}
                | ({"same_as": "test"} if name == "val" and images is parts.get("test") else {})
                for name, images in parts.items()
            },
            names=self.names_from,
            used=kinds,
            outside=sum(not path.startswith(os.path.join(base, "")) for path in used),
            passed_over=passed,
            files=total,
        )

    def _report_doubled(self, opened: Opened, images_of: Mapping[str, Set[str]]) -> None:
        """Report the images that are in a part more than once, as by two settings."""
        for part, paths in images_of.items():
            if doubled := len(opened.parts[part]) - len(paths):
                where = "the whole set" if part == UNSPLIT else f"the {part} part"
                counts = Counter(opened.parts[part].path(index) for index in range(len(opened.parts[part])))
                first = self.relative(Path(counts.most_common(1)[0][0]))
                count = number_of(doubled, "image")
                self.problems.append(f"{count} in {where} more than once, {first:.100} first; give each once")

    def _report_shared(self, images_of: Mapping[str, Set[str]]) -> None:
        """Report the images that are in two parts, also by links to folders."""
        real = {
            folder: os.path.realpath(folder)
            for folder in {os.path.dirname(path) for path in chain(*images_of.values())}
        }
        files = {
            part: {os.path.join(real[os.path.dirname(path)], os.path.basename(path)): path for path in paths}
            for part, paths in images_of.items()
        }
        for part, other in combinations(files, 2):
            if not (shared := sorted(files[part].keys() & files[other].keys())):
                continue
            first = self.relative(Path(files[part][shared[0]]))
            sentence = (
                f"{number_of(len(shared), 'image')} in both the {part} and the {other} part, {first:.100} first"
                if files[part].keys() != files[other].keys()
                else f"the {part} and the {other} part of {self.root} are the same images"
            )
            if "train" in (part, other):
                self.problems.append(f"{sentence}; keep each in one of them, as metrics of learned images say nothing")
            else:
                self.notes.append(sentence)

    def _check_settings(self, opened: Opened, used: Mapping[str, str], images_of: Mapping[str, Set[str]]) -> None:
        """Raise DataError for a layout setting that is not followed; those of the parts win over `images`."""
        for name, value in asdict(self.layout).items():
            if name == "images" and self.layout.parts:
                continue
            for item in (value,) if isinstance(value, str) else value or ():
                place = _inside(os.path.abspath(self.root / item), os.path.abspath(self.root))
                below = {path for path in used if path == place or path.startswith(os.path.join(place, ""))}
                images = {path for path in below if used[path] == IMAGES}
                follows = name not in PARTS or (name in images_of and (not images or images & images_of[name]))
                if not below or not follows:
                    raise DataError(
                        f"`layout.{name}` gives {item}, of which nothing is used as such: {self.root} is read as "
                        f"{opened.layout}; correct the setting, or leave it out"
                    )

    def _merge_layout(self, given: LayoutConfig) -> LayoutConfig:
        """Return the given settings, and for the others those of `twins.yaml`."""
        file = self.root / LAYOUT_FILE
        saved = LayoutConfig()
        if os.path.lexists(file):
            saved = read_layout(file)
            self.use(LAYOUT, file)
        merged: dict[str, Any] = {}
        for name, value in asdict(given).items():
            origin = f"`layout.{name}`" if value else f"`{name}` of {file}"
            chosen = value or getattr(saved, name) or ()
            paths = [self._existing(item, origin) for item in ((chosen,) if isinstance(chosen, str) else chosen)]
            if name == "images" and paths and not (self.root / paths[0]).is_dir():
                raise DataError(f"{origin} leads to the file {paths[0]}; give the folder of the images")
            merged[name] = (
                tuple({os.path.normpath(path): path for path in paths}.values())
                if name in PARTS
                else next(iter(paths), None)
            )
        return LayoutConfig(**merged)

    def _existing(self, item: str, origin: str) -> str:
        """Return a path of a setting as the disk spells it; raises DataError if it does not exist."""
        for text in () if is_invalid_path(item) else (item, item.replace("\\", "/")):
            for spelling in (text, normalize("NFC", text), normalize("NFD", text)):
                if os.path.exists(self.root / spelling):
                    return spelling
        hint = nearest(item, [path.name for path in self.root.iterdir()])
        raise DataError(
            f"{origin} leads to {item:.250}, which does not exist in {self.root}{hint}; give a path relative to that "
            "folder"
        )


def split(opened: Opened, source: Source) -> Splits[Any]:
    """Return the parts of a data set.

    A share of an unsplit set is held out at random; so is one of the training part where it is the only part. A test
    part is also the validation part where there is a training part and no other.

    Raises:
        DataError: the layout does not use the `data.yaml` that was given, or a class name is no text.
    """
    _check_opened(opened, source)
    parts, config, share = dict(opened.parts), source.config, ""
    origins = {part: name_of(opened.origins.get(part, "the whole set")) for part in parts}
    whole = UNSPLIT if UNSPLIT in parts else "train" if parts.keys() == {"train"} else None
    if whole is not None:
        images, origin = parts.pop(whole), origins[whole]
        share = f" ({number_of(len(images), 'image')}, share {config.val_share:g} held out)"
        parts |= zip(("train", "val"), hold_out_images(images, config), strict=True)
        origins |= {
            "train": f"the rest of {origin}",
            "val": f"share {config.val_share:g}, seed {config.seed}, of {origin}",
        }
    elif "train" in parts and "val" not in parts:
        parts["val"] = parts["test"]
        source.notes.append(
            "there is no validation part, so the test part is used as one: it selects the best weights, and its "
            "metrics are too good; keep some training images apart as a validation part for an unbiased test"
        )
        origins["val"] = f"{origins['test']}, as there is no validation part"
    parts = {name: parts[name] for name in PARTS if name in parts}
    plan = source.plan(opened, parts, origins)  # adds problems and notes
    return Splits(
        parts,
        str(source.root),
        tuple(source.notes),
        tuple(source.faults),
        tuple(source.problems),
        plan,
        replace(source.layout, **{name: value for name, value in asdict(source.found).items() if value}),
        share,
    )


def _check_opened(opened: Opened, source: Source) -> None:
    """Raise DataError for a `data.yaml` that the layout does not use, and for class names that are no text."""
    if (file := source.settings_file) is not None and not source.uses(file):
        raise DataError(
            f"{file} is not used: {source.root} is read as {opened.layout}; give the folder, or choose another `task`"
        )
    for name in next(iter(opened.parts.values())).names:
        if any("\ud800" <= character <= "\udfff" for character in name):  # bytes of a file name that are not UTF-8
            raise DataError(f"the class name {name!r} in {source.root} is no Unicode text; rename its folder or file")


def read_layout(file: Path) -> LayoutConfig:
    """Return the settings in a `twins.yaml`.

    Raises:
        DataError: the file is no YAML or of a newer format, or has an unknown setting or a value that is no path.
    """
    import yaml

    try:
        content = yaml.load(file.read_text(encoding="utf-8-sig"), Loader=yaml.BaseLoader)
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        raise DataError(f"{file} cannot be read as YAML ({str(error).partition(chr(10))[0]}); fix it") from error
    layout = content.get("layout") if isinstance(content, dict) else None
    if not isinstance(layout, dict):
        raise DataError(f"{file} has no settings under `layout`; give {', '.join(_SETTINGS)} there")
    _check_known(file, content, ("format", "layout"))
    _check_known(file, layout, _SETTINGS)
    if (version := content.get("format", str(FORMAT))) != str(FORMAT):
        raise DataError(f"{file} is of format {version!r:.100}, and this version reads format {FORMAT}; update twins")
    values: dict[str, Any] = {name: _read_paths(file, name, value) for name, value in layout.items()}
    return LayoutConfig(**values)


def _check_known(file: Path, settings: Mapping[str, Any], names: Sequence[str]) -> None:
    for name in settings:
        if name not in names:
            hint = nearest(name, names) or f"; the settings are {', '.join(names)}"
            raise DataError(f"{file} has the unknown setting `{name:.100}`{hint}")


def _read_paths(file: Path, name: str, value: Any) -> str | tuple[str, ...] | None:
    """Return the value of a setting, a path or several; raises DataError if it is none."""
    items = value if isinstance(value, list) else [] if value in ("", "null", "~") else [value]
    if not all(isinstance(item, str) and item for item in items) or (len(items) > 1 and name not in PARTS):
        raise DataError(f"{file} has the value {value!r:.100} for `{name}`; give a path relative to the folder")
    return tuple(items) if name in PARTS else items[0] if items else None


def layout_text(layout: LayoutConfig) -> str:
    """Return the text of a `twins.yaml` with these settings."""
    import yaml

    values = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(layout).items()}
    content = {"format": FORMAT, "layout": {name: value for name, value in values.items() if value}}
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)


def names_in(paths: Iterable[Path], root: Path) -> tuple[str, ...]:
    """Return paths as a layout setting gives them: relative to the data folder, with `/` between folders."""
    return tuple(Path(os.path.relpath(path, root)).as_posix() for path in paths)


def _is_below(path: Path, folder: Path) -> bool:
    """Return whether a path is a folder or in it, by its text."""
    path, folder = Path(os.path.abspath(path)), Path(os.path.abspath(folder))
    return path == folder or path.is_relative_to(folder)


def _inside(path: str, base: str) -> str:
    """Return an absolute path as one below `base` if it leads there by another way, such as a link."""
    if path == base or path.startswith(os.path.join(base, "")):
        return path
    real, real_base = os.path.realpath(path), os.path.realpath(base)
    return (
        os.path.normpath(os.path.join(base, os.path.relpath(real, real_base)))
        if _is_below(Path(real), Path(real_base))
        else path
    )
