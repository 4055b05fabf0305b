"""Predictions as the answers of the server's protocols, each JSON as bytes."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from twins.data.formats.label_studio_rle import encode_brush
from twins.predictions import Item, Prediction
from twins.serve.messages import Options
from twins.tasks.table import facts_of


def answer(prediction: Prediction, options: Options) -> bytes:
    """Return a prediction as JSON in the form that a request asks for."""
    return json.dumps(FORMS[options.form](prediction, options), allow_nan=False).encode()


def as_dict(prediction: Prediction, options: Options) -> dict[str, Any]:
    """Return the values of `Prediction.to_dict`."""
    return prediction.to_dict(top=options.top, masks=options.masks)


def as_hugging_face(prediction: Prediction, options: Options) -> list[dict[str, Any]]:
    """Return a list as the tasks of Hugging Face's schema have it: labels, with boxes or masks where there are any.

    A mask is a PNG of 0 and 255 in base64. The classes of a semantic map have no score, as there.
    """
    return [_hugging_face(item) for item in list(prediction)[: options.top]]


def _hugging_face(item: Item) -> dict[str, Any]:
    values: dict[str, Any] = {"label": item.name, "score": item.score}
    if item.box is not None:
        values["box"] = dict(zip(("xmin", "ymin", "xmax", "ymax"), map(round, item.box), strict=True))
    if item.mask is not None:
        values["mask"] = _png(item.mask)
    return values


def _png(mask: NDArray[np.bool_]) -> str:
    Image.fromarray(mask.astype(np.uint8) * 255).save(buffer := io.BytesIO(), format="PNG", compress_level=1)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def label_studio_kind(task: str) -> str:
    """Return the kind of Label Studio's tag for a task: `choices`, `rectanglelabels` or `brushlabels`."""
    fields = set(facts_of(task).prediction_fields)
    return "brushlabels" if fields & {"masks", "label_map"} else "rectanglelabels" if "boxes" in fields else "choices"


def as_label_studio(prediction: Prediction, options: Options) -> dict[str, Any]:
    """Return the regions of a prediction as Label Studio has them, without the names of its tags."""
    height, width = prediction.size
    items = list(prediction)[: options.top]
    whole = {"original_width": width, "original_height": height, "image_rotation": 0}
    scores = [item.score for item in items if item.score is not None]
    kind = label_studio_kind(prediction.task)
    if kind == "choices":
        best = items[:1]
        regions = [{"type": kind, "score": item.score, "value": {kind: [item.name]}} for item in best]
        return {"score": scores[0] if scores else None, "result": regions}
    result = [
        {**whole, "type": kind, "score": item.score, "value": _value(item, kind, width, height)} for item in items
    ]
    return {"score": sum(scores) / len(scores) if scores else None, "result": result}


def _value(item: Item, kind: str, width: int, height: int) -> dict[str, Any]:
    if kind == "brushlabels":
        assert item.mask is not None
        return {"format": "rle", "rle": encode_brush(item.mask), kind: [item.name]}
    assert item.box is not None
    left, top, right, bottom = item.box
    sides = {"x": left / width, "y": top / height, "width": (right - left) / width, "height": (bottom - top) / height}
    return {name: 100 * share for name, share in sides.items()} | {"rotation": 0, kind: [item.name]}


FORMS: dict[str, Callable[[Prediction, Options], Any]] = {
    "json": as_dict,
    "hugging_face": as_hugging_face,
    "label_studio": as_label_studio,
}
"""A prediction's values by the form of the answer."""
