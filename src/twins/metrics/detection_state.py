"""Images' predictions and true objects as plain arrays, end to end, which processes exchange."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from twins.data.objects import Rle
from twins.metrics.coco_eval import Example, Found, Kind, Truth

Arrays = dict[str, NDArray[Any]]
TRUE = {"boxes": np.float64, "labels": np.int64, "areas": np.float64, "crowd": np.bool_}
"""Fields of the truth, one row per object."""
FOUND = {"boxes": np.float64, "labels": np.int64, "scores": np.float64}
"""Fields of the predictions, one row each, besides the areas."""


def pack(examples: Sequence[Example], kinds: Sequence[Kind]) -> Arrays:
    """Return the arrays of all images.

    Args:
        examples: the images.
        kinds: what is compared; masks are packed if they are.

    Returns:
        `images` `(I, 5)`: id, height, width, and how many objects and predictions are the image's; `true_*` and
        `found_*`: a row each, in the order of the images; masks as the bytes of their run lengths, with how many
        are whose.
    """
    truths, founds = [example.truth for example in examples], [example.found for example in examples]
    rows = [
        (example.image_id, *example.size, len(example.truth.labels), len(example.found.labels)) for example in examples
    ]
    arrays: Arrays = {"images": np.array(rows, dtype=np.int64).reshape(-1, 5)}
    for name, dtype in TRUE.items():
        arrays[f"true_{name}"] = _joined([getattr(truth, name) for truth in truths], name, dtype)
    for name, dtype in FOUND.items():
        arrays[f"found_{name}"] = _joined([getattr(found, name) for found in founds], name, dtype)
    for kind in kinds:
        arrays[f"found_{kind}_areas"] = _joined([found.areas[kind] for found in founds], "areas", np.float64)
    if "mask" in kinds:
        for side, parts in (("true", truths), ("found", founds)):
            counts = [mask["counts"] for part in parts for mask in part.masks or ()]
            arrays[f"{side}_masks"] = np.frombuffer(bytearray(b"".join(counts)), dtype=np.uint8)
            arrays[f"{side}_mask_lengths"] = np.array([len(count) for count in counts], dtype=np.int64)
    return arrays


def _joined(parts: Sequence[NDArray[Any]], name: str, dtype: Any) -> NDArray[Any]:
    return np.concatenate([np.zeros((0, 4) if name == "boxes" else 0, dtype=dtype), *parts])


def unpack(arrays: Mapping[str, NDArray[Any]], kinds: Sequence[Kind]) -> Iterator[Example]:
    """Yield the images again; see `pack`."""
    images = arrays["images"]
    true = {name: _split(arrays[f"true_{name}"], images[:, 3]) for name in TRUE}
    found = {name: _split(arrays[f"found_{name}"], images[:, 4]) for name in FOUND}
    areas = {kind: _split(arrays[f"found_{kind}_areas"], images[:, 4]) for kind in kinds}
    masks: dict[str, Iterator[bytes]] = {}
    if "mask" in kinds:
        masks = {side: _cut(arrays[f"{side}_masks"], arrays[f"{side}_mask_lengths"]) for side in ("true", "found")}
    for index, (image_id, height, width, *counts) in enumerate(images.tolist()):
        shapes = {side: _take(masks[side], count, (height, width)) for side, count in zip(masks, counts, strict=False)}
        yield Example(
            image_id=image_id,
            size=(height, width),
            truth=Truth(**{name: parts[index] for name, parts in true.items()}, masks=shapes.get("true")),
            found=Found(
                **{name: parts[index] for name, parts in found.items()},
                areas={kind: parts[index] for kind, parts in areas.items()},
                masks=shapes.get("found"),
            ),
        )


def _split(array: NDArray[Any], counts: NDArray[np.int64]) -> list[NDArray[Any]]:
    return np.split(array, np.cumsum(counts)[:-1]) if len(counts) else []


def _cut(text: NDArray[np.uint8], lengths: NDArray[np.int64]) -> Iterator[bytes]:
    whole, end = text.tobytes(), 0
    for length in lengths.tolist():
        yield whole[end : end + length]
        end += length


def _take(counts: Iterator[bytes], many: int, size: tuple[int, int]) -> tuple[Rle, ...]:
    return tuple({"size": list(size), "counts": next(counts)} for _ in range(many))
