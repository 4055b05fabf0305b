"""Reading images and masks before training: what is in them, and what spoils segmentation runs in the field."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from twins.data.checks.classification import CheckReport, in_both_parts, size_ranges
from twins.data.config import DataConfig
from twins.data.formats.masks import IGNORE
from twins.data.formats.semantic import MappedImages, open_semantic
from twins.data.transforms.semantic import check_fit
from twins.errors import DataError, number_of


@dataclass(frozen=True)
class _Facts:
    size: tuple[int, int] | None
    digest: str
    pixels: NDArray[np.int64] | None
    """Pixels of each class, ignored ones last; `None` where the mask cannot be used."""
    fault: str | None


def check_semantic(config: DataConfig) -> CheckReport:
    """Read every image and mask of a data set and report what is in it and what would spoil a run.

    Raises:
        DataError: the set cannot be opened at all.
    """
    splits = open_semantic(config)
    parts: dict[str, MappedImages] = {"train": splits.train, "val": splits.val}
    with ThreadPoolExecutor() as pool:
        facts = {
            name: list(pool.map(lambda index, images=images: _read(images, index), range(len(images))))
            for name, images in parts.items()
        }
    report = CheckReport(
        data=splits.source,
        names=list(splits.train.names),
        counts={name: _images_with(found, parts[name].names) for name, found in facts.items()},
        images={name: len(images) for name, images in parts.items()},
    )
    report.shares = {name: _shares(found, parts[name].names) for name, found in facts.items()}
    report.sizes = size_ranges([fact.size for found in facts.values() for fact in found if fact.size])
    report.problems += [fact.fault for found in facts.values() for fact in found if fact.fault]
    report.problems += _two_values(facts) or _class_problems(report.counts)
    report.problems += _empty(parts, facts) + _duplicates(parts, facts)
    report.notes += [*splits.notes, *_notes(report)]
    return report


def _read(images: MappedImages, index: int) -> _Facts:
    try:
        image = images.load(index)
    except DataError as error:
        return _Facts(None, "", None, str(error))
    digest = hashlib.sha256(repr(image.size).encode() + image.tobytes()).hexdigest()
    try:
        target = images.target(index)
        check_fit(image, target)
    except DataError as error:
        reason = str(error)
        path = images.path(index)
        return _Facts(image.size, digest, None, reason if "/" in reason else f"{path}: {reason}")
    counts = np.bincount(target.ravel(), minlength=IGNORE + 1)
    return _Facts(image.size, digest, np.append(counts[: len(images.names)], counts[IGNORE]), None)


def _images_with(facts: list[_Facts], names: tuple[str, ...]) -> dict[str, int]:
    """Return in how many images each class is."""
    found = np.zeros(len(names), dtype=np.int64)
    for fact in facts:
        if fact.pixels is not None:
            found += fact.pixels[:-1] > 0
    return dict(zip(names, found.tolist(), strict=True))


def _shares(facts: list[_Facts], names: tuple[str, ...]) -> dict[str, float]:
    """Return each class's share of the pixels that count."""
    pixels = np.zeros(len(names), dtype=np.int64)
    for fact in facts:
        if fact.pixels is not None:
            pixels += fact.pixels[:-1]
    return dict(zip(names, (pixels / max(1, pixels.sum())).round(6).tolist(), strict=True))


def _two_values(facts: dict[str, list[_Facts]]) -> list[str]:
    """Recognise masks of 0 and 255 that are read as class 0 and nothing."""
    found = [fact.pixels for part in facts.values() for fact in part if fact.pixels is not None]
    total = sum(found, np.zeros_like(found[0])) if found else np.zeros(2)
    if not total[0] or total[1:-1].any() or sum(pixels[-1] > 0 for pixels in found) < len(found) / 2:
        return []
    return [
        "masks hold the first class and 255 alone, and 255 counts for nothing; where 255 is a class, say "
        "--masks.values binary"
    ]


def _class_problems(counts: dict[str, dict[str, int]]) -> list[str]:
    return [
        f"class {name} is in {number_of(counts['val'][name], 'image')} to evaluate on and in none to train on; "
        "move some"
        for name, train in counts["train"].items()
        if not train and counts["val"][name]
    ]


def _empty(parts: dict[str, MappedImages], facts: dict[str, list[_Facts]]) -> list[str]:
    problems = []
    for split, found in facts.items():
        nothing = [i for i, fact in enumerate(found) if fact.pixels is not None and not fact.pixels[:-1].any()]
        problems += [f"the mask of {parts[split].path(i)} holds nothing that counts; remove the pair" for i in nothing]
    return problems


def _duplicates(parts: dict[str, MappedImages], facts: dict[str, list[_Facts]]) -> list[str]:
    """Name the same pixels in training and in evaluation."""
    return in_both_parts(
        {
            split: [(fact.digest, parts[split].path(index)) for index, fact in enumerate(found)]
            for split, found in facts.items()
        }
    )


def _notes(report: CheckReport) -> list[str]:
    return [*_unseen(report.counts), *_unbalanced(report)]


def _unseen(counts: dict[str, dict[str, int]]) -> list[str]:
    """Name the classes that no image has: they cannot be learned, and spoil nothing."""
    unseen = [name for name, train in counts["train"].items() if not train and not counts["val"][name]]
    if not unseen:
        return []
    shown = ", ".join(unseen[:10]) + (", ..." if len(unseen) > 10 else "")
    return [f"{len(unseen)} of the {len(counts['train'])} classes are in no image and cannot be learned: {shown}"]


def _unbalanced(report: CheckReport) -> list[str]:
    shares = {name: share for name, share in report.shares["train"].items() if share}
    if not shares:
        return []
    rarest, commonest = min(shares, key=shares.__getitem__), max(shares, key=shares.__getitem__)
    if shares[commonest] < 50 * shares[rarest]:
        return []
    return [
        f"class {commonest} fills {shares[commonest]:.1%} of the training pixels, {rarest} {shares[rarest]:.2%}; "
        "consider --class-weights balanced"
    ]
