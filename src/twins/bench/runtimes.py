"""Exported networks as steps to call: ONNX Runtime and OpenVINO, ours and timm's by the same settings."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from twins.bench.subjects import Step, distance
from twins.exporting.extra import require
from twins.exporting.int8 import quantize
from twins.exporting.onnx import INPUT_NAME, export_onnx
from twins.exporting.openvino import compile_openvino, convert_openvino
from twins.tasks.network import TaskNetwork

if TYPE_CHECKING:
    import openvino

CALIBRATION = 8
"""Images whose ranges int8 is set by; with random weights speed alone is looked at."""
Array = NDArray[np.float32]


def exported_steps(subjects: dict[str, nn.Module], images: Tensor, runtime: str, precision: str) -> dict[str, Step]:
    """Return a step for each network's export; a second copy of timm's shares the first one's.

    Each step returns logits `(B, K)`, has its input bound and computes on as many threads as PyTorch.

    Args:
        subjects: `twins`, and `timm` and `timm again` where they are compared.
        images: `(B, 3, H, W)` float32 on the CPU.
        runtime: `onnxruntime` or `openvino`.
        precision: `fp32`, or of OpenVINO `bf16` or `int8`.

    Raises:
        MissingExtraError: the runtime is not installed.
    """
    require(runtime)
    export = _onnxruntime if runtime == "onnxruntime" else partial(_openvino, precision=precision)
    exports = {label: export(subjects[label], images) for label in subjects if label != "timm again"}
    return {label: exports[label.removesuffix(" again")]() for label in subjects}


def outputs_differ(ours: Step, theirs: Step) -> float:
    """Return the largest difference of two steps' outputs, in units of the second's root mean square."""
    return distance(*(torch.from_numpy(step()).double() for step in (ours, theirs)))


def _onnxruntime(network: nn.Module, images: Tensor) -> Callable[[], Step]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        if isinstance(network, TaskNetwork):
            export_onnx(network, path, size=(images.shape[2], images.shape[3]), batch=len(images))
        else:
            export_timm(network, path, images)
        data = path.read_bytes()
    return lambda: onnxruntime_step(data, images.numpy())


def onnxruntime_step(model: bytes, images: Array) -> Step:
    """Return a call of an ONNX model in ONNX Runtime, whose first output it returns."""
    ort = require("onnxruntime")
    options = ort.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    # else threads of a session that has just run would spin through the next one's turn
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    binding = session.io_binding()
    binding.bind_cpu_input(INPUT_NAME, images)
    binding.bind_output(session.get_outputs()[0].name)

    def step() -> Any:
        session.run_with_iobinding(binding)
        return binding.copy_outputs_to_cpu()[0]

    return step


def _openvino(network: nn.Module, images: Tensor, precision: str) -> Callable[[], Step]:
    model = openvino_model(network, images)
    if precision == "int8":
        model = quantize(model, calibration(images))
    return lambda: openvino_step(model, images.numpy(), precision)


def openvino_model(network: nn.Module, images: Tensor) -> openvino.Model:
    """Return our network by our export, or timm's as OpenVINO converts it, for batches of this shape."""
    if isinstance(network, TaskNetwork):
        return convert_openvino(network, size=(images.shape[2], images.shape[3]), batch=len(images))
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tracing warns of Python's own arithmetic on shapes, which is meant
        return require("openvino").convert_model(network.eval(), example_input=images, input=[tuple(images.shape)])


def openvino_step(model: openvino.Model, images: Array, precision: str) -> Step:
    """Return a call of an OpenVINO model for low latency, whose first output it returns."""
    compiled = compile_openvino(
        model, threads=torch.get_num_threads(), precision="bf16" if precision == "bf16" else "fp32"
    )
    request = compiled.create_infer_request()
    request.set_input_tensor(require("openvino").Tensor(images, shared_memory=True))

    def step() -> Any:
        request.infer()
        return request.get_output_tensor(0).data

    return step


def calibration(images: Tensor) -> list[Tensor]:
    """Return random batches of the images' shape, the same each time, at least eight images in all."""
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(images.shape, generator=generator) for _ in range(-(-CALIBRATION // len(images)))]


def export_timm(network: nn.Module, path: Path, images: Tensor) -> None:
    """Write timm's network as an ONNX file as timm does, with attention written out, for batches of this shape."""
    for module in network.eval().modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = False  # type: ignore[assignment]
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            network, (images,), dynamo=True, opset_version=20, input_names=[INPUT_NAME], verbose=False
        )
    assert program is not None
    program.save(path)
