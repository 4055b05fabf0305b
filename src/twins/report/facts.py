"""The last section of a report: what a run was, where and when it ran, and how to run it again."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from html import escape
from operator import attrgetter
from pathlib import Path
from typing import Any

from twins.charts import fact_table
from twins.engine.config import TrainConfig
from twins.engine.state import load_progress
from twins.errors import NotFoundError, number_of
from twins.run_folder import LOG
from twins.tasks.default_recipe import CHOSEN, DEFAULT
from twins.tasks.network import TaskNetwork
from twins.tasks.recipes import starting_point
from twins.tasks.table import TASKS, facts_of

RESOLVED = ("recipe", "task", "out", "resume", "device", "head", "padding")
"""Settings that a command does not need if the recipe leaves them open."""


def facts_section(run: Path, config: TrainConfig, model: TaskNetwork, result: dict[str, Any]) -> str:
    """Return the facts and all settings of a run as HTML."""
    protocol = dict(result["protocol"])
    count = sum(parameter.numel() for parameter in model.parameters())
    head = f", {protocol.pop('head')}" if "head" in protocol else ""
    images, total = protocol.pop("images"), protocol.pop("images_in_data", None)
    names = ("size", "fit", "crop", "longest", "interpolation", "mean", "std")
    inputs = {name: protocol.pop(name) for name in names if name in protocol}
    for name in ("longest",) if inputs.get("fit") != "keep" else ("crop",):
        inputs.pop(name, None)
    rows: list[tuple[str, object]] = [
        ("task", protocol.pop("task")),
        (
            "network",
            f"{protocol.pop('model')}{head}, {count:,} parameters, {number_of(model.num_classes, 'class', 'classes')}",
        ),
        ("data", protocol.pop("data")),
        ("held out", f"{images:,}{f' of {total:,}' if total else ''} images, part {protocol.pop('split')}"),
        ("input", _one_line(inputs)),
        *_times(run, result),
        ("computed on", _machine(result, protocol)),
        *((key.replace("_", " "), _one_line(value)) for key, value in protocol.items() if value),
        ("weights SHA-256", result["hashes"]["weights"]),
        ("versions", ", ".join(f"{name} {version}" for name, version in result["versions"].items())),
        ("the same settings", train_command(config)),
        *([("continue with", f"twins train --resume {shlex.quote(config.out)}")] if config.out else []),
    ]
    return (
        f"<h2>Facts</h2>{fact_table(rows)}"
        f"<details><summary>All settings of the run</summary><pre>{escape(config.to_yaml())}</pre></details>"
    )


def train_command(config: TrainConfig) -> str:
    """Return a command that trains with these settings: its recipe, and each setting that differs from it."""
    words = ["twins", "train", "--data", config.data, "--task", config.task]
    words += ["--recipe", config.recipe] if config.recipe else []
    words += ["--model", config.model, "--weights", config.weights]
    given = {"data", "model", "weights", *RESOLVED}
    changes = {name: value for name, value in _changes_from_recipe(config).items() if name not in given}
    return shlex.join([*words, *(word for name, value in changes.items() for word in _flag(name, value))])


def _changes_from_recipe(config: TrainConfig) -> dict[str, Any]:
    """Return the settings that differ from the recipe; a length in another unit drops the recipe's, as in the CLI."""
    start: dict[str, Any] = {"data": config.data, "task": config.task, "model": config.model, "weights": config.weights}
    for length in (None, "minutes", "steps", "epochs"):
        try:
            base = starting_point(config.recipe or None, **start, length=length)
        except NotFoundError:  # a recipe of another version
            base = TrainConfig(task=config.task)
        changes = dict(_changes(config, base, "")) | _chosen(config)
        if not any(changes.get(name, 0) is None for name in ("minutes", "steps")):
            return changes | ({length: getattr(config, length)} if length else {})
    return changes


def _chosen(config: TrainConfig) -> dict[str, Any]:
    """Return the settings that the default recipe chose, also those that are equal to their defaults."""
    if config.recipe != DEFAULT:
        return {}
    groups = {name for task in TASKS for name in facts_of(task).train_settings}
    groups -= set(facts_of(config.task).train_settings)
    names = sorted(name for name in CHOSEN if name.partition(".")[0] not in groups)
    return {name: attrgetter(name)(config) for name in names}


def _changes(config: Any, base: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    """Yield the dotted names and values of the settings that differ."""
    for field in fields(config):
        value, default = getattr(config, field.name), getattr(base, field.name)
        if is_dataclass(value):
            yield from _changes(value, default, f"{prefix}{field.name}.")
        elif value != default:
            yield f"{prefix}{field.name}", value


def _flag(name: str, value: Any) -> list[str]:
    """Return a setting as words of the command line."""
    flag = name.replace("_", "-")
    if isinstance(value, bool):
        group, dot, last = flag.rpartition(".")
        return [f"--{flag}" if value else f"--{group}{dot}no-{last}"]
    return [f"--{flag}", *(map(str, value) if isinstance(value, tuple) else [str(value)])]


def _times(run: Path, result: dict[str, Any]) -> Iterator[tuple[str, object]]:
    """Yield when the run began, how long it trained, and when its weights were measured, as far as files say."""
    log = run / LOG
    first = log.read_text(errors="replace")[:16] if log.is_file() else ""
    if first[:4].isdigit():
        yield "begun", first
    if (progress := load_progress(run)) is not None:
        steps = f"{number_of(progress.step, 'step')}; best at step {progress.best_step:,}"
        yield "trained for", f"{duration(progress.seconds)}, {steps}"
    if "environment" in result:
        yield "measured", result["environment"]["date"]


def duration(seconds: float) -> str:
    """Return a time as `12 s`, `5 min 12 s` or `2 h 5 min`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _machine(result: dict[str, Any], protocol: dict[str, Any]) -> str:
    """Return device, precision and processor."""
    device, precision = protocol.pop("device"), protocol.pop("precision")
    machine = result.get("environment", {}).get("machine", "")
    return f"{device}, {precision}" + (f"; {machine}" if machine else "")


def _one_line(value: object) -> object:
    """Return a group of settings as one line, without those that are not set, and a number with at most six digits."""
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list | tuple):
        return " ".join(str(_one_line(item)) for item in value)
    if not isinstance(value, dict):
        return value
    switches = {True: "on", False: "off"}
    return ", ".join(
        f"{key.replace('_', ' ')} {switches[x] if isinstance(x, bool) else _one_line(x)}"
        for key, x in value.items()
        if x not in (None, (), [])
    )
