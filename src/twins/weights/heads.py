"""Which task's head a state dict of our layout holds, told by its tensors' names and shapes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor

from twins.data.classes import built_in, imagenet_names
from twins.tasks.facts import HeadFacts, TaskFacts
from twins.tasks.table import TASKS, facts_of


class FoundHead(NamedTuple):
    """A head that a state dict holds."""

    task: str
    head: str | None
    """Its name, where the task names it."""
    facts: HeadFacts
    classes: int
    """Classes that it tells apart."""

    def channels(self, state: Mapping[str, Tensor]) -> int | None:
        """Return the channels inside the head, `None` where they are the published ones."""
        known = self.facts
        found = state[known.width_key].shape[0] if known.width_key in state else known.width
        return None if found == known.width else found

    def names(self) -> tuple[str, ...]:
        """Return the class names of the published networks, told by their number; empty for another."""
        task = facts_of(self.task)
        return published_names(task) if self.classes == task.num_classes else ()


def published_names(facts: TaskFacts) -> tuple[str, ...]:
    """Return the class names of a task's published networks."""
    if facts.class_table is None:
        return ()
    return imagenet_names() if facts.class_table == "imagenet" else built_in(facts.class_table).names


def all_heads() -> list[tuple[tuple[str, str | None], HeadFacts]]:
    """Return every head of every task, each after the names of its task and its own."""
    return [((task, name), head) for task in TASKS for name, head in facts_of(task).heads.items()]


def find_head(state: Mapping[str, Tensor]) -> FoundHead | None:
    """Return the head that a state dict holds, or `None` where it holds a backbone alone.

    Later tasks, and a task's later heads, hold what earlier ones are told by (Mask R-CNN what Faster R-CNN is), so
    they are looked for first.
    """
    for (task, name), known in reversed(all_heads()):
        weight = state.get(known.classifier)
        marked = not known.marker or any(key.startswith(known.marker) for key in state)
        if weight is not None and weight.ndim == known.dims and marked:
            return FoundHead(task, name, known, weight.shape[0] // known.anchors - known.background)
    return None
