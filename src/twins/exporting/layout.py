"""A network laid out for a runtime: the same results with fewer copies, for images of one size or of any size.

Tokens are `(B, N, C)`, row by row. Those of a window, of a patch and of a cell of sub-sampling are gathered by index, a
side of each being a `cell` here; the gather also pads the map where cells do not divide it. Queries, keys and values
have their own projections, so that no result has to be split.

Indices and masks are computed from the shape of the map, once per stage. If the size is fixed, they are constants, and
there is no mask where nothing is padded. A padded token is no key in a window, and its result is not gathered back; in
a patch and in a cell of sub-sampling it is zero. With true sizes the same holds for tokens outside them.

Runtimes differ in what they fuse. ONNX Runtime adds the bias inside a matrix product only for two-dimensional tensors,
so tokens are `(B * N, C)` there; its attention operator reads heads side by side. OpenVINO fuses two products with the
softmax between them into one kernel, and norms with quantisation if tokens have three dimensions. In OpenVINO 2026.4
this kernel has two faults. Without a mask, its results are wrong for more keys if its first run had a single key: so an
open number of keys always has a mask. In bfloat16 it misreads a constant mask `(1, 1, 1, M)`: so a mask is repeated for
each head.
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
from twins.exporting.cells import Cells, cells_of, contiguous_copy
from twins.ops.convolutions import as_planar
from twins.ops.padding import fill_outside, fit_cells, reduce_sizes

AttentionForm = Literal["operator", "fused", "products"]
"""Form of attention: the ONNX operator, which reads heads side by side; PyTorch's operator; or two matrix products and
a softmax, with the masks that OpenVINO's kernel needs."""
MASKED = -1e4
"""Added to the score of a masked key: its weight is zero, and a softmax over masked keys alone is finite."""


def lay_out(
    network: nn.Module,
    height: int | None,
    width: int | None,
    *,
    attention: AttentionForm,
    flatten_batch: bool,
    padded: bool = False,
) -> nn.Module:
    """Return a copy of a network in eval mode, its stages laid out for a runtime.

    With the padding `reference` or `unmasked` a stage keeps its form, if windows or cells do not divide its map, or if
    batches are padded.

    Args:
        network: a task's network, or a backbone alone; it is not changed.
        height: height of the images in pixels; `None` if it is open.
        width: width of the images in pixels; `None` if it is open.
        attention: form of attention; see `AttentionForm`.
        flatten_batch: lay tokens out as `(B * N, C)` instead of `(B, N, C)`.
        padded: whether the network gets the true sizes of images.

    Raises:
        ConfigError: the network is in its inference form, which only PyTorch can run, or the size is open and the
            padding is not `exact`.
    """
    if is_fused(network):
        raise ConfigError("a network in its inference form cannot be exported; export the one that it was made of")
    network = deepcopy(network).eval().requires_grad_(False)
    backbone = network if isinstance(network, Twins) else network.backbone
    assert isinstance(backbone, Twins)
    exact = backbone.padding == "exact"
    if not exact and (height is None or width is None):
        raise ConfigError(
            f"a network with `padding`={backbone.padding!r} is exported with a fixed height and width only; fix "
            "both, or use weights with `padding`='exact'"
        )
    for index, stage in enumerate(backbone.stages):
        assert isinstance(stage, Stage)
        if not exact:
            height, width = (side // stage.patch_embed.patch for side in (height or 0, width or 0))
        if exact or (not padded and _divides(stage, height or 0, width or 0)):
            backbone.stages[index] = FlatStage(stage, attention, flatten_batch=flatten_batch, reads_images=index == 0)
    return network


class FlatStage(nn.Module):
    """A stage whose blocks compute on tokens `(B, N, C)`, row by row.

    Args:
        stage: the stage; its parameters are shared.
        attention: form of attention.
        flatten_batch: lay tokens out as `(B * N, C)` instead of `(B, N, C)`.
        reads_images: whether its input is images; these are planar, so a convolution embeds them without a copy.
    """

    def __init__(self, stage: Stage, attention: AttentionForm, *, flatten_batch: bool, reads_images: bool) -> None:
        super().__init__()
        self.flatten_batch, self.reads_images = flatten_batch, reads_images
        embed = stage.patch_embed
        self.patch, self.padding, self.embed_norm, self.norm = embed.patch, embed.padding, embed.norm, stage.norm
        self.proj = embed.proj if reads_images else _as_linear(embed.proj)
        self.sides = sorted({_side(block.attn) for block in stage.blocks if isinstance(block, Block)})
        self.blocks = nn.ModuleList(_flat_block(block, attention) for block in stage.blocks)
        self.position = _with_identity(stage.position.conv)

    def forward(self, x: Tensor, sizes: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Return the map `(B, H / p, W / p, C)` for a map `(B, H, W, C_in)`, and `sizes` on the new map."""
        x = self._embed_images(x, sizes) if self.reads_images else self._embed(x, sizes)
        sizes = reduce_sizes(sizes, self.patch, "exact")
        batch, height, width, channels = x.shape
        cells = {side: cells_of(height, width, side, sizes) for side in self.sides}
        tokens = x.flatten(0, 2) if self.flatten_batch else x.flatten(1, 2)
        for index, block in enumerate(self.blocks):
            assert isinstance(block, FlatBlock)
            tokens = block(tokens, cells[block.side], batch)
            if index == 0:
                x = as_planar(fill_outside(tokens.view(batch, height, width, channels), sizes))
                x = contiguous_copy(self.position(x).flatten(2).transpose(1, 2))
                tokens = x.view(tokens.shape)
        return self.norm(tokens.view(batch, height, width, channels)), sizes

    def _embed_images(self, images: Tensor, sizes: Tensor | None) -> Tensor:
        """Return the embedded patches of images `(B, H, W, C_in)` as a map."""
        x = as_planar(fit_cells(fill_outside(images, sizes), self.patch, self.padding))
        x = F.conv2d(x, self.proj.weight, self.proj.bias, stride=self.patch)
        return self.embed_norm(x.permute(0, 2, 3, 1))

    def _embed(self, x: Tensor, sizes: Tensor | None) -> Tensor:
        """Return the embedded patches of a map `(B, H, W, C_in)` as a map."""
        if self.padding != "exact":
            x = fit_cells(x, self.patch, self.padding)
        cells = cells_of(x.shape[1], x.shape[2], self.patch, sizes)
        patches = cells.gather_zeroed(x.flatten(1, 2)).view(x.shape[0], cells.rows, cells.columns, -1)
        return self.embed_norm(self.proj(patches))


class FlatBlock(nn.Module):
    """A block on tokens `(B, N, C)` or `(B * N, C)`, row by row.

    Args:
        block: the block; its parameters are shared.
        attention: form of attention.
    """

    def __init__(self, block: Block, attention: AttentionForm) -> None:
        super().__init__()
        self.norm1, self.norm2, self.mlp = block.norm1, block.norm2, block.mlp
        self.side, self.heads, self.attention = _side(block.attn), block.attn.num_heads, attention
        self.q, self.k, self.v = _projections(block.attn, scale_queries=attention != "operator")
        self.proj = block.attn.proj

    def forward(self, tokens: Tensor, cells: Cells, batch: int) -> Tensor:
        """Return tokens of the same shape; `cells` are those of `side` on the map."""
        tokens = tokens + self.proj(self._attention_output(self.norm1(tokens), cells, batch))
        return tokens + self.mlp.fc2(F.gelu(self.mlp.fc1(self.norm2(tokens))))

    def _attention_output(self, tokens: Tensor, cells: Cells, batch: int) -> Tensor:
        raise NotImplementedError


class FlatLocalBlock(FlatBlock):
    """A block with window attention; `side` is the side of a window."""

    def _attention_output(self, tokens: Tensor, cells: Cells, batch: int) -> Tensor:
        channels = tokens.shape[-1]
        windows = cells.gather(tokens.view(batch, -1, channels))  # (B, G * S, C)
        x = windows.flatten(0, 1) if tokens.ndim == 2 else windows
        q, k, v = (part(x).view(-1, self.side**2, channels) for part in (self.q, self.k, self.v))
        y = _attend(q, k, v, self.heads, self.attention, cells.token_mask(batch))  # (B * G, S, C)
        return cells.gather_back(y.view(windows.shape)).view(tokens.shape)


class FlatGlobalBlock(FlatBlock):
    """A block with global attention; `side` is the side of a cell of sub-sampling."""

    def __init__(self, block: Block, attention: AttentionForm) -> None:
        super().__init__(block, attention)
        if self.side > 1:
            assert isinstance(block.attn, GlobalAttention)
            self.sr, self.sr_norm = _as_linear(block.attn.sr), block.attn.norm

    def _attention_output(self, tokens: Tensor, cells: Cells, batch: int) -> Tensor:
        channels = tokens.shape[-1]
        keys = tokens
        if self.side > 1:
            x = cells.gather_zeroed(tokens.view(batch, -1, channels)).view(batch, -1, self.sr.in_features)
            keys = self.sr_norm(self.sr(x.flatten(0, 1) if tokens.ndim == 2 else x))
        q = self.q(tokens).view(batch, -1, channels)
        k, v = (part(keys).view(batch, -1, channels) for part in (self.k, self.v))
        mask = cells.cell_mask()
        has_open_size = type(k.shape[1]) is not int  # a symbol
        if mask is None and self.attention == "products" and has_open_size:
            mask = torch.arange(k.shape[1])[None] >= 0  # (1, M), all valid
        return _attend(q, k, v, self.heads, self.attention, mask).view(tokens.shape)


def _attend(q: Tensor, k: Tensor, v: Tensor, heads: int, form: AttentionForm, mask: Tensor | None) -> Tensor:
    """Return attention from queries `(B, N, C)` to keys and values `(B, M, C)`, heads side by side in the channels.

    `mask` is bool, `(B, M)` or `(1, M)`, true where a key is valid.
    """
    bias = None if mask is None else torch.where(mask, 0.0, MASKED).to(q.dtype)[:, None, None, :]  # (B, 1, 1, M)
    if form == "operator":
        if bias is not None:
            bias = bias.expand(-1, -1, q.shape[1], -1)  # ONNX Runtime does not broadcast over queries
        return torch.onnx.ops.attention(q, k, v, bias, q_num_heads=heads, kv_num_heads=heads)[0]
    q, k, v = (x.view(x.shape[0], x.shape[1], heads, -1) for x in (q, k, v))  # (B, N or M, h, d)
    if form == "fused":
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=1.0).transpose(1, 2).flatten(2)
    q, k, v = (contiguous_copy(x) for x in (q.transpose(1, 2), k.permute(0, 2, 3, 1), v.transpose(1, 2)))
    if bias is not None:
        bias = bias.expand(-1, heads, -1, -1)  # (B, h, 1, M)
    scores = q @ k
    y = (scores if bias is None else scores + bias).softmax(dim=-1) @ v
    return y.transpose(1, 2).flatten(2)


def _flat_block(block: nn.Module, attention: AttentionForm) -> FlatBlock:
    assert isinstance(block, Block)
    form = FlatLocalBlock if isinstance(block.attn, LocalAttention) else FlatGlobalBlock
    return form(block, attention)


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


def _side(attn: Attention) -> int:
    """Return the side of an attention's windows, or of its cells of sub-sampling."""
    return attn.window if isinstance(attn, LocalAttention) else attn.cell


def _divides(stage: Stage, height: int, width: int) -> bool:
    """Whether the windows and cells of a stage divide its map."""
    sides = [_side(block.attn) for block in stage.blocks if isinstance(block, Block)]
    return not any(height % side or width % side for side in sides)
