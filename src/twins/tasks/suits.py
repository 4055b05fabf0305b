"""Which tasks a data set suits, and which of them it suits best."""

from __future__ import annotations

import os
from typing import Any, NamedTuple

from twins.data.base import Splits
from twins.data.config import EMBEDDED, DataConfig
from twins.data.formats.source import LayoutUnknownError
from twins.errors import TwinsError
from twins.tasks.contract import spec_of
from twins.tasks.table import TASKS, facts_of

_LOOKED_AT = 5
"""Number of targets that are read to see whether they are what a task needs."""


class Suit(NamedTuple):
    """Whether a data set opens for a task: as which layout, or why not."""

    splits: Splits[Any] | None
    error: TwinsError | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        layout = self.splits.plan.layout if self.splits else None
        return {"opens": self.splits is not None, "layout": layout, "reason": str(self.error) if self.error else None}


def suits(config: DataConfig) -> dict[str, Suit]:
    """Open a data set for every task, and return the results by task, the most detailed task first."""
    return {task: _suit(task, config) for task in sorted(TASKS, key=lambda task: -facts_of(task).detail)}


def _suit(task: str, config: DataConfig) -> Suit:
    try:
        splits = spec_of(task).open(config)
        images = next(iter(splits.parts.values()))
        error = _unreadable(images)
    except TwinsError as reason:
        splits, error = None, reason
    return Suit(splits if error is None else None, error)


def _unreadable(images: Any) -> TwinsError | None:
    """Return the error of an image set if none of its first targets can be read, as of boxes where masks are needed."""
    error: TwinsError | None = None
    for index in range(min(len(images), _LOOKED_AT)):
        try:
            images.target(index)
        except TwinsError as reason:
            error = error or reason
        else:
            return None
    return error


def best_task(found: dict[str, Suit], config: DataConfig) -> str:
    """Return the most detailed task that a data set suits.

    Raises:
        TwinsError: there is none: the error of the most detailed task whose layout the folder has, else of the default
            task.
    """
    for task, suit in found.items():
        if suit.splits is not None:
            return task
    exists = config.data in EMBEDDED or os.path.exists(config.data)
    errors = [suit.error for suit in found.values() if not isinstance(suit.error, LayoutUnknownError)]
    default = [found[task].error for task in TASKS]
    raise next(error for error in (*(errors if exists else ()), *default) if error)
