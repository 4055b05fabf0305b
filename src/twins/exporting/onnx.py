"""A network as an ONNX file."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from twins.backbone.network import Twins
from twins.errors import ConfigError
from twins.exporting.extra import require
from twins.exporting.layout import AttentionForm, lay_out

OPSET = 23
"""First ONNX opset with an attention operator; ONNX Runtime supports it from 1.23 on."""
MIN_OPSET = 20
"""First ONNX opset with a GELU operator."""
INPUT_NAME = "images"
"""Name of the input of an exported network."""


def export_onnx(
    network: nn.Module, path: Path, *, size: tuple[int, int] = (224, 224), batch: int | None = 1, opset: int = OPSET
) -> None:
    """Write the forward pass of a network as an ONNX file.

    The input is `images`, normalised float32 `(B, C, H, W)`; the outputs are named by `output_names`.

    Args:
        network: a task's network or a backbone, in float32 on the CPU; it is not changed.
        path: file to write.
        size: height and width of the images in pixels.
        batch: images per batch; `None` makes it dynamic.
        opset: ONNX opset, at least 20; below 23 attention is two products and a softmax.

    Raises:
        ConfigError: the opset is too old.
        MissingExtraError: onnx or onnxscript is not installed.
    """
    if opset < MIN_OPSET:
        raise ConfigError(f"`opset` must be at least {MIN_OPSET}, found {opset}")
    for name in ("onnx", "onnxscript"):
        require(name)
    attention: AttentionForm = "operator" if opset >= OPSET else "products"
    laid_out = lay_out(network, *size, attention=attention, flatten_batch=True)
    images = example_images(network, size, batch)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own deprecations
        program = torch.onnx.export(
            laid_out,
            (images,),
            dynamo=True,
            opset_version=opset,
            input_names=[INPUT_NAME],
            output_names=output_names(laid_out, images),
            dynamic_shapes=dynamic_batch(batch),
            verbose=False,
        )
    assert program is not None
    program.save(path)


def example_images(network: nn.Module, size: tuple[int, int], batch: int | None) -> Tensor:
    """Return zeros `(B, C, H, W)` to trace a network with; a dynamic batch has two images, as tracing fixes a 1."""
    backbone = network if isinstance(network, Twins) else network.backbone
    assert isinstance(backbone, Twins)
    return torch.zeros(batch or 2, backbone.in_chans, *size)


def dynamic_batch(batch: int | None) -> tuple[dict[int, torch.export.Dim]] | None:
    """Return the `dynamic_shapes` of `torch.export` for a dynamic batch, or `None` for a fixed one."""
    return None if batch is not None else ({0: torch.export.Dim("batch")},)


def output_names(network: nn.Module, images: Tensor) -> list[str]:
    """Return the output names of a network: its keys if it returns a dict, `map0`, ... of a backbone, else `logits`."""
    with torch.no_grad():
        outputs = network(images)
    if isinstance(outputs, dict):
        return list(outputs)
    return ["logits"] if isinstance(outputs, Tensor) else [f"map{index}" for index in range(len(outputs))]
