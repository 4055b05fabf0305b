"""The table of tasks, and access to their modules: the one place where a string names a module.

A task is a package of the modules in `Part`; see docs/extending.md.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any, Literal, NamedTuple

from twins.errors import NotFoundError, check_type, nearest
from twins.tasks.facts import TaskFacts

Part = Literal["facts", "network", "exports", "spec", "report", "recipes"]


class Row(NamedTuple):
    """A task's name and its package."""

    name: str
    package: str


TASKS: dict[str, Row] = {
    name: Row(name, f"twins.tasks.{name}") for name in ("classification", "semantic", "detection", "instance")
}
"""Tasks by name; the first is the default."""


def register(row: Row) -> None:
    """Add a task, or replace one of the same name, for this process."""
    TASKS[row.name] = row


def check_task(task: str) -> str:
    """Return a task's name; raises NotFoundError, which offers the nearest names, for an unknown task."""
    check_type(task, str, "task", f"one of {', '.join(TASKS)}")
    if task not in TASKS:
        hint = nearest(task, TASKS) or f"; the tasks are {', '.join(TASKS)}"
        raise NotFoundError(f"no task is called {task!r}{hint}")
    return task


def part_of(task: str, part: Part) -> Any:
    """Import and return a module of a task's package; raises NotFoundError for an unknown task."""
    return import_module(f"{TASKS[check_task(task)].package}.{part}")


def facts_of(task: str) -> TaskFacts:
    """Return a task's facts; raises NotFoundError for an unknown task."""
    return part_of(task, "facts").FACTS


def tasks_with(fact: str, value: object = True) -> tuple[str, ...]:
    """Return the tasks whose fact equals `value`, or contains it if the fact is a tuple."""
    facts = {task: getattr(facts_of(task), fact) for task in TASKS}
    return tuple(task for task, entry in facts.items() if value in (entry if isinstance(entry, tuple) else (entry,)))
