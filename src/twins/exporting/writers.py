"""Writing of exported files with their description, in each format."""

from __future__ import annotations

import warnings
import zipfile
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from twins.exporting.extra import require
from twins.exporting.metadata import KEY, FileInfo

if TYPE_CHECKING:
    import openvino
    from torch.export import ExportedProgram


def describe_onnx(path: Path, info: FileInfo) -> None:
    """Add a description to an ONNX file that has none.

    Protocol buffers are merged where they are concatenated, so the entry is appended, and the weights are not read.

    Raises:
        MissingExtraError: onnx is not installed.
    """
    onnx = require("onnx")
    entry = onnx.StringStringEntryProto(key=KEY, value=info.to_json())
    with path.open("ab") as file:
        file.write(onnx.ModelProto(metadata_props=[entry]).SerializeToString())


def write_openvino(model: openvino.Model, path: Path, info: FileInfo) -> None:
    """Write an OpenVINO model as an `.xml` with its `.bin`, with a description; float16 weights stay as they are.

    Raises:
        MissingExtraError: OpenVINO is not installed.
    """
    model.set_rt_info(info.to_json(), KEY)
    require("openvino").save_model(model, path, compress_to_fp16=info.precision == "fp16")


def write_torch(program: ExportedProgram, path: Path, info: FileInfo) -> None:
    """Write a program as a `.pt2` with a description, without example inputs and source lines, its lists compressed.

    Loading parses the shape of each result, which as a formula of open sizes takes longer than all else. Nothing that
    runs a program reads it, so results are said to have sides of 1; inputs keep their shapes.
    """
    import torch

    for node in program.graph.nodes:
        for name in ("stack_trace", "nn_module_stack", "torch_fn", "source_fn_stack", "from_node"):
            node.meta.pop(name, None)
        value = node.meta.get("val")
        if node.op == "call_function" and isinstance(value, torch.Tensor):
            node.meta["val"] = torch.empty([1] * value.ndim, dtype=value.dtype)
    program.example_inputs = None  # images, which are larger than small weights
    saved = BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on weights that are not contiguous, which are saved as they are
        torch.export.save(program, saved, extra_files={KEY: info.to_json()})
    with zipfile.ZipFile(saved) as entries, zipfile.ZipFile(path, "w") as file:
        for entry in entries.infolist():  # the list of operators would be up to a fifth of a small file
            compression = zipfile.ZIP_DEFLATED if entry.filename.endswith(".json") else zipfile.ZIP_STORED
            file.writestr(entry.filename, entries.read(entry), compression)
