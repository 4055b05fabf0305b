"""What a network looks at from one point of an image, in pixels of that image. Start with `attention_at`."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from twins.attention_maps import (
    attention_inputs,
    attention_modules,
    combine_evidence,
    forward_with_maps,
    stage_evidence,
)
from twins.backbone.attention import Attention, LocalAttention
from twins.backbone.config import STRIDES
from twins.backbone.network import Twins
from twins.data.channels import open_channels
from twins.errors import ConfigError, InputError, check_type, number_of
from twins.exported import ExportedNetwork
from twins.predictor import Predictor
from twins.preprocess import Preprocess
from twins.tasks.contract import Decision, spec_of
from twins.tasks.network import TaskNetwork, check_finite_scores

LARGEST = 1_000_000
"""Number of a block or head above which none is looked for."""
Box = tuple[float, float, float, float]
"""xyxy in pixels."""
ChosenBy = Literal["request", "object", "evidence", "centre"]


@dataclass(frozen=True, eq=False)
class Weights:
    """Attention weights of one token to a grid of tokens or cells."""

    block: int
    """Number of the block in its stage, from 1."""
    box: Box
    """The grid in pixels of the user's image; padded cells may reach beyond it."""
    weights: NDArray[np.float64]
    """`(rows, columns)`, of one head or the average over heads; the sum is 1, unless padded tokens are keys."""

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        return {"block": self.block} | _grid(self.box, "weights", self.weights)


@dataclass(frozen=True, eq=False)
class Evidence:
    """Where a stage's map raises the value of a decision."""

    box: Box
    """The map in pixels of the user's image; padded tokens may reach beyond it."""
    values: NDArray[np.float64]
    """`(rows, columns)`, at least 0; the largest is 1, unless all are 0."""

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        return _grid(self.box, "values", self.values)


@dataclass(frozen=True, kw_only=True, eq=False)
class StageAttention:
    """A stage's map, one of its tokens, and the attention of that token."""

    stage: int
    """Number of the stage, 1 to 4."""
    rows: int
    """Rows of the map, in tokens."""
    columns: int
    """Columns of the map, in tokens."""
    heads: int
    """Attention heads of each block."""
    blocks: tuple[str, ...]
    """The attention of each block, `local` or `global`."""
    token: tuple[int, int]
    """Row and column of the token, from 0."""
    token_box: Box
    """The token in pixels of the user's image; at a padded border it may reach beyond it."""
    window: Weights | None
    """Weights to the tokens of its window, without those of padding; `None` without a local block."""
    keys: Weights | None
    """Weights to the keys of the whole map; `None` without a global block."""
    evidence: Evidence | None
    """Evidence for the network's decision; `None` without one, and if the decision does not depend on the stage."""

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        parts = {name: getattr(self, name) for name in ("window", "keys", "evidence")}
        return {
            "stage": self.stage,
            "rows": self.rows,
            "columns": self.columns,
            "heads": self.heads,
            "blocks": list(self.blocks),
            "token": list(self.token),
            "token_box": _rounded(self.token_box),
        } | {name: None if part is None else part.to_dict() for name, part in parts.items()}


@dataclass(frozen=True)
class Target:
    """What evidence is for."""

    label: int
    """Class id."""
    name: str
    """Class name."""
    score: float | None
    """Score in 0..1; `None` for a class of a semantic map."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageAttention:
    """What a network looks at in an image, from one point of it."""

    size: tuple[int, int]
    """Height and width of the upright image in pixels."""
    seen: Box
    """The part of the image that the network sees, in its pixels."""
    point: tuple[float, float]
    """x and y in pixels of the image."""
    chosen_by: ChosenBy
    """Why this point: the caller gave it; it is the centre of the object; it has the largest evidence; or, with neither
    object nor evidence, it is the middle of `seen`."""
    target: Target | None
    """What evidence is for; `None` for a point of the caller, and if the network finds nothing."""
    stages: tuple[StageAttention, ...]
    """The stages that were asked for, from high to low resolution."""

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values; weights and evidence have six significant digits."""
        x, y = self.point
        return {
            "size": list(self.size),
            "seen": _rounded(self.seen),
            "point": {"x": x, "y": y, "chosen_by": self.chosen_by},
            "target": None if self.target is None else dict(vars(self.target)),
            "stages": [stage.to_dict() for stage in self.stages],
        }


def attention_at(
    predictor: Predictor,
    image: Any,
    point: tuple[float, float] | None = None,
    *,
    stage: int | None = None,
    block: int | None = None,
    head: int | None = None,
) -> ImageAttention:
    """Return what the token at a point of an image attends to, and without a point the evidence for the decision too.

    The network sees the whole image, once, whatever the predictor's inference settings are.

    Args:
        predictor: of a network, not of an exported file.
        image: one image, as `Predictor.predict` takes it.
        point: x and y in pixels of the upright image. `None`: the network's decision is explained by gradient times map
            (HiResCAM, arXiv 2011.08891), and the point is the centre of its surest object, else where the evidence is
            largest, else the middle of what the network sees.
        stage: number of a stage, from 1; `None`: all.
        block: number of a block in the stage, from 1; `None`: the last local and the last global one.
        head: number of a head, from 1; `None`: the average over heads.

    Raises:
        ConfigError: an exported file; a stage, block or head that does not exist; block or head without a stage.
        InputError: the point is outside the image, or outside the part that the network sees; or as `predict`.
        DataError, NotFoundError: as `predict`.
        WeightsError: the network's scores are not finite.
    """
    check_type(predictor, Predictor, "predictor", "a twins.Predictor, as twins.load returns it")
    _check_has_maps(predictor.model)
    opened = open_channels(image, predictor.model.info.in_chans)
    pixels, size = predictor.model.info.preprocess.pixels(opened), (opened.height, opened.width)
    return attention_in_pixels(predictor, pixels, size, point, stage=stage, block=block, head=head)


@torch.enable_grad()
def attention_in_pixels(
    predictor: Predictor,
    pixels: Tensor,
    size: tuple[int, int],
    point: tuple[float, float] | None = None,
    *,
    stage: int | None = None,
    block: int | None = None,
    head: int | None = None,
) -> ImageAttention:
    """Return `attention_at` of an image that is preprocessed already.

    Args:
        predictor: of a network.
        pixels: uint8 `(C, H, W)`, see `Preprocess.pixels`.
        size: height and width of the user's image in pixels.
        point: as in `attention_at`.
        stage: as in `attention_at`.
        block: as in `attention_at`.
        head: as in `attention_at`.
    """
    check_type(predictor, Predictor, "predictor", "a twins.Predictor, as twins.load returns it")
    network = predictor.model
    _check_has_maps(network)
    stage, block, head = (_whole(name, value) for name, value in (("stage", stage), ("block", block), ("head", head)))
    point = None if point is None else _position(point)
    chosen = _choose_blocks(network.backbone, stage, block, head)
    view = _View.of(network.info.preprocess, size, pixels)
    images, _ = network.prepare(pixels[None], None)
    target: Target | None = None
    evidence: list[Tensor | None] = [None] * len(network.backbone.stages)
    chosen_by: ChosenBy = "request"
    with attention_inputs([attention for blocks in chosen.values() for _, attention in blocks]) as inputs:
        if point is not None:
            view.check(point)
            with torch.no_grad():
                check_finite_scores(network.backbone(images)[-1])
        else:
            outputs, maps = forward_with_maps(network, images)
            check_finite_scores(outputs)
            (prediction,) = network.decode(outputs, None, [size])
            decision = spec_of(network.task).decision(outputs, prediction)
            if decision is not None:
                evidence = stage_evidence(decision.value, maps)
                target = Target(decision.label, prediction.name(decision.label), decision.score)
            point, chosen_by = view.choose(decision, combine_evidence(evidence, images.shape[2:]))
    stages = (
        _stage_attention(network.backbone, number, blocks, inputs, view, point, head, evidence[number - 1])
        for number, blocks in chosen.items()
    )
    return ImageAttention(
        size=size, seen=view.seen, point=point, chosen_by=chosen_by, target=target, stages=tuple(stages)
    )


@dataclass(frozen=True)
class _View:
    """Positions in the network's input and in the user's image."""

    size: tuple[int, int]
    """Height and width of the image in pixels."""
    seen: Box
    """The part of the image that becomes the input."""
    scales: tuple[float, float]
    """Pixels of the image per pixel of the input, along x and y."""

    @classmethod
    def of(cls, preprocess: Preprocess, size: tuple[int, int], pixels: Tensor) -> _View:
        """Return the view of an image of `size` whose input is `pixels` `(C, H, W)`."""
        x0, y0, x1, y1 = seen = preprocess.seen_part(size[1], size[0])
        return cls(size, seen, ((x1 - x0) / pixels.shape[2], (y1 - y0) / pixels.shape[1]))

    def to_image(self, x: float, y: float) -> tuple[float, float]:
        """Return a position of the input in the image."""
        return self.seen[0] + x * self.scales[0], self.seen[1] + y * self.scales[1]

    def box(self, side: int, rows: tuple[int, int], columns: tuple[int, int]) -> Box:
        """Return the box in the image of some rows and columns of cells of `side` pixels of the input."""
        return (*self.to_image(columns[0] * side, rows[0] * side), *self.to_image(columns[1] * side, rows[1] * side))

    def token(self, point: tuple[float, float], stride: int, rows: int, columns: int) -> tuple[int, int]:
        """Return row and column of the token at a point; the nearest one where the map does not cover the border."""
        x, y = ((point[axis] - self.seen[axis]) / self.scales[axis] / stride for axis in (0, 1))
        return min(max(int(y), 0), rows - 1), min(max(int(x), 0), columns - 1)

    def check(self, point: tuple[float, float]) -> None:
        """Raise InputError if the network does not see a point."""
        (x, y), (height, width), (x0, y0, x1, y1) = point, self.size, self.seen
        if not (0 <= x < width and 0 <= y < height):
            raise InputError(
                f"the point must be inside the image of {width} x {height} pixels, found x {x:g} and y {y:g}"
            )
        if not (x0 <= x < x1 and y0 <= y < y1):
            raise InputError(
                f"the network sees the image from x {x0:g} to {x1:g} and y {y0:g} to {y1:g}, found the point x {x:g} "
                f"and y {y:g}; give one inside that part"
            )

    def choose(self, decision: Decision | None, evidence: Tensor) -> tuple[tuple[float, float], ChosenBy]:
        """Return the point of a decision, and by what it is chosen; `evidence` `(H, W)` is that of the input."""
        if decision is not None and decision.box is not None:
            x0, y0, x1, y1 = decision.box
            return ((x0 + x1) / 2, (y0 + y1) / 2), "object"
        if decision is not None and bool(evidence.max() > 0):
            row, column = divmod(int(evidence.argmax()), evidence.shape[1])
            return self.to_image(column + 0.5, row + 0.5), "evidence"
        x0, y0, x1, y1 = self.seen
        return ((x0 + x1) / 2, (y0 + y1) / 2), "centre"


Blocks = list[tuple[int, Attention]]
"""Blocks of a stage: number, from 1, and attention."""


def _choose_blocks(backbone: Twins, stage: int | None, block: int | None, head: int | None) -> dict[int, Blocks]:
    """Return the blocks that are asked for, by the number of their stage."""
    count = len(backbone.stages)
    if stage is None:
        if block is not None or head is not None:
            raise ConfigError("a block or head is one of a stage; give the stage too")
        return {number: _last_blocks(attention_modules(backbone, number - 1)) for number in range(1, count + 1)}
    if not 1 <= stage <= count:
        raise ConfigError(f"the network has {number_of(count, 'stage')}, found stage {stage}; give 1 to {count}")
    modules = attention_modules(backbone, stage - 1)
    heads = modules[0].num_heads
    if head is not None and not 1 <= head <= heads:
        raise ConfigError(f"stage {stage} has {number_of(heads, 'head')}, found head {head}; give 1 to {heads}")
    if block is None:
        return {stage: _last_blocks(modules)}
    if not 1 <= block <= len(modules):
        raise ConfigError(
            f"stage {stage} has {number_of(len(modules), 'block')}, found block {block}; give 1 to {len(modules)}"
        )
    return {stage: [(block, modules[block - 1])]}


def _last_blocks(modules: Sequence[Attention]) -> Blocks:
    """Return the last block with local attention and the last with global attention, as far as there are such."""
    return list({isinstance(m, LocalAttention): (number, m) for number, m in enumerate(modules, 1)}.values())


def _stage_attention(
    backbone: Twins,
    number: int,
    blocks: Blocks,
    inputs: dict[Attention, Tensor],
    view: _View,
    point: tuple[float, float],
    head: int | None,
    evidence: Tensor | None,
) -> StageAttention:
    modules, stride = attention_modules(backbone, number - 1), STRIDES[number - 1]
    rows, columns = inputs[blocks[0][1]].shape[1:3]
    row, column = token = view.token(point, stride, rows, columns)
    weights = {
        isinstance(attention, LocalAttention): _token_weights(
            block, attention, inputs[attention], token, head, view, stride
        )
        for block, attention in blocks
    }
    whole = view.box(stride, (0, rows), (0, columns))
    return StageAttention(
        stage=number,
        rows=rows,
        columns=columns,
        heads=modules[0].num_heads,
        blocks=tuple("local" if isinstance(module, LocalAttention) else "global" for module in modules),
        token=token,
        token_box=view.box(stride, (row, row + 1), (column, column + 1)),
        window=weights.get(True),
        keys=weights.get(False),
        evidence=None if evidence is None else Evidence(whole, _array(evidence)),
    )


@torch.no_grad()
def _token_weights(
    block: int, attention: Attention, x: Tensor, token: tuple[int, int], head: int | None, view: _View, stride: int
) -> Weights:
    """Return the weights of a token of a normed map `(1, H, W, C)`: to its window without padding, or to the keys."""
    _, height, width, _ = x.shape
    by_head = attention.weights(x, token=token)[0].double()  # (h, M)
    weights = _array(by_head.mean(dim=0) if head is None else by_head[head - 1])
    if isinstance(attention, LocalAttention):
        side = attention.window
        top, left = (position // side * side for position in token)
        grid = weights.reshape(side, side)[: height - top, : width - left]
    else:
        top, left, stride = 0, 0, stride * attention.cell
        grid = weights.reshape(attention.key_grid(height, width))
    box = view.box(stride, (top, top + grid.shape[0]), (left, left + grid.shape[1]))
    return Weights(block, box, grid)


def _array(values: Tensor) -> NDArray[np.float64]:
    return np.asarray(values.double().cpu().numpy())


def _whole(name: str, value: Any) -> int | None:
    """Return the number of a stage, block or head.

    Raises:
        ConfigError: it is no whole number.
    """
    try:
        if isinstance(value, bool):
            raise TypeError
        number = None if value is None else operator.index(value)
    except TypeError as error:
        raise ConfigError(f"`{name}` must be a whole number from 1, found {value!r:.80}") from error
    if number is not None and abs(number) > LARGEST:
        raise ConfigError(f"`{name}` must be a whole number from 1 that the network has, found one above {LARGEST:,}")
    return number


def _position(point: Any) -> tuple[float, float]:
    """Return a point as two numbers.

    Raises:
        InputError: it is something else, or not finite.
    """
    try:
        if isinstance(point, str | bytes | dict) or any(isinstance(side, str | bool) for side in point):
            raise TypeError
        x, y = map(float, point)
        if not (math.isfinite(x) and math.isfinite(y)):
            raise ValueError
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"the point must be x and y, two finite numbers, found {point!r:.80}") from error
    return x, y


def _check_has_maps(network: TaskNetwork) -> None:
    if isinstance(network, ExportedNetwork):
        raise ConfigError("an exported file holds no maps; use the run or checkpoint that it was made of")


def _grid(box: Box, name: str, values: NDArray[np.float64]) -> dict[str, Any]:
    rows, columns = values.shape
    digits = [[float(f"{value:.6g}") for value in row] for row in values.tolist()]
    return {"box": _rounded(box), "rows": rows, "columns": columns, name: digits}


def _rounded(box: Box) -> list[float]:
    return [round(side, 3) for side in box]
