"""Writing a weight file in another layout."""

from __future__ import annotations

from pathlib import Path

from twins.weights.dialects import check_written
from twins.weights.files import read_tensors, write_tensors
from twins.weights.loading import holds_head, infer_info, infer_variant, written


def convert(source: str | Path, target: str | Path, *, to: str) -> str:
    """Read a weight file of any known layout and write its tensors, to the bit, in another.

    In the `twins` layout a `.safetensors` file also gets the network's description: the file's own, or what the tensors
    of a known network tell.

    Args:
        source: the file to read.
        target: the file to write; its ending chooses the format.
        to: `twins`, `timm` or `reference`.

    Returns:
        the layout that `source` was found to have.

    Raises:
        ConfigError: a layout that is not written, or no such folder.
        NotFoundError: there is no such file.
        WeightsError: the file cannot be read or holds no Twins network, or an unknown ending.
        TrainingError: the disk is full or refuses.
    """
    to = check_written(to)
    checkpoint = read_tensors(source)
    state, info = checkpoint.state, checkpoint.info
    if to == "twins" and info is None and holds_head(checkpoint) and infer_variant(state) is not None:
        info = infer_info(checkpoint)
    write_tensors(target, written(state, to), info if to == "twins" else None)
    return checkpoint.dialect
