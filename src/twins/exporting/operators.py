"""Operators of ours in ONNX files: written as ONNX's own, so that every runtime has them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from twins.exporting.extra import require
from twins.heads.boxes import kept_boxes  # defines the operator

assert kept_boxes is not None


def translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """Return the `custom_translation_table` of `torch.onnx.export` for the operators of this package.

    Raises:
        MissingExtraError: onnxscript is not installed.
    """
    require("onnxscript")
    return {torch.ops.twins.kept_boxes.default: _kept_boxes}


def _kept_boxes(boxes: Any, scores: Any, iou_threshold: float, score_threshold: float) -> Any:
    """Write `twins.heads.boxes.kept_boxes` as `NonMaxSuppression`; boxes `(B, N, 4)`, scores `(B, G, N)`."""
    op: Any = require("onnxscript").opset18
    count = op.Shape(scores, start=2, end=3)
    kept = op.NonMaxSuppression(  # (S, 3): image, group and box
        boxes, scores, count, op.Constant(value_floats=[iou_threshold]), op.Constant(value_floats=[score_threshold])
    )
    ones = op.Expand(op.Constant(value_floats=[1.0]), op.Shape(kept, start=0, end=1))
    zeros = op.Expand(op.Constant(value_floats=[0.0]), op.Shape(scores))
    return op.Cast(op.ScatterND(zeros, kept, ones), to=9)  # bool
