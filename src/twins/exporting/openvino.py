"""A network in OpenVINO: the model, and its compilation for a processor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from torch import nn

from twins.exporting.extra import require
from twins.exporting.layout import lay_out
from twins.exporting.onnx import INPUT_NAME, dynamic_batch, example_images, output_names

if TYPE_CHECKING:
    import openvino

Hint = Literal["latency", "throughput"]


def convert_openvino(
    network: nn.Module, *, size: tuple[int, int] = (224, 224), batch: int | None = 1
) -> openvino.Model:
    """Return a network's forward pass as an OpenVINO model, in float32.

    Its input is `images`, normalised float32 `(B, C, H, W)`; the outputs have the names that `output_names` gives.

    Args:
        network: a task's network or a backbone, in float32 on the CPU; it is not changed.
        size: height and width of the images in pixels.
        batch: images in a batch; `None` leaves it open.

    Raises:
        MissingExtraError: OpenVINO is not installed.
    """
    ov = require("openvino")
    ready, images = lay_out(network, *size, attention="products", rows=False), example_images(network, size, batch)
    with torch.no_grad():
        program = torch.export.export(ready, (images,), dynamic_shapes=dynamic_batch(batch))
    model = ov.convert_model(program)
    model.inputs[0].get_tensor().set_names({INPUT_NAME})
    for output, name in zip(model.outputs, output_names(ready, images), strict=True):
        output.get_tensor().set_names({name})
    return model


def compile_openvino(
    model: openvino.Model,
    *,
    hint: Hint = "latency",
    threads: int | None = None,
    precision: Literal["fp32", "bf16"] = "fp32",
) -> openvino.CompiledModel:
    """Compile a model for this processor.

    Args:
        model: of `convert_openvino` or `quantize`.
        hint: `latency` runs one request on all threads; `throughput` several side by side.
        threads: CPU threads; unset is OpenVINO's choice.
        precision: what is not int8 computes in; OpenVINO alone would take bfloat16 wherever the processor has it.

    Raises:
        MissingExtraError: OpenVINO is not installed.
    """
    settings: dict[str, str | int] = {
        "PERFORMANCE_HINT": hint.upper(),
        "INFERENCE_PRECISION_HINT": {"fp32": "f32", "bf16": "bf16"}[precision],
    }
    if threads is not None:
        settings["INFERENCE_NUM_THREADS"] = threads
    return require("openvino").Core().compile_model(model, "CPU", settings)
