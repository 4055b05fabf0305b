"""The progress of a run, and what is due at a step: evaluation, saving, the end."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from twins.engine.config import TrainConfig
from twins.engine.schedule import total_steps


@dataclass(kw_only=True)
class Progress:
    """Position of a run; with the weights and the optimiser's state, everything that it needs to resume."""

    step: int = 0
    """Optimiser steps done."""
    seconds: float = 0.0
    """Wall-clock seconds up to the newest step, without the time between a stop and its resume."""
    evaluated: int = 0
    """Step of the newest evaluation."""
    best: float | None = None
    """Best value of the monitored metric."""
    best_step: int = 0
    """Step of the best value."""
    stale: int = 0
    """Evaluations without improvement since the best one."""
    loss_sum: float = 0.0
    """Sum of losses since the newest training row."""
    loss_parts: dict[str, float] = field(default_factory=dict)
    """The same sum for each part of the loss, if it has several, by name."""
    loss_count: int = 0
    """Steps since the newest training row."""
    skipped: dict[str, dict[str, str]] = field(default_factory=lambda: {"train": {}, "val": {}})
    """Unreadable images of each split: path to reason."""

    def __post_init__(self) -> None:
        self._started = time.monotonic() - self.seconds

    def add_loss(self, losses: Mapping[str, float]) -> None:
        """Add a step's loss, `loss`, and its parts to the sums."""
        for name, value in losses.items():
            if name == "loss":
                self.loss_sum += value
            else:
                self.loss_parts[name] = self.loss_parts.get(name, 0.0) + value
        self.loss_count += 1

    def take_losses(self) -> dict[str, float]:
        """Return the mean loss and its parts since the newest training row, and begin again."""
        sums = {"loss": self.loss_sum, **self.loss_parts}
        means = {name: value / self.loss_count for name, value in sums.items()}
        self.loss_sum, self.loss_count, self.loss_parts = 0.0, 0, {}
        return means

    def clock(self) -> float:
        """Return the wall-clock seconds up to now, without the time between a stop and its resume."""
        return time.monotonic() - self._started


@dataclass(frozen=True)
class Plan:
    """Length of a run, and what is due at a step."""

    config: TrainConfig
    steps_per_epoch: int

    @property
    def steps(self) -> int | None:
        """The optimiser steps of the run, or `None` if only its time budget ends it."""
        return total_steps(self.config, self.steps_per_epoch)

    def share_done(self, progress: Progress) -> float:
        """Return the share of the run that is done, 0..1, by steps or by its time budget, whichever is larger."""
        steps, minutes = self.steps, self.config.minutes
        return min(
            1.0, max(progress.step / steps if steps else 0.0, progress.seconds / (60.0 * minutes) if minutes else 0.0)
        )

    def epoch(self, progress: Progress) -> float:
        """Return the passes over the training images, a fraction."""
        return progress.step / self.steps_per_epoch

    def out_of_patience(self, progress: Progress) -> bool:
        """Return whether there was no improvement for `patience` evaluations."""
        return self.config.patience is not None and progress.stale >= self.config.patience

    def finished(self, progress: Progress) -> bool:
        """Return whether all steps or minutes are done, or the patience is used up."""
        return self.share_done(progress) >= 1.0 or self.out_of_patience(progress)

    def evaluation_due(self, progress: Progress) -> bool:
        """Return whether to evaluate after this step; an evaluation that is done is not due again.

        A run with `minutes` is evaluated at its end. If less than half an interval is left, this is soon enough.
        """
        if progress.step == 0 or progress.evaluated == progress.step:
            return False
        share, minutes = self.share_done(progress), self.config.minutes
        interval = max(1, round(self.config.eval_every * self.steps_per_epoch))
        soon = (
            minutes is not None and (1.0 - share) * 60.0 * minutes < 0.5 * interval * progress.seconds / progress.step
        )
        return share >= 1.0 or (progress.step % interval == 0 and not soon)

    def saving_due(self, progress: Progress) -> bool:
        """Return whether to save the state after this step: after each evaluation, and every `save_every` steps."""
        interval = self.config.save_every
        return progress.step > 0 and (
            progress.evaluated == progress.step or (interval is not None and progress.step % interval == 0)
        )
