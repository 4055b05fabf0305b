"""`write`: a network as a file in one of the formats, with its description inside."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.export import ExportedProgram
from torch.fx.experimental.symbolic_shapes import free_symbols

from twins.errors import ConfigError, ExportError, TwinsError
from twins.exporting import writers
from twins.exporting.config import OPSETS, ExportConfig
from twins.exporting.formats import Format
from twins.exporting.graph import ExportGraph, Shape
from twins.exporting.layout import AttentionForm
from twins.exporting.metadata import FileInfo
from twins.exporting.onnx import tracing, write_onnx
from twins.exporting.openvino import convert_openvino
from twins.files import first_line
from twins.heads.roi import RoIHead
from twins.tasks.network import TaskNetwork

POOLING_OPSET = 21
"""Newest opset for networks that pool regions: RoiAlign has a version in 22 that ONNX Runtime cannot compute."""


def build_graph(network: TaskNetwork, shape: Shape, config: ExportConfig) -> ExportGraph:
    """Return a network's graph, laid out for the runtime of a format.

    ONNX Runtime adds the bias inside a matrix product only for two-dimensional tensors, hence `flatten_batch`.

    Raises:
        ConfigError: runtimes cannot compute the network in the opset of `config`, or its padding policy crops maps, so
            that a padded batch does not give what each image gets alone.
    """
    padding = network.info.padding
    if config.padded and padding != "exact":
        raise ConfigError(
            f"`padded` needs a network with `padding`='exact', found {padding!r}, which crops maps; leave out `padded`"
        )
    opset = _opset_of(network, config)
    return ExportGraph(
        network,
        shape,
        opset=opset,
        attention=_attention_of(opset, config.format),
        flatten_batch=config.format == "onnx",
        features=config.features,
        logits=config.logits,
        padded=config.padded,
        resize_in_graph=config.resize_in_graph,
        dtype=_dtype(config),
    ).eval()


def _opset_of(network: TaskNetwork, config: ExportConfig) -> int:
    """Return the opset of a network's graph: the one that settings ask for, else the newest that runtimes compute.

    OpenVINO reads attention and detectors in the oldest one.

    Raises:
        ConfigError: runtimes cannot compute the network in the opset of `config`.
    """
    if config.format != "onnx":
        return OPSETS[0]
    pools = not config.features and any(isinstance(module, RoIHead) for module in network.modules())
    newest = POOLING_OPSET if pools else OPSETS[-1]
    if config.opset is not None and config.opset > newest:
        raise ConfigError(
            f"ONNX Runtime cannot compute RoiAlign of operator set {config.opset}, by which this network pools "
            f"regions; leave out `opset`, or set at most {newest}"
        )
    return config.opset or newest


def _attention_of(opset: int, file_format: Format) -> AttentionForm:
    """Return the form of attention in a graph; opset 23 has the operator, which ONNX Runtime computes from 1.23 on."""
    if file_format == "torch":
        return "fused"
    return "operator" if opset >= OPSETS[-1] else "products"


def _dtype(config: ExportConfig) -> torch.dtype:
    """Return the number type of a graph; OpenVINO computes in the type that its session asks for."""
    types = {"fp16": torch.float16, "bf16": torch.bfloat16}
    return torch.float32 if config.format == "openvino" else types.get(config.precision, torch.float32)


def write(graph: ExportGraph, path: Path, info: FileInfo, file_format: Format) -> None:
    """Write a graph as a file.

    Args:
        graph: from `build_graph` for the format.
        path: file to write; OpenVINO's weights go into a `.bin` beside it.
        info: description to store in the file.
        file_format: format of the file.

    Raises:
        ExportError: the format has no operator for one of the network, or the network cannot be traced.
        MissingExtraError: a package of the format is not installed.
    """
    with export_errors(file_format):
        if file_format == "onnx":
            write_onnx(graph, path)
            writers.describe_onnx(path, info)
        elif file_format == "openvino":
            writers.write_openvino(convert_openvino(graph), path, info)
        else:
            writers.write_torch(trace(graph), path, info)


@contextmanager
def export_errors(file_format: Format) -> Iterator[None]:
    """Raise an ExportError of one sentence for any error of an exporter in this block."""
    try:
        yield
    except (TwinsError, OSError, MemoryError):
        raise
    except Exception as error:  # exporters raise errors of any class
        raise ExportError(_reason(error, file_format)) from error


def _reason(error: BaseException, file_format: Format) -> str:
    """Return a sentence on why a format cannot hold a network, from the first cause of an error."""
    while error.__cause__ is not None:
        error = error.__cause__
    if operator := re.search(r"OpOverload\(op='([\w.]+)'", str(error)):
        return (
            f'`format="{file_format}"` has no operator for {operator[1]}; compute it with other operators, or set '
            '`format="torch"`'
        )
    return (
        f'the network cannot be written as `format="{file_format}"` ({first_line(error)}); give a fixed `size` and '
        "`batch`, or change its code that depends on the values of a tensor"
    )


def trace(graph: ExportGraph) -> ExportedProgram:
    """Return a graph as a program of `torch.export`.

    Tracing asserts what it took for granted of open sizes, such as that a map has several rows so that its layout in
    memory can be told, and results do not depend on it. A session checks its images, and `verify` runs small ones.
    """
    with torch.no_grad(), tracing(graph):
        program = torch.export.export(
            graph,
            graph.example(),
            dynamic_shapes=graph.dynamic_shapes(),
            prefer_deferred_runtime_asserts_over_guards=True,
        )
    for node in program.graph.find_nodes(op="call_function", target=torch.ops.aten._assert_scalar.default):
        program.graph.erase_node(node)
    program.graph.eliminate_dead_code()
    used = {symbol for node in program.graph.nodes for symbol in free_symbols(node.meta.get("val"))}
    for symbol in program.range_constraints.keys() - used:  # PyTorch warns of them when it reads the file
        del program.range_constraints[symbol]
    return program
