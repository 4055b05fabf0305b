"""Settings that `defaults.py` compares, as data: the default recipes of 0.1.0, a sweep of 12 per task, and the peers'.

A setting here is named as in `config.yaml`. The recipes of 0.1.0 are complete, so that they stay as they were.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

Settings = dict[str, Any]
"""Settings of a training as in `config.yaml`; groups are nested."""


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """A data set of the benchmark, and what an expert knows of it before the sweep."""

    name: str
    task: str
    folder: str | None = None
    """Folder below the root; `None` is an embedded set."""
    classifier: str
    """Data set of the classifier that a run starts from, a key of `CLASSIFIERS`."""
    sizes: tuple[int, int, int]
    """Small, medium and large input side in pixels, from which the sweep takes."""
    hflip: float = 0.5
    """Probability of a left-right flip."""
    known: Settings = field(default_factory=dict)
    """Further settings of the sweep."""


SETS = (
    DataSet(name="digits", task="classification", classifier="sign_digits", sizes=(32, 32, 48), hflip=0.0),
    DataSet(
        name="sign_digits",
        task="classification",
        folder="classification/sign_digits",
        classifier="digits",
        sizes=(64, 96, 128),
    ),
    DataSet(name="scenes", task="semantic", classifier="digits", sizes=(96, 112, 160), hflip=0.0),
    DataSet(name="scenes", task="detection", classifier="digits", sizes=(96, 112, 160), hflip=0.0),
    DataSet(name="scenes", task="instance", classifier="digits", sizes=(96, 112, 160), hflip=0.0),
    DataSet(name="bccd", task="detection", folder="detection/bccd", classifier="sign_digits", sizes=(192, 288, 416)),
    DataSet(name="nuts18", task="instance", folder="instance/nuts18", classifier="sign_digits", sizes=(192, 288, 416)),
    DataSet(
        name="dsb2018", task="semantic", folder="instance/dsb2018", classifier="sign_digits", sizes=(192, 256, 384)
    ),
    DataSet(
        name="dsb2018",
        task="instance",
        folder="instance/dsb2018",
        classifier="sign_digits",
        sizes=(192, 256, 384),
        known={"detection": {"anchor_scale": 2.0}},
    ),
)

BASE: Settings = {  # the defaults of TrainConfig in 0.1.0
    "model": "twins_svt_nano",
    "epochs": 20.0,
    "size": 224,
    "crop": 0.875,
    "fit": "crop",
    "batch_size": 64,
    "drop_path": 0.1,
    "ema_decay": None,
    "class_weights": "none",
    "freeze": 0,
    "patience": None,
    "eval_every": 1.0,
    "optimizer": {
        "lr": 3e-4,
        "lr_batch": None,
        "weight_decay": 0.05,
        "betas": [0.9, 0.999],
        "layer_decay": 0.75,
        "clip_grad": 5.0,
    },
    "schedule": {"kind": "cosine", "power": 1.0, "warmup_epochs": 1.0, "warmup_lr": 1e-6, "min_lr": 1e-6},
    "augment": {
        "scale": [0.5, 1.0],
        "hflip": 0.5,
        "rand_augment": "rand-m6-mstd0.5-inc1",
        "erasing": 0.1,
        "mixup": 0.0,
        "cutmix": 0.0,
        "smoothing": 0.1,
    },
    "semantic": {
        "crop": 512,
        "ratio": [0.5, 2.0],
        "longest": 2048,
        "max_share": 0.75,
        "hflip": 0.5,
        "vflip": 0.0,
        "photometric": True,
        "norm": "batch",
    },
    "detection": {"ratio": [1.0, 1.0], "longest": 1333, "hflip": 0.5, "anchor_scale": None, "samples": 512},
}
GROUPS = {
    "classification": ("augment",),
    "semantic": ("semantic",),
    "detection": ("detection",),
    "instance": ("detection",),
}
"""Groups of augmentation that a task has."""


def merge(*parts: Settings) -> Settings:
    """Return settings in which later ones override earlier ones, group by group."""
    merged: Settings = {}
    for part in parts:
        for name, value in part.items():
            merged[name] = merge(merged.get(name, {}), value) if isinstance(value, dict) else value
    return merged


def base(task: str) -> Settings:
    """Return the defaults of 0.1.0 without the augmentation of other tasks."""
    other = {group for groups in GROUPS.values() for group in groups} - set(GROUPS[task])
    return {"task": task} | {name: value for name, value in BASE.items() if name not in other}


def _adamw(lr: float, beta2: float = 0.999, decay: float | None = None, weight_decay: float = 0.05) -> Settings:
    return {"lr": lr, "betas": [0.9, beta2], "layer_decay": decay, "weight_decay": weight_decay}


_DETECTION_FINETUNE: Settings = {
    "size": 640,
    "epochs": 36.0,
    "batch_size": 8,
    "drop_path": 0.2,
    "eval_every": 3.0,
    "optimizer": _adamw(2e-4, decay=0.9, weight_decay=0.01),
    "schedule": {"warmup_epochs": 2.0, "min_lr": 1e-7},
    "detection": {"ratio": [0.8, 1.2]},
}
_DETECTION_SCRATCH: Settings = {
    "size": 320,
    "epochs": 60.0,
    "batch_size": 8,
    "drop_path": 0.0,
    "eval_every": 5.0,
    "optimizer": _adamw(1e-3),
    "schedule": {"warmup_epochs": 3.0},
    "detection": {"ratio": [0.8, 1.2]},
}
_SCENES: Settings = {
    "workers": 1,
    "size": 112,
    "batch_size": 4,
    "drop_path": 0.0,
    "optimizer": _adamw(2e-3, 0.98),
    "schedule": {"kind": "poly", "power": 0.9, "warmup_epochs": 1.0, "min_lr": 0.0},
}
OLD: dict[tuple[str, str], Settings] = {
    ("classification", "classifier"): {},
    ("classification", "scratch"): {
        "epochs": 100.0,
        "size": 64,
        "fit": "squash",
        "batch_size": 32,
        "drop_path": 0.05,
        "eval_every": 5.0,
        "optimizer": _adamw(1.5e-3),
        "schedule": {"warmup_epochs": 5.0, "min_lr": 1e-5},
        "augment": {"scale": [0.4, 1.0], "rand_augment": None},
    },
    ("classification", "digits"): {
        "epochs": 14.0,
        "workers": 0,
        "size": 32,
        "crop": 1.0,
        "batch_size": 32,
        "drop_path": 0.0,
        "optimizer": _adamw(1e-3),
        "schedule": {"warmup_lr": 1e-5},
        "augment": {"shift_pixels": 3, "hflip": 0.0, "rand_augment": None, "erasing": 0.0},
    },
    ("semantic", "classifier"): {
        "size": 512,
        "epochs": 80.0,
        "batch_size": 8,
        "drop_path": 0.2,
        "eval_every": 4.0,
        "optimizer": _adamw(2e-4, decay=0.9, weight_decay=0.01),
        "schedule": {"kind": "poly", "warmup_epochs": 4.0, "min_lr": 0.0},
    },
    ("semantic", "scratch"): {
        "size": 256,
        "epochs": 200.0,
        "batch_size": 8,
        "drop_path": 0.0,
        "eval_every": 10.0,
        "optimizer": _adamw(1.5e-3),
        "schedule": {"kind": "poly", "warmup_epochs": 5.0, "min_lr": 0.0},
        "semantic": {"crop": 192, "ratio": [0.75, 1.5]},
    },
    ("semantic", "scenes"): merge(
        _SCENES,
        {
            "drop_rate": 0.0,
            "optimizer": {"lr": 5e-3},
            "schedule": {"warmup_epochs": 2.0},
            "semantic": {"crop": 112, "ratio": [1.0, 1.0], "max_share": 1.0, "hflip": 0.0, "photometric": False},
        },
    ),
    ("detection", "classifier"): _DETECTION_FINETUNE,
    ("detection", "scratch"): _DETECTION_SCRATCH,
    ("detection", "scenes"): merge(_SCENES, {"detection": {"hflip": 0.0}}),
    ("instance", "classifier"): _DETECTION_FINETUNE,
    ("instance", "scratch"): _DETECTION_SCRATCH,
    ("instance", "scenes"): merge(_SCENES, {"detection": {"hflip": 0.0, "samples": 64}}),
}
"""The default recipes of 0.1.0 by task and start, or by task and embedded set, which has one for every start."""

SHIFT: Settings = {"shift_pixels": 3, "rand_augment": None, "erasing": 0.0}
LIGHT: Settings = {"scale": [0.6, 1.0], "rand_augment": None, "erasing": 0.0, "color_jitter": 0.2}
MEDIUM: Settings = {"scale": [0.4, 1.0], "rand_augment": None, "erasing": 0.1}
STRONG: Settings = {"scale": [0.3, 1.0], "rand_augment": "rand-m6-mstd0.5-inc1", "erasing": 0.25, "cutmix": 1.0}
NEAR: Settings = {"ratio": [0.8, 1.25], "photometric": False}
WIDE: Settings = {"ratio": [0.5, 2.0], "photometric": True}
STILL: Settings = {"ratio": [1.0, 1.0], "photometric": False}

# size (0 small, 1 medium, 2 large), batch, rate, beta 2, schedule, augmentation, layer-wise decay
SWEEPS: dict[str, tuple[tuple[int, int, float, float, str, Settings, float | None], ...]] = {
    "classification": (
        (0, 32, 1e-3, 0.999, "cosine", SHIFT, None),
        (0, 16, 2e-3, 0.98, "cosine", LIGHT, None),
        (1, 32, 1e-3, 0.999, "cosine", MEDIUM, None),
        (1, 32, 2e-3, 0.98, "poly", MEDIUM, None),
        (1, 16, 1e-3, 0.98, "cosine", STRONG, None),
        (1, 64, 3e-3, 0.98, "cosine", LIGHT, None),
        (1, 16, 2e-3, 0.98, "poly", SHIFT, None),
        (2, 16, 1e-3, 0.98, "cosine", MEDIUM, None),
        (2, 32, 2e-3, 0.98, "cosine", LIGHT, None),
        (2, 32, 5e-4, 0.999, "cosine", MEDIUM, 0.75),
        (1, 8, 5e-4, 0.98, "cosine", LIGHT, 0.85),
        (2, 16, 3e-3, 0.98, "poly", STRONG, None),
    ),
    "semantic": (
        (0, 4, 2e-3, 0.98, "poly", STILL, None),
        (0, 8, 5e-3, 0.98, "poly", NEAR, None),
        (1, 4, 2e-3, 0.98, "poly", NEAR, None),
        (1, 4, 5e-3, 0.98, "poly", STILL, None),
        (1, 2, 1e-3, 0.98, "cosine", NEAR, None),
        (1, 8, 3e-3, 0.98, "cosine", WIDE, None),
        (1, 4, 1e-3, 0.999, "poly", WIDE, None),
        (2, 4, 2e-3, 0.98, "poly", NEAR, None),
        (2, 4, 5e-3, 0.98, "cosine", STILL, None),
        (2, 2, 1e-3, 0.98, "poly", WIDE, None),
        (1, 4, 2e-3, 0.98, "poly", NEAR, 0.8),
        (2, 4, 1e-3, 0.98, "cosine", NEAR, 0.9),
    ),
    "detection": (
        (0, 4, 2e-3, 0.98, "poly", STILL, None),
        (0, 2, 1e-3, 0.98, "poly", NEAR, None),
        (1, 4, 2e-3, 0.98, "poly", NEAR, None),
        (1, 4, 1e-3, 0.98, "poly", STILL, None),
        (1, 2, 1e-3, 0.98, "cosine", NEAR, None),
        (1, 2, 2e-3, 0.98, "poly", STILL, None),
        (1, 8, 3e-3, 0.98, "cosine", NEAR, None),
        (1, 4, 5e-4, 0.999, "poly", WIDE, None),
        (2, 4, 2e-3, 0.98, "poly", NEAR, None),
        (2, 2, 1e-3, 0.98, "poly", STILL, None),
        (1, 4, 2e-3, 0.98, "poly", NEAR, 0.8),
        (2, 2, 1e-3, 0.98, "cosine", NEAR, 0.9),
    ),
}
SWEEPS["instance"] = SWEEPS["detection"]


def whole(task: str) -> Settings:
    """Return what shows a classifier the whole image; other tasks do not know these settings."""
    return {"crop": 1.0, "fit": "squash"} if task == "classification" else {}


def alike(task: str, number: int) -> int:
    """Return the sweep's first entry whose steps take as long: the same size, batch and augmentation."""
    keys = [(size, batch, augmentation) for size, batch, _, _, _, augmentation, _ in SWEEPS[task]]
    return keys.index(keys[number])


def sweep(data: DataSet, number: int) -> Settings:
    """Return the settings of the sweep's entry `number`, from 0."""
    size, batch, lr, beta2, kind, augmentation, decay = SWEEPS[data.task][number]
    (group,) = GROUPS[data.task]
    changes = {"hflip": data.hflip, **augmentation}
    if data.task == "semantic":
        changes |= {"crop": data.sizes[size], "max_share": 1.0}
    if data.task == "instance":
        changes |= {"samples": 128}
    settings: Settings = {
        "size": data.sizes[size],
        **whole(data.task),
        "batch_size": batch,
        "drop_path": 0.0,
        "epochs": 100.0,  # only sets the share of warm-up
        "eval_every": 10.0,
        "workers": 1,
        "optimizer": _adamw(lr, beta2, decay),
        "schedule": {"kind": kind, "power": 0.9, "warmup_epochs": 5.0, "min_lr": 0.0},
        group: changes,
    }
    return merge(base(data.task), settings, data.known)


def old(data: DataSet, start: str) -> Settings:
    """Return the default recipe of 0.1.0."""
    key = (data.task, data.name)
    return merge(base(data.task), OLD.get(key) or OLD[data.task, start])


CLASSIFIERS: dict[str, int] = {"digits": 630, "sign_digits": 1300}
"""Optimiser steps of the classifiers from which runs start: 14 and 100 epochs, some minutes on two cores."""


def peer(data: DataSet, optimizer: str) -> Settings:
    """Return a peer's settings: those of torchvision's and timm's training scripts, or the same with AdamW.

    Rates of SGD are the scripts', scaled to the batch: detection 0.02 for 16 images with two drops, segmentation 0.01
    for 16 with `poly`, classification 0.1 for 128 with a cosine. AdamW has 1e-3.
    """
    (group,) = GROUPS[data.task]
    objects = group == "detection"
    batch = 32 if data.task == "classification" else 4 if objects else 8
    rate = {"augment": 0.1 / 128, "semantic": 0.01 / 16, "detection": 0.02 / 16}[group] * batch
    kind = {"augment": "cosine", "semantic": "poly", "detection": "step"}[group]
    size = 320 if objects and data.folder else data.sizes[1]
    augmentation = {
        "augment": {"scale": [0.35, 1.0], "rand_augment": "rand-m6-mstd0.5-inc1" if data.folder else None},
        "semantic": {"crop": size, "ratio": [0.75, 1.5], "max_share": 1.0},
        "detection": {"longest": 640},
    }[group]
    settings: Settings = {
        "size": size,
        **whole(data.task),
        "batch_size": batch,
        "epochs": 26.0,
        "optimizer": _adamw(rate if optimizer == "sgd" else 1e-3, weight_decay=1e-4 if optimizer == "sgd" else 0.05),
        "schedule": {
            "kind": kind if optimizer == "sgd" else "poly",
            "power": 0.9,
            "drop_epochs": [16.0, 22.0],
            "warmup_epochs": 1.0,
            "min_lr": 0.0,
        },
        group: {**augmentation, "hflip": data.hflip},
    }
    return merge(base(data.task), settings)
