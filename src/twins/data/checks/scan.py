"""The scan of a data set: reads every image and target once, for the checks of all tasks and of one task."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from PIL.Image import Image

from twins.data.base import ImageSet, Splits
from twins.data.config import EMBEDDED
from twins.data.images import NO_DATA, SCALED, count_unread
from twins.data.plan import ReadingPlan
from twins.errors import DataError, NotFoundError, count_list, number_of

FORMAT = 1
"""Version of the dictionary that `CheckReport.to_dict` writes."""


@dataclass(kw_only=True)
class CheckReport:
    """The result of checking a data set."""

    data: str
    """Folder or name of the data set."""
    names: list[str]
    """Class names by class id."""
    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    """By split, for each class, the number of images of it or with it; for objects, the number of objects."""
    images: dict[str, int]
    """Number of images by split."""
    shares: dict[str, dict[str, float]] = field(default_factory=dict)
    """By split, each class's share of the pixels that are not ignored; for label maps only."""
    sizes: dict[str, list[int]] = field(default_factory=dict)
    """Smallest, median and largest `width` and `height` in pixels."""
    problems: list[str] = field(default_factory=list)
    """Faults that would spoil a run, a sentence each."""
    notes: list[str] = field(default_factory=list)
    """Hints that do not spoil a run, a sentence each."""
    plan: ReadingPlan = field(default_factory=lambda: ReadingPlan("unknown"))
    """The reading plan: what is read of the data, and what is passed over."""

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON-ready values."""
        return {"format": FORMAT, **asdict(self), "plan": self.plan.to_dict()}


@dataclass(frozen=True)
class ScannedImage:
    """An image of the set after the scan."""

    path: str
    size: tuple[int, int] | None
    """Width and height in pixels; `None` if the image cannot be read."""
    digest: str
    """Hash of the pixels; empty if the image cannot be read."""
    summary: Any
    """The task's summary of the target; `None` if the target cannot be used."""
    problems: tuple[str, ...]
    """Faults of the image and its target, a sentence each."""
    no_data: int = 0
    """Pixels without a value, which are read as black."""
    scaled: tuple[str, str] | None = None
    """What pixels of more than 8 bits were, and by which factor they were scaled."""


Scan = dict[str, list[ScannedImage]]
"""The scanned images of each part."""


class TaskCheck(Protocol):
    """The checks that a task adds to the scan."""

    def inspect(self, images: Any, index: int, image: Image | None) -> tuple[Any, list[str]]:
        """Return a summary of an image's target, kept until `conclude`, and the target's problems; runs in threads.

        Args:
            images: the set of images.
            index: the image's index in it.
            image: the image; `None` if it cannot be read.

        Raises:
            DataError, NotFoundError: the target cannot be read; the scan adds the message to the problems.
        """

    def conclude(self, scan: Scan, report: CheckReport) -> None:
        """Fill the report's counts, and add problems and notes about the whole set."""


def check(splits: Splits[Any], task: TaskCheck) -> CheckReport:
    """Read every image and target of a data set, and return the report."""
    parts = {name: splits.part(name) for name, images in splits.parts.items() if not _is_repeated(splits, name)}
    with ThreadPoolExecutor() as pool:
        scan = {
            name: list(pool.map(partial(_scan_image, task, images), range(len(images))))
            for name, images in parts.items()
        }
    scanned = [image for images in scan.values() for image in images]
    report = CheckReport(
        data=splits.source,
        names=list(splits.names),
        images={name: len(images) for name, images in scan.items()},
        sizes=_size_ranges([image.size for image in scanned if image.size]),
        problems=[*splits.problems, *splits.faults, *(problem for image in scanned for problem in image.problems)],
        notes=[*splits.notes, *_unread_note(splits.source), *_no_data_note(scanned), *_scaled_notes(scanned)],
        plan=splits.plan,
    )
    if "train" not in scan:
        report.notes.append("there is no training part: the set can be measured, not learned from")
    task.conclude(scan, report)
    _add_shared(scan, report)
    return report


def _add_shared(scan: Scan, report: CheckReport) -> None:
    """Add the images with equal pixels in two parts; opening has reported the files that are in two."""
    in_two = [copies for copies in find_duplicates(scan) if len({part for part, _ in copies}) > 1]
    in_two = [copies for copies in in_two if len({image.path for _, image in copies}) > 1]
    learned = [copies for copies in in_two if any(part == "train" for part, _ in copies)]
    report.problems += [
        f"the same image is in training and in evaluation: {first_paths(copies)}; keep it in one" for copies in learned
    ]
    if held_out := [copies for copies in in_two if copies not in learned]:
        count, paths = number_of(len(held_out), "image"), first_paths(held_out[0])
        report.notes.append(f"{count} with the same pixels in both the val and the test part; {paths} first")


def _is_repeated(splits: Splits[Any], name: str) -> bool:
    """Return whether a part is the test part and also serves as the validation part."""
    return name == "test" and splits.parts.get("val") is splits.parts["test"]


def summaries_of(scan: Scan) -> dict[str, list[Any]]:
    """Return the summaries of the usable targets of each part."""
    return {part: [image.summary for image in images if image.summary is not None] for part, images in scan.items()}


def missing_from_training(counts: dict[str, dict[str, int]]) -> dict[str, int]:
    """Return the counts in other parts of the classes that have none in training; none without training part."""
    train = counts.get("train", {})
    return {
        name: held_out
        for name, count in train.items()
        if not count and (held_out := sum(part[name] for part in counts.values()))
    }


def extremes(values: Mapping[str, float]) -> tuple[str, str] | None:
    """Return the names of the smallest and the greatest value above 0; `None` if all are 0."""
    present = {name: value for name, value in values.items() if value}
    return (min(present, key=present.__getitem__), max(present, key=present.__getitem__)) if present else None


def find_duplicates(scan: Scan) -> list[list[tuple[str, ScannedImage]]]:
    """Return each group of images with equal pixels, each with its part."""
    by_digest: dict[str, list[tuple[str, ScannedImage]]] = defaultdict(list)
    for part, images in scan.items():
        for image in images:
            if image.digest:
                by_digest[image.digest].append((part, image))
    return [copies for copies in by_digest.values() if len(copies) > 1]


def first_paths(copies: list[tuple[str, ScannedImage]]) -> str:
    """Return the paths of the first few copies of an image."""
    return ", ".join(image.path for _, image in copies[:4])


def _scan_image(task: TaskCheck, images: ImageSet, index: int) -> ScannedImage:
    image, size, digest, summary, problems, no_data, scaled = None, None, "", None, [], 0, None
    try:
        image = images.load(index)
        no_data, scaled = image.info.get(NO_DATA, 0), image.info.get(SCALED)
        size, digest = image.size, hashlib.sha256(repr(image.size).encode() + image.tobytes()).hexdigest()
    except (DataError, NotFoundError) as error:
        problems.append(str(error))
    try:
        summary, target_problems = task.inspect(images, index, image)
        problems += target_problems
    except (DataError, NotFoundError) as error:
        problems.append(str(error))
    return ScannedImage(images.path(index), size, digest, summary, tuple(dict.fromkeys(problems)), no_data, scaled)


def _unread_note(source: str) -> list[str]:
    """Return a note if the folder holds pictures that cannot be read."""
    if source in EMBEDDED or not (unread := count_unread(Path(source))):
        return []
    count = number_of(sum(unread.values()), "picture")
    return [f"{count} in {source} passed over, because Pillow cannot read them ({count_list(unread)}); convert them"]


def _scaled_notes(images: list[ScannedImage]) -> list[str]:
    """Return a note for each kind of pixels of more than 8 bits, with the factors by which images were scaled."""
    kinds: dict[str, list[ScannedImage]] = defaultdict(list)
    for image in images:
        if image.scaled is not None:
            kinds[image.scaled[0]].append(image)
    return [f"{_scaled_count(kind, group)}; {group[0].path} first" for kind, group in kinds.items()]


def _scaled_count(kind: str, images: list[ScannedImage]) -> str:
    factors = Counter(image.scaled[1] for image in images if image.scaled is not None)
    are, they = ("is", "it is") if len(images) == 1 else ("are", "they are")
    by = next(iter(factors)) if len(factors) == 1 else ", ".join(f"{n} by {factor}" for factor, n in factors.items())
    scaled = f"scaled to 8 bits by {by}" if len(factors) == 1 else f"scaled to 8 bits by different factors, {by}"
    return f"{number_of(len(images), 'image')} {are} {kind}; {they} {scaled}"


def _no_data_note(images: list[ScannedImage]) -> list[str]:
    """Return a note if images have pixels without a value."""
    affected = [image for image in images if image.no_data]
    if not affected:
        return []
    count = number_of(len(affected), "image")
    pixels = sum(image.no_data for image in affected)
    return [f"{count} with {pixels:,} pixels without a value (NaN), which are read as black; {affected[0].path} first"]


def _size_ranges(sizes: list[tuple[int, int]]) -> dict[str, list[int]]:
    if not sizes:
        return {}
    ordered = {axis: sorted(size[i] for size in sizes) for i, axis in enumerate(("width", "height"))}
    return {axis: [values[0], values[len(values) // 2], values[-1]] for axis, values in ordered.items()}
