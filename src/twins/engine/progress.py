"""Where a run is, and what its settings say is due there."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from twins.engine.config import TrainConfig
from twins.engine.schedule import total_steps


@dataclass(kw_only=True)
class Progress:
    """Where a run is; with the weights and the optimiser's state all that it needs to resume."""

    step: int = 0
    """Optimiser steps made."""
    seconds: float = 0.0
    """Wall-clock time spent at the newest step, over all sessions of the run."""
    evaluated: int = 0
    """Step of the newest evaluation."""
    best: float | None = None
    """Best value of the monitored metric."""
    best_step: int = 0
    """Step of the best value."""
    stale: int = 0
    """Evaluations since the best one."""
    loss_sum: float = 0.0
    """Sum of losses since the newest training row."""
    loss_count: int = 0
    """Steps since the newest training row."""
    skipped: dict[str, dict[str, str]] = field(default_factory=lambda: {"train": {}, "val": {}})
    """Unreadable images of each split, each once: path to reason."""

    def __post_init__(self) -> None:
        self._started = time.monotonic() - self.seconds

    def clock(self) -> float:
        """Return the wall-clock time spent up to now, over all sessions of the run."""
        return time.monotonic() - self._started


@dataclass(frozen=True)
class Plan:
    """How long a run is, and what is due when."""

    config: TrainConfig
    steps_per_epoch: int

    def done(self, at: Progress) -> float:
        """Return how much of the run is done, 0..1: by time where it has a budget, by steps, or by what is further."""
        steps, minutes = total_steps(self.config, self.steps_per_epoch), self.config.minutes
        return min(1.0, max(at.step / steps if steps else 0.0, at.seconds / (60.0 * minutes) if minutes else 0.0))

    def epoch(self, at: Progress) -> float:
        """Return the passes made over the training images."""
        return at.step / self.steps_per_epoch

    def out_of_patience(self, at: Progress) -> bool:
        """Return whether there was no improvement for `patience` evaluations."""
        return self.config.patience is not None and at.stale >= self.config.patience

    def finished(self, at: Progress) -> bool:
        """Return whether nothing is left to train."""
        return self.done(at) >= 1.0 or self.out_of_patience(at)

    def evaluation_due(self, at: Progress) -> bool:
        """Return whether this step ends in an evaluation that was not made yet."""
        every = max(1, round(self.config.eval_every * self.steps_per_epoch))
        return at.step > 0 and at.evaluated != at.step and (at.step % every == 0 or self.done(at) >= 1.0)

    def saving_due(self, at: Progress) -> bool:
        """Return whether this step ends in a saved state: after each evaluation, and every `save_every` steps."""
        every = self.config.save_every
        return at.step > 0 and (at.evaluated == at.step or (every is not None and at.step % every == 0))
