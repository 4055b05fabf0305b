"""Exported networks as steps: ours and timm's in ONNX Runtime and OpenVINO, with the same settings."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from twins.bench.networks import Step, relative_difference
from twins.exporting.config import ExportConfig
from twins.exporting.extra import require
from twins.exporting.graph import ExportGraph, Shape
from twins.exporting.int8 import prepare, quantize
from twins.exporting.metadata import IMAGES
from twins.exporting.onnx import write_onnx
from twins.exporting.openvino import convert_openvino
from twins.exporting.sessions import compile_openvino
from twins.exporting.write import build_graph
from twins.tasks.network import TaskNetwork

if TYPE_CHECKING:
    import openvino

CALIBRATION = 8
"""Images that calibrate int8; few are enough, because weights are random and only speed is measured."""


def exported_steps(networks: dict[str, nn.Module], pixels: Tensor, runtime: str, precision: str) -> dict[str, Step]:
    """Return a step for each exported network; `timm` and `timm again` share an export.

    Our file takes pixels, as `twins export` writes it; timm's takes normalised images. Each step returns logits
    `(B, K)`, reads its input without a copy, and uses as many threads as PyTorch.

    Args:
        networks: `twins`, and `timm` and `timm again` if they are compared.
        pixels: uint8 `(B, C, H, W)` on the CPU.
        runtime: `onnxruntime` or `openvino`.
        precision: `fp32`, and for OpenVINO also `bf16` or `int8`.

    Raises:
        MissingExtraError: the runtime is not installed.
    """
    require(runtime)
    ours = networks["twins"]
    assert isinstance(ours, TaskNetwork)
    export = _onnxruntime if runtime == "onnxruntime" else partial(_openvino, precision=precision)
    exports = {
        label: export(network, _inputs(ours, network, pixels))
        for label, network in networks.items()
        if label != "timm again"
    }
    return {label: exports[label.removesuffix(" again")]() for label in networks}


def _inputs(ours: TaskNetwork, network: nn.Module, pixels: Tensor) -> Tensor:
    """Return a batch of pixels as a network's export takes it: uint8 `(B, H, W, C)`, or for timm normalised images."""
    if network is ours:
        return pixels.permute(0, 2, 3, 1).contiguous()
    return ours.prepare(pixels, None)[0].contiguous()


def output_difference(ours: Step, theirs: Step) -> float:
    """Return the largest difference of two steps' outputs, in units of the second's root mean square."""
    return relative_difference(*(torch.from_numpy(step()).double() for step in (ours, theirs)))


def graph_of(network: TaskNetwork, pixels: Tensor, runtime: str) -> ExportGraph:
    """Return the graph of a classifier's logits for batches of this shape; `pixels` are uint8 `(B, H, W, C)`."""
    config = ExportConfig(format="onnx" if runtime == "onnxruntime" else "openvino", logits=True)
    return build_graph(network, Shape(*pixels.shape[:3]), config)


def _onnxruntime(network: nn.Module, images: Tensor) -> Callable[[], Step]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        if isinstance(network, TaskNetwork):
            write_onnx(graph_of(network, images, "onnxruntime"), path)
        else:
            export_timm(network, path, images)
        data = path.read_bytes()
    return lambda: onnxruntime_step(data, images.numpy())


def onnxruntime_step(model: bytes, images: NDArray[Any]) -> Step:
    """Return a step that runs an ONNX model in ONNX Runtime and returns its first output."""
    ort = require("onnxruntime")
    options = ort.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    # otherwise threads of the previous session keep spinning while the next one is timed
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    name, binding = session.get_inputs()[0].name, session.io_binding()
    binding.bind_output(session.get_outputs()[0].name)

    def step() -> Any:
        binding.bind_cpu_input(name, images)  # here, because the binding does not keep the images alive
        session.run_with_iobinding(binding)
        return binding.copy_outputs_to_cpu()[0]

    return step


def _openvino(network: nn.Module, images: Tensor, precision: str) -> Callable[[], Step]:
    model = int8_model(network, images) if precision == "int8" else openvino_model(network, images)
    return lambda: openvino_step(model, images.numpy(), precision)


def openvino_model(network: nn.Module, images: Tensor) -> openvino.Model:
    """Convert a network for batches of this shape: ours with our export, timm's with OpenVINO's own converter."""
    if isinstance(network, TaskNetwork):
        return convert_openvino(graph_of(network, images, "openvino"))
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tracing warns about arithmetic on shapes, which is fixed on purpose
        return require("openvino").convert_model(network.eval(), example_input=images, input=[tuple(images.shape)])


def int8_model(network: nn.Module, images: Tensor) -> openvino.Model:
    """Return a network in int8 for batches of this shape: ours as `twins export` writes it, timm's by NNCF."""
    batches = [batch.numpy() for batch in calibration(images)]
    if isinstance(network, TaskNetwork):
        with tempfile.TemporaryDirectory() as folder:
            path, out = Path(folder) / "network.onnx", Path(folder) / "int8.onnx"
            write_onnx(graph_of(network, images, "openvino"), path)
            layers = [name for names in prepare(path).values() for name in names]
            quantize(path, out, [{IMAGES: batch} for batch in batches], layers, "openvino")
            return require("openvino").convert_model(out)
    nncf = require("nncf")
    preset, kind = nncf.QuantizationPreset.PERFORMANCE, nncf.ModelType.TRANSFORMER
    return nncf.quantize(
        openvino_model(network, images),
        nncf.Dataset(batches),
        preset=preset,
        model_type=kind,
        subset_size=len(batches),
    )


def openvino_step(model: openvino.Model, images: NDArray[Any], precision: str) -> Step:
    """Return a step that runs an OpenVINO model, compiled for low latency, and returns its first output."""
    compiled = compile_openvino(
        model, threads=torch.get_num_threads(), precision="bf16" if precision == "bf16" else "fp32"
    )
    request = compiled.create_infer_request()

    def step() -> Any:
        request.infer([images], share_inputs=True)
        return request.get_output_tensor(0).data

    return step


def calibration(images: Tensor) -> list[Tensor]:
    """Return random batches like these images, the same each time, with at least `CALIBRATION` images in all."""
    generator = torch.Generator().manual_seed(1)
    count = -(-CALIBRATION // len(images))
    if images.dtype == torch.uint8:
        return [torch.randint(256, images.shape, generator=generator, dtype=torch.uint8) for _ in range(count)]
    return [torch.randn(images.shape, generator=generator) for _ in range(count)]


def export_timm(network: nn.Module, path: Path, images: Tensor) -> None:
    """Export timm's network to ONNX for batches of this shape, with unfused attention as in timm's own script."""
    for module in network.eval().modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = False  # type: ignore[assignment]
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(network, (images,), dynamo=True, opset_version=20, verbose=False)
    assert program is not None
    program.save(path)
