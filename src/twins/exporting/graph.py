"""`ExportGraph`, a network as an exported file computes it: uint8 images to decoded outputs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from twins.exporting.config import ExportConfig, Side
from twins.exporting.layout import AttentionForm, lay_out
from twins.exporting.metadata import IMAGES, SIZES, SMALLEST
from twins.exporting.resize import ResizeInGraph
from twins.tasks.exports import export_of
from twins.tasks.network import TaskNetwork

TRACED_SIDE = 160
"""Side in pixels of the images with which an open size is traced: so large that each map of a pyramid, down to a stride
of 128, has two rows at least, since tracing takes a single row for a broadcast one."""


@dataclass(frozen=True)
class Shape:
    """The shape of the images of a file; `None` is left open."""

    batch: int | None
    height: int | None
    width: int | None

    @classmethod
    def of(cls, config: ExportConfig, default: tuple[Side, Side]) -> Shape:
        """Return the shape that settings ask for, with a default height and width."""
        sides = (config.batch, *(config.sides or default))
        return cls(*(None if side == "dynamic" else int(side) for side in sides))

    def example(self, channels: int) -> Tensor:
        """Return images `(B, H, W, C)` to trace a network with; two for an open batch, as tracing fixes a 1.

        The traced sides differ, so that no relation between them is taken for granted.
        """
        sides = (self.height or TRACED_SIDE, self.width or TRACED_SIDE + 2 * SMALLEST)
        return torch.zeros(self.batch or 2, *sides, channels, dtype=torch.uint8)

    def dims(self) -> dict[int, torch.export.Dim]:
        """Return the open dimensions of the images."""
        named = {0: ("batch", self.batch, 1), 1: ("height", self.height, SMALLEST), 2: ("width", self.width, SMALLEST)}
        return {
            axis: torch.export.Dim(name, min=minimum) for axis, (name, side, minimum) in named.items() if side is None
        }


class ExportGraph(nn.Module):
    """A network from uint8 images `(B, H, W, C)` to a dict of named outputs.

    Args:
        network: a task's network, in float32 on the CPU; it is not changed.
        shape: shape of the images.
        features: return the maps of the backbone, `map0` to `map3`.
        logits: return logits instead of decoded outputs.
        padded: take the images' true sizes as a second input.
        resize_in_graph: take images of any size and resize them; results are in their pixels.
        dtype: type of weights and arithmetic; images are normalised and results are given in float32.
        opset: ONNX opset that the graph is written in, from 20 to 23.
        attention: form of attention; see `lay_out`.
        flatten_batch: layout of tokens; see `lay_out`.
    """

    def __init__(
        self,
        network: TaskNetwork,
        shape: Shape,
        *,
        opset: int,
        attention: AttentionForm,
        flatten_batch: bool,
        features: bool = False,
        logits: bool = False,
        padded: bool = False,
        resize_in_graph: bool = False,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.shape, self.opset, self.features, self.logits, self.padded = shape, opset, features, logits, padded
        network_sizes = padded or (resize_in_graph and network.info.preprocess.fit == "keep")
        laid_out = lay_out(
            network,
            shape.height,
            shape.width,
            attention=attention,
            flatten_batch=flatten_batch,
            padded=network_sizes,
        )
        assert isinstance(laid_out, TaskNetwork)
        self.network = laid_out
        self.network.to(dtype)
        self.dtype = dtype
        preprocess = network.info.preprocess
        self.resize: ResizeInGraph | None = None
        if resize_in_graph:
            assert shape.height is not None
            assert shape.width is not None
            self.resize = ResizeInGraph(preprocess, shape.height, shape.width)
        mean, std = (torch.tensor(values, dtype=torch.float64) for values in (preprocess.mean, preprocess.std))
        self.register_buffer("factor", (1 / (255 * std)).float())
        self.register_buffer("shift", (-mean / std).float())

    def forward(self, images: Tensor, sizes: Tensor | None = None) -> dict[str, Tensor]:
        """Return the outputs; see `TaskExport.outputs`.

        Args:
            images: uint8 `(B, H, W, C)`, resized.
            sizes: true height and width of each image, int64 `(B, 2)`; only with `padded`.
        """
        if self.resize is None:
            return self._outputs(images.to(torch.float32), sizes)
        resized, inner = self.resize(images)
        keeps = self.network.info.preprocess.fit == "keep"
        outputs = self._outputs(resized, inner.expand(len(images), 2) if keeps else None)
        return _to_input(outputs, images, inner) if keeps else outputs

    def _outputs(self, pixels: Tensor, sizes: Tensor | None) -> dict[str, Tensor]:
        """Return the outputs for float images `(B, H, W, C)` in 0..255."""
        factor, shift = (self.get_buffer(name)[:, None, None] for name in ("factor", "shift"))
        x = (pixels.permute(0, 3, 1, 2) * factor + shift).to(self.dtype)  # runtimes are slow with rows of 3 values
        outputs = network_outputs(self.network, x, sizes, features=self.features, logits=self.logits)
        return {name: x.float() if x.is_floating_point() else x for name, x in outputs.items()}

    def example(self) -> tuple[Tensor, ...]:
        """Return arguments to trace the graph with."""
        shape = self.shape if self.resize is None else Shape(self.shape.batch, None, None)
        images = shape.example(len(self.get_buffer("factor")))
        return (images, torch.tensor([images.shape[1:3]] * len(images))) if self.padded else (images,)

    def dynamic_shapes(self) -> tuple[dict[int, Any], ...] | None:
        """Return the `dynamic_shapes` of `torch.export`, or `None` if all sides are fixed."""
        dims = (self.shape if self.resize is None else Shape(self.shape.batch, None, None)).dims()
        if not dims:
            return None
        return (dims, {0: dims[0]} if 0 in dims else {}) if self.padded else (dims,)

    def input_names(self) -> list[str]:
        """Return the names of the inputs."""
        return [IMAGES, SIZES][: 1 + self.padded]

    @cached_property
    def output_names(self) -> list[str]:
        """The names of the outputs, in order."""
        with torch.no_grad():
            return list(self(*self.example()))


def network_outputs(
    network: TaskNetwork, images: Tensor, sizes: Tensor | None, *, features: bool, logits: bool
) -> dict[str, Tensor]:
    """Return a network's outputs by the names that they have in a file.

    Args:
        network: in eval mode.
        images: normalised float `(B, C, H, W)`.
        sizes: true sizes in pixels, int `(B, 2)`, or `None` if images fill the batch.
        features: return the maps of the backbone, `map0` to `map3`.
        logits: return logits instead of decoded outputs.
    """
    if features:
        return {f"map{index}": values for index, values in enumerate(network.backbone(images, sizes))}
    return export_of(network.task).outputs(network, images, sizes, logits=logits)


def _to_input(outputs: dict[str, Tensor], images: Tensor, inner: Tensor) -> dict[str, Tensor]:
    """Return outputs for resized images in the pixels of the images `(B, H, W, C)`; `inner` is their size inside."""
    lengths = torch.stack([torch.full((), images.shape[axis], dtype=torch.int64) for axis in (1, 2)])
    outputs = dict(outputs)
    if "boxes" in outputs:
        factors = (lengths / inner).flip(0).repeat(2)  # x, y, x, y
        outputs["boxes"] = torch.minimum(outputs["boxes"] * factors, lengths.flip(0).repeat(2))
    if "label_map" in outputs:
        rows, columns = (
            (torch.arange(images.shape[axis + 1]) * 2 + 1) * inner[axis] // (2 * lengths[axis]) for axis in (0, 1)
        )
        outputs["label_map"] = outputs["label_map"].index_select(1, rows).index_select(2, columns)
    return outputs
