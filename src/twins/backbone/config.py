"""The Twins variants as data: their shapes, names and published results. This module imports no torch."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, get_args

from twins.errors import ConfigError, NotFoundError, check_type, nearest

Quad = tuple[int, int, int, int]
LinearInit = Literal["published", "width"]


@dataclass(frozen=True, kw_only=True)
class TwinsConfig:
    """The shape of a Twins network (paper, section 3 and tables 9 and 10); every tuple has one entry per stage."""

    family: Literal["pcpvt", "svt"]
    """`pcpvt`: global attention in every block; `svt`: window attention and global attention alternately."""
    embed_dims: Quad
    """Channels of each stage's map."""
    depths: Quad
    """Blocks in each stage."""
    num_heads: Quad
    """Attention heads of each stage; each divides its stage's channels."""
    mlp_ratios: Quad
    """Hidden width of the feed-forward part, in multiples of the channels."""
    sr_ratios: Quad = (8, 4, 2, 1)
    """Side in tokens of the cells that global attention sub-samples to one key each; 1 keeps every token."""
    window_size: int | None = None
    """Side of the windows in tokens; `None` for PCPVT, which has no window attention."""
    linear_init: LinearInit = "published"
    """Random weights of linear layers: `published`, of a standard deviation of 0.02; `width`, by Xavier's rule for
    their widths (Glorot and Bengio, 2010), with a gain of 0.5. In networks narrower than the published ones, 0.02
    leaves hardly any signal in a block's branches, and training has to grow the weights first."""

    def __post_init__(self) -> None:
        for dim, heads in zip(self.embed_dims, self.num_heads, strict=True):
            if dim % heads:
                raise ConfigError(f"`num_heads` must divide `embed_dims`, found {heads} heads for {dim} channels")
        if self.linear_init not in get_args(LinearInit):
            names = " or ".join(get_args(LinearInit))
            raise ConfigError(f"`linear_init` must be {names}, found {self.linear_init!r}")
        if (self.family == "svt") != (self.window_size is not None):
            raise ConfigError(f"`window_size` is for the svt family only, found {self.window_size} for {self.family}")


@dataclass(frozen=True, kw_only=True)
class Published:
    """The published result of a variant, its training and the place of its weights."""

    top1: float
    """ImageNet-1k validation top-1, per cent, at 224."""
    source: str
    """Where `top1` is reported."""
    hub: str
    """Repository of the published weights on the hub, with the tag of their training."""
    drop_path: float
    """Drop rate of stochastic depth in the published training."""


STRIDES: Quad = (4, 8, 16, 32)
PATCH_SIZES: Quad = (4, 2, 2, 2)
MIN_SIDE = 32
"""Smallest height and width of an image in pixels: one token in the last stage."""


def _pcpvt(depths: Quad) -> TwinsConfig:
    return TwinsConfig(
        family="pcpvt", embed_dims=(64, 128, 320, 512), depths=depths, num_heads=(1, 2, 5, 8), mlp_ratios=(8, 8, 4, 4)
    )


def _svt(embed_dims: Quad, depths: Quad, num_heads: Quad, linear_init: LinearInit = "published") -> TwinsConfig:
    return TwinsConfig(
        family="svt",
        embed_dims=embed_dims,
        depths=depths,
        num_heads=num_heads,
        mlp_ratios=(4, 4, 4, 4),
        window_size=7,
        linear_init=linear_init,
    )


VARIANTS: dict[str, TwinsConfig] = {
    "twins_pcpvt_base": _pcpvt((3, 4, 18, 3)),
    "twins_pcpvt_large": _pcpvt((3, 8, 27, 3)),
    "twins_pcpvt_nano": TwinsConfig(
        family="pcpvt",
        embed_dims=(32, 64, 128, 256),
        depths=(2, 2, 2, 2),
        num_heads=(1, 2, 4, 8),
        mlp_ratios=(8, 8, 4, 4),
        linear_init="width",
    ),
    "twins_pcpvt_small": _pcpvt((3, 4, 6, 3)),
    "twins_svt_base": _svt((96, 192, 384, 768), (2, 2, 18, 2), (3, 6, 12, 24)),
    "twins_svt_large": _svt((128, 256, 512, 1024), (2, 2, 18, 2), (4, 8, 16, 32)),
    "twins_svt_nano": _svt((32, 64, 128, 256), (2, 2, 2, 2), (1, 2, 4, 8), "width"),
    "twins_svt_small": _svt((64, 128, 256, 512), (2, 2, 10, 4), (2, 4, 8, 16)),
}

_TABLE_1 = "arXiv 2104.13840, table 1"


def _published(name: str, top1: float, drop_path: float) -> Published:
    return Published(top1=top1, source=_TABLE_1, hub=f"timm/{name}.in1k", drop_path=drop_path)


PUBLISHED: dict[str, Published] = {
    "twins_pcpvt_base": _published("twins_pcpvt_base", 82.7, 0.3),
    "twins_pcpvt_large": _published("twins_pcpvt_large", 83.1, 0.5),
    "twins_pcpvt_small": _published("twins_pcpvt_small", 81.2, 0.2),
    "twins_svt_base": _published("twins_svt_base", 83.2, 0.3),
    "twins_svt_large": _published("twins_svt_large", 83.7, 0.5),
    "twins_svt_small": _published("twins_svt_small", 81.7, 0.2),
}

_FAMILY_NAMES = {"pcpvt": "pcpvt", "svt": "alt_gvt"}
"""Names of the two families in the reference code."""


def list_models() -> list[str]:
    """Return the canonical model names, sorted."""
    return sorted(VARIANTS)


def aliases(name: str) -> tuple[str, ...]:
    """Return the other names of a model: of the paper, the reference code and the hub."""
    if name not in PUBLISHED:
        return ()
    _, family, size = name.split("_")
    paper = f"Twins-{family.upper()}-{size[0].upper()}"
    reference = f"{_FAMILY_NAMES[family]}_{size}"
    versioned = (f"{reference}_v0",) if family == "pcpvt" else ()
    return (paper, reference, *versioned, PUBLISHED[name].hub)


def resolve_name(name: str) -> str:
    """Return the canonical name for any name of a model; case, `-` and `_` do not matter.

    Raises:
        NotFoundError: no model has this name; the message offers the nearest ones.
    """
    check_type(name, str, "name", "the name of a model, such as twins_svt_small")
    table = {_normalised(alias): variant for variant in VARIANTS for alias in (variant, *_spellings(variant))}
    if (canonical := table.get(_normalised(name))) is not None:
        return canonical
    hint = nearest(name, list_models()) or f"; the models are {', '.join(list_models())}"
    raise NotFoundError(f"no model is called {name!r}{hint}")


def _spellings(name: str) -> tuple[str, ...]:
    short = name.removeprefix("twins_")
    hub = (PUBLISHED[name].hub.removeprefix("timm/"),) if name in PUBLISHED else ()
    return (*aliases(name), short, *hub)


def _normalised(name: str) -> str:
    return re.sub(r"[-_ ]", "", name.lower())
