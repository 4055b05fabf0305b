"""Loading weights of any layout into a network, strictly and with one report, and saving them again."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from twins.backbone.config import VARIANTS
from twins.backbone.network import Twins
from twins.errors import ConfigError, WeightsError
from twins.preprocess import Preprocess
from twins.tasks.table import facts_of
from twins.weights.dialects import State, check_written, from_twins
from twins.weights.files import Checkpoint, read_tensors, write_tensors
from twins.weights.heads import all_heads, find_head
from twins.weights.info import ModelInfo

_CLASSIFIER = ("norm.", "head.")
"""Prefixes of a file that a dense network does not need: the classifier and its norm."""
_BESIDE = ("norm.", "neck.", "auxiliary_head.", "rpn_head.")
"""Prefixes of parts beside the classification layers, which a backbone alone does not need."""


@dataclass(frozen=True, kw_only=True)
class LoadReport:
    """What loading a file did, tensor by tensor, by the names that the network gives them.

    `create_model` and `create_backbone` keep it as `model.load_report`; `print` it to read it.
    """

    path: Path
    """The file."""
    dialect: str
    """Its layout, such as `twins`, `timm` or `mmseg`."""
    loaded: tuple[str, ...] = ()
    """Tensors of the network that have the file's values."""
    missing: tuple[str, ...] = ()
    """Tensors that the network needs and the file lacks; an error."""
    unexpected: tuple[str, ...] = ()
    """Tensors of the file that the network has no place for; an error."""
    mis_shaped: tuple[str, ...] = ()
    """Tensors whose shapes differ, each with the file's and the network's shape; an error."""
    unused: tuple[str, ...] = ()
    """Tensors of the file that this network is not meant to use: another task's head, a classifier's final norm."""
    initialised: tuple[str, ...] = ()
    """Tensors of the network that are meant to keep their initial values: stage norms that a classification file lacks,
    a head of other classes with `resize_head`."""

    @property
    def ok(self) -> bool:
        """Whether the file fits: nothing is missing, unexpected or mis-shaped."""
        return not (self.missing or self.unexpected or self.mis_shaped)

    def __str__(self) -> str:
        lines = [f"{self.path} ({self.dialect} layout): {len(self.loaded)} tensors loaded"]
        for title in ("missing", "unexpected", "mis_shaped", "unused", "initialised"):
            if keys := getattr(self, title):
                lines.append(f"  {title.replace('_', '-')} ({len(keys)}): {_shorten(keys)}")
        return "\n".join(lines)


def load_weights(model: nn.Module, path: str | Path, *, resize_head: bool = False) -> LoadReport:
    """Load a file of any known layout in place; dtype and device of the network stay as they are.

    Args:
        model: a backbone or a task's network.
        path: a `.safetensors`, `.pth`, `.pt` or `.bin` file.
        resize_head: leave a classifier with another number of classes as it was initialised, and one that only the
            file has aside.

    Returns:
        what was loaded, what the file had beyond that, and what stayed initialised.

    Raises:
        NotFoundError: there is no such file.
        WeightsError: the file cannot be read or does not fit; everything that is wrong is listed at once, and the
            network is untouched.
    """
    return load_checkpoint(model, read_tensors(path), resize_head=resize_head)


def load_checkpoint(model: nn.Module, checkpoint: Checkpoint, *, resize_head: bool = False) -> LoadReport:
    """Load what `read_tensors` returned; see `load_weights`."""
    state, bare = checkpoint.state, isinstance(model, Twins)
    if bare:
        state = {key.removeprefix("backbone."): value for key, value in state.items()}
    own: State = model.state_dict(keep_vars=True)
    report = _compare(own, state, checkpoint, bare=bare, resize_head=resize_head)
    if not report.ok:
        hint = _other_variant(model, checkpoint)
        raise WeightsError(f"the weights do not fit the network{hint}, and nothing was loaded:\n{report}")
    with torch.no_grad():
        for key in report.loaded:
            own[key].copy_(state[key])
    return report


def save_weights(model: nn.Module, path: str | Path, dialect: str = "twins") -> None:
    """Save a network's weights; the file's ending chooses `.safetensors` (with the description) or a flat dict.

    Args:
        model: a backbone or a task's network.
        path: where to write; what stands there is replaced in one step.
        dialect: `twins`, `timm`, or `reference`: timm's names for a classifier, the reference's segmentation code's
            for a backbone alone.

    Raises:
        ConfigError: a layout that is not written, or no such folder.
        WeightsError: an unknown ending.
        TrainingError: the disk is full or refuses.
    """
    dialect = check_written(dialect)
    state: State = dict(model.state_dict())
    info = getattr(model, "info", None)
    if isinstance(model, Twins):
        state = {f"backbone.{key}": value for key, value in state.items()}
    write_tensors(path, written(state, dialect), info if isinstance(info, ModelInfo) and dialect == "twins" else None)


def written(state: State, dialect: str) -> State:
    """Return a state dict of our task layout as `dialect` writes it."""
    if dialect == "twins":
        bare = all(key.startswith("backbone.") for key in state)
        return {key.removeprefix("backbone."): value for key, value in state.items()} if bare else state
    return from_twins(state, "timm")


def infer_info(checkpoint: Checkpoint) -> ModelInfo:
    """Describe the network in a file by its tensors' names and shapes, and by the hub's `config.json` beside it.

    Raises:
        WeightsError: the tensors are of no known variant.
    """
    state = checkpoint.state
    stem = state.get("backbone.stages.0.patch_embed.proj.weight")
    model = infer_variant(state)
    head = find_head(state)
    if stem is None or stem.ndim != 4 or model is None:
        raise WeightsError(
            f"{checkpoint.path} holds a network of {checkpoint.dialect}'s layout that is no known Twins variant"
        )
    if head is None:
        raise WeightsError(
            f"{checkpoint.path} holds the backbone of {model} without a classifier; load it with create_backbone"
        )
    facts = facts_of(head.task)
    grouped = "norm" in facts.network_settings and not any(key.endswith("running_mean") for key in state)
    return ModelInfo(
        task=head.task,
        model=model,
        head=head.head,
        num_classes=head.classes,
        names=head.names(),
        in_chans=stem.shape[1],
        stage_norms="backbone.stages.0.norm.weight" in state,
        preprocess=_hub_preprocess(checkpoint.path) if facts.in_timm else facts.preprocess,
        width=head.channels(state),
        norm="group" if grouped else "batch",
    )


def holds_head(checkpoint: Checkpoint) -> bool:
    """Return whether a file holds a task's head, or a backbone alone."""
    return find_head(checkpoint.state) is not None


def infer_variant(state: State) -> str | None:
    """Return the variant whose widths, depths and family a state dict of our layout has, or `None`."""
    for name, config in VARIANTS.items():
        last = f"backbone.stages.3.blocks.{config.depths[3] - 1}.mlp.fc1.weight"
        deepest = f"backbone.stages.2.blocks.{config.depths[2] - 1}.norm1.weight"
        beyond = [f"backbone.stages.{i}.blocks.{depth}.norm1.weight" for i, depth in enumerate(config.depths)]
        local = "backbone.stages.0.blocks.0.attn.qkv.weight" in state
        if (
            last in state
            and deepest in state
            and not any(key in state for key in beyond)
            and local == (config.family == "svt")
            and state[last].shape[1:] == (config.embed_dims[3],)
        ):
            return name
    return None


def _compare(own: State, state: State, checkpoint: Checkpoint, *, bare: bool, resize_head: bool) -> LoadReport:
    """Sort every name of the network and of the file into the report's lists."""
    surplus, lacking = sorted(set(state) - set(own)), sorted(set(own) - set(state))
    shared = sorted(set(own) & set(state))
    wrong = [key for key in shared if own[key].shape != state[key].shape]
    own_heads = {key for key in own if not bare and not key.startswith("backbone.")}
    dense = any(not key.startswith(_CLASSIFIER) for key in own_heads)
    parts = (*_BESIDE, *(f"{head.classifier.split('.')[0]}." for _, head in all_heads()))
    fresh = own_heads if dense else {key for key in own_heads if key.startswith("head.")}
    heads = {key for key in (*wrong, *lacking) if resize_head and key in fresh}
    if checkpoint.info is not None:  # a file of ours: what is not the backbone is some task's head
        parts += tuple(key for key in surplus if not key.startswith(("backbone.", "stages.")))
    unused = [
        key
        for key in surplus
        if (resize_head and key.startswith(parts if dense else "head."))
        or (bare and (key.startswith(parts) or _is_of_missing_stage(key, own)))
        or (dense and key.startswith(_CLASSIFIER))
    ]
    norms = r"(backbone\.)?stages\.\d\.norm\..*"
    expected = [key for key in lacking if key in heads or ((bare or dense) and re.fullmatch(norms, key))]
    resized = [key for key in wrong if key in heads]
    return LoadReport(
        path=checkpoint.path,
        dialect=checkpoint.dialect,
        loaded=tuple(key for key in shared if key not in wrong),
        missing=_without(lacking, expected),
        unexpected=_without(surplus, unused),
        mis_shaped=tuple(
            f"{key} {tuple(state[key].shape)} for {tuple(own[key].shape)}" for key in _without(wrong, resized)
        ),
        unused=tuple(unused),
        initialised=tuple(expected + resized),
    )


def _is_of_missing_stage(key: str, own: State) -> bool:
    """Whether a tensor belongs to a stage that the backbone was built without."""
    stage = re.match(r"stages\.\d\.", key)
    return stage is not None and not any(name.startswith(stage[0]) for name in own)


def _without(keys: list[str], excluded: list[str]) -> tuple[str, ...]:
    return tuple(key for key in keys if key not in set(excluded))


def _other_variant(model: nn.Module, checkpoint: Checkpoint) -> str:
    backbone = model if isinstance(model, Twins) else getattr(model, "backbone", None)
    found = infer_variant(checkpoint.state)
    if found is None or not isinstance(backbone, Twins) or VARIANTS[found] == backbone.config:
        return ""
    ours = next((name for name, config in VARIANTS.items() if config == backbone.config), "another")
    return f" (the file holds a {found}, the network is a {ours})"


def _hub_preprocess(path: Path) -> Preprocess:
    """Read a hub file's preprocessing from the `config.json` beside it; the reference's protocol otherwise."""
    try:
        config = json.loads((path.parent / "config.json").read_text())["pretrained_cfg"]
        return Preprocess(
            size=config["input_size"][-1],
            crop=config["crop_pct"],
            interpolation=config["interpolation"],
            mean=tuple(config["mean"]),
            std=tuple(config["std"]),
        )
    except (OSError, ValueError, KeyError, TypeError, IndexError, ConfigError):
        return Preprocess()


def _shorten(keys: tuple[str, ...], most: int = 12) -> str:
    rest = len(keys) - most
    return ", ".join(keys[:most]) + (f", and {rest} more" if rest > 0 else "")
