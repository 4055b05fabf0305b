"""The learning rate and the EMA's decay as pure functions of the share of the run that is done."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from twins.engine.config import TrainConfig

MAX_WARMUP = 0.5
"""Largest share of a run that is warm-up, even of a very short run."""


def learning_rate(share_done: float, *, peak: float, warmup: float, warmup_lr: float, min_lr: float) -> float:
    """Return the learning rate: linear from `warmup_lr` to `peak`, then a cosine to `min_lr`.

    As in the reference (timm), the cosine spans the whole run, and the warm-up replaces its beginning.

    Args:
        share_done: share of the run that is done, 0..1.
        peak: largest learning rate.
        warmup: share of the run that is warm-up, 0..1.
        warmup_lr: learning rate at the start.
        min_lr: learning rate at the end.
    """
    if share_done < warmup:
        return warmup_lr + (peak - warmup_lr) * share_done / warmup
    return min_lr + 0.5 * (peak - min_lr) * (1.0 + math.cos(math.pi * min(share_done, 1.0)))


def poly_rate(share_done: float, *, peak: float, power: float, warmup: float, warmup_lr: float, min_lr: float) -> float:
    """Return the learning rate of mmsegmentation's `poly` policy: `(1 - share_done) ^ power` from `peak` to `min_lr`.

    The curve spans the whole run; the warm-up rises from `warmup_lr` to the curve. Arguments as in `learning_rate`.
    """
    curve = min_lr + (peak - min_lr) * (1.0 - min(share_done, 1.0)) ** power
    return warmup_lr + (curve - warmup_lr) * share_done / warmup if share_done < warmup else curve


def step_rate(
    share_done: float, *, peak: float, drops: Sequence[float], warmup: float, warmup_lr: float, min_lr: float
) -> float:
    """Return the learning rate of a step schedule: a tenth after each of `drops`, which are shares of the run.

    The warm-up rises from `warmup_lr`. Other arguments as in `learning_rate`.
    """
    rate = max(min_lr, peak * 0.1 ** sum(share_done >= drop for drop in drops))
    return warmup_lr + (rate - warmup_lr) * share_done / warmup if share_done < warmup else rate


def scheduled_rate(config: TrainConfig, share_done: float) -> float:
    """Return the learning rate of a run at `share_done`, 0..1."""
    schedule = config.schedule
    warmup, floor_rates = warmup_share(config), {"warmup_lr": schedule.warmup_lr, "min_lr": schedule.min_lr}
    if schedule.kind == "poly":
        return poly_rate(share_done, peak=config.lr, power=schedule.power, warmup=warmup, **floor_rates)
    if schedule.kind == "step":
        drops = [epoch / config.epochs for epoch in schedule.drop_epochs]
        return step_rate(share_done, peak=config.lr, drops=drops, warmup=warmup, **floor_rates)
    return learning_rate(share_done, peak=config.lr, warmup=warmup, **floor_rates)


def warmup_share(config: TrainConfig) -> float:
    """Return the share of a run that is warm-up."""
    schedule = config.schedule
    share = schedule.warmup_epochs / config.epochs
    if config.steps and schedule.warmup_steps is not None:
        share = schedule.warmup_steps / config.steps
    return min(share, MAX_WARMUP)


def ema_decay(step: int, decay: float) -> float:
    """Return the EMA's decay at an optimiser step: small at first, so that the initial weights soon lose influence."""
    return min(decay, (1.0 + step) / (10.0 + step))


def total_steps(config: TrainConfig, steps_per_epoch: int) -> int | None:
    """Return the optimiser steps of a run, or `None` if only its time budget ends it."""
    planned = config.steps or max(1, round(config.epochs * steps_per_epoch))
    steps = None if config.minutes else planned
    if config.max_steps is None:
        return steps
    return config.max_steps if steps is None else min(steps, config.max_steps)


def extend_run(
    requested: TrainConfig, resumed: TrainConfig, *, step: int, epochs: float, seconds: float
) -> TrainConfig:
    """Return the settings of a resumed run with a new length: what it has done, and the requested length.

    Args:
        requested: the settings with the length to add: `minutes`, else `steps`, else `epochs`.
        resumed: the settings of the run, see `merge_resumed`.
        step: optimiser steps that are done.
        epochs: the same in epochs.
        seconds: the same in seconds.
    """
    schedule = replace(resumed.schedule, warmup_steps=resumed.schedule.warmup_steps if requested.steps else None)
    length: dict[str, Any] = {"minutes": None, "steps": None, "max_steps": None, "schedule": schedule}
    if requested.minutes:
        length["minutes"] = round(seconds / 60 + requested.minutes, 3)
    elif requested.steps:
        length["steps"] = step + requested.steps
    else:
        length["epochs"] = round(epochs + requested.epochs, 3)
    return replace(resumed, extend=True, **length)
