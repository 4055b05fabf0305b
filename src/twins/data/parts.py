"""The parts of a data set, training, validation and test, as people name their folders, lists and files."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Set
from pathlib import Path

_WORDS = {
    "train": ("train", "training", "trainset", "trn", "minitrain"),
    "trainval": ("trainval",),
    "val": ("val", "valid", "validation", "validate", "valset", "dev", "eval", "evaluation", "minival"),
    "test": ("test", "testing", "testset", "tst"),
}
_PART_OF = {word: part for part, words in _WORDS.items() for word in words}
_FILLERS = frozenset(
    ("set", "data", "dataset", "split", "part", "folder", "images", "image", "imgs", "img", "seg", "fold")
)
"""Words beside a part's name that say nothing of the content, as in `training_set`, `seg_train`, `val_images`."""


def part_of(name: str, fillers: Set[str] = frozenset()) -> str | None:
    """Return the part that a name says: `train`, `trainval`, `val` or `test`; `None` if it says none, or more.

    Case, digits and separators do not count: `Train`, `train2017`, `training_set`, `TrainImages` are all `train`. A
    name with any other word, such as `test_tube`, is none.

    Args:
        name: a file's or folder's name, without the file's ending.
        fillers: further words that may stand beside the part's, such as `instances`.
    """
    words = _words(name)
    parts = {_PART_OF[word] for word in words if word in _PART_OF}
    parts = {"trainval"} if parts == {"train", "val"} else parts
    others = [word for word in words if word not in _PART_OF and word not in _FILLERS and word not in fillers]
    return parts.pop() if len(parts) == 1 and not others else None


def split_part(name: str) -> tuple[str, str] | None:
    """Return the only part in a name and its other words, as `test` and `alphabet` of `alphabet_test`, or `None`."""
    words = _words(name)
    parts = {_PART_OF[word] for word in words if word in _PART_OF}
    rest = " ".join(word for word in words if word not in _PART_OF)
    return (parts.pop(), rest) if len(parts) == 1 else None


def group_parts(paths: Iterable[Path], fillers: Set[str] = frozenset()) -> dict[str, list[Path]]:
    """Return the paths whose names say a part, by part, each in order of its name; a file's ending does not count."""
    groups: dict[str, list[Path]] = defaultdict(list)
    for path in sorted(paths):
        if part := part_of(path.stem if path.suffix and not path.is_dir() else path.name, fillers):
            groups[part].append(path)
    return dict(groups)


def _words(name: str) -> list[str]:
    """Return the words of a name, which other characters or a change of case separate, in lower case."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    return re.findall(r"[^\W\d_]+", spaced.lower())
