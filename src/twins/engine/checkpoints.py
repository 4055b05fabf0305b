"""The states that a run keeps: the newest whole one to resume from, and the best weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from twins.engine.optim import all_finite
from twins.engine.processes import run_on_main
from twins.engine.progress import Progress
from twins.engine.state import load_state, save_state
from twins.engine.step import TrainStep
from twins.errors import DataError
from twins.run_folder import BEST, LAST
from twins.weights.files import write_tensors


class Checkpoints:
    """Writes and reads a run's states; the main process writes for all.

    Args:
        run: the run's folder.
        step: what is saved and resumed.
        fingerprint: tells the training data from another.
    """

    def __init__(self, run: Path, step: TrainStep, fingerprint: str) -> None:
        self.run, self.step, self.fingerprint = run, step, fingerprint
        self.saved = -1  # step of the newest state

    def resume(self) -> Progress:
        """Load the newest state and return where it is; without one the run begins at its beginning.

        Raises:
            DataError: the training data is no longer what the state was made with.
        """
        if not (self.run / LAST).exists():
            return Progress()
        state = load_state(self.run)
        if state.fingerprint != self.fingerprint:
            raise DataError(
                f"the training images have changed since {self.run} began, so it cannot resume exactly; put the "
                "data back as it was, or start a new run"
            )
        self.step.load(state)
        self.saved = state.progress.step
        return state.progress

    def save(self, at: Progress) -> None:
        """Save the whole state, once for each step.

        Raises:
            TrainingError: the disk is full; the state before is untouched.
        """
        if self.saved != at.step:
            run_on_main(self.step.accelerator, lambda: self._write(at))
            self.saved = at.step

    def save_best(self) -> None:
        """Save the weights that evaluations see as the best ones."""
        weights, info = self.step.evaluated.state_dict(), self.step.task.info
        run_on_main(self.step.accelerator, lambda: write_tensors(self.run / BEST, weights, info))

    def rescue(self, at: Progress, *, alone: bool = False) -> str:
        """Save the state before a step that failed, where it is sound, and say which state is kept.

        Args:
            at: where the run is; the weights have not moved since.
            alone: other processes may not have come here, so the main one waits for none.
        """
        self.step.undo()
        if self.saved != at.step and all_finite(self.step.task):
            if not alone:
                self.save(at)
            elif self.step.accelerator.is_main_process:
                self._write(at)
            self.saved = at.step
        if self.saved < 0:
            return "no state was saved"
        return f"the state of step {self.saved} is kept in {self.run / LAST}"

    def _write(self, at: Progress) -> None:
        state = self.step.state(replace(at, seconds=at.clock()), self.fingerprint)
        save_state(self.run, state, self.step.task.info)
