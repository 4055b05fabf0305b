"""The inference form of a backbone: the same function with fewer passes over its maps, by exact algebra.

- The affine (scale and shift) of a norm is folded into the linear layer that reads it.
- The scale of attention is folded into the query projection.
- The residual add of the PEG is folded into the centre of its 3x3 weights.
- Weights are packed once for the kernel that reads them.

A padded token must be zero after the affine of a norm. If the affine is folded into the next layer, the token gets the
fill value `-shift / scale` instead, which the affine maps to zero. It is the attribute `fill` of an attention.

On a GPU, in half precision and with few channels, two kernels compute a block with local attention. In a block with
global attention one kernel computes everything after attention.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from twins.backbone.attention import LocalAttention
from twins.ops import dispatch
from twins.ops.convolutions import depthwise_convolution, to_cells
from twins.ops.linear import linear, linear_add, linear_gelu
from twins.ops.padding import fill_outside, key_limits
from twins.ops.private_torch import is_hooked

_MAX_FILL = 1e4
"""Largest fill value; the largest number of float16 is 65,504."""


class FusedLinear(nn.Module):
    """`twins.backbone.layers.Linear` with packed weights, which are a second copy in memory if a kernel needs them."""

    packed = True

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", weight.contiguous())
        self.register_buffer("bias", bias.contiguous())
        self.weight: Tensor
        self.bias: Tensor

    @property
    def out_features(self) -> int:
        """Channels of the result."""
        return self.weight.shape[0]

    def forward(self, x: Tensor) -> Tensor:
        """Return `x @ weight.T + bias`, `(..., C_in)` to `(..., C_out)`."""
        return linear(x, self.weight, self.bias, packed=True)

    def gelu(self, x: Tensor) -> Tensor:
        """Return the exact GELU of `self(x)`."""
        return linear_gelu(x, self.weight, self.bias, packed=True)

    def forward_add(self, x: Tensor, residual: Tensor) -> Tensor:
        """Return `self(x) + residual`."""
        return linear_add(x, self.weight, self.bias, residual, packed=True)


class FusedCellConvolution(nn.Module):
    """`twins.backbone.layers.CellConvolution` with packed weights `(C, s * s * C_in)`."""

    def __init__(self, cell: int, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.cell = cell
        self.linear = FusedLinear(weight, bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return the map `(B, H / s, W / s, C)` for a map `(B, H, W, C_in)`; `s` divides its height and width."""
        return self.linear(to_cells(x, self.cell))


class FusedPEG(nn.Module):
    """`twins.backbone.layers.PEG` with the residual add folded into its weight `(C, 1, 3, 3)`."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)
        self.weight: Tensor
        self.bias: Tensor

    def forward(self, x: Tensor, sizes: Tensor | None = None) -> Tensor:
        """Return a map of the same shape, `(B, H, W, C)`."""
        return depthwise_convolution(fill_outside(x, sizes), self.weight, self.bias)


class FusedBlock(nn.Module):
    """A `twins.backbone.network.Block` whose parts are in their inference form."""

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Tensor, sizes: Tensor | None = None) -> Tensor:
        """Return a map of the same shape, `(B, H, W, C)`; `sizes` in tokens."""
        attn, mlp = self.block.attn, self.block.mlp
        use_kernels = not self.training and dispatch.should_use_block_kernels(x, mlp.fc1.weight)
        if not use_kernels or any(is_hooked(part) for part in self.block.modules()):
            return self.block(x, sizes)
        from twins.ops.gpu.blocks import block_tail, normed_window_attention

        _, height, width, channels = x.shape
        local = isinstance(attn, LocalAttention) and sizes is None and attn.fill is not None
        if local and dispatch.can_hold_in_tile(attn.window**2, channels, attn.num_heads):
            rows, columns = key_limits(height, width, attn.window, attn.padding)
            fill = attn.fill if (rows, columns) != (height, width) else None  # beyond the map, keys are padded tokens
            parameters, shape = (attn.qkv.weight, attn.qkv.bias), (rows, columns, attn.window, attn.num_heads)
            attended = normed_window_attention(x, *parameters, fill, *shape, self.block.norm1.eps)
        else:
            attended = attn.attend(self.block.attention_input(x, sizes), sizes)
            attended = attended.to(x.dtype)  # autocast may have changed it
        layers = [value for layer in (attn.proj, mlp.fc1, mlp.fc2) for value in (layer.weight, layer.bias)]
        return block_tail(x, attended, *layers, self.block.norm2.eps)


def fuse_stage(stage: nn.Module) -> None:
    """Replace the parts of a stage by their inference form, in place; the plain weights are not kept."""
    parts: Any = stage
    proj = parts.patch_embed.proj
    parts.patch_embed.proj = FusedCellConvolution(parts.patch_embed.patch, *_detached(_as_rows(proj.weight), proj.bias))
    for block in parts.blocks:
        _fuse_block(block)
    parts.blocks = nn.ModuleList(FusedBlock(block) for block in parts.blocks).eval()
    weight = parts.position.conv.weight.detach().clone()
    weight[:, 0, 1, 1] += 1  # the residual add
    parts.position = FusedPEG(weight, parts.position.conv.bias.detach())


def _fuse_block(block: Any) -> None:
    norm, attn = block.norm1, block.attn
    scale, shift, fill = norm.weight, norm.bias, _fill_value(norm)
    if fill is None:  # no fill value becomes zero after the affine of this norm, so the affine stays in it
        scale, shift = torch.ones_like(scale), torch.zeros_like(shift)
    else:
        block.norm1, attn.fill = _without_affine(norm), fill
    fuse = _fuse_local if isinstance(attn, LocalAttention) else _fuse_global
    fuse(attn, scale, shift)
    attn.scale = 1.0
    attn.proj = FusedLinear(*_detached(attn.proj.weight, attn.proj.bias))
    fc1, fc2 = block.mlp.fc1, block.mlp.fc2
    block.mlp.fc1 = FusedLinear(*_fold_affine(fc1.weight, fc1.bias, block.norm2.weight, block.norm2.bias))
    block.mlp.fc2 = FusedLinear(*_detached(fc2.weight, fc2.bias))
    block.norm2 = _without_affine(block.norm2)


def _fuse_local(attn: Any, scale: Tensor, shift: Tensor) -> None:
    weight, bias = attn.qkv.weight.detach().clone(), attn.qkv.bias.detach().clone()
    channels = weight.shape[1]
    weight[:channels] *= attn.scale
    bias[:channels] *= attn.scale
    attn.qkv = FusedLinear(*_fold_affine(weight, bias, scale, shift))


def _fuse_global(attn: Any, scale: Tensor, shift: Tensor) -> None:
    attn.q = FusedLinear(*_fold_affine(attn.q.weight * attn.scale, attn.q.bias * attn.scale, scale, shift))
    if attn.cell > 1:
        taps = attn.cell**2
        weight = _as_rows(attn.sr.weight)
        attn.sr = FusedCellConvolution(
            attn.cell, *_fold_affine(weight, attn.sr.bias, scale.repeat(taps), shift.repeat(taps))
        )
        scale, shift = attn.norm.weight, attn.norm.bias
        attn.norm = _without_affine(attn.norm)
    attn.kv = FusedLinear(*_fold_affine(attn.kv.weight, attn.kv.bias, scale, shift))


def _fold_affine(weight: Tensor, bias: Tensor, scale: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
    """Fold the affine of a norm into the linear layer after it; computed in float64 and rounded once.

    Returns:
        a weight and a bias, so that `x @ new_weight.T + new_bias` is `(x * scale + shift) @ weight.T + bias`.
    """
    exact, scale, shift = (x.detach().cpu().double() for x in (weight, scale, shift))  # not all devices have float64
    return (exact * scale).to(weight), (bias.detach().cpu() + exact @ shift).to(bias)


def _detached(weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    return weight.detach(), bias.detach()


def _as_rows(weight: Tensor) -> Tensor:
    """Return a convolution's weight `(C, C_in, s, s)` as `(C, s * s * C_in)`, in the order of `to_cells`."""
    return weight.permute(0, 2, 3, 1).flatten(1)


def _fill_value(norm: nn.LayerNorm) -> Tensor | None:
    """Return the vector `(C,)` that the affine of a norm maps to zero, `-shift / scale`.

    `None` if a scale is zero, or so small that the vector is too large for half precision.
    """
    fill = -norm.bias.detach() / norm.weight.detach()
    return fill if bool((fill.abs() < _MAX_FILL).all()) else None


def _without_affine(norm: nn.LayerNorm) -> nn.LayerNorm:
    plain = type(norm)(norm.normalized_shape, eps=norm.eps).to(norm.weight)
    return plain.requires_grad_(False)
