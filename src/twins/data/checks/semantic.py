"""The checks for label maps: the pixels of each class."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image

from twins.data.base import LabelMapImages
from twins.data.checks.scan import CheckReport, Scan, extremes, missing_from_training, summaries_of
from twins.data.formats.mask_problems import VALUE_PROBLEMS
from twins.data.formats.masks import IGNORE
from twins.data.images import is_turned
from twins.data.transforms.semantic import check_mask_size
from twins.errors import DataError, few, number_of

Pixels = NDArray[np.int64]
"""Number of pixels of each class in one mask, then of ignored pixels."""
_TURNED = "; the image is turned by its EXIF tag, and the mask is not"
MIN_IGNORED = 0.01
"""Share of ignored pixels from which a note says it."""


class LabelMapCheck:
    """A `TaskCheck` (see `twins.data.checks.scan`); the summary of a target is its `Pixels`."""

    def inspect(self, images: LabelMapImages, index: int, image: Image | None) -> tuple[Pixels | None, list[str]]:
        """Return the pixels of each class in an image's mask, and the mask's problems."""
        if image is None:
            return None, []
        target = images.target(index)
        try:
            check_mask_size(image, target)
        except DataError as error:
            reason = _TURNED if is_turned(Path(images.path(index))) else ""
            return None, [f"{images.path(index)}: {error}{reason}"]
        counts = np.bincount(target.ravel(), minlength=IGNORE + 1)
        return np.append(counts[: len(images.names)], counts[IGNORE]), []

    def conclude(self, scan: Scan, report: CheckReport) -> None:
        """Count images and pixels by class; report masks and classes that cannot be learned from."""
        maps = summaries_of(scan)
        for part, pixels in maps.items():
            report.counts[part] = _by_class((counts[:-1] > 0 for counts in pixels), report.names)
            report.shares[part] = _shares(pixels, report.names)
        both = [pixels for part in maps.values() for pixels in part]
        are_no_classes = any(problem.startswith(VALUE_PROBLEMS) for problem in report.problems)
        values = [] if are_no_classes else _two_values(both) or _mixed_values(both) or _class_problems(report.counts)
        report.problems += [*values, *_empty(scan)]
        report.notes += [*_unseen(report.counts), *_unbalanced(report.shares.get("train", {}))]
        report.notes += [*_ignored(both), *_turned(scan)]


def _by_class(rows: Iterable[NDArray[Any]], names: Sequence[str]) -> dict[str, int]:
    """Return the sum of rows `(K,)` by class name."""
    total: Pixels = sum(rows, np.zeros(len(names), dtype=np.int64))
    return dict(zip(names, total.tolist(), strict=True))


def _shares(maps: Sequence[Pixels], names: Sequence[str]) -> dict[str, float]:
    """Return each class's share of the pixels that are not ignored."""
    pixels = _by_class((counts[:-1] for counts in maps), names)
    total = max(1, sum(pixels.values()))
    return {name: round(count / total, 6) for name, count in pixels.items()}


def _two_values(maps: Sequence[Pixels]) -> list[str]:
    """Report masks of 0 and 255 that are read as class 0 and ignored pixels."""
    total = sum(maps, np.zeros_like(maps[0])) if maps else np.zeros(2)
    if not total[0] or total[1:-1].any() or sum(pixels[-1] > 0 for pixels in maps) < len(maps) / 2:
        return []
    return ['masks hold only the first class and 255, which is ignored; if 255 is a class, set `masks.values="binary"`']


def _mixed_values(maps: Sequence[Pixels]) -> list[str]:
    """Report masks of 0 and 255 among masks of class ids, where no mask holds both 255 and another class than 0."""
    ignored = np.array([pixels[-1] > 0 for pixels in maps], dtype=bool)
    others = np.array([pixels[1:-1].any() for pixels in maps], dtype=bool)
    white = np.array([pixels[0] > 0 for pixels in maps], dtype=bool) & ignored
    if not white.any() or not others.any() or (ignored & others).any():
        return []
    return [
        f"{number_of(int(white.sum()), 'mask')} of {len(maps)} with only the first class and 255, which is ignored, "
        "and no other mask with 255; if 255 is a class in them, save all masks with the same values"
    ]


def _ignored(maps: Sequence[Pixels]) -> list[str]:
    """Report the share of pixels that are in no loss and no score."""
    total = sum(int(pixels.sum()) for pixels in maps)
    ignored = sum(int(pixels[-1]) for pixels in maps)
    return [f"{ignored / total:.1%} of the pixels are ignored"] if total and ignored >= MIN_IGNORED * total else []


def _turned(scan: Scan) -> list[str]:
    """Report images that are turned and whose masks have a size that fits both before and after."""
    usable = [image.path for images in scan.values() for image in images if image.summary is not None]
    turned = [path for path in usable if is_turned(Path(path))]
    if not turned:
        return []
    return [
        f"{number_of(len(turned), 'image')} turned by the EXIF tag, {turned[0]} first, with masks that are not turned; "
        "check that they fit"
    ]


def _class_problems(counts: dict[str, dict[str, int]]) -> list[str]:
    return [
        f"class {name} is in {number_of(count, 'image')} to evaluate on and in none to train on; move some"
        for name, count in missing_from_training(counts).items()
    ]


def _empty(scan: Scan) -> list[str]:
    return [
        f"the mask of {image.path} holds only ignored pixels; remove the pair"
        for images in scan.values()
        for image in images
        if image.summary is not None and not image.summary[:-1].any()
    ]


def _unseen(counts: dict[str, dict[str, int]]) -> list[str]:
    """Report classes that no image has: they cannot be learned, but do not spoil a run."""
    names = next(iter(counts.values()))
    unseen = [name for name in names if not any(part[name] for part in counts.values())]
    if not unseen:
        return []
    shown = few(unseen, limit=10)
    count, verb = number_of(len(names), "class", "classes"), "is" if len(unseen) == 1 else "are"
    return [f"{len(unseen)} of the {count} {verb} in no image and cannot be learned: {shown}"]


def _unbalanced(shares: dict[str, float]) -> list[str]:
    if (classes := extremes(shares)) is None:
        return []
    rarest, commonest = classes
    if shares[commonest] < 50 * shares[rarest]:
        return []
    return [
        f"class {commonest} fills {shares[commonest]:.1%} of the training pixels, {rarest} {shares[rarest]:.2%}; "
        'consider `class_weights="balanced"`'
    ]
