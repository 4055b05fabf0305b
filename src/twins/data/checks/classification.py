"""Reading a data set before training: what is in it, and what would spoil a run."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from twins.data.base import LabelledImages, Splits, open_classification
from twins.errors import DataError

FORMAT = 1
"""Version of the dictionary that `CheckReport.to_dict` writes."""


@dataclass(kw_only=True)
class CheckReport:
    """What reading a data set found."""

    data: str
    """The data set."""
    names: list[str]
    """Class names by class id."""
    counts: dict[str, dict[str, int]]
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
class _Facts:
    size: tuple[int, int] | None
    digest: str
    fault: str | None


def check_classification(path: str | Path, *, seed: int = 0, val_share: float = 0.2) -> CheckReport:
    """Read every image of a data set and report what is in it and what would spoil a run.

    Args:
        path: `digits` or a folder; see `open_classification`.
        seed: as a run would split an unsplit folder.
        val_share: as a run would split an unsplit folder.

    Raises:
        DataError: the set cannot be opened at all.
    """
    splits = open_classification(path, seed=seed, val_share=val_share)
    parts = {"train": splits.train, "val": splits.val}
    facts = {name: _read_all(images) for name, images in parts.items()}
    report = CheckReport(
        data=splits.source,
        names=list(splits.train.names),
        counts=_count(parts),
        images={name: len(images) for name, images in parts.items()},
    )
    report.sizes = size_ranges([fact.size for found in facts.values() for fact in found if fact.size])
    report.problems += _faults(facts) + _class_problems(report.counts) + _duplicates(parts, facts)
    report.notes += _notes(splits, report.counts)
    return report


def _read_all(images: LabelledImages) -> list[_Facts]:
    with ThreadPoolExecutor() as pool:
        return list(pool.map(lambda index: _read(images, index), range(len(images))))


def _read(images: LabelledImages, index: int) -> _Facts:
    try:
        image = images.load(index)
    except DataError as error:
        return _Facts(None, "", str(error))
    digest = hashlib.sha256(repr(image.size).encode() + image.tobytes()).hexdigest()
    return _Facts(image.size, digest, None)


def _count(parts: dict[str, LabelledImages]) -> dict[str, dict[str, int]]:
    counts = {}
    for split, images in parts.items():
        found = Counter(images.labels)
        counts[split] = {name: found[label] for label, name in enumerate(images.names)}
    return counts


def size_ranges(sizes: list[tuple[int, int]]) -> dict[str, list[int]]:
    """Return smallest, median and largest `width` and `height` of images' sizes."""
    if not sizes:
        return {}
    ordered = {axis: sorted(size[place] for size in sizes) for place, axis in enumerate(("width", "height"))}
    return {axis: [values[0], values[len(values) // 2], values[-1]] for axis, values in ordered.items()}


def in_both_parts(named: dict[str, list[tuple[str, str]]]) -> list[str]:
    """Name the same pixels in training and in evaluation.

    Args:
        named: of each part the digest of each image, empty where it cannot be read, and what to call it.
    """
    places: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for split, images in named.items():
        for digest, path in images:
            if digest:
                places[digest].append((split, path))
    return [
        f"the same image is in training and in evaluation: {', '.join(path for _, path in same[:4])}; keep it in one"
        for same in places.values()
        if len({split for split, _ in same}) > 1
    ]


def _faults(facts: dict[str, list[_Facts]]) -> list[str]:
    return [fact.fault for found in facts.values() for fact in found if fact.fault is not None]


def _class_problems(counts: dict[str, dict[str, int]]) -> list[str]:
    problems = []
    for name in counts["train"]:
        train, val = counts["train"][name], counts["val"][name]
        if not train and not val:
            problems.append(f"class {name} has no image; remove its folder or add images")
        elif not train:
            problems.append(f"class {name} has {val} images to evaluate on and none to train on; move some")
        elif not val:
            problems.append(f"class {name} has {train} images to train on and none to evaluate on; move some")
        elif train == 1:
            problems.append(f"class {name} has a single training image; add more")
    return problems


def _duplicates(parts: dict[str, LabelledImages], facts: dict[str, list[_Facts]]) -> list[str]:
    """Name the same pixels in two splits, and under two classes."""
    places: dict[str, list[tuple[str, int, str]]] = defaultdict(list)
    for split, found in facts.items():
        for index, fact in enumerate(found):
            if fact.digest:
                places[fact.digest].append((split, parts[split].labels[index], parts[split].path(index)))
    problems = []
    for same in places.values():
        paths = ", ".join(path for _, _, path in same[:4])
        if len({split for split, _, _ in same}) > 1:
            problems.append(f"the same image is in training and in evaluation: {paths}; keep it in one")
        elif len({label for _, label, _ in same}) > 1:
            problems.append(f"the same image is in two classes: {paths}; keep it in one")
    return problems


def _notes(splits: Splits[LabelledImages], counts: dict[str, dict[str, int]]) -> list[str]:
    notes = []
    train = [count for count in counts["train"].values() if count]
    if train and max(train) > 10 * min(train):
        notes.append(
            f"the largest class has {max(train)} training images, the smallest {min(train)}; "
            "consider --class-weights balanced"
        )
    if len(splits.train.names) < 6:
        notes.append("top-5 accuracy says nothing with fewer than six classes and is left out")
    return notes
