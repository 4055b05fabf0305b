"""What attention looks at, over an image."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from matplotlib import colormaps
from PIL import Image
from torch import Tensor

from twins.charts import picture
from twins.drawing import thumbnail
from twins.predictor import Predictor
from twins.preprocess import pixels_of
from twins.report.attention import global_map, has_windows, local_map


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
        if has_windows(backbone):
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
