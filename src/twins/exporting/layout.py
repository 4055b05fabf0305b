"""A network laid out for a runtime: the same numbers with fewer copies, for images of one size.

Tokens are `(B, N, C)`. In a stage with local attention they lie window by window: norms, products, residuals and the
queries of global attention do not ask for an order, so windows are never cut out or put back but around the
positional convolution and at the stage's end. Cells of sub-sampling are gathered. Queries, keys and values are
projected apart, so that nothing has to split them.

What runtimes like differs. ONNX Runtime adds a bias within a product of two-dimensional tensors alone, so tokens are
rows `(B * N, C)` there, and its attention operator reads heads where they lie. OpenVINO makes one kernel of two
products and a softmax, and of norms and quantisation where tokens keep three dimensions.
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
"""How attention is written: as ONNX's operator, which takes heads side by side, or as two products and a softmax."""


def lay_out(network: nn.Module, height: int, width: int, *, attention: AttentionForm, rows: bool) -> nn.Module:
    """Return a copy of a network in evaluation mode whose stages are laid out for images of one size.

    A stage whose windows or cells do not divide its map stays as it is: there borders are padded and masked.

    Args:
        network: a task's network, or a backbone alone; it is not changed.
        height: rows of the images in pixels.
        width: columns of the images in pixels.
        attention: how attention is written.
        rows: lay tokens out as `(B * N, C)` instead of `(B, N, C)`.

    Raises:
        ConfigError: the network is in its inference form, which is PyTorch's own.
    """
    if is_fused(network):
        raise ConfigError("a network in its inference form cannot be exported; export the one that it was made of")
    network = deepcopy(network).eval().requires_grad_(False)
    backbone = network if isinstance(network, Twins) else network.backbone
    assert isinstance(backbone, Twins)
    for index, stage in enumerate(backbone.stages):
        assert isinstance(stage, Stage)
        height, width = (_cells(side, stage.patch_embed.patch, backbone.padding == "exact") for side in (height, width))
        if _divides(stage, height, width):
            backbone.stages[index] = FlatStage(stage, height, width, attention, rows=rows, images=index == 0)
    return network


class FlatStage(nn.Module):
    """A stage on tokens `(B, N, C)`.

    Args:
        stage: whose parameters are taken over.
        height: rows of its map in tokens.
        width: columns of its map in tokens.
        attention: how attention is written.
        rows: lay tokens out as `(B * N, C)` instead of `(B, N, C)`.
        images: whether it reads images, whose channels lie apart, so that a convolution embeds without a copy.
    """

    def __init__(
        self, stage: Stage, height: int, width: int, attention: AttentionForm, *, rows: bool, images: bool
    ) -> None:
        super().__init__()
        self.height, self.width, self.rows, self.images = height, width, rows, images
        self.embed, self.norm = stage.patch_embed, stage.norm
        order = _cell_order(height, width, _window(stage))
        self.moved = not torch.equal(order, torch.arange(len(order)))
        self.register_buffer("order", order)
        self.register_buffer("back", order.argsort())
        self.blocks = nn.ModuleList(_flat_block(block, order, height, width, attention) for block in stage.blocks)
        self.position = _with_identity(stage.position.conv)

    def forward(self, x: Tensor, sizes: None = None) -> tuple[Tensor, None]:
        """Map `(B, H, W, C_in)` to `(B, H / p, W / p, C)`; every image fills its batch."""
        assert sizes is None, "a network laid out for one size takes images that fill their batch"
        first, *others = self.blocks
        x = self._positions(first(self._tokens(self._embed(x))))
        if others:
            tokens = self._tokens(x.flatten(1, 2))
            for block in others:
                tokens = block(tokens)
            x = self._map(tokens)
        return self.norm(x), None

    def _embed(self, x: Tensor) -> Tensor:
        """Return the patches as tokens `(B, N, C)`, row by row."""
        if not self.images:
            return self.embed(x).flatten(1, 2)
        x = fit_cells(x, self.embed.patch, self.embed.padding).permute(0, 3, 1, 2)
        x = F.conv2d(x, self.embed.proj.weight, self.embed.proj.bias, stride=self.embed.patch)
        return self.embed.norm(x.permute(0, 2, 3, 1).flatten(1, 2))

    def _positions(self, tokens: Tensor) -> Tensor:
        """Return the map `(B, H, W, C)` of tokens with its positions added."""
        return self.position(self._map(tokens).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)

    def _tokens(self, x: Tensor) -> Tensor:
        """Bring tokens `(B, N, C)` from the order of a map into that of the stage."""
        x = self._move(x, "order")
        return x.flatten(0, 1) if self.rows else x

    def _map(self, tokens: Tensor) -> Tensor:
        x = tokens.view(-1, self.height * self.width, tokens.shape[-1])
        return self._move(x, "back").view(-1, self.height, self.width, tokens.shape[-1])

    def _move(self, tokens: Tensor, where: Literal["order", "back"]) -> Tensor:
        return tokens.index_select(1, self.get_buffer(where)) if self.moved else tokens


class FlatBlock(nn.Module):
    """A block on tokens `(B, N, C)` or `(B * N, C)`, attending within groups of tokens that lie together.

    Args:
        block: whose parameters are taken over.
        group: tokens of a group, `S`: a window, or a whole map.
        cells: where each token of each cell lies among an image's tokens, cell by cell, `(N,)`; `None` where tokens
            are their own keys.
        attention: how attention is written.
    """

    def __init__(self, block: Block, group: int, cells: Tensor | None, attention: AttentionForm) -> None:
        super().__init__()
        self.norm1, self.norm2, self.mlp = block.norm1, block.norm2, block.mlp
        self.group, self.heads, self.attention = group, block.attn.num_heads, attention
        self.q, self.k, self.v = _projections(block.attn, scaled=attention == "products")
        self.proj = block.attn.proj
        self.cells: Tensor | None
        self.register_buffer("cells", cells)
        if isinstance(block.attn, GlobalAttention) and block.attn.cell > 1:
            self.sr, self.sr_norm = _as_linear(block.attn.sr), block.attn.norm

    def forward(self, tokens: Tensor) -> Tensor:
        """Return tokens of the same shape."""
        tokens = tokens + self.proj(self._attend(self.norm1(tokens)))
        return tokens + self.mlp.fc2(F.gelu(self.mlp.fc1(self.norm2(tokens))))

    def _attend(self, tokens: Tensor) -> Tensor:
        seen, keys = tokens, self.group
        if self.cells is not None:
            seen, keys = self._subsample(tokens, self.cells), self.group * tokens.shape[-1] // self.sr.in_features
        q = self.q(tokens).view(-1, self.group, tokens.shape[-1])  # (B * G, S, C)
        k, v = (part(seen).view(-1, keys, tokens.shape[-1]) for part in (self.k, self.v))
        return _attend(q, k, v, self.heads, self.attention).view(-1, *tokens.shape[1:])

    def _subsample(self, tokens: Tensor, cells: Tensor) -> Tensor:
        """Return one token per cell, `(B, M, C)` or `(B * M, C)`."""
        x = tokens.view(-1, len(cells), tokens.shape[-1]).index_select(1, cells)
        x = x.view(-1, len(cells) * tokens.shape[-1] // self.sr.in_features, self.sr.in_features)
        return self.sr_norm(self.sr(x.flatten(0, 1) if tokens.ndim == 2 else x))


def _attend(q: Tensor, k: Tensor, v: Tensor, heads: int, form: AttentionForm) -> Tensor:
    """Attend from queries `(B, N, C)` to keys and values `(B, M, C)`, heads side by side in the channels."""
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


def _projections(attn: Attention, *, scaled: bool) -> list[nn.Linear]:
    """Return the projections to queries, keys and values, the queries' scaled for attention where asked for."""
    joint: list[nn.Linear] = [attn.qkv] if isinstance(attn, LocalAttention) else [attn.q, attn.kv]
    channels = attn.proj.in_features
    weights = torch.cat([layer.weight for layer in joint]).chunk(3)
    biases = torch.cat([layer.bias for layer in joint]).chunk(3)
    scale = (channels // attn.num_heads) ** -0.5 if scaled else 1.0
    factors = (scale, 1.0, 1.0)
    return [_linear(w * factor, b * factor) for w, b, factor in zip(weights, biases, factors, strict=True)]


def _as_linear(convolution: nn.Conv2d) -> nn.Linear:
    """Return a convolution over cells as a linear layer on their tokens side by side, `(s * s * C_in)`."""
    return _linear(convolution.weight.permute(0, 2, 3, 1).flatten(1), convolution.bias)


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    layer.weight = nn.Parameter(weight.detach().contiguous(), requires_grad=False)
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach().clone(), requires_grad=False)
    return layer


def _with_identity(convolution: nn.Conv2d) -> nn.Conv2d:
    """Return a depth-wise 3x3 convolution that adds its input: one more at the middle of each kernel."""
    convolution.weight[:, :, 1, 1] += 1.0
    return convolution


def _window(stage: Stage) -> int:
    """Return the side of a stage's windows, 1 where it has none."""
    return max(attn.window if isinstance(attn, LocalAttention) else 1 for attn in _attentions(stage))


def _attentions(stage: Stage) -> list[Attention]:
    return [block.attn for block in stage.blocks if isinstance(block, Block)]


def _cell_order(height: int, width: int, cell: int) -> Tensor:
    """Return the places in a map, row by row, of its tokens listed cell by cell, `(H * W,)`."""
    places = torch.arange(height * width).view(height // cell, cell, width // cell, cell)
    return places.transpose(1, 2).flatten()


def _divides(stage: Stage, height: int, width: int) -> bool:
    """Whether every window and cell of a stage divides its map."""
    sides = [attn.window if isinstance(attn, LocalAttention) else attn.cell for attn in _attentions(stage)]
    return not any(height % side or width % side for side in sides)


def _cells(side: int, cell: int, padded: bool) -> int:
    return -(-side // cell) if padded else side // cell
