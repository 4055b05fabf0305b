"""`write`: a network as a file in one of the formats, with its description inside."""

from __future__ import annotations

from pathlib import Path

import torch
from torch.export import ExportedProgram

from twins.exporting import writers
from twins.exporting.config import ExportConfig
from twins.exporting.graph import ExportGraph, Shape
from twins.exporting.metadata import FileInfo
from twins.exporting.onnx import attention_form, opset_of, tracing, write_onnx
from twins.exporting.openvino import convert_openvino
from twins.tasks.network import TaskNetwork


def build_graph(network: TaskNetwork, shape: Shape, config: ExportConfig) -> ExportGraph:
    """Return a network's graph, laid out for the runtime of a format.

    ONNX Runtime adds the bias inside a matrix product only for two-dimensional tensors, hence `flatten_batch`.

    Raises:
        ConfigError: the runtimes lack an operator of the network in the operator set of `config`.
    """
    onnx = config.format == "onnx"
    opset = opset_of(network, config)
    return ExportGraph(
        network,
        shape,
        attention=attention_form(opset) if onnx else "products",
        flatten_batch=onnx,
        features=config.features,
        logits=config.logits,
        padded=config.padded,
        resize_in_graph=config.resize_in_graph,
        dtype=_dtype(config),
    ).eval()


def _dtype(config: ExportConfig) -> torch.dtype:
    """Return the number type of a graph; OpenVINO computes in the type that its session asks for."""
    types = {"fp16": torch.float16, "bf16": torch.bfloat16}
    return torch.float32 if config.format == "openvino" else types.get(config.precision, torch.float32)


def write(network: TaskNetwork, path: Path, info: FileInfo, shape: Shape, config: ExportConfig) -> None:
    """Write a network as a file.

    Args:
        network: in eval mode and float32, on the CPU; it is not changed.
        path: file to write; OpenVINO's weights go into a `.bin` beside it.
        info: description to store in the file.
        shape: shape of the images.
        config: format, precision and outputs.

    Raises:
        ConfigError: see `build_graph`.
        MissingExtraError: a package of the format is not installed.
    """
    graph = build_graph(network, shape, config)
    if config.format == "onnx":
        write_onnx(graph, path, opset=opset_of(network, config))
        writers.write_onnx(path, info)
    elif config.format == "openvino":
        writers.write_openvino(convert_openvino(graph), path, info)
    else:
        writers.write_torch(trace(graph), path, info)


def trace(graph: ExportGraph) -> ExportedProgram:
    """Return a graph as a program of `torch.export`.

    Tracing asserts what it took for granted of open sizes, such as that a map has several rows so that its layout in
    memory can be told, and results do not depend on it. A session checks its images, and `verify` runs small ones.
    """
    with torch.no_grad(), tracing():
        program = torch.export.export(
            graph,
            graph.example(),
            dynamic_shapes=graph.dynamic_shapes(),
            prefer_deferred_runtime_asserts_over_guards=True,
        )
    for node in program.graph.find_nodes(op="call_function", target=torch.ops.aten._assert_scalar.default):
        program.graph.erase_node(node)
    program.graph.eliminate_dead_code()
    return program
