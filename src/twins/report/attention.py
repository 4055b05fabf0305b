"""What Twins' attention looks at: windows of local attention, and the sub-sampled keys of global attention."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor, nn

from twins.backbone.attention import GlobalAttention, LocalAttention
from twins.backbone.network import Twins
from twins.ops.windows import merge_windows

T = TypeVar("T", LocalAttention, GlobalAttention)


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
    """Return how much each token is looked at inside its own window, in a stage's last local attention.

    Args:
        backbone: an SVT in evaluation mode.
        image: normalised `(3, H, W)`.
        stage: 0 to 3.

    Returns:
        `(rows, columns)` of tokens, in multiples of what even attention inside the window would give: 1 on average.
    """
    attention, x = _inputs(backbone, image, stage, LocalAttention)
    weights = attention.weights(x)[0].mean(dim=(1, 2))  # (G, S)
    relative = weights * (weights > 0).sum(dim=1, keepdim=True)  # a window at the border has fewer tokens
    return merge_windows(relative[..., None], attention.window, x.shape[1], x.shape[2])[0, :, :, 0]


def has_windows(backbone: Twins) -> bool:
    """Whether a backbone has local attention; PCPVT has none."""
    return backbone.config.window_size is not None


def _inputs(backbone: Twins, image: Tensor, stage: int, kind: type[T]) -> tuple[T, Tensor]:
    """Return the last attention of a kind in a stage, and the normed map that it reads for an image."""
    attention = [m for m in backbone.stages[stage].modules() if isinstance(m, kind)][-1]
    seen: list[Tensor] = []

    def keep(module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        seen.append(arguments[0])

    handle = attention.register_forward_pre_hook(keep)
    try:
        backbone(image[None])
    finally:
        handle.remove()
    return attention, seen[0]
