"""Conversion of a weight file to another layout."""

from __future__ import annotations

import os
from pathlib import Path

from twins.errors import ConfigError
from twins.run_folder import parts_of, weights_of
from twins.weights.dialects import check_writable
from twins.weights.files import Checkpoint, read_tensors, write_tensors
from twins.weights.loading import check_described, convert_state, has_head, infer_info, infer_variant


def convert(source: str | Path, target: str | Path, *, to: str, weights_key: str | None = None) -> Checkpoint:
    """Read a weight file of any known layout and write the same tensors, bit for bit, in another layout.

    In the `twins` layout, a `.safetensors` file also gets the `ModelInfo`: that of the source file, or one inferred
    from the tensors of a known network.

    Args:
        source: file to read, or a run folder, whose best weights are read.
        target: file to write; its ending chooses the format.
        to: layout to write: `twins`, `timm` or `reference`.
        weights_key: where the network stands in a file that holds several, see `load_weights`.

    Returns:
        what was read: its `dialect` is the detected layout, its `network` says which of several was taken.

    Raises:
        ConfigError: a layout that cannot be written, a folder that does not exist, or a target among the run's files.
        NotFoundError: there is no such file, or the run has no weights yet.
        WeightsError: the file cannot be read or holds no Twins network, or the ending is unknown.
        TrainingError: the disk is full or not writable.
    """
    to = check_writable(to)
    if os.path.isdir(source):
        _check_target(target, source)
        source = weights_of(source)
    checkpoint = read_tensors(source, key=weights_key)
    state, info = checkpoint.state, checkpoint.info
    if info is None and has_head(checkpoint) and infer_variant(state) is not None:
        info = infer_info(checkpoint)
    check_described(target, to, info)
    write_tensors(target, convert_state(state, to), info if to == "twins" else None)
    return checkpoint


def _check_target(target: str | Path, run: str | Path) -> None:
    """Raise ConfigError if a file of a run folder would be replaced."""
    for description, path in parts_of(run):
        if os.path.realpath(path) == os.path.realpath(target):
            raise ConfigError(f'`target="{target}"` is {description}, which would be lost; name another file')
