"""The tasks by name, and the way to each one's parts: the one place where a text names a module.

A task is a package with `facts`, `network`, `spec`, `report` and `recipes`; docs/extending.md says what each holds.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any, Literal, NamedTuple

from twins.errors import NotFoundError, nearest
from twins.tasks.facts import TaskFacts

Part = Literal["facts", "network", "spec", "report", "recipes"]


class Row(NamedTuple):
    """A task's name, and the package that holds its parts."""

    name: str
    package: str


TASKS: dict[str, Row] = {
    name: Row(name, f"twins.tasks.{name}") for name in ("classification", "semantic", "detection", "instance")
}
"""The first is the default."""


def register(row: Row) -> None:
    """Add a task for this process, or replace the one of its name."""
    TASKS[row.name] = row


def check_task(task: str) -> str:
    """Return a task's name.

    Raises:
        NotFoundError: no task is called so; the message offers the nearest names.
    """
    if task not in TASKS:
        hint = nearest(task, TASKS) or f"; the tasks are {', '.join(TASKS)}"
        raise NotFoundError(f"no task is called {task!r}{hint}")
    return task


def part_of(task: str, part: Part) -> Any:
    """Return a module of a task's package.

    Raises:
        NotFoundError: no task is called so.
    """
    return import_module(f"{TASKS[check_task(task)].package}.{part}")


def facts_of(task: str) -> TaskFacts:
    """Return what is true of a task; raises NotFoundError where no task is called so."""
    return part_of(task, "facts").FACTS


def tasks_with(fact: str, value: object = True) -> tuple[str, ...]:
    """Return the tasks of which a fact is `value`, or holds it where the fact is a tuple."""
    known = {name: getattr(facts_of(name), fact) for name in TASKS}
    return tuple(name for name, found in known.items() if value in (found if isinstance(found, tuple) else (found,)))
