"""The reading plan: what of a data set's folder is used, and what is passed over and why. Reads no pixels."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePath
from typing import Any

from twins.data.images import UNREAD_ENDINGS, image_endings, is_hidden, walk
from twins.errors import number_of

FORMAT = 1
"""Version of `data.json`."""
MAX_GROUPS = 40
"""Number of groups of files passed over from which they are joined by their upper folders."""
MAX_SHOWN = 6
"""Number of groups of files passed over that a run's log shows."""
_ANNOTATION_ENDINGS = frozenset((
    ".json", ".jsonl", ".ndjson", ".geojson", ".xml", ".txt", ".csv", ".tsv", ".yaml", ".yml", ".names", ".data",
    ".mat", ".npy", ".npz", ".h5", ".hdf5", ".pkl", ".pickle", ".parquet", ".arrow", ".tfrecord", ".tfrecords",
    ".record", ".lst", ".idx", ".rec", ".mdb", ".xlsx", ".xls", ".pbtxt",
))  # fmt: skip
_ARCHIVES = frozenset((".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar"))
_DOCUMENTS = frozenset(("readme", "license", "licence", "changelog", "citation", "requirements", "notice", "authors"))
IMAGE, UNREAD, ANNOTATION, ARCHIVE = (
    "an image that this layout does not use",
    "a picture that Pillow cannot read",
    "a file such as annotations come in, which this layout does not use",
    "an archive, which is not unpacked",
)
HIDDEN, NO_DATA = "hidden, or of the system", "neither image nor annotation"
_QUIET = (HIDDEN, NO_DATA)
"""Reasons that a run's log does not show."""


@dataclass(frozen=True)
class PassedOver:
    """Files of one folder that are not used, for one reason."""

    reason: str
    count: int
    folder: str
    """Relative to the data folder; `.` for the data folder itself."""
    first: str
    """The first of the files, relative to the data folder."""

    @property
    def quiet(self) -> bool:
        """Whether nobody misses such files."""
        return self.reason in _QUIET

    def __str__(self) -> str:
        count = number_of(self.count, "file")
        return f"{count} in {name_of(self.folder)}: {self.reason}; {self.first} first"


@dataclass(frozen=True)
class ReadingPlan:
    """What is read of a data set."""

    layout: str
    """Name of the layout that was recognised."""
    recognised_by: tuple[str, ...] = ()
    """Files and folders by which it was recognised, relative to the data folder."""
    parts: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    """By part, `images`, the number of its images, `origin`, where it comes from, and `same_as` if another part has
    the same images."""
    names: str = ""
    """Where the class names come from."""
    used: Mapping[str, int] = field(default_factory=dict)
    """Number of files in the data folder that are used, by kind, such as `images` and `annotations`."""
    outside: int = 0
    """Number of used files outside the data folder."""
    passed_over: tuple[PassedOver, ...] = ()
    """Files in the data folder that are not used; with `used`, all of them."""
    files: int = 0
    """Number of files in the data folder."""

    @property
    def images(self) -> int:
        """Return the number of images in all parts, each once."""
        return sum(part["images"] for part in self.parts.values() if "same_as" not in part)

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as JSON-ready values."""
        return {"format": FORMAT, **asdict(self)}

    def lines(self) -> list[str]:
        """Return the plan as text, a line for each fact."""
        names = ", ".join(map(name_of, self.recognised_by))
        recognised = f", recognised by {names}" if names else ""
        used = ", ".join(f"{count:,} {_singular(kind) if count == 1 else kind}" for kind, count in self.used.items())
        return [
            f"layout: {self.layout}{recognised}",
            *(f"{name}: {number_of(part['images'], 'image')}, {part['origin']}" for name, part in self.parts.items()),
            *([f"class names: {self.names}"] if self.names else []),
            *([f"used: {used} of {number_of(self.files, 'file')}"] if used else []),
            *(f"passed over: {group}" for group in self.passed_over),
        ]

    def short(self) -> list[str]:
        """Return the plan as a run's log has it: the parts in one line, then what somebody may miss."""
        parts = ", ".join(f"{part['images']:,} {name} ({part['origin']})" for name, part in self.parts.items())
        missed = [group for group in self.passed_over if not group.quiet]
        rest = sum(group.count for group in missed[MAX_SHOWN:])
        return [
            f"images, read as {self.layout}: {parts}",
            *(f"passed over: {group}" for group in missed[:MAX_SHOWN]),
            *([f"passed over: {number_of(rest, 'more file')}; twins check lists them"] if rest else []),
        ]


def name_of(folder: str) -> str:
    """Return what a message calls a folder whose path is relative to the data folder."""
    return "the data folder" if folder == "." else folder


def _singular(kind: str) -> str:
    """Return the name of one thing of a kind: `masks` and `files of class names` lose the first plural's `s`."""
    return re.sub(r"(?<=[^s])s\b", "", kind, count=1)


def account(
    root: Path, used: Mapping[str, str], reasons: Mapping[str, str]
) -> tuple[dict[str, int], tuple[PassedOver, ...], int]:
    """Return what becomes of each file below a folder: files used by kind, files passed over, and all files.

    Args:
        root: the data folder.
        used: kind of each used file, by absolute normalised path.
        reasons: why a file or a folder with all that is in it is not used, likewise; other files get a reason by their
            name.
    """
    base, kinds, total = os.path.abspath(root), Counter[str](), 0
    missed: list[tuple[str, str, str | None]] = []
    for inside in walk(root):
        total += 1
        path = os.path.join(base, inside)
        if (kind := used.get(path)) is not None:
            kinds[kind] += 1
        else:
            missed.append(_given_reason(path, inside, reasons) or (_reason_by_name(inside), inside, None))
    passed = [
        PassedOver(reason, len(files), folder, min(files)) for (reason, folder), files in sorted(_group(missed).items())
    ]
    return dict(kinds), tuple(sorted(passed, key=lambda group: group.quiet)), total


def _group(missed: Sequence[tuple[str, str, str | None]], depth: int = 3) -> dict[tuple[str, str], list[str]]:
    """Group files by reason and by the folder that the reason is for, or else by their first few folders."""
    groups: dict[tuple[str, str], list[str]] = {}
    for reason, inside, reason_for in missed:
        folder = reason_for or os.path.join(*PurePath(inside).parts[:-1][:depth], "")[:-1] or "."
        groups.setdefault((reason, folder), []).append(inside)
    return _group(missed, depth - 1) if len(groups) > MAX_GROUPS and depth else groups


def _given_reason(path: str, inside: str, reasons: Mapping[str, str]) -> tuple[str, str, str | None] | None:
    """Return the reason given for a file or for a folder that it is in, the file, and that folder."""
    if not reasons:
        return None
    folder = inside
    for _ in PurePath(inside).parts:
        if (reason := reasons.get(path)) is not None:
            return reason, inside, None if folder == inside else folder
        path, folder = os.path.dirname(path), os.path.dirname(folder)
    return None


def _reason_by_name(inside: str) -> str:
    parts = [part.lower() for part in PurePath(inside).parts]
    name, ending = os.path.splitext(parts[-1])
    if any(map(is_hidden, parts)):
        return HIDDEN
    if ending in image_endings():
        return IMAGE
    if ending in UNREAD_ENDINGS:
        return UNREAD
    if ending in _ARCHIVES:
        return ARCHIVE
    if ending in _ANNOTATION_ENDINGS and not any(name.startswith(word) for word in _DOCUMENTS):
        return ANNOTATION
    return NO_DATA
