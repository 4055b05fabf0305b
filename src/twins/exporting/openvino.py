"""A network as an OpenVINO model, and the compilation of the model for a processor."""

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
    """Return the forward pass of a network as an OpenVINO model in float32.

    The input is `images`, normalised float32 `(B, C, H, W)`; the outputs are named by `output_names`.

    Args:
        network: a task's network or a backbone, in float32 on the CPU; it is not changed.
        size: height and width of the images in pixels.
        batch: images per batch; `None` makes it dynamic.

    Raises:
        MissingExtraError: OpenVINO is not installed.
    """
    ov = require("openvino")
    laid_out = lay_out(network, *size, attention="products", flatten_batch=False)
    images = example_images(network, size, batch)
    with torch.no_grad():
        program = torch.export.export(laid_out, (images,), dynamic_shapes=dynamic_batch(batch))
    model = ov.convert_model(program)
    model.inputs[0].get_tensor().set_names({INPUT_NAME})
    for output, name in zip(model.outputs, output_names(laid_out, images), strict=True):
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
        model: a model of `convert_openvino` or `quantize`.
        hint: `latency` runs one request on all threads; `throughput` runs several at the same time.
        threads: number of CPU threads; `None` lets OpenVINO choose.
        precision: type of all operations that are not int8. OpenVINO's own default is bfloat16 where the processor has
            instructions for it.

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
