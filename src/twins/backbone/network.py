"""The Twins backbone: four stages of blocks, from images to four maps, high to low resolution."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from copy import deepcopy
from typing import Any, Self, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from twins.backbone.attention import Attention, GlobalAttention, LocalAttention
from twins.backbone.config import MIN_SIDE, PATCH_SIZES, STRIDES, TwinsConfig
from twins.backbone.fused import FusedPEG, fuse_stage
from twins.backbone.layers import (
    NORM_EPS,
    PEG,
    CellConvolution,
    DropPath,
    FeedForward,
    LayerNorm,
    Linear,
    PatchEmbed,
)
from twins.errors import ConfigError, InputError
from twins.ops import chunks, dispatch
from twins.ops.convolutions import as_planar
from twins.ops.feedforward import Keep
from twins.ops.padding import Padding, check_padding, fill_outside, reduce_sizes
from twins.ops.private_torch import is_hooked
from twins.ops.recompute import recomputed

Network = TypeVar("Network", bound=nn.Module)


class Block(nn.Module):
    """A pre-norm transformer block with either attention, and with stochastic depth on both branches."""

    def __init__(self, channels: int, attn: Attention, hidden: int, *, drop: float, drop_path: float) -> None:
        super().__init__()
        self.norm1 = LayerNorm(channels, eps=NORM_EPS)
        self.attn = attn
        self.norm2 = LayerNorm(channels, eps=NORM_EPS)
        self.mlp = FeedForward(channels, hidden, drop=drop)
        self.drop_path = DropPath(drop_path)
        self.keep: Keep = "hidden"

    def forward(self, x: Tensor, sizes: Tensor | None = None) -> Tensor:
        """Return a map of the same shape, `(B, H, W, C)`; `sizes` in tokens."""
        if not dispatch.can_overwrite() or self.training or is_hooked(self.attn) or is_hooked(self.mlp):
            return self._forward_standard(x, sizes)  # a hook must get a part's output without the residual add
        x = self.attn.forward_add(self.attention_input(x, sizes), x, sizes)
        rows = x.flatten(0, 2)  # (B * H * W, C), a view of this block's own map, overwritten below
        size = self.mlp.fc1.out_features * x.element_size()
        parts = chunks.chunk_slices(len(rows), size, chunks.HIDDEN_BYTES) if dispatch.should_chunk(x) else []
        if len(parts) < 2:
            return self.mlp.forward_add(self.norm2(x), x)
        for part in parts:
            rows[part] = self.mlp.forward_add(self.norm2(rows[part]), rows[part])
        return rows.view(x.shape)

    def _forward_standard(self, x: Tensor, sizes: Tensor | None) -> Tensor:
        """Return the result of `forward` by calling each part as a module, for training and for hooks.

        Unless `keep` is `all`, the backward pass recomputes the norms, and tensors of the feed-forward part that `keep`
        leaves out.
        """
        x, normed = self.norm2.add_norm(x, self.drop_path(self._attend(x, sizes)))
        return x + self.drop_path(self._feed(x, normed))

    def _attend(self, x: Tensor, sizes: Tensor | None) -> Tensor:
        normed = self.attention_input(x, sizes)
        if self.keep == "all":
            return self.attn(normed, sizes)
        with recomputed(normed, lambda: self.attention_input(x, sizes)):
            return self.attn(normed, sizes)

    def attention_input(self, x: Tensor, sizes: Tensor | None) -> Tensor:
        """Return the normed map `(B, H, W, C)` that attention reads, with the fill value outside `sizes`."""
        return fill_outside(self.norm1(x), sizes, self.attn.fill)

    def _feed(self, x: Tensor, normed: Tensor) -> Tensor:
        if self.keep == "all":
            return self.mlp(normed)
        with recomputed(normed, lambda: self.norm2(x)):
            return self.mlp(normed, keep=self.keep)


class Stage(nn.Module):
    """A patch embedding, blocks with the PEG after the first one, and, if `norm`, a final layer norm."""

    def __init__(self, patch_embed: PatchEmbed, blocks: Sequence[Block], channels: int, *, norm: bool) -> None:
        super().__init__()
        self.patch_embed = patch_embed
        self.blocks = nn.ModuleList(blocks)
        self.position = PEG(channels)
        self.norm = nn.LayerNorm(channels, eps=NORM_EPS) if norm else nn.Identity()
        self.grad_checkpointing = False

    def forward(self, x: Tensor, sizes: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Return the map `(B, H / p, W / p, C)` for a map `(B, H, W, C_in)`, and `sizes` on the new map."""
        x = self.patch_embed(x, sizes)
        sizes = reduce_sizes(sizes, self.patch_embed.patch, self.patch_embed.padding)
        for index, block in enumerate(self.blocks):
            if self.grad_checkpointing and torch.is_grad_enabled():
                x = checkpoint(block, x, sizes, use_reentrant=False)
            else:
                x = block(x, sizes)
            if index == 0:
                x = self.position(x, sizes)
        return self.norm(x), sizes


class Twins(nn.Module):
    """A Twins backbone (arXiv 2104.13840): normalised images `(B, C, H, W)` to maps at strides 4, 8, 16, 32.

    Args:
        config: shape of the network, such as an entry of `twins.backbone.config.VARIANTS`.
        in_chans: channels of the images.
        padding: policy at borders that windows and cells do not divide: `exact` (padding is never a key), `reference`
            or `unmasked` (as published networks compute them).
        stage_norms: whether each stage ends with a layer norm; the next stage reads the normed map.
        out_indices: stages whose maps are returned, ascending; later stages are not built.
        drop_path_rate: drop rate of stochastic depth in the last block; rates grow linearly from 0 in the first.
        proj_drop_rate: dropout after projections and in feed-forward parts.
        attn_drop_rate: dropout of attention weights.

    Attributes:
        channels: channels of each returned map.
        strides: pixels per token of each returned map.
        load_report: the `twins.LoadReport` of its weights; `None` if none were loaded.

    Raises:
        ConfigError: a setting is out of its range.
    """

    load_report: Any = None  # no module below `weights/` may import its class

    def __init__(
        self,
        config: TwinsConfig,
        *,
        in_chans: int = 3,
        padding: str = "exact",
        stage_norms: bool = False,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        drop_path_rate: float = 0.0,
        proj_drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
    ) -> None:
        super().__init__()
        _check_settings(in_chans, out_indices, drop_path_rate, proj_drop_rate, attn_drop_rate)
        self.config, self.in_chans, self.stage_norms = config, in_chans, stage_norms
        self.padding = check_padding(padding)
        self.out_indices = tuple(out_indices)
        self.channels = tuple(config.embed_dims[i] for i in self.out_indices)
        self.strides = tuple(STRIDES[i] for i in self.out_indices)
        rates = _stage_rates(config.depths, drop_path_rate)
        self.stages = nn.ModuleList(
            _build_stage(
                config,
                index,
                in_channels=config.embed_dims[index - 1] if index else in_chans,
                padding=self.padding,
                norm=stage_norms,
                drop_path=rates[index],
                attn_drop=attn_drop_rate,
                proj_drop=proj_drop_rate,
            )
            for index in range(max(self.out_indices) + 1)
        )
        self.apply(init_weights)
        if config.linear_init == "width":
            for module in self.modules():
                if isinstance(module, nn.Linear):
                    nn.init.xavier_uniform_(module.weight, gain=0.5)

    def forward(self, images: Tensor, sizes: Tensor | None = None) -> tuple[Tensor, ...]:
        """Return the maps `(B, C, H / stride, W / stride)` of `out_indices`, high to low resolution.

        Args:
            images: normalised float `(B, C, H, W)`, `H, W >= 32`.
            sizes: true height and width in pixels of each image inside the batch, int `(B, 2)`; `None` when every
                image fills it. Maps are zero outside, and pixels outside have no effect, NaN included.

        Raises:
            InputError: wrong number of dimensions or channels, wrong size or type.
        """
        sizes = check_input(images, sizes, self.in_chans)
        x = images.permute(0, 2, 3, 1)  # (B, H, W, C)
        maps = []
        for index, stage in enumerate(self.stages):
            x, sizes = stage(x, sizes)
            if index in self.out_indices:
                maps.append(as_planar(fill_outside(x, sizes)))
        return tuple(maps)

    def forward_features(self, images: Tensor, sizes: Tensor | None = None) -> Tensor:
        """Return the last map, `(B, C, H, W)`."""
        return self(images, sizes)[-1]

    def set_grad_checkpointing(self, enable: bool = True, *, selective: bool = False) -> None:
        """Recompute activations in the backward pass instead of keeping them; results are the same to the bit.

        Args:
            enable: whether to recompute more than norms and GELU, which are always recomputed.
            selective: recompute only the hidden maps of feed-forward parts, the largest maps, instead of whole blocks.
        """
        for stage in self.stages:
            assert isinstance(stage, Stage)
            stage.grad_checkpointing = enable and not selective
            # if whole blocks are recomputed, recomputing parts of them too would save no memory
            keep: Keep = "hidden" if not enable else "input" if selective else "all"
            for module in stage.modules():
                if isinstance(module, Block):
                    module.keep = keep

    def fuse(self) -> Self:
        """Return the inference form, a faster copy that computes the same function; see `fuse_network`."""
        return fuse_network(self)

    def no_weight_decay(self) -> set[str]:
        """Return the parameters that, besides norms and biases, the reference trains without weight decay: the PEG."""
        return {name for name, _ in self.named_parameters() if ".position." in name}

    def group_matcher(self, coarse: bool = False) -> dict[str, object]:
        """Return timm's description of layers for layer-wise decay: by stage if `coarse`, else by block."""
        return layer_groups("", coarse)

    def map_sizes(self, sizes: Tensor) -> tuple[Tensor, ...]:
        """Return each image's true size on each returned map, `(B, 2)` each, from its size in pixels."""
        map_sizes = []
        for index, patch in enumerate(PATCH_SIZES):
            reduced = reduce_sizes(sizes, patch, self.padding)
            assert reduced is not None
            sizes = reduced
            if index in self.out_indices:
                map_sizes.append(sizes)
        return tuple(map_sizes)

    def last_sizes(self, sizes: Tensor | None) -> Tensor | None:
        """Return each image's true size on the last map, `(B, 2)` in tokens, from its size in pixels."""
        for patch in PATCH_SIZES[: len(self.stages)]:
            sizes = reduce_sizes(sizes, patch, self.padding)
        return sizes


def fuse_network(network: Network) -> Network:
    """Return the inference form of a network: a copy whose backbone computes the same function in fewer passes.

    Outputs are equal up to rounding, at any size and with any padding. The copy is in eval mode and cannot be trained,
    saved or loaded; do these with the original. See `twins.backbone.fused`.

    Raises:
        ConfigError: the network is in its inference form already.
    """
    if is_fused(network):
        raise ConfigError("this network is in its inference form already; fuse the one that it was made of")
    copy = deepcopy(network).eval().requires_grad_(False)
    for stage in [module for module in copy.modules() if isinstance(module, Stage)]:
        fuse_stage(stage)
        stage.register_state_dict_pre_hook(_refuse_state)  # type: ignore[no-untyped-call]
        stage.register_load_state_dict_pre_hook(_refuse_state)  # type: ignore[no-untyped-call]
    return copy


def is_fused(network: nn.Module) -> bool:
    """Whether a network is in its inference form, made by `fuse_network`."""
    return any(isinstance(module, FusedPEG) for module in network.modules())


_FUSIBLE = {nn.ModuleList, nn.Conv2d, nn.Dropout, nn.Identity, nn.LayerNorm, LayerNorm, Linear, CellConvolution}
_FUSIBLE |= {PatchEmbed, PEG, FeedForward, DropPath, LocalAttention, GlobalAttention, Block, Stage}


def is_fusible(network: nn.Module) -> bool:
    """Whether the inference form computes the same as a network: its stages consist of our own modules, without hooks.

    False with adapters around a layer, subclasses, replaced `forward` methods, parametrisations or hooks.
    """
    parts = [part for stage in network.modules() if isinstance(stage, Stage) for part in stage.modules()]
    ours = all(type(part) in _FUSIBLE and "forward" not in vars(part) for part in parts)
    return ours and not any(map(is_hooked, network.modules()))


def _refuse_state(*_: object) -> None:
    raise ConfigError("a network in its inference form has no checkpoint; save or load the one that it was made of")


def layer_groups(prefix: str, coarse: bool) -> dict[str, object]:
    """Return timm's description of a backbone's layers for layer-wise decay, as regular expressions.

    Args:
        prefix: prefix of the backbone's parameter names, such as `backbone.`.
        coarse: group by stage; else by block.
    """
    root = "^" + re.escape(prefix) + r"stages\."
    stem = root + r"0\.patch_embed"
    if coarse:
        return {"stem": stem, "blocks": [(root + r"(\d+)", None)]}
    return {
        "stem": stem,
        "blocks": [
            (root + r"(\d+)\.patch_embed", (0,)),
            (root + r"(\d+)\.blocks\.(\d+)", None),
            (root + r"(\d+)\.position", (0,)),
            (root + r"(\d+)\.norm", (99999,)),
            (r"^norm", (99999,)),
        ],
    }


def init_weights(module: nn.Module) -> None:
    """Initialise as in the reference: linear weights truncated normal, std 0.02; convolutions normal by fan-out."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
    elif isinstance(module, nn.Conv2d):
        fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels // module.groups
        nn.init.normal_(module.weight, std=math.sqrt(2.0 / fan_out))
    if isinstance(module, nn.Linear | nn.Conv2d) and module.bias is not None:
        nn.init.zeros_(module.bias)


def check_input(images: Tensor, sizes: Tensor | None, in_chans: int) -> Tensor | None:
    """Check the arguments of a network and return `sizes` on the images' device.

    Raises:
        InputError: wrong number of dimensions or channels, wrong size or type.
    """
    if images.ndim != 4 or images.shape[1] != in_chans:
        raise InputError(f"images must be (B, {in_chans}, H, W), found a tensor of shape {tuple(images.shape)}")
    height, width = images.shape[2:]
    if height < MIN_SIDE or width < MIN_SIDE:
        raise InputError(
            f"images must be at least {MIN_SIDE} x {MIN_SIDE} pixels, found {height} x {width}; resize or pad them"
        )
    if not images.is_floating_point():
        raise InputError(f"images must be normalised floats, found {images.dtype}; divide by 255 and normalise first")
    return None if sizes is None else _check_sizes(sizes, images)


def _check_sizes(sizes: Tensor, images: Tensor) -> Tensor:
    batch, _, height, width = images.shape
    if sizes.shape != (batch, 2) or sizes.is_floating_point():
        raise InputError(
            f"sizes must be an int tensor of shape ({batch}, 2), found {sizes.dtype} of shape {tuple(sizes.shape)}"
        )
    if not torch.compiler.is_compiling():
        limits = sizes.new_tensor([height, width])
        if bool(((sizes < MIN_SIDE) | (sizes > limits)).any()):
            raise InputError(
                f"sizes must be between {MIN_SIDE} and the batch's {height} x {width}, found {sizes.tolist()}"
            )
    return sizes.to(images.device)


def _check_settings(in_chans: int, out_indices: Sequence[int], *rates: float) -> None:
    if in_chans < 1:
        raise ConfigError(f"`in_chans` must be at least 1, found {in_chans}")
    if not out_indices or list(out_indices) != sorted(set(out_indices)) or not set(out_indices) <= {0, 1, 2, 3}:
        raise ConfigError(f"`out_indices` must be ascending stages out of 0, 1, 2, 3, found {tuple(out_indices)}")
    for rate in rates:
        if not 0.0 <= rate < 1.0:
            raise ConfigError(f"drop rates must be at least 0 and below 1, found {rate}")


def _stage_rates(depths: Sequence[int], last: float) -> list[list[float]]:
    """Return drop rates that grow linearly from 0 in the first block to `last` in the last, by stage."""
    total = sum(depths)
    rates = iter(last * block / max(total - 1, 1) for block in range(total))
    return [[next(rates) for _ in range(depth)] for depth in depths]


def _build_stage(
    config: TwinsConfig,
    index: int,
    *,
    in_channels: int,
    padding: Padding,
    norm: bool,
    drop_path: list[float],
    attn_drop: float,
    proj_drop: float,
) -> Stage:
    channels, heads = config.embed_dims[index], config.num_heads[index]
    blocks = []
    for number, rate in enumerate(drop_path):
        attn: Attention
        if config.window_size is not None and number % 2 == 0:
            attn = LocalAttention(
                channels, heads, config.window_size, padding=padding, attn_drop=attn_drop, proj_drop=proj_drop
            )
        else:
            attn = GlobalAttention(
                channels, heads, config.sr_ratios[index], padding=padding, attn_drop=attn_drop, proj_drop=proj_drop
            )
        hidden = channels * config.mlp_ratios[index]
        blocks.append(Block(channels, attn, hidden, drop=proj_drop, drop_path=rate))
    embed = PatchEmbed(in_channels, channels, PATCH_SIZES[index], padding=padding)
    return Stage(embed, blocks, channels, norm=norm)
