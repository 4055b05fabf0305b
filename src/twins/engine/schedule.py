"""The learning rate and the EMA's decay as pure functions of how far a run is."""

from __future__ import annotations

import math
from collections.abc import Sequence

from twins.engine.config import TrainConfig

MAX_WARMUP = 0.5
"""Largest share of a run that is warm-up, however short the run is made."""


def learning_rate(progress: float, *, peak: float, warmup: float, warmup_lr: float, min_lr: float) -> float:
    """Return the learning rate: linear from `warmup_lr` to `peak`, then a cosine to `min_lr`.

    The cosine is that of the reference (timm's): it spans the whole run, and the warm-up covers its beginning.

    Args:
        progress: how much of the run is done, 0..1.
        peak: largest rate.
        warmup: share of the run that is warm-up, 0..1.
        warmup_lr: first rate.
        min_lr: last rate.
    """
    if progress < warmup:
        return warmup_lr + (peak - warmup_lr) * progress / warmup
    return min_lr + 0.5 * (peak - min_lr) * (1.0 + math.cos(math.pi * min(progress, 1.0)))


def poly_rate(progress: float, *, peak: float, power: float, warmup: float, warmup_lr: float, min_lr: float) -> float:
    """Return the learning rate of mmsegmentation's `poly` policy: `(1 - progress) ^ power` from `peak` to `min_lr`.

    The curve spans the whole run; the warm-up rises from `warmup_lr` to meet it. Arguments as in `learning_rate`.
    """
    curve = min_lr + (peak - min_lr) * (1.0 - min(progress, 1.0)) ** power
    return warmup_lr + (curve - warmup_lr) * progress / warmup if progress < warmup else curve


def step_rate(
    progress: float, *, peak: float, drops: Sequence[float], warmup: float, warmup_lr: float, min_lr: float
) -> float:
    """Return the learning rate that falls to a tenth at each of some shares of the run.

    The warm-up rises from `warmup_lr`. Arguments as in `learning_rate`.
    """
    rate = max(min_lr, peak * 0.1 ** sum(progress >= drop for drop in drops))
    return warmup_lr + (rate - warmup_lr) * progress / warmup if progress < warmup else rate


def scheduled_rate(config: TrainConfig, progress: float) -> float:
    """Return a run's learning rate at `progress`, 0..1."""
    schedule = config.schedule
    warmup, ends = warmup_share(config), {"warmup_lr": schedule.warmup_lr, "min_lr": schedule.min_lr}
    if schedule.kind == "poly":
        return poly_rate(progress, peak=config.lr, power=schedule.power, warmup=warmup, **ends)
    if schedule.kind == "step":
        drops = [epoch / config.epochs for epoch in schedule.drop_epochs]
        return step_rate(progress, peak=config.lr, drops=drops, warmup=warmup, **ends)
    return learning_rate(progress, peak=config.lr, warmup=warmup, **ends)


def warmup_share(config: TrainConfig) -> float:
    """Return the share of a run that is warm-up."""
    schedule = config.schedule
    share = schedule.warmup_epochs / config.epochs
    if config.steps and schedule.warmup_steps is not None:
        share = schedule.warmup_steps / config.steps
    return min(share, MAX_WARMUP)


def ema_decay(step: int, decay: float) -> float:
    """Return the EMA's decay at an optimiser step: small at first, so that early weights are soon forgotten."""
    return min(decay, (1.0 + step) / (10.0 + step))


def total_steps(config: TrainConfig, steps_per_epoch: int) -> int | None:
    """Return the optimiser steps of a run, or `None` where time alone ends it."""
    planned = config.steps or max(1, round(config.epochs * steps_per_epoch))
    steps = None if config.minutes else planned
    if config.max_steps is None:
        return steps
    return config.max_steps if steps is None else min(steps, config.max_steps)
