"""Loading weights of any layout, strictly and with one report of all differences, and saving them."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from twins.backbone.config import VARIANTS
from twins.backbone.network import Twins
from twins.errors import ConfigError, WeightsError, check_type, number_of
from twins.preprocess import Preprocess
from twins.tasks.table import facts_of
from twins.weights.dialects import DIALECTS, State, check_writable, from_twins
from twins.weights.files import Checkpoint, read_tensors, write_tensors
from twins.weights.heads import all_heads, find_head
from twins.weights.info import ModelInfo
from twins.weights.networks import parts_of, shown

_CLASSIFIER_PREFIXES = ("norm.", "head.")
"""Key prefixes of a classifier and its final norm, which a network for a dense task does not need."""
_HEAD_PREFIXES = ("norm.", "neck.", "auxiliary_head.", "rpn_head.")
"""Key prefixes of parts of heads, without their classification layers; a backbone needs neither."""

_STEM = "stages.0.patch_embed.proj.weight"
"""End of the name of the first convolution's weight, which has a dimension for the images' channels."""
_TITLES = {
    "mis_shaped": "mis-shaped",
    "left_out": "left out, beside the network",
    "others": "other networks in the file",
}
"""Titles of a report's lists that are not their names."""


@dataclass(frozen=True, kw_only=True)
class LoadReport:
    """Report of loading a weight file: every tensor, by its name in the network.

    `create_model` and `create_backbone` keep it as `model.load_report`; `print` shows it.
    """

    path: Path
    """Path of the file."""
    dialect: str
    """Layout of the file, such as `twins`, `timm` or `mmseg`."""
    key: str = ""
    """Where the network stands in the file, such as `model_ema`; empty: the file is the network."""
    others: tuple[str, ...] = ()
    """Keys of the file's other networks; `weights_key` chooses one."""
    left_out: tuple[str, ...] = ()
    """Tensors beside the network, by the file's names: losses, metrics, counters."""
    note: str = ""
    """A sentence about the choice of the network and what was left out; empty if the file holds nothing else."""
    loaded: tuple[str, ...] = ()
    """Tensors of the network that were loaded from the file."""
    missing: tuple[str, ...] = ()
    """Tensors that the network needs and the file lacks; an error."""
    unexpected: tuple[str, ...] = ()
    """Tensors of the file that the network does not have; an error."""
    mis_shaped: tuple[str, ...] = ()
    """Tensors whose shapes differ, each with the file's and the network's shape; an error."""
    unused: tuple[str, ...] = ()
    """Tensors of the file that this network does not need, such as another task's head or a classifier's final norm."""
    initialised: tuple[str, ...] = ()
    """Tensors of the network that keep their initial values as intended: stage norms that a classification file lacks,
    or with `resize_head` a head with another number of classes."""

    adapted: tuple[str, ...] = ()
    """Loaded tensors that were adapted from RGB to the network's number of channels."""

    @property
    def ok(self) -> bool:
        """Whether nothing is missing, unexpected or mis-shaped."""
        return not (self.missing or self.unexpected or self.mis_shaped)

    def __str__(self) -> str:
        source = f"{self.path}, {self.key}" if self.key else str(self.path)
        lines = [f"{source} ({self.dialect} layout): {number_of(len(self.loaded), 'tensor')} loaded"]
        for title in ("missing", "unexpected", "mis_shaped", "unused", "initialised", "adapted", "left_out", "others"):
            if keys := getattr(self, title):
                lines.append(f"  {_TITLES.get(title, title)} ({len(keys)}): {_shorten(tuple(map(shown, keys)))}")
        return "\n".join(lines)


def load_weights(
    model: nn.Module, path: str | Path, *, weights_key: str | None = None, resize_head: bool = False
) -> LoadReport:
    """Load a weight file of any known layout in place; the network keeps its dtype and device.

    Args:
        model: a backbone or a task's network.
        path: a `.safetensors`, `.pth`, `.pt` or `.bin` file.
        weights_key: where the network stands in a file that holds several, such as `teacher`; `None`: the one that
            evaluation should use, which is the average of the weights if there is one.
        resize_head: do not raise if the file has no head, one with another number of classes, or one that the network
            does not have; tensors of the network's head that do not fit keep their initial values.

    Returns:
        a report of the loaded, unused and initialised tensors.

    Raises:
        NotFoundError: there is no such file.
        WeightsError: the file cannot be read, has weights that are not finite, or does not fit; the message lists all
            differences, and the network is untouched.
    """
    _check_types(model, path)
    return load_checkpoint(model, read_tensors(path, key=weights_key), resize_head=resize_head)


def load_checkpoint(
    model: nn.Module, checkpoint: Checkpoint, *, resize_head: bool = False, adapt_channels: bool = False
) -> LoadReport:
    """Load a checkpoint that `read_tensors` returned; see `load_weights`.

    With `adapt_channels`, the first convolution of a network for RGB is adapted to the network's number of channels.
    """
    state, backbone_only = checkpoint.state, isinstance(model, Twins)
    if backbone_only:
        state = {key.removeprefix("backbone."): value for key, value in state.items()}
    _check_p7(model, checkpoint)
    model_state: State = model.state_dict(keep_vars=True)
    state, adapted = _adapt_channels(model_state, state, checkpoint) if adapt_channels else (state, ())
    report = _compare(model_state, state, checkpoint, backbone_only=backbone_only, resize_head=resize_head)
    report = replace(report, adapted=adapted)
    if not report.ok:
        hint = _variant_hint(model, checkpoint) + _beside_hint(checkpoint)
        raise WeightsError(f"the weights do not fit the network{hint}, and nothing was loaded:\n{report}")
    check_finite({key: state[key] for key in report.loaded}, str(checkpoint.path))
    with torch.no_grad():
        for key in report.loaded:
            model_state[key].copy_(state[key])
    return report


def _adapt_channels(model_state: State, state: State, checkpoint: Checkpoint) -> tuple[State, tuple[str, ...]]:
    """Return a state dict whose first convolution fits the network's images, and the names of the adapted tensors.

    As in timm, one channel gets the sum of the weights of RGB; for others these are repeated in turn, and scaled so
    that the output keeps its size.

    Raises:
        WeightsError: the numbers of channels differ and the weights are not for RGB.
    """
    name = next(key for key in model_state if key.endswith(_STEM))
    weight, channels = state.get(name), model_state[name].shape[1]
    check_channels(checkpoint, channels)
    if weight is None or weight.ndim != 4 or weight.shape[1] == channels:
        return state, ()
    single = channels == 1
    adapted = weight.float().sum(1, keepdim=True) if single else weight[:, torch.arange(channels) % 3] * (3 / channels)
    return state | {name: adapted.to(weight.dtype)}, (name,)


def _check_p7(model: nn.Module, checkpoint: Checkpoint) -> None:
    """Raise WeightsError if a detector computes P7 in another way than the one of the file."""
    info, saved = getattr(model, "info", None), checkpoint.info
    theirs = saved.relu_before_p7 if saved else DIALECTS[checkpoint.dialect].relu_before_p7
    match = find_head(checkpoint.state)
    if isinstance(info, ModelInfo) and match and match.head == info.head and theirs != info.relu_before_p7:
        raise WeightsError(
            f"{checkpoint.path} holds a RetinaNet with{'' if theirs else 'out'} a ReLU before P7, unlike the network; "
            "build the network with `create_model(..., weights=...)`, which sees to it"
        )


def check_described(path: str | Path, dialect: str, info: ModelInfo | None) -> None:
    """Raise ConfigError if a file that cannot describe its network would be read as another one."""
    if info is not None and info.relu_before_p7 and (dialect != "twins" or Path(path).suffix != ".safetensors"):
        raise ConfigError(
            f"a RetinaNet of detectron2 is written in the layout twins as .safetensors, whose description says that it "
            f"has a ReLU before P7; found {path} in the layout {dialect}"
        )


def check_channels(checkpoint: Checkpoint, channels: int) -> None:
    """Raise WeightsError if a file's network is neither for images of this number of channels nor for RGB."""
    weight = checkpoint.state.get(f"backbone.{_STEM}")
    if weight is not None and weight.ndim == 4 and (count := weight.shape[1]) not in (3, channels):
        raise WeightsError(
            f"{checkpoint.path} holds a network for images of {number_of(count, 'channel')}, this one takes "
            f"{channels}; build it with `in_chans={count}` (training reads RGB images only)"
        )


def check_finite(tensors: State, source: str) -> None:
    """Raise WeightsError if a tensor holds a value that is not finite, with the first tensor's name and the source."""
    for name, value in tensors.items():
        if value.is_floating_point() and not (finite := torch.isfinite(value)).all():
            share = f"{int((~finite).sum()):,} of {number_of(value.numel(), 'value')}"
            raise WeightsError(
                f"{source} holds weights that are not finite, first {name} ({share}); "
                "the network's results would be wrong, so use an earlier checkpoint"
            )


def save_weights(model: nn.Module, path: str | Path, dialect: str = "twins") -> None:
    """Save the weights of a network in one atomic step.

    Args:
        model: a backbone or a task's network.
        path: file to write. Its ending chooses the format: `.safetensors`, which in the `twins` layout includes the
            network's `ModelInfo`, or a pickled flat dict.
        dialect: layout, `twins`, `timm` or `reference`. The reference has timm's names for a classifier, and those of
            its segmentation code for a backbone.

    Raises:
        ConfigError: a layout that cannot be written, a folder that does not exist, or an argument of another type.
        WeightsError: the ending is unknown.
        TrainingError: the disk is full or not writable.
    """
    _check_types(model, path)
    dialect = check_writable(dialect)
    state: State = dict(model.state_dict())
    if not state:
        raise ConfigError(
            "the network has no weights, as that of an exported file; save that of the run it was made of"
        )
    info = getattr(model, "info", None)
    check_described(path, dialect, info if isinstance(info, ModelInfo) else None)
    if isinstance(model, Twins):
        state = {f"backbone.{key}": value for key, value in state.items()}
    write_tensors(
        path, convert_state(state, dialect), info if isinstance(info, ModelInfo) and dialect == "twins" else None
    )


def _check_types(model: object, path: object) -> None:
    check_type(model, nn.Module, "model", "a backbone or a network")
    check_type(path, str | Path, "path", "the path of a weight file")


def convert_state(state: State, dialect: str) -> State:
    """Convert a state dict of our layout to a layout that can be written; a backbone loses the prefix `backbone.`."""
    if dialect == "twins":
        backbone_only = all(key.startswith("backbone.") for key in state)
        return {key.removeprefix("backbone."): value for key, value in state.items()} if backbone_only else state
    return from_twins(state, "timm")


def infer_info(checkpoint: Checkpoint) -> ModelInfo:
    """Infer the `ModelInfo` of a file from the names and shapes of its tensors, and the hub's `config.json` beside it.

    Raises:
        WeightsError: the tensors match no known variant, or the file has no head.
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
    table = DIALECTS[checkpoint.dialect]
    unmasked = table.relu_before_p7 and VARIANTS[model].family == "svt"  # pvt_detectron2 pads windows without a mask
    grouped = "norm" in facts.network_settings and not any(key.endswith("running_mean") for key in state)
    return ModelInfo(
        task=head.task,
        model=model,
        head=head.head,
        num_classes=head.num_classes,
        names=head.names(),
        in_chans=stem.shape[1],
        stage_norms="backbone.stages.0.norm.weight" in state,
        preprocess=_hub_preprocess(checkpoint.path) if facts.in_timm else facts.preprocess,
        width=head.channels(state),
        norm="group" if grouped else "batch",
        padding="unmasked" if unmasked else "exact",
        relu_before_p7=table.relu_before_p7,
    )


def has_head(checkpoint: Checkpoint) -> bool:
    """Return whether a file holds a task's head, not only a backbone."""
    return find_head(checkpoint.state) is not None


def infer_variant(state: State) -> str | None:
    """Return the variant with the widths, depths and family of a state dict of our layout, or `None`."""
    for name, config in VARIANTS.items():
        last_block = f"backbone.stages.3.blocks.{config.depths[3] - 1}.mlp.fc1.weight"
        last_of_third_stage = f"backbone.stages.2.blocks.{config.depths[2] - 1}.norm1.weight"
        blocks_beyond = [f"backbone.stages.{i}.blocks.{depth}.norm1.weight" for i, depth in enumerate(config.depths)]
        local = "backbone.stages.0.blocks.0.attn.qkv.weight" in state
        if (
            last_block in state
            and last_of_third_stage in state
            and not any(key in state for key in blocks_beyond)
            and local == (config.family == "svt")
            and state[last_block].shape[1:] == (config.embed_dims[3],)
        ):
            return name
    return None


def _compare(
    model_state: State, state: State, checkpoint: Checkpoint, *, backbone_only: bool, resize_head: bool
) -> LoadReport:
    """Assign every tensor of the network and of the file to a list of the report.

    A tensor that only the file has is unused, not unexpected, if it belongs
    - to a head, and the network is a backbone or `resize_head` is set;
    - to a classifier, and the network is for a dense task;
    - to a stage that the network, a backbone, does not have.

    A tensor that only the network has is initialised, not missing, if it belongs
    - to a head, and `resize_head` is set;
    - to the stage norms of a backbone or of a network for a dense task.
    """
    only_in_file, only_in_model = sorted(set(state) - set(model_state)), sorted(set(model_state) - set(state))
    shared, network = sorted(set(model_state) & set(state)), checkpoint.network
    beside = () if backbone_only or resize_head else network.beside
    mis_shaped = [key for key in shared if model_state[key].shape != state[key].shape]
    model_head_keys = {key for key in model_state if not backbone_only and not key.startswith("backbone.")}
    dense = any(not key.startswith(_CLASSIFIER_PREFIXES) for key in model_head_keys)
    head_prefixes = (*_HEAD_PREFIXES, *(f"{head.classifier.split('.')[0]}." for _, head in all_heads()))
    resizable = model_head_keys if dense else {key for key in model_head_keys if key.startswith("head.")}
    new_head = {key for key in (*mis_shaped, *only_in_model) if resize_head and key in resizable}
    if checkpoint.info is not None:  # the twins layout: all except the backbone belongs to a head
        head_prefixes += tuple(key for key in only_in_file if not key.startswith(("backbone.", "stages.")))
    unused = [
        key
        for key in only_in_file
        if (resize_head and key.startswith(head_prefixes))
        or (backbone_only and (key.startswith(head_prefixes) or _is_of_missing_stage(key, model_state)))
        or (dense and key.startswith(_CLASSIFIER_PREFIXES))
    ]
    stage_norm = r"(backbone\.)?stages\.\d\.norm\..*"
    initialised = [
        key for key in only_in_model if key in new_head or ((backbone_only or dense) and re.fullmatch(stage_norm, key))
    ]
    resized = [key for key in mis_shaped if key in new_head]
    return LoadReport(
        path=checkpoint.path,
        dialect=checkpoint.dialect,
        key=network.key,
        others=network.others,
        left_out=tuple(sorted({*network.left_out, *network.beside} - set(beside))),
        note=network.note(checkpoint.path),
        loaded=tuple(key for key in shared if key not in mis_shaped),
        missing=_without(only_in_model, initialised),
        unexpected=(*_without(only_in_file, unused), *beside),
        mis_shaped=tuple(
            f"{key} {tuple(state[key].shape)} for {tuple(model_state[key].shape)}"
            for key in _without(mis_shaped, resized)
        ),
        unused=tuple(unused),
        initialised=tuple(initialised + resized),
    )


def _is_of_missing_stage(key: str, model_state: State) -> bool:
    """Return whether a tensor belongs to a stage that this backbone does not have."""
    stage = re.match(r"stages\.\d\.", key)
    return stage is not None and not any(name.startswith(stage[0]) for name in model_state)


def _without(keys: list[str], excluded: list[str]) -> tuple[str, ...]:
    return tuple(key for key in keys if key not in set(excluded))


def _variant_hint(model: nn.Module, checkpoint: Checkpoint) -> str:
    backbone = model if isinstance(model, Twins) else getattr(model, "backbone", None)
    file_variant = infer_variant(checkpoint.state)
    if file_variant is None or not isinstance(backbone, Twins) or VARIANTS[file_variant] == backbone.config:
        return ""
    model_variant = next((name for name, config in VARIANTS.items() if config == backbone.config), "another")
    return f" (the file holds a {file_variant}, the network is a {model_variant})"


def _beside_hint(checkpoint: Checkpoint) -> str:
    beside = checkpoint.network.beside
    if not beside:
        return ""
    key = checkpoint.network.key
    return f' ({parts_of(beside)} beside {key} may be a part of it; `weights_key="{key}"` leaves them out)'


def _hub_preprocess(path: Path) -> Preprocess:
    """Read the preprocessing of a hub file from the `config.json` beside it, else return the reference's."""
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


def _shorten(keys: tuple[str, ...], max_shown: int = 12) -> str:
    hidden = len(keys) - max_shown
    return ", ".join(keys[:max_shown]) + (f", and {hidden} more" if hidden > 0 else "")
