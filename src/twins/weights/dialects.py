"""Key layouts of published Twins weights, as tables, and the renaming between them and the `twins` layout.

`twins` is the layout of our task networks: `backbone.stages.*`, `norm.*`, `head.*`. Each table lists pairs of prefixes,
theirs and ours; `{i}` is a stage and `{j}` a block. Keys that match no prefix are kept.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from twins.errors import ConfigError, WeightsError, nearest

State = dict[str, Tensor]
Rules = tuple[tuple[str, str], ...]

_BLOCK_PARTS = ("norm1.", "norm2.", "attn.", "mlp.")
_REFERENCE_BACKBONE: Rules = (
    ("patch_embeds.{i}.", "backbone.stages.{i}.patch_embed."),
    *((f"blocks.{{i}}.{{j}}.{part}", f"backbone.stages.{{i}}.blocks.{{j}}.{part}") for part in _BLOCK_PARTS),
    ("pos_block.{i}.proj.0.", "backbone.stages.{i}.position.conv."),
    ("norm_list.{i}.", "backbone.stages.{i}.norm."),
)
_MM_BACKBONE: Rules = (
    ("backbone.patch_embeds.{i}.projection.", "backbone.stages.{i}.patch_embed.proj."),
    ("backbone.patch_embeds.{i}.norm.", "backbone.stages.{i}.patch_embed.norm."),
    ("backbone.position_encodings.{i}.proj.", "backbone.stages.{i}.position.conv."),
    ("backbone.norm_list.{i}.", "backbone.stages.{i}.norm."),
)


def _mm_blocks(stages: str) -> Rules:
    theirs, ours = f"backbone.{stages}.{{i}}.{{j}}.", "backbone.stages.{i}.blocks.{j}."
    return (
        (theirs + "ffn.layers.0.0.", ours + "mlp.fc1."),
        (theirs + "ffn.layers.1.", ours + "mlp.fc2."),
        *((theirs + part, ours + part) for part in ("norm1.", "norm2.", "attn.")),
    )


def _detectron2() -> Rules:
    """Return the names of detectron2's RetinaNet on the backbones of pvt_detectron2; those of PCPVT count from 1."""
    backbone = "backbone.bottom_up."
    pcpvt: list[tuple[str, str]] = []
    for i in range(4):
        pcpvt += [
            (f"{backbone}patch_embed{i + 1}.", f"backbone.stages.{i}.patch_embed."),
            (f"{backbone}block{i + 1}.{{j}}.", f"backbone.stages.{i}.blocks.{{j}}."),
        ]
    pyramid = [
        (f"backbone.fpn_{theirs}{i + 3}.", f"neck.{ours}.{i}.conv.")
        for theirs, ours in (("lateral", "lateral_convs"), ("output", "fpn_convs"))
        for i in range(3)
    ]
    towers = [
        (f"head.{theirs}_subnet.{2 * i}.", f"bbox_head.{ours}_convs.{i}.conv.")  # a ReLU after each convolution
        for theirs, ours in (("cls", "cls"), ("bbox", "reg"))
        for i in range(4)
    ]
    return (
        *((backbone + theirs, ours) for theirs, ours in _REFERENCE_BACKBONE),
        (f"{backbone}pos_block.{{i}}.proj.", "backbone.stages.{i}.position.conv."),
        *pcpvt,
        *pyramid,
        ("backbone.top_block.p6.", "neck.fpn_convs.3.conv."),
        ("backbone.top_block.p7.", "neck.fpn_convs.4.conv."),
        *towers,
        ("head.cls_score.", "bbox_head.retina_cls."),
        ("head.bbox_pred.", "bbox_head.retina_reg."),
    )


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """A layout: keys that identify it, and pairs of prefixes."""

    name: str
    """Name in messages and settings."""
    marks: tuple[str, ...]
    """Keys that all files of this layout have, and no file of another one."""
    rules: Rules
    """Pairs of prefixes, theirs and ours, the more specific first."""
    fused: bool = False
    """Whether `q` and `kv` of global attention are stored joined, as `attn.attn.in_proj_*`."""
    prefixed: str = ""
    """Prefix of the backbone's keys in a whole network."""
    constants: tuple[str, ...] = ()
    """Prefixes of keys that hold settings instead of weights."""
    anchors_by_size: bool = False
    """Whether RetinaNet's anchors are ordered by size, then ratio, instead of by ratio, then size."""
    relu_before_p7: bool = False
    """See `ModelInfo.relu_before_p7`."""


DIALECTS: dict[str, Dialect] = {
    dialect.name: dialect
    for dialect in (
        Dialect(name="twins", marks=("backbone.stages.0.patch_embed.proj.weight",), rules=()),
        Dialect(
            name="timm",
            marks=("patch_embeds.0.proj.weight", "head.weight"),
            rules=_REFERENCE_BACKBONE,
        ),
        Dialect(
            name="reference_segmentation",
            marks=("backbone.patch_embeds.0.proj.weight",),
            rules=(
                *((f"backbone.{theirs}", ours) for theirs, ours in _REFERENCE_BACKBONE),
                ("backbone.norm.", "norm."),
                ("backbone.head.", "head."),
            ),
            prefixed="backbone.",
        ),
        Dialect(
            name="mmseg",
            marks=("backbone.patch_embeds.0.projection.weight", "backbone.layers.0.0.norm1.weight"),
            rules=_MM_BACKBONE + _mm_blocks("layers"),
            fused=True,
            prefixed="backbone.",
        ),
        Dialect(
            name="mmpretrain",
            marks=("backbone.patch_embeds.0.projection.weight", "backbone.stages.0.0.norm1.weight"),
            rules=_MM_BACKBONE
            + _mm_blocks("stages")
            + (("backbone.norm_after_stage3.", "norm."), ("head.fc.", "head.")),
            prefixed="backbone.",
        ),
        Dialect(
            name="detectron2",
            marks=("backbone.fpn_lateral3.weight", "head.cls_score.weight"),
            rules=_detectron2(),
            constants=("anchor_generator.", "pixel_mean", "pixel_std"),
            anchors_by_size=True,
            relu_before_p7=True,
        ),
    )
}
"""Layouts that can be read."""

_BACKBONE_MARKS = {
    "timm": ("patch_embeds.0.proj.weight",),
    "mmseg": ("patch_embeds.0.projection.weight", "layers.0.0.norm1.weight"),
    "mmpretrain": ("patch_embeds.0.projection.weight", "stages.0.0.norm1.weight"),
    "twins": ("stages.0.patch_embed.proj.weight",),
}
"""Keys that identify a backbone without a head; the reference's backbones have timm's names."""

FIRST_WEIGHTS = (
    *("patch_embeds.0.proj.weight", "patch_embeds.0.projection.weight", "stages.0.patch_embed.proj.weight"),
    "patch_embed1.proj.weight",
)
"""Names that the first weight of a backbone has in the layouts."""

WRITABLE = ("twins", "timm", "reference")
"""Layouts that can be written; `reference` is `timm` for classifiers, `reference_segmentation` for backbones."""


def detect(state: Mapping[str, Tensor], source: str | Path = "the file") -> str:
    """Return the layout of a state dict, detected from its keys; errors name `source`.

    Raises:
        WeightsError: the keys match no known layout.
    """
    for dialect in DIALECTS.values():
        if all(mark in state for mark in dialect.marks):
            return _with_stage_norms(dialect.name, state)
    for name, marks in _BACKBONE_MARKS.items():
        if all(mark in state for mark in marks):
            return _with_stage_norms(name, state)
    first_keys = ", ".join(sorted(state)[:3])
    raise WeightsError(
        f"{source} holds no Twins network of a known layout ({', '.join(DIALECTS)}); its first keys are {first_keys}"
    )


def to_twins(state: Mapping[str, Tensor], dialect: str) -> State:
    """Convert a state dict of `dialect` to our layout: rename keys, split joined projections; values stay the same."""
    table = DIALECTS[dialect]
    if table.prefixed and not any(key.startswith(table.prefixed) for key in state):
        state = {f"{table.prefixed}{key}": value for key, value in state.items()}
    if dialect == "twins" and "stages.0.patch_embed.proj.weight" in state:
        return {f"backbone.{key}": value for key, value in state.items()}
    if table.fused:
        state = _split(state)
    rename = _renamer(table.rules)
    renamed = {rename(key): value for key, value in state.items() if not key.startswith(table.constants)}
    return _order_anchors(renamed) if table.anchors_by_size else renamed


def from_twins(state: Mapping[str, Tensor], dialect: str) -> State:
    """Convert a state dict of our layout to `dialect`: rename keys, join projections; values stay the same."""
    table = DIALECTS[dialect]
    rename = _renamer(tuple((ours, theirs) for theirs, ours in table.rules))
    renamed = {rename(key): value for key, value in state.items()}
    return _join(renamed) if table.fused else renamed


def check_writable(dialect: str) -> str:
    """Return `dialect` if it can be written.

    Raises:
        ConfigError: it cannot be written.
    """
    if dialect not in WRITABLE:
        raise ConfigError(
            f"weights are written as {', '.join(WRITABLE)}, found {dialect!r}{nearest(dialect, WRITABLE)}"
        )
    return dialect


def _with_stage_norms(name: str, state: Mapping[str, Tensor]) -> str:
    """Return `reference_segmentation` for timm's names with stage norms, else `name`."""
    return "reference_segmentation" if name == "timm" and "norm_list.0.weight" in state else name


def _renamer(rules: Rules) -> Callable[[str], str]:
    # `{i}` becomes a named group in the pattern and a reference to that group in the template
    patterns = [
        (re.compile("^" + re.sub(r"\\{(\w)\\}", r"(?P<\1>\\d+)", re.escape(old))), re.sub(r"{(\w)}", r"\\g<\1>", new))
        for old, new in rules
    ]

    def rename(key: str) -> str:
        """Rename a key by the first rule that matches."""
        for pattern, template in patterns:
            renamed, count = pattern.subn(template, key)
            if count:
                return renamed
        return key

    return rename


def _order_anchors(state: State) -> State:
    """Reorder the outputs `(sizes * ratios * values, ...)` of RetinaNet's last layers to ratios, then sizes."""
    result = dict(state)
    for key, value in state.items():
        if key.startswith(("bbox_head.retina_cls.", "bbox_head.retina_reg.")) and value.ndim and not value.shape[0] % 9:
            by_anchor = value.reshape(3, 3, -1, *value.shape[1:])  # sizes, ratios, values
            result[key] = by_anchor.transpose(0, 1).reshape(value.shape)
    return result


def _split(state: Mapping[str, Tensor]) -> State:
    """Split `attn.attn.in_proj_*` `(3C, ...)` into `attn.q.*` `(C, ...)` and `attn.kv.*` `(2C, ...)`."""
    result: State = {}
    for key, value in state.items():
        stem, joined, part = key.partition("attn.attn.in_proj_")
        if joined and value.ndim and value.shape[0] % 3 == 0:
            channels = value.shape[0] // 3
            result[f"{stem}attn.q.{part}"], result[f"{stem}attn.kv.{part}"] = value[:channels], value[channels:]
        else:
            result[key.replace("attn.attn.out_proj.", "attn.proj.")] = value
    return result


def _join(state: Mapping[str, Tensor]) -> State:
    """Invert `_split`: join `q` and `kv`, and rename the output projection."""
    result = dict(state)
    for key in [key for key in state if ".attn.q." in key]:
        stem, _, part = key.partition("attn.q.")
        joined = torch.cat([result.pop(key), result.pop(f"{stem}attn.kv.{part}")])
        result[f"{stem}attn.attn.in_proj_{part}"] = joined
        result[f"{stem}attn.attn.out_proj.{part}"] = result.pop(f"{stem}attn.proj.{part}")
    return result
