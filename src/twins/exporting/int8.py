"""Post-training quantisation to 8-bit integers, of an ONNX file and by ONNX Runtime, for all formats.

Only layers with weights are quantised: matrix products and convolutions whose second factor is constant. Attention's
products, softmax, norms, residual adds, preprocessing and the decoding of heads stay in float32. Activations have one
asymmetric range each, weights one symmetric range for each output channel.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from twins.exporting.extra import quiet, require
from twins.exporting.formats import Format

if TYPE_CHECKING:
    import onnx

Feeds = Iterable[dict[str, NDArray[Any]]]
"""Inputs of a file by name, one dict for each call; they are read several times."""
OPERATORS = ("MatMul", "Gemm", "Conv", "ConvTranspose")
"""ONNX operators of layers with weights."""
INT8_OUTPUTS: dict[Format, tuple[str, ...]] = {"onnx": ("MatMul",), "openvino": ()}
"""Operators whose results have to be int8 for a runtime to multiply in int8: `MatMul` in ONNX Runtime, which adds a
float result only to `Gemm`. A result in float32 is more accurate."""
BLOCK = re.compile(r"(stages\.\d+\.blocks\.\d+)(?:\.(.+))?")
FLOAT_PARTS = re.compile(r"stages\.\d+\.position.*")
"""Parts that always stay in float32: the depthwise convolutions of the PEG. In an exported file they hold the residual
add, so that int8 would round the residual stream itself, and they have too little arithmetic to gain time."""


def prepare(path: Path) -> dict[str, list[str]]:
    """Compute the weights that an ONNX file reshapes or transposes, in place; return the layers that may be in int8.

    Returns:
        names of nodes by the part of the network that they belong to: `stages.0.patch_embed`,
        `stages.0.blocks.1.attn`, `stages.0.blocks.1.mlp`, and the modules of necks and heads.

    Raises:
        MissingExtraError: onnxscript is not installed.
    """
    from onnx_ir.passes.common import RemoveUnusedNodesPass

    optimizer, ir = require("onnxscript.optimizer"), require("onnx_ir")
    model = ir.load(path)
    largest = max(value.const_value.size for value in model.graph.initializers.values())
    optimizer.fold_constants(model, input_size_limit=largest, output_size_limit=largest)
    RemoveUnusedNodesPass()(model)
    ir.save(model, path)
    return {part: names for part, names in find_layers(path).items() if not FLOAT_PARTS.fullmatch(part)}


def find_layers(path: Path) -> dict[str, list[str]]:
    """Return the names of the nodes of all layers with weights, by part; that of a PEG is `stages.0.position.conv`."""
    model = require("onnx").load(path)
    constants = {value.name for value in model.graph.initializer}
    by_module: dict[str, list[str]] = {}
    for node in model.graph.node:
        module = _module(node)
        if node.op_type in OPERATORS and node.input[1] in constants and module:
            by_module.setdefault(module, []).append(node.name)
    parts: dict[str, list[str]] = {}
    for module, names in by_module.items():
        for index, name in enumerate(names):
            parts.setdefault(_part(module, index - len(names)), []).append(name)
    return parts


def _module(node: onnx.NodeProto) -> str:
    """Return the path of the module that a node belongs to, inside the network; empty for all other nodes."""
    module = node.name.rpartition("/")[0]
    return module.removeprefix("network.").removeprefix("backbone.") if module.startswith("network.") else ""


def _part(module: str, position: int) -> str:
    """Return the part for a module; `position` counts the layers of the module from its end, which is -1.

    A block that calls its layers as functions has all of them itself: the last two are those of the feed-forward part.
    """
    if match := BLOCK.fullmatch(module):
        block, inner = match.groups()
        is_mlp = position >= -2 if inner is None else inner.startswith("mlp")
        return f"{block}.{'mlp' if is_mlp else 'attn'}"
    stage = re.fullmatch(r"(stages\.\d+)(?:\.(?:patch_embed|proj).*)?", module)
    return f"{stage[1]}.patch_embed" if stage else module


def quantize(path: Path, out: Path, feeds: Feeds, layers: Collection[str], runtime: Format) -> None:
    """Write an ONNX file with some layers, at least one, in int8, as pairs of `QuantizeLinear` and `DequantizeLinear`.

    Args:
        path: a float32 file, after `prepare`.
        out: file to write.
        feeds: inputs that measure the ranges of activations.
        layers: names of the nodes to quantise.
        runtime: what runs the file, or the model that it is converted to.

    Raises:
        MissingExtraError: onnx or onnxruntime is not installed.
    """
    assert layers, "ONNX Runtime takes an empty list for all nodes"
    require("onnxruntime")
    tools = require("onnxruntime.quantization")
    with quiet(""):  # it remarks on preprocessing that is done already
        tools.quantize_static(
            path,
            out,
            _reader(tools.CalibrationDataReader, feeds),
            quant_format=tools.QuantFormat.QDQ,
            op_types_to_quantize=list(OPERATORS),
            nodes_to_quantize=list(layers),
            per_channel=True,
            activation_type=tools.QuantType.QUInt8,
            weight_type=tools.QuantType.QInt8,
            extra_options={
                "OpTypesToExcludeOutputQuantization": [name for name in OPERATORS if name not in INT8_OUTPUTS[runtime]]
            },
        )


def _reader(base: type[Any], feeds: Feeds) -> Any:
    """Return an iterable as ONNX Runtime reads it."""

    class Reader(base):  # type: ignore[misc]  # ONNX Runtime accepts subclasses only
        def __init__(self) -> None:
            self.feeds = iter(feeds)

        def get_next(self) -> dict[str, NDArray[Any]] | None:
            return next(self.feeds, None)

    return Reader()


def rank(path: Path, feeds: Feeds, parts: dict[str, list[str]]) -> dict[str, float]:
    """Return the error that each part causes if it alone is in int8, largest first.

    The error is measured before decoding, in the results of the layers that no other layer follows: the largest
    root mean square of the difference, relative to that of the result.

    Args:
        path: a float32 file, after `prepare`.
        feeds: some inputs.
        parts: names of nodes by part, from `prepare`.
    """
    onnx = require("onnx")
    with tempfile.TemporaryDirectory(prefix="twins-export-") as folder:
        watched, changed = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
        model = onnx.load(path)
        outputs = last_outputs(model, [name for names in parts.values() for name in names])
        model.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in outputs)
        onnx.save(model, watched)
        expected = _results(watched, feeds, outputs)
        errors = {}
        for part, names in parts.items():
            quantize(watched, changed, feeds, names, "openvino")
            errors[part] = max(map(_relative, _results(changed, feeds, outputs), expected))
    return dict(sorted(errors.items(), key=lambda item: -item[1]))


def last_outputs(model: onnx.ModelProto, layers: Collection[str]) -> list[str]:
    """Return the results of those layers that no other layer follows."""
    followed: set[str] = set()  # tensors on which a layer depends
    last = []
    for node in reversed(model.graph.node):
        is_layer = node.name in layers
        if is_layer and followed.isdisjoint(node.output):
            last.append(node.output[0])
        if is_layer or not followed.isdisjoint(node.output):
            followed.update(node.input)
    return last


def _results(path: Path, feeds: Feeds, outputs: list[str]) -> list[NDArray[Any]]:
    """Return each output for all inputs, side by side."""
    session = require("onnxruntime").InferenceSession(str(path), providers=["CPUExecutionProvider"])
    results = [[value.ravel() for value in session.run(outputs, feed)] for feed in feeds]
    return [np.concatenate(values) for values in zip(*results, strict=True)]


def _relative(actual: NDArray[Any], expected: NDArray[Any]) -> float:
    """Return the root mean square of the difference, relative to that of the expected values."""
    return float(np.linalg.norm(actual - expected) / max(float(np.linalg.norm(expected)), 1e-12))
