"""The resolving of a run's settings before the data is read: names, absolute paths, and settings of a saved run."""

from __future__ import annotations

import os
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from twins.backbone.config import PUBLISHED, resolve_name
from twins.data.config import EMBEDDED
from twins.engine.config import TrainConfig, merge_resumed, read_config
from twins.errors import ConfigError, NotFoundError
from twins.files import is_invalid_path
from twins.run_folder import CONFIG, LAST, STATES, weights_of
from twins.tasks.table import TASKS, check_task, facts_of, tasks_with


def resolve_config(config: TrainConfig) -> TrainConfig:
    """Return the settings with resolved names and absolute paths; with `resume`, those of the saved run."""
    if config.resume:
        run = Path(config.resume)
        saved = read_config(run / CONFIG)
        if not (run / LAST).exists() and any((run / STATES).glob("[0-9]*")):
            raise NotFoundError(f"{run / LAST} leads to no state of {run / STATES}; copy the run again with its links")
        data = _absolute_path(config.data) if config.data else saved.data
        if data not in EMBEDDED and not Path(data).exists():
            problem = f"the data folder {data} of {run} does not exist"
            raise NotFoundError(f"{problem}; if it has moved, give its new folder as `data`")
        return merge_resumed(replace(config, data=data), saved)
    if not config.data:
        raise ConfigError("`data` is missing; give a folder, or the name of an embedded set such as digits")
    check_task(config.task)
    _check_task_settings(config)
    model = resolve_name(config.model)
    weights = config.weights
    if weights == "auto":
        weights = "published" if model in PUBLISHED else "none"
    else:
        weights = _absolute_path(weights)
        weights = str(weights_of(weights)) if weights != "none" and Path(weights).is_dir() else weights
    _check_outside_data(config)
    if config.out and Path(config.out).is_dir() and any(Path(config.out).iterdir()):
        raise ConfigError(
            f'`out="{config.out}"` is not empty; choose another folder, or continue it with `resume="{config.out}"`'
        )
    masks = replace(config.masks, classes=_absolute_path(config.masks.classes))
    boxes = replace(config.boxes, classes=_absolute_path(config.boxes.classes))
    data = config.data if config.data in EMBEDDED else _absolute_path(config.data)
    return replace(config, model=model, weights=weights, data=data, masks=masks, boxes=boxes)


def _check_outside_data(config: TrainConfig) -> None:
    """Raise ConfigError if the run folder would be in the data folder, where it would be read as a part of the data."""
    out = Path(config.out or "runs").resolve()
    if config.data in EMBEDDED or not os.path.isdir(config.data) or not out.is_relative_to(Path(config.data).resolve()):
        return
    found = f'`out="{config.out}"`' if config.out else f"the run's folder {out}"
    raise ConfigError(
        f"{found} is inside the data folder {config.data}, which it would change; give `out` another folder"
    )


def _check_task_settings(config: TrainConfig) -> None:
    """Raise ConfigError for settings that belong to other tasks."""
    default, settings = TrainConfig(), facts_of(config.task).train_settings
    for name in sorted({name for task in TASKS for name in facts_of(task).train_settings} - set(settings)):
        if change := _first_change(getattr(config, name), getattr(default, name), name):
            tasks = " and ".join(tasks_with("train_settings", name))
            raise ConfigError(f'`{change}` is for {tasks}, found `task="{config.task}"`; leave it out')


def _first_change(value: Any, default: Any, name: str) -> str | None:
    """Return the dotted name of the first setting that differs from its default, or `None`."""
    if value == default or not is_dataclass(value):
        return None if value == default else name
    return next(f"{name}.{f.name}" for f in fields(value) if getattr(value, f.name) != getattr(default, f.name))


def _absolute_path(path_or_name: str) -> str:
    """Return an existing path as an absolute one, and anything else, such as a name, unchanged."""
    if is_invalid_path(path_or_name):
        raise NotFoundError(f"{path_or_name} does not exist; check the path")
    return str(Path(path_or_name).resolve()) if Path(path_or_name).exists() else path_or_name
