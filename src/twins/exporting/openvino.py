"""A graph as an OpenVINO model, by way of ONNX."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from twins.exporting.extra import require
from twins.exporting.graph import ExportGraph
from twins.exporting.onnx import write_onnx

if TYPE_CHECKING:
    import openvino


def convert_openvino(graph: ExportGraph) -> openvino.Model:
    """Return a graph as an OpenVINO model in float32.

    OpenVINO's reader of ONNX files knows open shapes and the operators of detectors; its reader of programs does not.

    Args:
        graph: its `opset` is the oldest.

    Raises:
        MissingExtraError: OpenVINO, onnx or onnxscript is not installed.
    """
    ov = require("openvino")
    with tempfile.TemporaryDirectory(prefix="twins-export-") as folder:
        path = Path(folder) / "graph.onnx"
        write_onnx(graph, path)
        return ov.convert_model(path)
