"""The errors a user can cause, each one sentence: what was wrong, what was found, what to do.

TwinsError
├── ConfigError          a setting, a flag or a combination of them
├── InputError           an image or a tensor given to a network (also a ValueError)
├── DataError            a data set, a file in it, or too many files that cannot be read
├── WeightsError         a weight file, or a network that it does not fit
├── NotFoundError        a name that no model, recipe, file or published weight has
├── MissingExtraError    a feature whose optional dependency is not installed
└── TrainingError        a run that cannot go on: loss, memory, disk
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any


class TwinsError(Exception):
    """Base of every error that a user can cause and mend."""


class ConfigError(TwinsError):
    """A setting that is out of range, unknown, or contradicts another."""


class InputError(TwinsError, ValueError):
    """An image or tensor that a network cannot take."""


class DataError(TwinsError):
    """A data set, or a file in it, that cannot be used."""


class WeightsError(TwinsError):
    """A weight file that cannot be read, or does not fit the network."""


class NotFoundError(TwinsError):
    """A name or path that leads to nothing."""


class MissingExtraError(TwinsError):
    """A feature whose optional dependency is missing; says the pip command."""


class TrainingError(TwinsError):
    """A run that had to stop, with its last whole state kept."""


def nearest(name: str, choices: Iterable[str], *, count: int = 3) -> str:
    """Return `; did you mean a, b?` with the names nearest to `name`, or an empty string when none is near."""
    close = difflib.get_close_matches(name, list(choices), n=count, cutoff=0.5)
    return f"; did you mean {', '.join(close)}?" if close else ""


def few(items: Sequence[Any], *, most: int = 5) -> str:
    """Return the first of some items for a message, with `, ...` where there are more."""
    return ", ".join(map(str, items[:most])) + (", ..." if len(items) > most else "")


def number_of(count: int, one: str, many: str | None = None) -> str:
    """Return `1 image`, `2,000 images`; `many` is the plural where it is not `one` with an s."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def count_list(counts: Mapping[str, int]) -> str:
    """Return `3 × cat, 1 × dog`, the most frequent first, or `nothing`."""
    ordered = sorted(counts.items(), key=lambda item: -item[1])
    return ", ".join(f"{count} × {name}" for name, count in ordered) or "nothing"
