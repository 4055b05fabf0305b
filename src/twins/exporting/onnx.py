"""A graph as an ONNX file."""

from __future__ import annotations

import ast
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, redirect_stderr
from io import StringIO
from pathlib import Path

import torch

from twins.exporting.extra import quiet, require
from twins.exporting.graph import ExportGraph
from twins.exporting.operators import translations
from twins.ops.private_torch import any_open_size


def write_onnx(graph: ExportGraph, path: Path) -> None:
    """Write a graph as an ONNX file with its weights inside; names of nodes begin with the path of their module.

    Args:
        graph: the graph; its `opset` is the file's.
        path: file to write.

    Raises:
        MissingExtraError: onnx or onnxscript is not installed.
    """
    for name in ("onnx", "onnxscript"):
        require(name)
    with torch.no_grad(), tracing(graph):
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
    # the blocks of a stage share masks and orders of windows, which PyTorch's exporter stores once for each block
    unlimited = 2**32
    require("onnx_ir.passes.common").DeduplicateInitializersPass(size_limit=unlimited)(program.model)
    for node in program.model.graph.all_nodes():
        node.name = f"{module_of(node.metadata_props)}/{node.name}"
        node.metadata_props.clear()  # source lines and paths of this machine, an eighth of a small file
    program.save(path)


def module_of(metadata: Mapping[str, str]) -> str:
    """Return the path of the module that a node was traced in, empty outside all of them, from its metadata."""
    scopes = ast.literal_eval(metadata.get("pkg.torch.onnx.name_scopes", "[]"))  # modules, then the node's own name
    return scopes[-2] if len(scopes) > 1 else ""


@contextmanager
def tracing(graph: ExportGraph) -> Iterator[None]:
    """Trace open sizes, if there are any, for all their values; without the exporter's remarks and prints."""
    sizes = nullcontext() if graph.dynamic_shapes() is None else any_open_size()
    loggers = quiet("torch.onnx", "onnxscript", "onnx_ir", "torch.fx.experimental.symbolic_shapes")
    with loggers, redirect_stderr(StringIO()), warnings.catch_warnings(), sizes:
        warnings.simplefilter("ignore")
        yield
