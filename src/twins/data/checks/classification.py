"""The checks for class ids: images per class, and images that are in two classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from PIL.Image import Image

from twins.data.base import LabelledImages
from twins.data.checks.scan import CheckReport, Scan, find_duplicates, first_paths
from twins.errors import number_of


class ClassIdCheck:
    """A `TaskCheck` (see `twins.data.checks.scan`); the summary of a target is its class id."""

    def inspect(self, images: LabelledImages, index: int, image: Image | None) -> tuple[int, list[str]]:
        """Return an image's class id."""
        return images.target(index), []

    def conclude(self, scan: Scan, report: CheckReport) -> None:
        """Count images by class; report classes with too few images, and images in two classes."""
        for part, images in scan.items():
            counts = Counter(image.summary for image in images)
            report.counts[part] = {name: counts[label] for label, name in enumerate(report.names)}
        report.problems += [*_class_problems(report.counts), *_in_two_classes(scan)]
        report.notes += _notes(report.counts.get("train", {}), report.names)


def _class_problems(counts: dict[str, dict[str, int]]) -> list[str]:
    problems = []
    if "train" not in counts:
        return []
    for name, train in counts["train"].items():
        val = counts["val"][name]
        if not train and not val:
            problems.append(f"class {name} has no image; remove its folder or add images")
        elif not train:
            problems.append(
                f"class {name} has {number_of(val, 'image')} to evaluate on and none to train on; move some"
            )
        elif not val:
            problems.append(
                f"class {name} has {number_of(train, 'image')} to train on and none to evaluate on; move some"
            )
        elif train == 1:
            problems.append(f"class {name} has a single training image; add more")
    return problems


def _in_two_classes(scan: Scan) -> list[str]:
    """Report equal images in two classes of one part; the scan reports equal images in both parts."""
    return [
        f"the same image is in two classes: {first_paths(copies)}; keep it in one"
        for copies in find_duplicates(scan)
        if len({part for part, _ in copies}) == 1 and len({image.summary for _, image in copies}) > 1
    ]


def _notes(train: dict[str, int], names: Sequence[str]) -> list[str]:
    notes = []
    counts = [count for count in train.values() if count]
    if counts and max(counts) > 10 * min(counts):
        notes.append(
            f"the largest class has {max(counts)} training images, the smallest {min(counts)}; "
            'consider `class_weights="balanced"`'
        )
    if len(names) < 6:
        notes.append("top-5 accuracy has no meaning with fewer than six classes and is left out")
    return notes
