"""What attention looks at, over an image: tokens of local windows, and the sub-sampled keys of global attention."""

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
    """Return the section that shows where attention looks in some images, each given with its caption."""
    rows = "".join(f"<div class=thumbs>{_attention_row(predictor, *image)}</div>" for image in images)
    return (
        "<h2>Where it looks</h2><p>Brighter is looked at more. <i>Windows</i>: which tokens local attention (LSA) "
        "draws on inside each window. <i>Keys</i>: which cells of the whole map global attention (GSA) draws on.</p>"
        f"{rows}"
    )


def _attention_row(predictor: Predictor, image: Image.Image, caption: str) -> str:
    backbone, preprocess = predictor.model.backbone, predictor.model.info.preprocess
    seen = preprocess.resize(image)
    tensor = preprocess.normalise(pixels_of(seen)[None])[0].to(next(backbone.parameters()))
    parts = [picture(thumbnail(seen), caption)]
    for stage in range(3):
        if backbone.config.window_size is not None:  # PCPVT has no local attention
            parts.append(picture(_heat(seen, local_map(backbone, tensor, stage)), f"windows, stage {stage + 1}"))
        keys = global_map(backbone, tensor, stage)
        if keys.numel() > 1:  # on a small input all tokens share one key
            parts.append(picture(_heat(seen, keys), f"keys, stage {stage + 1}"))
    return "".join(parts)


def _heat(image: Image.Image, values: Tensor) -> Image.Image:
    """Lay a map of any resolution over an image as colour; each cell stays a visible square."""
    values = values.float().cpu()
    spread = (values - values.min()) / (values.max() - values.min()).clamp(min=1e-12)
    colours = (torch.from_numpy(colormaps["magma"](spread.numpy()))[..., :3] * 255).byte().numpy()
    below = thumbnail(image)
    heat = Image.fromarray(colours).resize(below.size, Image.Resampling.NEAREST)
    return Image.blend(below.convert("L").convert("RGB"), heat, 0.6)


@torch.no_grad()
def global_map(backbone: Twins, image: Tensor, stage: int) -> Tensor:
    """Return how much each sub-sampled key of a stage's last global attention is looked at.

    Args:
        backbone: in evaluation mode.
        image: normalised `(3, H, W)`.
        stage: 0 to 3.

    Returns:
        `(rows, columns)` of cells, a share of all attention each: sums to one.
    """
    attention, x = _inputs(backbone, image, stage, GlobalAttention)
    weights = attention.weights(x)  # (1, h, N, K)
    return weights.mean(dim=(0, 1, 2)).view(attention.key_grid(x.shape[1], x.shape[2]))


@torch.no_grad()
def local_map(backbone: Twins, image: Tensor, stage: int) -> Tensor:
    """Return how much each token is looked at inside its own window, in a stage's last local attention of an SVT.

    As `global_map`, but `(rows, columns)` of tokens, in multiples of what even attention inside the window would give:
    1 on average.
    """
    attention, x = _inputs(backbone, image, stage, LocalAttention)
    weights = attention.weights(x)[0].mean(dim=(1, 2))  # (G, S)
    relative = weights * (weights > 0).sum(dim=1, keepdim=True)  # a window at the border has fewer tokens
    return merge_windows(relative[..., None], attention.window, x.shape[1], x.shape[2])[0, :, :, 0]


def _inputs(backbone: Twins, image: Tensor, stage: int, kind: type[T]) -> tuple[T, Tensor]:
    """Return the last attention of a kind in a stage, and the normed map that it reads for an image."""
    attention = [m for m in backbone.stages[stage].modules() if isinstance(m, kind)][-1]
    seen: list[Tensor] = []
    handle = attention.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    try:
        backbone(image[None])
    finally:
        handle.remove()
    return attention, seen[0]
