"""A network laid out for a runtime: the same results with fewer copies, for images of one size.

Tokens are `(B, N, C)`. In a stage with local attention they are ordered window by window. Norms, linear layers,
residual adds and the queries of global attention do not depend on the order, so the order changes only around the PEG
and at the end of the stage. The cells of sub-sampling are gathered by index. Queries, keys and values have their own
projections, so that no result has to be split.

Runtimes differ in what they fuse. ONNX Runtime adds the bias inside a matrix product only for two-dimensional tensors,
so tokens are `(B * N, C)` there; its attention operator reads heads side by side. OpenVINO fuses two products with the
softmax between them into one kernel, and norms with quantisation if tokens have three dimensions.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from twins.backbone.attention import Attention, GlobalAttention, LocalAttention
from twins.backbone.network import Block, Stage, Twins, is_fused
from twins.errors import ConfigError
from twins.ops.padding import fit_cells

AttentionForm = Literal["operator", "products"]
"""Form of attention: the ONNX operator, which reads heads side by side, or two matrix products and a softmax."""


def lay_out(network: nn.Module, height: int, width: int, *, attention: AttentionForm, flatten_batch: bool) -> nn.Module:
    """Return a copy of a network in eval mode, its stages laid out for images of one size.

    Where windows or cells do not divide the map of a stage, the stage keeps its form, which pads and masks borders.

    Args:
        network: a task's network, or a backbone alone; it is not changed.
        height: height of the images in pixels.
        width: width of the images in pixels.
        attention: form of attention.
        flatten_batch: lay tokens out as `(B * N, C)` instead of `(B, N, C)`.

    Raises:
        ConfigError: the network is in its inference form, which only PyTorch can run.
    """
    if is_fused(network):
        raise ConfigError("a network in its inference form cannot be exported; export the one that it was made of")
    network = deepcopy(network).eval().requires_grad_(False)
    backbone = network if isinstance(network, Twins) else network.backbone
    assert isinstance(backbone, Twins)
    for index, stage in enumerate(backbone.stages):
        assert isinstance(stage, Stage)
        patch, padded = stage.patch_embed.patch, backbone.padding == "exact"
        height, width = (_cell_count(side, patch, padded) for side in (height, width))
        if _divides(stage, height, width):
            backbone.stages[index] = FlatStage(
                stage, height, width, attention, flatten_batch=flatten_batch, reads_images=index == 0
            )
    return network


class FlatStage(nn.Module):
    """A stage whose blocks compute on tokens `(B, N, C)`, ordered window by window.

    Args:
        stage: the stage; its parameters are shared.
        height: height of its map in tokens.
        width: width of its map in tokens.
        attention: form of attention.
        flatten_batch: lay tokens out as `(B * N, C)` instead of `(B, N, C)`.
        reads_images: whether its input is images; these are planar, so a convolution embeds them without a copy.
    """

    def __init__(
        self,
        stage: Stage,
        height: int,
        width: int,
        attention: AttentionForm,
        *,
        flatten_batch: bool,
        reads_images: bool,
    ) -> None:
        super().__init__()
        self.height, self.width, self.flatten_batch, self.reads_images = height, width, flatten_batch, reads_images
        self.embed, self.norm = stage.patch_embed, stage.norm
        order = _cell_order(height, width, _window(stage))
        self.reordered = not torch.equal(order, torch.arange(len(order)))
        self.register_buffer("order", order)
        self.register_buffer("back", order.argsort())
        self.blocks = nn.ModuleList(_flat_block(block, order, height, width, attention) for block in stage.blocks)
        self.position = _with_identity(stage.position.conv)

    def forward(self, x: Tensor, sizes: None = None) -> tuple[Tensor, None]:
        """Return the map `(B, H / p, W / p, C)` for a map `(B, H, W, C_in)`; `sizes` is always `None`."""
        assert sizes is None, "a network laid out for one size takes images that fill their batch"
        first, *others = self.blocks
        x = self._apply_peg(first(self._tokens(self._embed(x))))
        if others:
            tokens = self._tokens(x.flatten(1, 2))
            for block in others:
                tokens = block(tokens)
            x = self._map(tokens)
        return self.norm(x), None

    def _embed(self, x: Tensor) -> Tensor:
        """Return the embedded patches as tokens `(B, N, C)`, row by row."""
        if not self.reads_images:
            return self.embed(x).flatten(1, 2)
        x = fit_cells(x, self.embed.patch, self.embed.padding).permute(0, 3, 1, 2)  # (B, C, H, W)
        x = F.conv2d(x, self.embed.proj.weight, self.embed.proj.bias, stride=self.embed.patch)
        return self.embed.norm(x.permute(0, 2, 3, 1).flatten(1, 2))

    def _apply_peg(self, tokens: Tensor) -> Tensor:
        """Apply the PEG to tokens; return the map `(B, H, W, C)`."""
        return self.position(self._map(tokens).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)

    def _tokens(self, x: Tensor) -> Tensor:
        """Bring tokens `(B, N, C)`, row by row, into the order and layout of the blocks."""
        x = self._reorder(x, "order")
        return x.flatten(0, 1) if self.flatten_batch else x

    def _map(self, tokens: Tensor) -> Tensor:
        """Inverse of `_tokens`: return the map `(B, H, W, C)`."""
        x = tokens.view(-1, self.height * self.width, tokens.shape[-1])
        return self._reorder(x, "back").view(-1, self.height, self.width, tokens.shape[-1])

    def _reorder(self, tokens: Tensor, where: Literal["order", "back"]) -> Tensor:
        return tokens.index_select(1, self.get_buffer(where)) if self.reordered else tokens


class FlatBlock(nn.Module):
    """A block on tokens `(B, N, C)` or `(B * N, C)`; attention is within groups of `S` consecutive tokens.

    Args:
        block: the block; its parameters are shared.
        group: tokens in a group, `S`: those of a window, or of the whole map.
        cells: index of each token among the tokens of an image, listed cell by cell, `(N,)`; `None` without
            sub-sampling.
        attention: form of attention.
    """

    def __init__(self, block: Block, group: int, cells: Tensor | None, attention: AttentionForm) -> None:
        super().__init__()
        self.norm1, self.norm2, self.mlp = block.norm1, block.norm2, block.mlp
        self.group, self.heads, self.attention = group, block.attn.num_heads, attention
        self.q, self.k, self.v = _projections(block.attn, scale_queries=attention == "products")
        self.proj = block.attn.proj
        self.cells: Tensor | None
        self.register_buffer("cells", cells)
        if isinstance(block.attn, GlobalAttention) and block.attn.cell > 1:
            self.sr, self.sr_norm = _as_linear(block.attn.sr), block.attn.norm

    def forward(self, tokens: Tensor) -> Tensor:
        """Return tokens of the same shape."""
        tokens = tokens + self.proj(self._attention_output(self.norm1(tokens)))
        return tokens + self.mlp.fc2(F.gelu(self.mlp.fc1(self.norm2(tokens))))

    def _attention_output(self, tokens: Tensor) -> Tensor:
        source, keys = tokens, self.group
        if self.cells is not None:
            source, keys = self._subsample(tokens, self.cells), self.group * tokens.shape[-1] // self.sr.in_features
        q = self.q(tokens).view(-1, self.group, tokens.shape[-1])  # (B * G, S, C)
        k, v = (part(source).view(-1, keys, tokens.shape[-1]) for part in (self.k, self.v))
        return _attend(q, k, v, self.heads, self.attention).view(-1, *tokens.shape[1:])

    def _subsample(self, tokens: Tensor, cells: Tensor) -> Tensor:
        """Return one token per cell, `(B, M, C)` or `(B * M, C)`."""
        x = tokens.view(-1, len(cells), tokens.shape[-1]).index_select(1, cells)
        x = x.view(-1, len(cells) * tokens.shape[-1] // self.sr.in_features, self.sr.in_features)
        return self.sr_norm(self.sr(x.flatten(0, 1) if tokens.ndim == 2 else x))


def _attend(q: Tensor, k: Tensor, v: Tensor, heads: int, form: AttentionForm) -> Tensor:
    """Return attention from queries `(B, N, C)` to keys and values `(B, M, C)`, heads side by side in the channels."""
    if form == "operator":
        return torch.onnx.ops.attention(q, k, v, q_num_heads=heads, kv_num_heads=heads)[0]
    q, k, v = (x.view(x.shape[0], x.shape[1], heads, -1).transpose(1, 2) for x in (q, k, v))  # (B, h, N or M, d)
    y = (q @ k.transpose(2, 3)).softmax(dim=-1) @ v
    return y.transpose(1, 2).flatten(2)


def _flat_block(block: nn.Module, order: Tensor, height: int, width: int, attention: AttentionForm) -> FlatBlock:
    assert isinstance(block, Block)
    if isinstance(block.attn, LocalAttention):
        return FlatBlock(block, block.attn.window**2, None, attention)
    cell = block.attn.cell
    cells = order.argsort()[_cell_order(height, width, cell)] if cell > 1 else None
    return FlatBlock(block, height * width, cells, attention)


def _projections(attn: Attention, *, scale_queries: bool) -> list[nn.Linear]:
    """Return the projections to queries, keys and values; `scale_queries` folds the scale into the first."""
    joint: list[nn.Linear] = [attn.qkv] if isinstance(attn, LocalAttention) else [attn.q, attn.kv]
    channels = attn.proj.in_features
    weights = torch.cat([layer.weight for layer in joint]).chunk(3)
    biases = torch.cat([layer.bias for layer in joint]).chunk(3)
    scale = (channels // attn.num_heads) ** -0.5 if scale_queries else 1.0
    factors = (scale, 1.0, 1.0)
    return [_linear(w * factor, b * factor) for w, b, factor in zip(weights, biases, factors, strict=True)]


def _as_linear(convolution: nn.Conv2d) -> nn.Linear:
    """Return a convolution over cells as a linear layer of a cell's tokens side by side, `s * s * C_in` channels."""
    return _linear(convolution.weight.permute(0, 2, 3, 1).flatten(1), convolution.bias)


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    layer.weight = nn.Parameter(weight.detach().contiguous(), requires_grad=False)
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach().clone(), requires_grad=False)
    return layer


def _with_identity(convolution: nn.Conv2d) -> nn.Conv2d:
    """Fold the residual add of the PEG into its convolution, in place: add 1 to the centre tap of each kernel."""
    convolution.weight[:, :, 1, 1] += 1.0
    return convolution


def _window(stage: Stage) -> int:
    """Return the side of a stage's windows, or 1 without window attention."""
    return max(attn.window if isinstance(attn, LocalAttention) else 1 for attn in _attentions(stage))


def _attentions(stage: Stage) -> list[Attention]:
    return [block.attn for block in stage.blocks if isinstance(block, Block)]


def _cell_order(height: int, width: int, cell: int) -> Tensor:
    """Return the row-major index of each token of a map, listed cell by cell, `(H * W,)`."""
    indices = torch.arange(height * width).view(height // cell, cell, width // cell, cell)
    return indices.transpose(1, 2).flatten()


def _divides(stage: Stage, height: int, width: int) -> bool:
    """Whether the windows and cells of a stage divide its map."""
    sides = [attn.window if isinstance(attn, LocalAttention) else attn.cell for attn in _attentions(stage)]
    return not any(height % side or width % side for side in sides)


def _cell_count(side: int, cell: int, padded: bool) -> int:
    return -(-side // cell) if padded else side // cell
