"""A network as an ONNX file."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from twins.backbone.network import Twins
from twins.errors import ConfigError
from twins.exporting.extra import require
from twins.exporting.layout import lay_out

OPSET = 23
"""The first version of ONNX's operators that has attention; ONNX Runtime reads it from 1.23 on."""
MIN_OPSET = 20
"""The first that has GELU."""
INPUT_NAME = "images"
"""Name of an exported network's input."""


def export_onnx(
    network: nn.Module, path: Path, *, size: tuple[int, int] = (224, 224), batch: int | None = 1, opset: int = OPSET
) -> None:
    """Write a network's forward pass as an ONNX file.

    The input is `images`, normalised float32 `(B, C, H, W)`; the outputs have the names that `output_names` gives.

    Args:
        network: a task's network or a backbone, in float32 on the CPU; it is not changed.
        path: the file to write.
        size: height and width of the images in pixels.
        batch: images in a batch; `None` leaves it open.
        opset: version of ONNX's operators, from 20 on; below 23 attention is written out.

    Raises:
        ConfigError: an older version of the operators.
        MissingExtraError: onnx or onnxscript is not installed.
    """
    if opset < MIN_OPSET:
        raise ConfigError(f"`opset` must be at least {MIN_OPSET}, found {opset}")
    for name in ("onnx", "onnxscript"):
        require(name)
    ready = lay_out(network, *size, attention="operator" if opset >= OPSET else "products", rows=True)
    images = example_images(network, size, batch)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own deprecations
        program = torch.onnx.export(
            ready,
            (images,),
            dynamo=True,
            opset_version=opset,
            input_names=[INPUT_NAME],
            output_names=output_names(ready, images),
            dynamic_shapes=dynamic_batch(batch),
            verbose=False,
        )
    assert program is not None
    program.save(path)


def example_images(network: nn.Module, size: tuple[int, int], batch: int | None) -> Tensor:
    """Return images `(B, C, H, W)` to trace a network with; two where the batch is open, since one is special."""
    backbone = network if isinstance(network, Twins) else network.backbone
    assert isinstance(backbone, Twins)
    return torch.zeros(batch or 2, backbone.in_chans, *size)


def dynamic_batch(batch: int | None) -> tuple[dict[int, torch.export.Dim]] | None:
    """Return the description of an open batch that the tracer understands, or `None` where it is fixed."""
    return None if batch is not None else ({0: torch.export.Dim("batch")},)


def output_names(network: nn.Module, images: Tensor) -> list[str]:
    """Return names of a network's outputs: its own where it has several, `map0` ... of a backbone, or `logits`."""
    with torch.no_grad():
        outputs = network(images)
    if isinstance(outputs, dict):
        return list(outputs)
    return ["logits"] if isinstance(outputs, Tensor) else [f"map{index}" for index in range(len(outputs))]
