"""The choosing of a run's settings by the default recipe: what it knows of the data and of the machine's speed."""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from twins.data.base import Splits
from twins.data.loading.loader import TrainSamples
from twins.data.summary import summarise
from twins.engine.config import TrainConfig
from twins.engine.optim import build_optimizer, train_mode
from twins.factory import create_model
from twins.tasks.choices import Choice
from twins.tasks.contract import TaskSpec
from twins.tasks.default_recipe import PROBES, Chooser
from twins.tasks.recipes import recipes_of
from twins.tasks.table import facts_of
from twins.weights.files import read_tensors

_STEPS = 3
"""Steps of a measurement; the fastest one counts."""
_LOADED = 6
"""Training images that are loaded to measure it."""


def choose_settings(
    config: TrainConfig,
    given: Collection[str],
    spec: TaskSpec,
    splits: Splits[Any],
    device: torch.device,
    processes: int = 1,
) -> tuple[TrainConfig, tuple[Choice, ...]]:
    """Return the settings of a run of the default recipe, and what was chosen.

    Args:
        config: settings as given.
        given: dotted names of the given settings, which are kept.
        spec: the task spec.
        splits: training and held-out images.
        device: device of the run; with a time budget, training steps are measured on it.
        processes: training processes.

    Raises:
        DataError: none of the sampled images can be read.
        ConfigError: a chosen setting contradicts a given one.
    """
    data = summarise(splits, spec.sides)
    if Path(config.weights).is_file():
        info = read_tensors(config.weights, key=config.weights_key).info
        if info is not None and info.task == config.task:  # its head was trained with its anchors
            given = {*given, "detection.anchor_scale"}

    probe = min(facts_of(config.task).batch_size, 16) // 2
    chooser = Chooser(
        config,
        given,
        data,
        lambda settings, shape: _step_seconds(settings, spec, splits, device, (probe, *shape)),
        loading=lambda settings: _loading_seconds(settings, spec, splits),
        probe=probe,
        square=spec.shapes(splits.train) is None,
        processes=processes,
    )
    recipes_of(config.task).choose(chooser)
    return chooser.finish()


def _loading_seconds(config: TrainConfig, spec: TaskSpec, splits: Splits[Any]) -> float:
    """Return the seconds of loading a training image at a small size: the median of a few, spread over the set."""
    small = replace(config, size=PROBES[1], semantic=replace(config.semantic, crop=PROBES[1]))
    preprocess = spec.preprocess(small, facts_of(config.task).preprocess)
    samples = TrainSamples(splits.train, spec.train_transform(small, preprocess), seed=config.seed)
    times: list[float] = []
    for index in np.linspace(0, len(splits.train) - 1, _LOADED).round().astype(int).tolist():
        started = time.perf_counter()
        samples[0, index, 0]
        times.append(time.perf_counter() - started)
    return median(times)


def _step_seconds(
    config: TrainConfig, spec: TaskSpec, splits: Splits[Any], device: torch.device, shape: tuple[int, int, int]
) -> float:
    """Return the seconds of a training step on a random network and images `(batch, height, width)`."""
    (batch, *size), names = shape, splits.train.names
    network: Any = create_model(config.model, task=config.task, head=config.head, names=names)
    unread = replace(config, class_weights="none", semantic=replace(config.semantic, prior_bias=False))
    spec.configure(network, unread, splits.train)  # counting classes reads all masks and does not change the time
    network.to(device)
    train_mode(network)
    optimizer = build_optimizer(network, config.optimizer)
    images = torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(0)).to(device)
    targets = spec.synthetic_targets(images, len(names))
    times: list[float] = []
    for _ in range(_STEPS):
        started = time.perf_counter()
        loss = torch.stack(list(network.losses(images, targets).values())).sum()
        torch.autograd.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        loss.item()  # waits for the device
        times.append(time.perf_counter() - started)
    return min(times)
