"""The temperature of a classifier's scores, saved in its weight file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from twins.errors import ConfigError
from twins.weights.files import Checkpoint, read_tensors, write_tensors


def check_holds_temperature(path: Path | None) -> None:
    """Raise ConfigError if a weight file cannot hold a temperature; `None` is a network without a file, which can."""
    if path is not None and _described(path) is None:
        raise ConfigError(
            f"`calibrate` saves a temperature in the weight file, and {path} has no description of its network to "
            "hold one; convert it first with twins convert --to twins, to a .safetensors file"
        )


def save_temperature(path: Path, temperature: float) -> None:
    """Write a temperature into the description of a weight file, in one atomic step; the weights stay as they are."""
    checkpoint = _described(path)
    assert checkpoint is not None
    assert checkpoint.info is not None
    write_tensors(path, checkpoint.tensors, replace(checkpoint.info, temperature=temperature))


def _described(path: Path) -> Checkpoint | None:
    """Return the content of a file that has a `ModelInfo`, else `None`."""
    checkpoint = read_tensors(path) if path.suffix == ".safetensors" else None
    return checkpoint if checkpoint is not None and checkpoint.info is not None else None
