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
from twins.errors import ConfigError, NotFoundError, WeightsError, nearest
from twins.files import too_long
from twins.preprocess import Preprocess
from twins.tasks.facts import TaskFacts
from twins.tasks.network import TaskNetwork
from twins.tasks.table import facts_of, part_of, tasks_with
from twins.weights.files import Checkpoint, read_tensors
from twins.weights.info import ModelInfo
from twins.weights.loading import holds_head, infer_info, load_checkpoint
from twins.weights.store import resolve


def create_backbone(
    name: str,
    *,
    weights: str | Path | None = None,
    padding: str = "exact",
    stage_norms: bool | None = None,
    out_indices: Sequence[int] = (0, 1, 2, 3),
    in_chans: int = 3,
    drop_path_rate: float = 0.0,
    proj_drop_rate: float = 0.0,
    attn_drop_rate: float = 0.0,
) -> Twins:
    """Build a backbone: images `(B, C, H, W)` to four maps, with `channels` and `strides`.

    Args:
        name: any name of a model, such as `twins_svt_small` or `Twins-SVT-S`.
        weights: `None` initialises as the reference does; `"published"`, a published name, or a file's path.
        padding: `exact`, `reference` or `unmasked`; see `Twins`.
        stage_norms: whether each stage ends in a norm; `None` is as published, yes for SVT and no for PCPVT.
        out_indices: the stages whose maps come back.
        in_chans: channels of the images.
        drop_path_rate: stochastic depth of the last block.
        proj_drop_rate: dropout after projections and in the feed-forward part.
        attn_drop_rate: dropout of attention weights.

    Raises:
        NotFoundError: no model or file is called so.
        ConfigError: a setting that no Twins network has.
        WeightsError: the file does not fit.
    """
    name = resolve_name(name)
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
        backbone.load_report = load_checkpoint(backbone, _find(name, weights))
    return backbone


def create_model(
    name: str,
    *,
    task: str = "classification",
    head: str | None = None,
    num_classes: int | None = None,
    weights: str | Path | None = None,
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
    """Build a network for a task, with its weights where they are asked for.

    Args:
        name: any name of a model, such as `twins_svt_small` or `Twins-SVT-S`.
        task: `classification`, `semantic`, `detection` or `instance`.
        head: which of the task's heads; `None` is that of the weights, or the default. Classification has one;
            semantic segmentation has `semantic_fpn`, the default, and `upernet`; detection `retinanet`, the default,
            and `faster_rcnn`; instance segmentation `mask_rcnn`.
        num_classes: classes; `None` takes as many as the weights or `names` have, else as the published networks:
            1000, 150, 80 and 80. A classifier of 0 returns features. Background is a class in semantic segmentation
            alone.
        weights: `None` initialises as the reference does; `"published"`, a published name, or a file's path.
        padding: `exact`, `reference` or `unmasked`; `None` is what the weights were trained with, else `exact`.
        in_chans: channels of the images.
        drop_rate: dropout before the classifier; `None` is as published: 0 for classification, 0.1 for semantic.
            Detectors have none.
        drop_path_rate: stochastic depth of the last block.
        proj_drop_rate: dropout after projections and in the feed-forward part.
        attn_drop_rate: dropout of attention weights.
        names: class names by class id.
        preprocess: how images are prepared; `None` is what belongs to the weights, else the reference's.
        norm: norm of a semantic head, `batch` or `group`; `None` is that of the weights, else `batch`, as published.
            Detectors have none.
        anchor_scale: side of a detector's smallest square anchors in multiples of a level's stride; `None` is that of
            the weights, else as published: 4 of RetinaNet, 8 of the others. Half of it suits small objects.
        resize_head: put a fresh head where the weights have none, another task's, or one of other classes.

    Raises:
        NotFoundError: no model, task or file is called so.
        ConfigError: a setting that no Twins network has.
        WeightsError: the file does not fit.
    """
    name, facts = resolve_name(name), facts_of(task)
    _check_classes(num_classes, names)
    _check_settings(task, facts, drop_rate, norm, anchor_scale)
    checkpoint = None if weights is None else _find(name, weights)
    known = _known(checkpoint, resize_head)
    same = known if known is not None and known.task == task else None
    info = _usual_info(name, task, check_head(task, head or (same.head if same else None)), known, same)
    num_classes, names = _classes(task, num_classes, names, same)
    said = {"padding": padding, "preprocess": preprocess, "norm": norm, "anchor_scale": anchor_scale}
    given: dict[str, Any] = {field: value for field, value in said.items() if value is not None}
    model = model_from_info(
        replace(info, num_classes=num_classes, names=tuple(names), in_chans=in_chans, **given),
        drop_rate=drop_rate,
        drop_path_rate=drop_path_rate,
        proj_drop_rate=proj_drop_rate,
        attn_drop_rate=attn_drop_rate,
    )
    if checkpoint is not None:
        model.load_report = load_checkpoint(model, checkpoint, resize_head=resize_head)
    return model


def _known(checkpoint: Checkpoint | None, resize_head: bool) -> ModelInfo | None:
    """Return what weights say of themselves; nothing where there are none, or a backbone's alone for a fresh head."""
    if checkpoint is None or (resize_head and not holds_head(checkpoint)):
        return None
    return _describe(checkpoint)


def _usual_info(name: str, task: str, head: str | None, known: ModelInfo | None, same: ModelInfo | None) -> ModelInfo:
    """Default `ModelInfo`: from the checkpoint, else as published.

    Args:
        name: canonical name of the model.
        task: its task.
        head: which of the task's heads.
        known: what the weights say of themselves, of any task.
        same: the same, where they are of this task.
    """
    facts = facts_of(task)
    return ModelInfo(
        task=task,
        model=name,
        head=head,
        num_classes=same.num_classes if same else facts.num_classes,
        padding=known.padding if known else "exact",
        stage_norms=same.stage_norms if same else facts.stage_norms and VARIANTS[name].family == "svt",
        preprocess=_preprocess(facts, known, same),
        norm=same.norm if same else "batch",
        width=same.width if same else None if name in PUBLISHED else facts.nano_width,
        anchor_scale=same.anchor_scale if same and same.head == head else None,
    )


def model_from_checkpoint(path_or_name: str | Path) -> TaskNetwork:
    """Rebuild the network that a checkpoint holds, of any known layout, and load it.

    Raises:
        NotFoundError: nothing is called so.
        WeightsError: the file cannot be read, or holds no network that is known.
    """
    checkpoint = read_tensors(resolve(path_or_name))
    model = model_from_info(_describe(checkpoint))
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
    """Build the network that a description is of, with fresh weights; rates are those of `create_model`."""
    backbone = create_backbone(
        info.model,
        padding=info.padding,
        stage_norms=info.stage_norms,
        in_chans=info.in_chans,
        drop_path_rate=drop_path_rate,
        proj_drop_rate=proj_drop_rate,
        attn_drop_rate=attn_drop_rate,
    )
    dropout = facts_of(info.task).drop_rate if drop_rate is None else drop_rate
    return part_of(info.task, "network").build(backbone, info, drop_rate=dropout)


def check_head(task: str, head: str | None) -> str | None:
    """Return the name of a task's head, its default for `None`; a task with one head has no name for it.

    Raises:
        ConfigError: a head that the task does not have.
    """
    heads = [name for name in facts_of(task).heads if name is not None]
    if not heads:
        if head is not None:
            raise ConfigError(f'{task} has one head and takes no name for it, found `head="{head}"`; leave it out')
        return None
    if head is not None and head not in heads:
        raise ConfigError(f"the heads of {task} are {', '.join(heads)}, found {head!r}{nearest(head, heads)}")
    return head or heads[0]


def _classes(task: str, count: int | None, names: Sequence[str], same: ModelInfo | None) -> tuple[int, Sequence[str]]:
    """Return the number of classes and their names, from what is said, what the task's weights say, or as published.

    Raises:
        ConfigError: another number of names than of classes.
    """
    if count is None:
        count = len(names) or (same.num_classes if same else facts_of(task).num_classes)
    if names and len(names) != count:
        raise ConfigError(f"names must list one name per class, found {len(names)} for {count} classes")
    return count, names or (same.names if same and same.num_classes == count else ())


def _check_classes(num_classes: int | None, names: Sequence[str]) -> None:
    """Raise ConfigError for a number of classes that is none, or names that cannot tell classes apart."""
    if num_classes is not None and type(num_classes) is not int:
        raise ConfigError(f"num_classes must be a whole number, found {num_classes!r}")
    if isinstance(names, str) or not all(isinstance(name, str) for name in names):
        raise ConfigError(f"names must be a list of texts, one per class, found {names!r}")
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice and tuple(names) != imagenet_names():  # which has two cranes and two maillots
        raise ConfigError(f"names must differ, found {twice[0]!r} more than once")


def _check_settings(
    task: str, facts: TaskFacts, drop_rate: float | None, norm: str | None, anchor_scale: float | None
) -> None:
    """Raise ConfigError for a setting out of range, or one that a task's networks do not have."""
    if drop_rate is not None and not 0 <= drop_rate < 1:
        raise ConfigError(f"`drop_rate` must be at least 0 and below 1, found {drop_rate}")
    if anchor_scale is not None and not 0 < anchor_scale < math.inf:
        raise ConfigError(f"`anchor_scale` must be above 0 and finite, found {anchor_scale}")
    given = {"drop_rate": drop_rate or None, "norm": None if norm == "batch" else norm, "anchor_scale": anchor_scale}
    for name, value in given.items():
        if value is not None and name not in facts.network_settings:
            meant = " and ".join(tasks_with("network_settings", name))
            raise ConfigError(f"`{name}` is for {meant}, found {value!r} for {task}; leave it out")


def _preprocess(facts: TaskFacts, known: ModelInfo | None, same: ModelInfo | None) -> Preprocess:
    """Return how a task's images are prepared: as the weights say, of another task's weights their normalisation."""
    if same is not None:
        return same.preprocess
    usual = facts.preprocess
    return usual if known is None else replace(usual, mean=known.preprocess.mean, std=known.preprocess.std)


def _find(name: str, weights: str | Path) -> Checkpoint:
    """Read the weights that a caller names; `published` is the model's own."""
    if too_long(weights):
        raise NotFoundError(f"there is no weight file {weights}; check the path")
    return read_tensors(resolve(name if weights == "published" else weights))


def _describe(checkpoint: Checkpoint) -> ModelInfo:
    """Return what a checkpoint says of itself, or what its tensors tell."""
    info = checkpoint.info or infer_info(checkpoint)
    if info.num_classes < 1 and info.head is not None:
        raise WeightsError(
            f"{checkpoint.path} holds a {info.head} whose class layer is too small for a class; is it whole?"
        )
    return info
