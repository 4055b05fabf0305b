"""Detects which task's head a state dict of our layout holds, from names and shapes of its tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor

from twins.data.classes import built_in, imagenet_names
from twins.tasks.facts import HeadFacts, TaskFacts
from twins.tasks.table import TASKS, facts_of


class HeadMatch(NamedTuple):
    """A head that was detected in a state dict."""

    task: str
    head: str | None
    """Name of the head; `None` for a task with a single head."""
    facts: HeadFacts
    num_classes: int
    """Number of classes."""

    def channels(self, state: Mapping[str, Tensor]) -> int | None:
        """Return the width of the head in channels, `None` if it is the published one."""
        facts = self.facts
        width = state[facts.width_key].shape[0] if facts.width_key in state else facts.width
        return None if width == facts.width else width

    def names(self) -> tuple[str, ...]:
        """Return the published class names if the number of classes matches, else an empty tuple."""
        task = facts_of(self.task)
        return published_names(task) if self.num_classes == task.num_classes else ()


def published_names(facts: TaskFacts) -> tuple[str, ...]:
    """Return the class names of a task's published networks."""
    if facts.class_table is None:
        return ()
    return imagenet_names() if facts.class_table == "imagenet" else built_in(facts.class_table).names


def all_heads() -> list[tuple[tuple[str, str | None], HeadFacts]]:
    """Return every head of every task, as ((task, head name), facts)."""
    return [((task, name), head) for task in TASKS for name, head in facts_of(task).heads.items()]


def find_head(state: Mapping[str, Tensor]) -> HeadMatch | None:
    """Return the head that a state dict holds, or `None` if it holds only a backbone.

    Later heads are tried first, because they contain the keys of earlier ones: Mask R-CNN those of Faster R-CNN.
    """
    for (task, name), facts in reversed(all_heads()):
        weight = state.get(facts.classifier)
        marked = not facts.marker or any(key.startswith(facts.marker) for key in state)
        if weight is not None and weight.ndim == facts.dims and marked:
            return HeadMatch(task, name, facts, weight.shape[0] // facts.anchors - facts.background)
    return None
