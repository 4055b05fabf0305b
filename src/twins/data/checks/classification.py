"""What classification adds to the scan of a data set: images per class, and images in two classes."""

from __future__ import annotations

from collections import Counter

from PIL.Image import Image

from twins.data.base import LabelledImages
from twins.data.checks.scan import CheckReport, Scan, find_duplicates, first_paths


class ClassIdCheck:
    """See `twins.data.checks.scan.TaskCheck`; an image's finding is its class id."""

    def look(self, images: LabelledImages, index: int, image: Image | None) -> tuple[int, list[str]]:
        """Return an image's class id."""
        return images.target(index), []

    def conclude(self, scan: Scan, report: CheckReport) -> None:
        """Count images by class, and name classes with too few, and images in two classes."""
        for part, images in scan.items():
            found = Counter(image.finding for image in images)
            report.counts[part] = {name: found[label] for label, name in enumerate(report.names)}
        report.problems += [*_class_problems(report.counts), *_in_two_classes(scan)]
        report.notes += _notes(report.counts["train"])


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


def _in_two_classes(scan: Scan) -> list[str]:
    """Name the same pixels under two classes of one part; those in both parts are named for every task."""
    return [
        f"the same image is in two classes: {first_paths(copies)}; keep it in one"
        for copies in find_duplicates(scan)
        if len({part for part, _ in copies}) == 1 and len({image.finding for _, image in copies}) > 1
    ]


def _notes(train: dict[str, int]) -> list[str]:
    notes = []
    counts = [count for count in train.values() if count]
    if counts and max(counts) > 10 * min(counts):
        notes.append(
            f"the largest class has {max(counts)} training images, the smallest {min(counts)}; "
            'consider `class_weights="balanced"`'
        )
    if len(train) < 6:
        notes.append("top-5 accuracy says nothing with fewer than six classes and is left out")
    return notes
