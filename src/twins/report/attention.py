"""Attention maps over an image: tokens in the windows of local attention, and the keys of global attention."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import torch
from matplotlib import colormaps
from PIL import Image
from torch import Tensor

from twins.backbone.attention import GlobalAttention, LocalAttention
from twins.backbone.network import Twins
from twins.charts import picture
from twins.drawing import thumbnail
from twins.ops.windows import merge_windows
from twins.predictor import Predictor
from twins.preprocess import pixels_of

T = TypeVar("T", LocalAttention, GlobalAttention)


def attention_section(predictor: Predictor, images: Sequence[tuple[Image.Image, str]]) -> str:
    """Return the report's section with the attention maps of some images, each given with its caption."""
    rows = "".join(f"<div class=thumbs>{_attention_row(predictor, *image)}</div>" for image in images)
    return (
        "<h2>Where it looks</h2><p>Brighter cells get more attention. <i>Windows</i> shows local attention (LSA) to "
        "the tokens of each window. <i>Keys</i> shows global attention (GSA) to the sub-sampled keys of the map.</p>"
        f"{rows}"
    )


def _attention_row(predictor: Predictor, image: Image.Image, caption: str) -> str:
    backbone, preprocess = predictor.model.backbone, predictor.model.info.preprocess
    resized = preprocess.resize(image)
    tensor = preprocess.normalise(pixels_of(resized)[None])[0].to(next(backbone.parameters()))
    parts = [picture(thumbnail(resized), caption)]
    for stage in range(3):
        if backbone.config.window_size is not None:  # PCPVT has no local attention
            parts.append(picture(_heat_map(resized, local_map(backbone, tensor, stage)), f"windows, stage {stage + 1}"))
        keys = global_map(backbone, tensor, stage)
        if keys.numel() > 1:  # on a small input all tokens share one key
            parts.append(picture(_heat_map(resized, keys), f"keys, stage {stage + 1}"))
    return "".join(parts)


def _heat_map(image: Image.Image, values: Tensor) -> Image.Image:
    """Blend a map of any resolution as colours over an image; each cell is a visible square."""
    values = values.float().cpu()
    scaled = (values - values.min()) / (values.max() - values.min()).clamp(min=1e-12)
    colours = (torch.from_numpy(colormaps["magma"](scaled.numpy()))[..., :3] * 255).byte().numpy()
    background = thumbnail(image)
    heat = Image.fromarray(colours).resize(background.size, Image.Resampling.NEAREST)
    return Image.blend(background.convert("L").convert("RGB"), heat, 0.6)


@torch.no_grad()
def global_map(backbone: Twins, image: Tensor, stage: int) -> Tensor:
    """Return the attention to each sub-sampled key in a stage's last global attention.

    Args:
        backbone: in evaluation mode.
        image: normalised `(3, H, W)`.
        stage: 0 to 3.

    Returns:
        attention `(rows, columns)` of the keys, averaged over heads and queries; the sum is 1.
    """
    attention, x = _inputs(backbone, image, stage, GlobalAttention)
    weights = attention.weights(x)  # (1, h, N, K)
    return weights.mean(dim=(0, 1, 2)).view(attention.key_grid(x.shape[1], x.shape[2]))


@torch.no_grad()
def local_map(backbone: Twins, image: Tensor, stage: int) -> Tensor:
    """Return the attention to each token within its window, in the last local attention of an SVT's stage.

    Args:
        backbone: in evaluation mode.
        image: normalised `(3, H, W)`.
        stage: 0 to 3.

    Returns:
        attention `(rows, columns)` of the tokens, averaged over heads and queries, relative to uniform attention; the
        average over a window is 1.
    """
    attention, x = _inputs(backbone, image, stage, LocalAttention)
    weights = attention.weights(x)[0].mean(dim=(1, 2))  # (G, S)
    relative = weights * (weights > 0).sum(dim=1, keepdim=True)  # a window at the border has fewer tokens
    return merge_windows(relative[..., None], attention.window, x.shape[1], x.shape[2])[0, :, :, 0]


def _inputs(backbone: Twins, image: Tensor, stage: int, kind: type[T]) -> tuple[T, Tensor]:
    """Return a stage's last attention module of a kind and its input, the normed map of an image."""
    attention = [m for m in backbone.stages[stage].modules() if isinstance(m, kind)][-1]
    inputs: list[Tensor] = []
    handle = attention.register_forward_pre_hook(lambda _, arguments: inputs.append(arguments[0]))
    try:
        backbone(image[None])
    finally:
        handle.remove()
    return attention, inputs[0]
