"""What a network looks at: the evidence for a score, and the attention to tokens of windows and to global keys."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

import torch
import torch.nn.functional as F
from matplotlib import colormaps
from PIL import Image
from torch import Tensor

from twins.backbone.attention import GlobalAttention, LocalAttention
from twins.backbone.network import Twins
from twins.charts import picture
from twins.drawing import thumbnail
from twins.ops.windows import merge_windows
from twins.predictor import Predictor
from twins.preprocess import Preprocess
from twins.tasks.contract import Score
from twins.tasks.network import TaskNetwork

SIDE, MIN_POSITIONS = 400, 4
"""Longer side of a picture in pixels; least rows and columns of a map that shows evidence."""
T = TypeVar("T", LocalAttention, GlobalAttention)


def attention_section(
    predictor: Predictor,
    images: Sequence[tuple[Image.Image, str]],
    scores: Sequence[tuple[Score, str]] = (),
    source: str = "",
) -> str:
    """Return the report's section with the evidence and the attention maps of some images; see `Explain`."""
    pairs: list[tuple[Score, str] | None] = [*scores, *[None] * (len(images) - len(scores))]
    rows = [_attention_row(predictor, *image, score) for image, score in zip(images, pairs, strict=True)]
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
    predictor: Predictor, image: Image.Image, caption: str, score: tuple[Score, str] | None
) -> Iterator[str]:
    """Yield the pictures of one image."""
    network, preprocess = predictor.model, predictor.model.info.preprocess
    tensor = preprocess.normalise(preprocess.pixels(image)[None])[0].to(next(network.parameters()))
    shown = thumbnail(visible_part(image, preprocess), SIDE)
    yield picture(shown, "image", name=caption)
    if score is not None:
        yield picture(_heat_map(shown, evidence_map(network, tensor, score[0])), f"evidence for {score[1]}")
    for stage in range(3):
        if network.backbone.config.window_size is not None:  # PCPVT has no local attention
            windows = local_map(network.backbone, tensor, stage)
            if min(windows.shape) >= MIN_POSITIONS:
                yield picture(_heat_map(shown, windows), f"windows, stage {stage + 1}")
        keys = global_map(network.backbone, tensor, stage)
        if min(keys.shape) >= MIN_POSITIONS:  # on a small input all tokens share one key
            yield picture(_heat_map(shown, keys), f"keys, stage {stage + 1}")


def visible_part(image: Image.Image, preprocess: Preprocess) -> Image.Image:
    """Return the part of an image that the network sees, at the image's own resolution."""
    if preprocess.fit != "crop":
        return image
    side = round(min(image.size) * preprocess.crop)
    left, top = ((length - side) // 2 for length in image.size)
    return image.crop((left, top, left + side, top + side))


def _heat_map(image: Image.Image, values: Tensor) -> Image.Image:
    """Blend a map of any resolution as colours over an image, interpolated bilinearly."""
    values = values.detach().float().cpu()
    scaled = (values - values.min()) / (values.max() - values.min()).clamp(min=1e-12)
    size = (image.height, image.width)
    smooth = F.interpolate(scaled[None, None], size, mode="bilinear", align_corners=False)[0, 0]
    heat = Image.fromarray((torch.from_numpy(colormaps["magma"](smooth.numpy()))[..., :3] * 255).byte().numpy())
    alpha = Image.fromarray((70 + 140 * smooth).byte().numpy())
    return Image.composite(heat, image.convert("L").convert("RGB"), alpha)


def evidence_map(network: TaskNetwork, image: Tensor, score: Score) -> Tensor:
    """Return where a network's maps raise a score: gradient times map, averaged over its last two stages.

    HiResCAM, Draelos and Carin, arXiv 2011.08891; stages with coarse maps, as of small inputs, are left out.

    Args:
        network: in evaluation mode.
        image: normalised `(3, H, W)`.
        score: of the network's outputs.

    Returns:
        `(H, W)`, at least 0; each stage's largest value counts as 1 before the average.
    """
    maps: list[Tensor] = []
    handles = [
        stage.register_forward_hook(lambda _, arguments, outputs: maps.append(outputs[0]))
        for stage in network.backbone.stages
    ]
    try:
        with torch.enable_grad():
            value = score(network(image[None].requires_grad_()))
    finally:
        for handle in handles:
            handle.remove()
    used = [x for x in maps if min(x.shape[1:3]) >= MIN_POSITIONS][-2:] or maps[:1]
    total = torch.zeros(image.shape[1:], device=image.device)
    gradients: tuple[Tensor | None, ...] = torch.autograd.grad(value, used, allow_unused=True)
    for x, gradient in zip(used, gradients, strict=True):  # (1, h, w, C)
        if gradient is None:  # a head that does not take this stage
            continue
        evidence = (x * gradient).sum(dim=3).clamp(min=0).detach().float()
        scaled = evidence / evidence.max().clamp(min=1e-12)
        total += F.interpolate(scaled[None], total.shape, mode="bilinear", align_corners=False)[0, 0]
    return total / len(used)


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
