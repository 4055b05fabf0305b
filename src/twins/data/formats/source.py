"""A data set that is being opened: its folder, the settings that decide, and the record of what is read."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from twins.data.base import UNSPLIT, ImageSet, Opened, Splits, hold_out_images, missing_folder
from twins.data.config import PARTS, DataConfig, LayoutConfig
from twins.data.parts import group_parts
from twins.data.plan import ReadingPlan, account
from twins.errors import DataError, nearest, number_of
from twins.files import is_invalid_path

LAYOUT_FILE = "twins.yaml"
"""File beside the data with the settings of `LayoutConfig`."""
IMAGES, ANNOTATIONS, MASKS, LISTS, NAMES, LAYOUT = (
    "images",
    "annotation files",
    "masks",
    "lists",
    "files of class names",
    "layout files",
)
"""Kinds of files that are used."""


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
        self.settings_file = path if path.suffix.lower() in (".yaml", ".yml") and path.is_file() else None
        """The `data.yaml` that was given as the data."""
        self.root = path.parent if self.settings_file else path
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
        self.layout = self._merge_layout(config.layout)

    def path(self, name: str | None) -> Path | None:
        """Return the path of a layout setting; `None` if it is not set."""
        return None if name is None else Path(os.path.normpath(self.root / name))

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
        """Return what was read and what was passed over.

        Args:
            opened: the data set as its files define it.
            parts: its parts as they are used.
            origins: where these come from.
        """
        used = dict(self._used)
        for images in opened.parts.values():
            used |= {os.path.abspath(images.path(index)): IMAGES for index in range(len(images))}
        kinds, passed, total = account(self.root, used, self._reasons)
        base = os.path.join(os.path.abspath(self.root), "")
        return ReadingPlan(
            layout=opened.layout,
            recognised_by=tuple(dict.fromkeys(map(self.relative, opened.recognised_by))),
            parts={name: {"images": len(images), "origin": origins[name]} for name, images in parts.items()},
            names=self.names_from,
            used=kinds,
            outside=sum(not path.startswith(base) for path in used),
            passed_over=passed,
            files=total,
        )

    def _merge_layout(self, given: LayoutConfig) -> LayoutConfig:
        """Return the given settings, and for the others those of `twins.yaml`."""
        file = self.root / LAYOUT_FILE
        saved = read_layout(file) if file.is_file() else LayoutConfig()
        if file.is_file():
            self.use(LAYOUT, file)
        changes = {name: value for name, value in asdict(given).items() if value}
        merged = replace(saved, **changes)
        for name, value in asdict(merged).items():
            for item in (value,) if isinstance(value, str) else value or ():
                self._check_exists(name, item, file if name not in changes else None)
        return merged

    def _check_exists(self, name: str, item: str, file: Path | None) -> None:
        if is_invalid_path(item) or not os.path.exists(self.root / item):
            names = [path.name for path in self.root.iterdir()]
            setting = f"`{name}` of {file}" if file else f"`layout.{name}`"
            raise DataError(
                f"{setting} leads to {item:.250}, which is not in {self.root}{nearest(item, names)}; give a path "
                "relative to that folder"
            )


def split(opened: Opened, source: Source) -> Splits[Any]:
    """Return the parts of a data set.

    A share of an unsplit set is held out at random; so is one of the training part where it is the only part. A test
    part is also the validation part where there is a training part and no other.
    """
    parts, config, share = dict(opened.parts), source.config, ""
    origins = dict.fromkeys(parts, "the whole set") | dict(opened.origins)
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
        origins["val"] = f"{origins['test']}, the test part, as there is no validation part"
    parts = {name: parts[name] for name in PARTS if name in parts}
    return Splits(
        parts,
        str(source.root),
        tuple(source.notes),
        tuple(source.faults),
        tuple(source.problems),
        source.plan(opened, parts, origins),
        source.found,
        share,
    )


def read_layout(file: Path) -> LayoutConfig:
    """Return the settings in a `twins.yaml`.

    Raises:
        DataError: the file is no YAML, or has an unknown setting or a value that is no path.
    """
    import yaml

    try:
        content = yaml.load(file.read_text(encoding="utf-8-sig"), Loader=yaml.BaseLoader)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise DataError(f"{file} is no YAML ({str(error).partition(chr(10))[0]}); fix it") from error
    layout = content.get("layout") if isinstance(content, dict) else None
    if not isinstance(layout, dict):
        raise DataError(f"{file} has no settings under `layout`; give images, annotations, train, val or test there")
    known = asdict(LayoutConfig())
    values: dict[str, Any] = {}
    for name, value in layout.items():
        if name not in known:
            raise DataError(f"{file} has the setting `{name}`{nearest(str(name), known)}, and knows {', '.join(known)}")
        items = value if isinstance(value, list) else [value] if value not in ("", "null", "~", None) else []
        if not all(isinstance(item, str) and item for item in items) or (len(items) > 1 and name not in PARTS):
            raise DataError(f"{file} has the value {value!r:.100} for `{name}`; give a path relative to the folder")
        values[name] = tuple(items) if name in PARTS else items[0] if items else None
    return LayoutConfig(**values)


def layout_text(layout: LayoutConfig) -> str:
    """Return the text of a `twins.yaml` with these settings."""
    import yaml

    values = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(layout).items()}
    content = {"format": 1, "layout": {name: value for name, value in values.items() if value}}
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)


def names_in(paths: Iterable[Path], root: Path) -> tuple[str, ...]:
    """Return paths as a layout setting gives them: relative to the data folder, with `/` between folders."""
    return tuple(Path(os.path.relpath(path, root)).as_posix() for path in paths)


def _is_below(path: Path, folder: Path) -> bool:
    """Return whether a path is a folder or in it, by its text."""
    path, folder = Path(os.path.abspath(path)), Path(os.path.abspath(folder))
    return path == folder or path.is_relative_to(folder)
