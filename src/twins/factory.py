"""Networks by name: backbones, task models, and models rebuilt from a checkpoint."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from twins.backbone.config import PUBLISHED, VARIANTS, resolve_name
from twins.backbone.network import Twins
from twins.data.classes import imagenet_names
from twins.errors import ConfigError, NotFoundError, WeightsError, check_type, nearest, number_of
from twins.files import is_invalid_path
from twins.preprocess import Preprocess
from twins.tasks.facts import TaskFacts
from twins.tasks.network import TaskNetwork
from twins.tasks.table import facts_of, part_of, tasks_with
from twins.weights.files import Checkpoint, read_tensors
from twins.weights.info import ModelInfo
from twins.weights.loading import check_channels, has_head, infer_info, load_checkpoint
from twins.weights.store import resolve


def create_backbone(
    name: str,
    *,
    weights: str | Path | None = None,
    weights_key: str | None = None,
    padding: str = "exact",
    stage_norms: bool | None = None,
    out_indices: Sequence[int] = (0, 1, 2, 3),
    in_chans: int = 3,
    drop_path_rate: float = 0.0,
    proj_drop_rate: float = 0.0,
    attn_drop_rate: float = 0.0,
) -> Twins:
    """Build a backbone, which maps images `(B, C, H, W)` to feature maps; `channels` and `strides` describe these.

    Args:
        name: any name of a model, such as `twins_svt_small` or `Twins-SVT-S`.
        weights: `None` initialises as the reference does, nano networks by their widths (`TwinsConfig.linear_init`);
            else `"published"`, a published name, or a path.
        weights_key: where the network stands in a file that holds several, see `load_weights`.
        padding: `exact`, `reference` or `unmasked`; see `Twins`.
        stage_norms: whether each stage ends in a norm; `None`: as published, yes for SVT and no for PCPVT.
        out_indices: stages whose maps are returned.
        in_chans: channels of the images; weights for RGB are adapted to them as in timm.
        drop_path_rate: stochastic depth of the last block.
        proj_drop_rate: dropout after projections and in the feed-forward part.
        attn_drop_rate: dropout of attention weights.

    Raises:
        NotFoundError: no model or file has this name.
        ConfigError: a setting is out of range.
        WeightsError: the file cannot be read or does not fit.
    """
    name = resolve_name(name)
    _check_weights_key(weights, weights_key)
    backbone = Twins(
        VARIANTS[name],
        in_chans=in_chans,
        padding=padding,
        stage_norms=VARIANTS[name].family == "svt" if stage_norms is None else stage_norms,
        out_indices=out_indices,
        drop_path_rate=drop_path_rate,
        proj_drop_rate=proj_drop_rate,
        attn_drop_rate=attn_drop_rate,
    )
    if weights is not None:
        checkpoint = _read_weights(name, weights, weights_key)
        backbone.load_report = load_checkpoint(backbone, checkpoint, adapt_channels=True)
    return backbone


def create_model(
    name: str,
    *,
    task: str = "classification",
    head: str | None = None,
    num_classes: int | None = None,
    weights: str | Path | None = None,
    weights_key: str | None = None,
    padding: str | None = None,
    in_chans: int = 3,
    drop_rate: float | None = None,
    drop_path_rate: float = 0.0,
    proj_drop_rate: float = 0.0,
    attn_drop_rate: float = 0.0,
    names: Sequence[str] = (),
    preprocess: Preprocess | None = None,
    norm: str | None = None,
    anchor_scale: float | None = None,
    resize_head: bool = False,
) -> TaskNetwork:
    """Build a network for a task, and load its weights if `weights` is set.

    Args:
        name: any name of a model, such as `twins_svt_small` or `Twins-SVT-S`.
        task: `classification`, `semantic`, `detection` or `instance`.
        head: `semantic_fpn` (default) or `upernet` for semantic segmentation, `retinanet` (default) or `faster_rcnn`
            for detection, `mask_rcnn` for instance segmentation. `None`: that of the weights, else the default.
            Classification takes no name.
        num_classes: number of classes; background can be one only in semantic segmentation. `None`: that of `names` or
            the weights, else as published: 1000, 150, 80 and 80. A classifier with 0 classes returns features.
        weights: `None` initialises as the reference does, nano networks by their widths (`TwinsConfig.linear_init`);
            else `"published"`, a published name, or a path.
        weights_key: where the network stands in a file that holds several, see `load_weights`.
        padding: `exact`, `reference` or `unmasked`; `None`: as the weights were trained, else `exact`.
        in_chans: channels of the images; weights for RGB are adapted to them as in timm.
        drop_rate: dropout before the classification layer; `None`: as published, 0 for classification and 0.1 for
            semantic. Not for detectors.
        drop_path_rate: stochastic depth of the last block.
        proj_drop_rate: dropout after projections and in the feed-forward part.
        attn_drop_rate: dropout of attention weights.
        names: class names by class id.
        preprocess: preprocessing of the images; `None`: as saved with the weights, else the reference's.
        norm: norm of a semantic head, `batch` or `group`; `None`: that of the weights, else `batch`, as published.
        anchor_scale: side of a detector's smallest square anchors in multiples of the level's stride; `None`: that of
            the weights, else as published, 4 for RetinaNet and 8 for the others. Half of it suits small objects.
        resize_head: initialise the head if the weights have no head, another task's, or another number of classes.

    Raises:
        NotFoundError: no model, task or file has this name.
        ConfigError: a setting is out of range, or not for this task.
        WeightsError: the file cannot be read or does not fit.
    """
    name, facts = resolve_name(name), facts_of(task)
    _check_classes(num_classes, names)
    _check_settings(task, facts, drop_rate, norm, anchor_scale)
    _check_weights_key(weights, weights_key)
    checkpoint = None if weights is None else _read_weights(name, weights, weights_key)
    if checkpoint is not None:
        check_channels(checkpoint, in_chans)
    weights_info = _weights_info_of(checkpoint, resize_head)
    task_info = weights_info if weights_info is not None and weights_info.task == task else None
    info = _default_info(
        name, task, check_head(task, head or (task_info.head if task_info else None)), weights_info, task_info
    )
    num_classes, names = _class_count_and_names(task, num_classes, names, task_info)
    requested = {"padding": padding, "preprocess": preprocess, "norm": norm, "anchor_scale": anchor_scale}
    overrides: dict[str, Any] = {field: value for field, value in requested.items() if value is not None}
    model = model_from_info(
        replace(info, num_classes=num_classes, names=tuple(names), in_chans=in_chans, **overrides),
        drop_rate=drop_rate,
        drop_path_rate=drop_path_rate,
        proj_drop_rate=proj_drop_rate,
        attn_drop_rate=attn_drop_rate,
    )
    if checkpoint is not None:
        model.load_report = load_checkpoint(model, checkpoint, resize_head=resize_head, adapt_channels=True)
    return model


def _weights_info_of(checkpoint: Checkpoint | None, resize_head: bool) -> ModelInfo | None:
    """Return the `ModelInfo` of the weights; `None` without weights, or for a backbone that gets a new head."""
    if checkpoint is None or (resize_head and not has_head(checkpoint)):
        return None
    return _info_of(checkpoint)


def _default_info(
    name: str, task: str, head: str | None, weights_info: ModelInfo | None, task_info: ModelInfo | None
) -> ModelInfo:
    """Default `ModelInfo`: from the checkpoint, else as published.

    Args:
        name: canonical name of the model.
        task: task of the network.
        head: name of the head, `None` for a task with a single head.
        weights_info: description of the weights, of any task.
        task_info: the same if the weights are of this task, else `None`.
    """
    facts = facts_of(task)
    return ModelInfo(
        task=task,
        model=name,
        head=head,
        num_classes=task_info.num_classes if task_info else facts.num_classes,
        padding=weights_info.padding if weights_info else "exact",
        stage_norms=task_info.stage_norms if task_info else facts.stage_norms and VARIANTS[name].family == "svt",
        preprocess=_default_preprocess(facts, weights_info, task_info),
        norm=task_info.norm if task_info else "batch",
        width=task_info.width if task_info else None if name in PUBLISHED else facts.nano_width,
        anchor_scale=task_info.anchor_scale if task_info and task_info.head == head else None,
        relu_before_p7=task_info is not None and task_info.head == head and task_info.relu_before_p7,
    )


def model_from_checkpoint(path_or_name: str | Path, *, weights_key: str | None = None) -> TaskNetwork:
    """Build the network of a checkpoint of any known layout, and load its weights.

    Args:
        path_or_name: a file or a published name.
        weights_key: where the network stands in a file that holds several, see `load_weights`.

    Raises:
        NotFoundError: no file or published model has this name.
        WeightsError: the file cannot be read, or holds no known network.
    """
    checkpoint = read_tensors(resolve(path_or_name), key=weights_key)
    model = model_from_info(_info_of(checkpoint))
    model.load_report = load_checkpoint(model, checkpoint)
    return model


def model_from_info(
    info: ModelInfo,
    *,
    drop_rate: float | None = None,
    drop_path_rate: float = 0.0,
    proj_drop_rate: float = 0.0,
    attn_drop_rate: float = 0.0,
) -> TaskNetwork:
    """Build the network that `info` describes, with initial weights; the rates are those of `create_model`."""
    backbone = create_backbone(
        info.model,
        padding=info.padding,
        stage_norms=info.stage_norms,
        in_chans=info.in_chans,
        drop_path_rate=drop_path_rate,
        proj_drop_rate=proj_drop_rate,
        attn_drop_rate=attn_drop_rate,
    )
    info = replace(info, preprocess=info.preprocess.for_channels(info.in_chans))
    dropout = facts_of(info.task).drop_rate if drop_rate is None else drop_rate
    return part_of(info.task, "network").build(backbone, info, drop_rate=dropout)


def check_head(task: str, head: str | None) -> str | None:
    """Return the name of a task's head, for `None` the default; `None` for a task with a single head.

    Raises:
        ConfigError: the task does not have this head.
    """
    heads = [name for name in facts_of(task).heads if name is not None]
    if not heads:
        if head is not None:
            raise ConfigError(f'{task} has one head and takes no name for it, found `head="{head}"`; leave it out')
        return None
    if head is not None and head not in heads:
        raise ConfigError(f"the heads of {task} are {', '.join(heads)}, found {head!r}{nearest(head, heads)}")
    return head or heads[0]


def _class_count_and_names(
    task: str, count: int | None, names: Sequence[str], task_info: ModelInfo | None
) -> tuple[int, Sequence[str]]:
    """Return the number of classes and their names: as requested, else from the task's weights, else as published.

    Raises:
        ConfigError: the number of names is not the number of classes.
    """
    if count is None:
        count = len(names) or (task_info.num_classes if task_info else facts_of(task).num_classes)
    if names and len(names) != count:
        raise ConfigError(
            f"`names` must list one name per class, found {len(names)} for {number_of(count, 'class', 'classes')}"
        )
    return count, names or (task_info.names if task_info and task_info.num_classes == count else ())


def _check_classes(num_classes: int | None, names: Sequence[str]) -> None:
    """Raise ConfigError for a number of classes that is no integer, or names that are no texts or not unique."""
    if num_classes is not None and type(num_classes) is not int:
        raise ConfigError(f"`num_classes` must be a whole number, found {num_classes!r}")
    if isinstance(names, str) or not all(isinstance(name, str) for name in names):
        raise ConfigError(f"`names` must be a list of texts, one per class, found {names!r}")
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated and tuple(names) != imagenet_names():  # ImageNet has two cranes and two maillots
        raise ConfigError(f"`names` must differ, found {repeated[0]!r} more than once")


def _check_settings(
    task: str, facts: TaskFacts, drop_rate: float | None, norm: str | None, anchor_scale: float | None
) -> None:
    """Raise ConfigError for a setting that is out of range, or not for this task."""
    if drop_rate is not None and not 0 <= drop_rate < 1:
        raise ConfigError(f"`drop_rate` must be at least 0 and below 1, found {drop_rate}")
    if anchor_scale is not None and not 0 < anchor_scale < math.inf:
        raise ConfigError(f"`anchor_scale` must be above 0 and finite, found {anchor_scale}")
    requested = {
        "drop_rate": drop_rate or None,
        "norm": None if norm == "batch" else norm,
        "anchor_scale": anchor_scale,
    }
    for name, value in requested.items():
        if value is not None and name not in facts.network_settings:
            tasks = " and ".join(tasks_with("network_settings", name))
            raise ConfigError(f"`{name}` is for {tasks}, found {value!r} for {task}; leave it out")


def _default_preprocess(facts: TaskFacts, weights_info: ModelInfo | None, task_info: ModelInfo | None) -> Preprocess:
    """Return the preprocessing of the task's weights, else that of the task with the normalisation of the weights."""
    if task_info is not None:
        return task_info.preprocess
    default = facts.preprocess
    return (
        default
        if weights_info is None
        else replace(default, mean=weights_info.preprocess.mean, std=weights_info.preprocess.std)
    )


def _check_weights_key(weights: str | Path | None, weights_key: str | None) -> None:
    """Raise ConfigError for a key without a file, or weights that are neither a path nor a name."""
    check_type(weights, str | Path | None, "weights", "a path, a published name or None")
    if weights is None and weights_key is not None:
        raise ConfigError(f"`weights_key={weights_key}` chooses a network of a file; give `weights=PATH` too")


def _read_weights(name: str, weights: str | Path, weights_key: str | None) -> Checkpoint:
    """Read weights by name or path; `published` means the published weights of the model."""
    if is_invalid_path(weights):
        raise NotFoundError(f"there is no weight file {weights}; check the path")
    return read_tensors(resolve(name if weights == "published" else weights), key=weights_key)


def _info_of(checkpoint: Checkpoint) -> ModelInfo:
    """Return the `ModelInfo` that a checkpoint contains, or one inferred from its tensors."""
    info = checkpoint.info or infer_info(checkpoint)
    if info.num_classes < 1 and info.head is not None:
        raise WeightsError(
            f"{checkpoint.path} holds a {info.head} whose class layer is too small for a class; is it whole?"
        )
    return info
