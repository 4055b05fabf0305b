"""Errors that a user can cause; each message is one sentence: what is wrong, what was found, what to do.

TwinsError
├── ConfigError          a setting, a flag or a combination of them
├── InputError           an image or tensor as input of a network (also a ValueError)
├── DataError            a data set, a file in it, or too many files that cannot be read
├── WeightsError         a weight file, or a network that it does not fit
├── NotFoundError        a model, recipe, file or published weights that do not exist
├── MissingExtraError    a feature whose optional dependency is not installed
├── ExportError          an exported file that is wrong, or a network that its format cannot hold
└── TrainingError        a run that cannot continue: loss, memory, disk
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from types import UnionType
from typing import Any


class TwinsError(Exception):
    """Base class of all errors that a user can cause and fix."""


class ConfigError(TwinsError):
    """A setting is out of range, unknown, or contradicts another."""


class InputError(TwinsError, ValueError):
    """An image or tensor is no valid input of a network."""


class DataError(TwinsError):
    """A data set, or a file in it, cannot be used."""


class WeightsError(TwinsError):
    """A weight file cannot be read, or does not fit the network."""


class NotFoundError(TwinsError):
    """A name or path does not exist."""


class MissingExtraError(TwinsError):
    """An optional dependency is missing; the message has the pip command."""


class ExportError(TwinsError):
    """An exported file differs from its network or lost too much accuracy, or its format cannot hold the network."""


class TrainingError(TwinsError):
    """A run had to stop; its newest whole state is kept."""


def check_type(value: object, kind: type | UnionType, name: str, expected: str) -> None:
    """Raise ConfigError if the argument `name` is not of a type; `expected` says in words what it must be."""
    if not isinstance(value, kind):
        shown = repr(value) if isinstance(value, str | bytes | int | float | None) else f"a {type(value).__name__}"
        raise ConfigError(f"`{name}` must be {expected}, found {shown:.80}")


def nearest(name: str, choices: Iterable[str], *, count: int = 3) -> str:
    """Return `; did you mean a, b?` with the choices most similar to `name`, or an empty text if none is similar."""
    close = difflib.get_close_matches(name, list(choices), n=count, cutoff=0.5)
    return f"; did you mean {', '.join(close)}?" if close else ""


def few(items: Sequence[Any], *, limit: int = 5) -> str:
    """Return the first `limit` items as a list for a message, with `, ...` if there are more."""
    return ", ".join(map(str, items[:limit])) + (", ..." if len(items) > limit else "")


def number_of(count: int, one: str, many: str | None = None) -> str:
    """Return `1 image` or `2,000 images`; `many` is the plural if it is not `one` with an s."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def name_counts(counts: Mapping[str, int], *, limit: int | None = None) -> str:
    """Return `RBC 12, WBC 1`, most frequent first; numbers as names get a colon: `7: 2`.

    Only the first `limit` names are listed, with the number of further ones.
    """
    ordered = sorted(counts.items(), key=lambda item: -item[1])
    text = ", ".join(f"{name}{':' if name.isdigit() else ''} {count}" for name, count in ordered[:limit])
    more = 0 if limit is None else len(ordered) - limit
    return f"{text} and {number_of(more, 'class', 'classes')} more" if more > 0 else text


def count_list(counts: Mapping[str, int]) -> str:
    """Return `3 × cat, 1 × dog`, most frequent first, or `nothing`."""
    ordered = sorted(counts.items(), key=lambda item: -item[1])
    return ", ".join(f"{count} × {name}" for name, count in ordered) or "nothing"
