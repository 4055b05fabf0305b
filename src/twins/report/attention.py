"""The report's section on what a network looks at: evidence, and attention to windows and to global keys."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import ceil, floor

import torch
import torch.nn.functional as F
from matplotlib import colormaps
from PIL import Image
from torch import Tensor

from twins.attention_maps import (
    MIN_POSITIONS,
    combine_evidence,
    forward_with_maps,
    global_map,
    local_map,
    stage_evidence,
)
from twins.charts import picture
from twins.drawing import thumbnail
from twins.predictions import Prediction
from twins.predictor import Predictor
from twins.tasks.contract import spec_of

SIDE = 400
"""Longer side of a picture in pixels."""


def attention_section(
    predictor: Predictor,
    images: Sequence[tuple[Image.Image, str]],
    predictions: Sequence[Prediction] = (),
    source: str = "",
) -> str:
    """Return the report's section with the evidence and the attention maps of some images; see `Explain`."""
    explained: Sequence[Prediction | None] = predictions or [None] * len(images)
    rows = [_attention_row(predictor, *image, one) for image, one in zip(images, explained, strict=True)]
    panels = "".join(f"<div class=quad>{''.join(row)}</div>" for row in rows)
    texts = {
        "evidence": (
            f"<b>Evidence</b>: where the maps of the network raise {source}, by gradient times map, summed over "
            "channels (HiResCAM, arXiv 2011.08891), of the last two stages with at least 4 × 4 positions. "
        ),
        "windows": "<b>Windows</b>: local attention (LSA) to the tokens of each window. ",
        "keys": "<b>Keys</b>: global attention (GSA) to the sub-sampled keys of the map. ",
    }
    shown = "".join(text for kind, text in texts.items() if f"<figcaption>{kind}" in panels)
    return (
        f"<h2>Where it looks</h2><p>{shown}Brighter is more; all maps are scaled to their own range and interpolated "
        f"to the image.</p>{panels}"
    )


def _attention_row(
    predictor: Predictor, image: Image.Image, caption: str, prediction: Prediction | None
) -> Iterator[str]:
    """Yield the pictures of one image."""
    network, preprocess = predictor.model, predictor.model.info.preprocess
    images, _ = network.prepare(preprocess.pixels(image)[None], None)
    left, top, right, bottom = preprocess.seen_part(image.width, image.height)
    shown = thumbnail(image.crop((floor(left), floor(top), ceil(right), ceil(bottom))), SIDE)
    yield picture(shown, "image", name=caption)
    if prediction is not None:
        yield from _evidence(predictor, images, shown, prediction)
    for stage in range(3):
        windows, keys = (draw(network.backbone, images[0], stage) for draw in (local_map, global_map))
        for title, cells in (("windows", windows), ("keys", keys)):
            # on a small input all tokens share one key
            if cells is not None and min(cells.values.shape) >= MIN_POSITIONS:
                yield picture(_heat_map(shown, cells.pixels(images.shape[2:])), f"{title}, stage {stage + 1}")


def _evidence(predictor: Predictor, images: Tensor, shown: Image.Image, prediction: Prediction) -> Iterator[str]:
    """Yield the picture of the evidence for the network's decision, if there is one."""
    outputs, maps = forward_with_maps(predictor.model, images)
    decision = spec_of(predictor.model.task).decision(outputs, prediction)
    if decision is not None:
        evidence = combine_evidence(stage_evidence(decision.value, maps), images.shape[2:])
        yield picture(_heat_map(shown, evidence), f"evidence for {prediction.name(decision.label)}")


def _heat_map(image: Image.Image, values: Tensor) -> Image.Image:
    """Blend a map `(H, W)` of the network's input as colours over an image, interpolated bilinearly."""
    scaled = (values - values.min()) / (values.max() - values.min()).clamp(min=1e-12)
    size = (image.height, image.width)
    smooth = F.interpolate(scaled[None, None], size, mode="bilinear", align_corners=False)[0, 0]
    heat = Image.fromarray((torch.from_numpy(colormaps["magma"](smooth.numpy()))[..., :3] * 255).byte().numpy())
    alpha = Image.fromarray((70 + 140 * smooth).byte().numpy())
    return Image.composite(heat, image.convert("L").convert("RGB"), alpha)
