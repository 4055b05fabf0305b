"""Maps of what a network looks at in a whole image: the evidence for a score, and the attention of all tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from twins.backbone.attention import Attention, GlobalAttention, LocalAttention
from twins.backbone.config import STRIDES
from twins.backbone.network import Twins
from twins.ops.windows import merge_windows
from twins.tasks.network import TaskNetwork, scores_error

MIN_POSITIONS = 4
"""Least rows and columns of a map whose evidence is combined with that of others."""
T = TypeVar("T", LocalAttention, GlobalAttention)


class CellMap(NamedTuple):
    """A map of values over a network's input."""

    values: Tensor
    """`(rows, columns)` of cells; at a padded border they may reach beyond the input."""
    cell: int
    """Side of a cell in pixels of the input."""

    def pixels(self, size: Sequence[int]) -> Tensor:
        """Return the values interpolated bilinearly to the input's `(H, W)`; 0 where the map ends before it."""
        pixels = F.interpolate(
            self.values[None, None].float().cpu(), scale_factor=self.cell, mode="bilinear", align_corners=False
        )[0, 0, : size[0], : size[1]]
        return F.pad(pixels, (0, size[1] - pixels.shape[1], 0, size[0] - pixels.shape[0]))


def forward_with_maps(network: TaskNetwork, images: Tensor) -> tuple[Any, list[Tensor]]:
    """Return a network's outputs, and the maps `(B, H, W, C)` of its stages, on which the outputs depend by gradient.

    Nothing before the first map gets a gradient, so that the graph of its stage, the largest, is not kept.

    Args:
        network: in evaluation mode.
        images: normalised float `(B, C, H, W)`.
    """
    maps: list[Tensor] = []

    def keep(_: Any, arguments: Any, outputs: tuple[Tensor, Tensor | None]) -> tuple[Tensor, Tensor | None]:
        """Keep a stage's map; the first one starts the graph."""
        x, sizes = outputs
        maps.append(x if maps else x.detach().requires_grad_())
        return maps[-1], sizes

    handles = [stage.register_forward_hook(keep) for stage in network.backbone.stages]
    try:
        with torch.enable_grad():
            return network(images), maps
    finally:
        for handle in handles:
            handle.remove()


def stage_evidence(value: Tensor, maps: Sequence[Tensor]) -> list[Tensor | None]:
    """Return where each map raises a value: gradient times map, HiResCAM (Draelos and Carin, arXiv 2011.08891).

    Args:
        value: scalar with gradient.
        maps: of one image, `(1, H, W, C)`.

    Returns:
        for each map `(H, W)`, at least 0, with 1 as the largest value; `None` if the value does not depend on it.

    Raises:
        WeightsError: the gradients are not finite.
    """
    gradients: tuple[Tensor | None, ...] = torch.autograd.grad(value, tuple(maps), allow_unused=True)
    evidence: list[Tensor | None] = []
    for x, gradient in zip(maps, gradients, strict=True):
        if gradient is None:
            evidence.append(None)
            continue
        raised = (x.detach() * gradient)[0].float().sum(dim=2).clamp(min=0)
        if not bool(raised.isfinite().all()):
            raise scores_error()
        evidence.append(raised / raised.max().clamp(min=1e-12))
    return evidence


def combine_evidence(evidence: Sequence[Tensor | None], size: Sequence[int]) -> Tensor:
    """Return the mean of the last two stages' evidence, interpolated bilinearly to `(H, W)`; zeros without any.

    Stages with coarse maps, as of small inputs, are left out.

    Args:
        evidence: that of each stage, see `stage_evidence`.
        size: height and width of the network's input in pixels.
    """
    present = [CellMap(values, stride) for stride, values in zip(STRIDES, evidence, strict=False) if values is not None]
    used = [part for part in present if min(part.values.shape) >= MIN_POSITIONS][-2:] or present[:1]
    return torch.stack([part.pixels(size) for part in used]).mean(dim=0) if used else torch.zeros(*size)


def attention_modules(backbone: Twins, stage: int) -> list[Attention]:
    """Return the attention of each block of a stage, 0 to 3."""
    return [m for m in backbone.stages[stage].modules() if isinstance(m, LocalAttention | GlobalAttention)]


@torch.no_grad()
def global_map(backbone: Twins, image: Tensor, stage: int) -> CellMap | None:
    """Return the attention to each sub-sampled key in a stage's last global attention.

    Args:
        backbone: in evaluation mode.
        image: normalised `(3, H, W)`.
        stage: 0 to 3.

    Returns:
        attention of the keys, averaged over heads and queries, whose sum is 1; `None` without global attention.
    """
    last = _last_input(backbone, image, stage, GlobalAttention)
    if last is None:
        return None
    attention, x = last
    weights = attention.weights(x)  # (1, h, N, K)
    keys = weights.mean(dim=(0, 1, 2)).view(attention.key_grid(x.shape[1], x.shape[2]))
    return CellMap(keys, STRIDES[stage] * attention.cell)


@torch.no_grad()
def local_map(backbone: Twins, image: Tensor, stage: int) -> CellMap | None:
    """Return the attention to each token within its window, in the last local attention of a stage.

    Args:
        backbone: in evaluation mode.
        image: normalised `(3, H, W)`.
        stage: 0 to 3.

    Returns:
        attention of the tokens, averaged over heads and queries, relative to uniform attention; the average over a
        window is 1. `None` without local attention, as in PCPVT.
    """
    last = _last_input(backbone, image, stage, LocalAttention)
    if last is None:
        return None
    attention, x = last
    weights = attention.weights(x)[0].mean(dim=(1, 2))  # (G, S)
    relative = weights * (weights > 0).sum(dim=1, keepdim=True)  # a window at the border has fewer tokens
    tokens = merge_windows(relative[..., None], attention.window, x.shape[1], x.shape[2])[0, :, :, 0]
    return CellMap(tokens, STRIDES[stage])


def _last_input(backbone: Twins, image: Tensor, stage: int, kind: type[T]) -> tuple[T, Tensor] | None:
    """Return a stage's last attention module of a kind and its input, the normed map of an image."""
    modules = [module for module in attention_modules(backbone, stage) if isinstance(module, kind)]
    if not modules:
        return None
    with attention_inputs(modules[-1:]) as inputs:
        backbone(image[None])
    return modules[-1], inputs[modules[-1]]


@contextmanager
def attention_inputs(modules: Sequence[Attention]) -> Iterator[dict[Attention, Tensor]]:
    """Keep the inputs of attention modules in the forward passes of this block: normed maps `(B, H, W, C)`."""
    inputs: dict[Attention, Tensor] = {}

    def keep(module: Any, arguments: tuple[Tensor, ...]) -> None:
        inputs[module] = arguments[0].detach()

    handles = [module.register_forward_pre_hook(keep) for module in modules]
    try:
        yield inputs
    finally:
        for handle in handles:
            handle.remove()
