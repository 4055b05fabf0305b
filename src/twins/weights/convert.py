"""Writing a weight file again in another layout."""

from __future__ import annotations

from pathlib import Path

from twins.weights.dialects import check_written, detect, to_twins
from twins.weights.files import read_tensors, write_tensors
from twins.weights.loading import infer_info, written


def convert(source: str | Path, target: str | Path, *, to: str) -> str:
    """Read a weight file of any known layout and write its tensors, to the bit, in another.

    Args:
        source: the file to read.
        target: the file to write; its ending chooses the format.
        to: `twins`, `timm` or `reference`.

    Returns:
        the layout that `source` was found to have.

    Raises:
        ConfigError: a layout that is not written.
        NotFoundError: there is no such file.
        WeightsError: the file cannot be read.
        TrainingError: the disk is full.
    """
    to = check_written(to)
    checkpoint = read_tensors(source)
    dialect = detect(checkpoint.tensors)
    state = to_twins(checkpoint.tensors, dialect)
    info = None
    if to == "twins":
        info = checkpoint.info or (infer_info(checkpoint) if "head.weight" in state else None)
    write_tensors(target, written(state, to), info)
    return dialect
