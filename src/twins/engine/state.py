"""The whole state of a run on disk: written to a new folder, synced, then switched to in one atomic step."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from twins.engine.progress import Progress
from twins.errors import NotFoundError, TrainingError
from twins.files import first_line
from twins.run_folder import LAST, STATE, STATES, WEIGHTS
from twins.weights.files import read_tensors, write_tensors
from twins.weights.loading import check_finite

FORMAT = 1
"""Version of `state.pt`."""


@dataclass(kw_only=True)
class State:
    """The whole state of a run in memory."""

    weights: dict[str, Tensor]
    """Weights of the network."""
    progress: Progress
    """Position of the run."""
    optimizer: dict[str, Any]
    """`state_dict` of the optimiser."""
    average: dict[str, Tensor] | None = None
    """Weights of the EMA, if there is one."""
    scaler: dict[str, Any] | None = None
    """`state_dict` of the loss scaler, with fp16."""
    fingerprint: str = ""
    """Hash of the training data."""


def save_state(run: Path, state: State, info: Any) -> Path:
    """Write a whole state into a run folder, and switch the link `last` to it once it is safe on disk.

    If the process dies at any moment, `last` leads to the old or the new state, never to an incomplete one.

    Raises:
        TrainingError: the disk is full or not writable; the previous state is untouched.
    """
    folder = run / STATES / f"{state.progress.step:09d}"
    temporary = run / STATES / f".{folder.name}.writing"
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        _write(temporary, state, info)
        if folder.exists():  # this step was saved before its evaluation
            folder = run / STATES / f"{folder.name}-{_next_number(run)}"
        os.rename(temporary, folder)
        _sync(folder.parent)
        _switch_link(run / LAST, folder)
    except (OSError, RuntimeError, SafetensorError, TrainingError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        reason = first_line(error.__cause__ or error)
        advice = f"the state before it is kept in {run / LAST}" if (run / LAST).exists() else "no earlier state exists"
        raise TrainingError(
            f"the state of step {state.progress.step} could not be written ({reason}); free space, {advice}, "
            f'and continue with `resume="{run}"`'
        ) from error
    _remove_others(run / STATES, folder.name)
    return folder


def load_state(run: Path) -> State:
    """Read a run's newest whole state, with every tensor on the CPU.

    Raises:
        NotFoundError: the run has no state yet.
        TrainingError: the state is damaged or has a newer format.
        WeightsError: its weights, or their average, are not finite.
    """
    folder = run / LAST
    if not (folder / STATE).is_file():
        raise NotFoundError(f"{run} holds no saved state to resume from; start the run again with another `out`")
    try:
        content = torch.load(folder / STATE, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file raises errors of many classes
        raise TrainingError(f"{folder / STATE} is damaged ({type(error).__name__}); start the run again") from error
    if content.pop("format", FORMAT + 1) > FORMAT:
        raise TrainingError(f"{folder / STATE} is of a newer format than {FORMAT}; update twins to resume from it")
    field_names = {f.name for f in fields(Progress)}
    progress = Progress(**{key: value for key, value in content.pop("progress").items() if key in field_names})
    state = State(weights=read_tensors(folder / WEIGHTS).tensors, progress=progress, **content)
    check_finite(state.weights, str(folder / WEIGHTS))
    check_finite(state.average or {}, f"the average in {folder / STATE}")
    return state


def load_progress(run: Path) -> Progress | None:
    """Read only the position of a run's newest state; `None` if there is no state that can be read."""
    try:
        content = torch.load(run / LAST / STATE, map_location="cpu", weights_only=True, mmap=True)
        field_names = {f.name for f in fields(Progress)}
        return Progress(**{key: value for key, value in content["progress"].items() if key in field_names})
    except Exception:  # a damaged file raises errors of many classes
        return None


def _write(folder: Path, state: State, info: Any) -> None:
    write_tensors(folder / WEIGHTS, state.weights, info)
    content = {
        "format": FORMAT,
        "progress": asdict(state.progress),
        "optimizer": state.optimizer,
        "average": state.average,
        "scaler": state.scaler,
        "fingerprint": state.fingerprint,
    }
    with (folder / STATE).open("wb") as file:
        torch.save(content, file)
        file.flush()
        os.fsync(file.fileno())
    _sync(folder)


def _switch_link(link: Path, folder: Path) -> None:
    """Replace a symbolic link in one step."""
    temporary = link.with_name(f".{link.name}.new")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(folder.relative_to(link.parent), target_is_directory=True)
    os.replace(temporary, link)
    _sync(link.parent)


def _remove_others(states: Path, newest: str) -> None:
    for entry in states.iterdir():
        if entry.name != newest:
            shutil.rmtree(entry, ignore_errors=True)


def _next_number(run: Path) -> int:
    """Return a number that no folder of a state has yet."""
    return 1 + max(int(entry.name.partition("-")[2] or 0) for entry in (run / STATES).iterdir() if entry.name[0] != ".")


def _sync(folder: Path) -> None:
    """Sync the entries of a folder to disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def detach_to_cpu(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors, detached and on the CPU."""
    return {key: value.detach().cpu() for key, value in values.items()}
