"""A graph as an ONNX file."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from twins.exporting.extra import require
from twins.exporting.graph import ExportGraph
from twins.exporting.operators import translations
from twins.ops.private_torch import any_open_size


def write_onnx(graph: ExportGraph, path: Path) -> None:
    """Write a graph as an ONNX file with its weights inside.

    Args:
        graph: the graph; its `opset` is the file's.
        path: file to write.

    Raises:
        MissingExtraError: onnx or onnxscript is not installed.
    """
    for name in ("onnx", "onnxscript"):
        require(name)
    with torch.no_grad(), tracing():
        program = torch.onnx.export(
            graph,
            graph.example(),
            dynamo=True,
            opset_version=graph.opset,
            input_names=graph.input_names(),
            output_names=graph.output_names,
            dynamic_shapes=graph.dynamic_shapes(),
            custom_translation_table=translations(),
            verbose=False,
        )
    assert program is not None
    for node in program.model.graph.all_nodes():
        node.metadata_props.clear()  # source lines and paths of this machine, an eighth of a small file
    program.save(path)


@contextmanager
def tracing() -> Iterator[None]:
    """Trace open sizes for all their values, and silence the exporter's own deprecations and remarks on axes."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    before = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings(), any_open_size():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
