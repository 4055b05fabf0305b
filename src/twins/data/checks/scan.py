"""Reading a whole data set once: unreadable images, sizes and duplicates for every task, and what a task adds."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, Protocol

from PIL.Image import Image

from twins.data.base import ImageSet, Splits
from twins.errors import DataError, NotFoundError

FORMAT = 1
"""Version of the dictionary that `CheckReport.to_dict` writes."""


@dataclass(kw_only=True)
class CheckReport:
    """What reading a data set found."""

    data: str
    """The data set."""
    names: list[str]
    """Class names by class id."""
    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    """Images of each class, or that have it, by split; where there are boxes, objects of each class."""
    images: dict[str, int]
    """Images, by split."""
    shares: dict[str, dict[str, float]] = field(default_factory=dict)
    """Share of the pixels of each class, by split, where there are masks."""
    sizes: dict[str, list[int]] = field(default_factory=dict)
    """Smallest, median and largest `width` and `height` in pixels."""
    problems: list[str] = field(default_factory=list)
    """What would spoil a run, a sentence each."""
    notes: list[str] = field(default_factory=list)
    """What is worth knowing and spoils nothing."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON-ready values."""
        return {"format": FORMAT} | asdict(self)


@dataclass(frozen=True)
class Scanned:
    """One image of a set."""

    path: str
    size: tuple[int, int] | None
    """Width and height in pixels; `None` where the image cannot be read."""
    digest: str
    """Equal for equal pixels; empty where the image cannot be read."""
    finding: Any
    """What the task took from the image's target; `None` where it cannot be used."""
    problems: tuple[str, ...]


Scan = dict[str, list[Scanned]]
"""The images of `train` and of `val`."""


class TaskCheck(Protocol):
    """What a task adds to a scan."""

    def look(self, images: Any, index: int, image: Image | None) -> tuple[Any, list[str]]:
        """Return what is kept of an image's target until all are read, and its problems; called in threads.

        Args:
            images: the set.
            index: the image's place in it.
            image: opened, or `None` where it cannot be read.

        Raises:
            DataError, NotFoundError: the target cannot be read; this becomes a problem.
        """

    def conclude(self, scan: Scan, report: CheckReport) -> None:
        """Fill a report's counts, and add problems and notes about the set as a whole."""


def check(splits: Splits[Any], task: TaskCheck) -> CheckReport:
    """Read every image and target of a data set, and report what is in it and what would spoil a run."""
    parts = {"train": splits.train, "val": splits.val}
    with ThreadPoolExecutor() as pool:
        scan = {
            name: list(pool.map(partial(_read, task, images), range(len(images)))) for name, images in parts.items()
        }
    read = [image for images in scan.values() for image in images]
    report = CheckReport(
        data=splits.source,
        names=list(splits.train.names),
        images={name: len(images) for name, images in scan.items()},
        sizes=_size_ranges([image.size for image in read if image.size]),
        problems=[*splits.faults, *(problem for image in read for problem in image.problems)],
        notes=list(splits.notes),
    )
    task.conclude(scan, report)
    report.problems += [
        f"the same image is in training and in evaluation: {first_paths(copies)}; keep it in one"
        for copies in find_duplicates(scan)
        if len({part for part, _ in copies}) > 1
    ]
    return report


def summaries_of(scan: Scan) -> dict[str, list[Any]]:
    """Return what the task took from the images of each part, unusable ones left out."""
    return {part: [image.finding for image in images if image.finding is not None] for part, images in scan.items()}


def missing_from_training(counts: dict[str, dict[str, int]]) -> dict[str, int]:
    """Return how often a class is held out, for those that training lacks."""
    return {name: held_out for name, held_out in counts["val"].items() if held_out and not counts["train"][name]}


def extremes(values: Mapping[str, float]) -> tuple[str, str] | None:
    """Return the names of the least and the greatest value above 0; `None` where there is none."""
    present = {name: value for name, value in values.items() if value}
    return (min(present, key=present.__getitem__), max(present, key=present.__getitem__)) if present else None


def find_duplicates(scan: Scan) -> list[list[tuple[str, Scanned]]]:
    """Return each group of images with the same pixels, with the part that each is in."""
    found: dict[str, list[tuple[str, Scanned]]] = defaultdict(list)
    for part, images in scan.items():
        for image in images:
            if image.digest:
                found[image.digest].append((part, image))
    return [copies for copies in found.values() if len(copies) > 1]


def first_paths(copies: list[tuple[str, Scanned]]) -> str:
    """Return the paths of the first few copies of an image."""
    return ", ".join(image.path for _, image in copies[:4])


def _read(task: TaskCheck, images: ImageSet, index: int) -> Scanned:
    image, size, digest, finding, problems = None, None, "", None, []
    try:
        image = images.load(index)
        size, digest = image.size, hashlib.sha256(repr(image.size).encode() + image.tobytes()).hexdigest()
    except (DataError, NotFoundError) as error:
        problems.append(str(error))
    try:
        finding, more = task.look(images, index, image)
        problems += more
    except (DataError, NotFoundError) as error:
        problems.append(str(error))
    return Scanned(images.path(index), size, digest, finding, tuple(dict.fromkeys(problems)))


def _size_ranges(sizes: list[tuple[int, int]]) -> dict[str, list[int]]:
    if not sizes:
        return {}
    ordered = {axis: sorted(size[place] for size in sizes) for place, axis in enumerate(("width", "height"))}
    return {axis: [values[0], values[len(values) // 2], values[-1]] for axis, values in ordered.items()}
