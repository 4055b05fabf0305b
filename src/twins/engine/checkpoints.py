"""Saves the newest state of a run, to resume from, and its best weights."""

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
    """Writes and reads the states of a run; only the main process writes.

    Args:
        run: run folder.
        step: network, optimiser and EMA, which are saved and loaded.
        fingerprint: hash of the training data; a run resumes only with the same one.
    """

    def __init__(self, run: Path, step: TrainStep, fingerprint: str) -> None:
        self.run, self.step, self.fingerprint = run, step, fingerprint
        self.saved = -1  # step of the newest state

    def resume(self) -> Progress:
        """Load the newest state and return its progress; without a state the run starts from step 0.

        Raises:
            DataError: the training data has changed since the state was saved.
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

    def save(self, progress: Progress) -> None:
        """Save the whole state, once per step.

        Raises:
            TrainingError: the disk is full; the previous state is untouched.
        """
        if self.saved != progress.step:
            run_on_main(self.step.accelerator, lambda: self._write(progress))
            self.saved = progress.step

    def save_best(self) -> None:
        """Save the evaluated weights (the EMA's, if there is one) as the best ones."""
        weights, info = self.step.eval_network.state_dict(), self.step.master.info
        run_on_main(self.step.accelerator, lambda: write_tensors(self.run / BEST, weights, info))

    def rescue(self, progress: Progress, *, main_only: bool = False) -> str:
        """Save the state before a failed step if its weights are finite; return a message that names the kept state.

        Args:
            progress: position of the run before the failed step; the weights have not been updated since.
            main_only: let the main process save without the others, which may not have failed.
        """
        self.step.restore_statistics()
        if self.saved != progress.step and all_finite(self.step.master):
            if not main_only:
                self.save(progress)
            elif self.step.accelerator.is_main_process:
                self._write(progress)
            self.saved = progress.step
        if self.saved < 0:
            return "no state was saved"
        return f"the state of step {self.saved} is kept in {self.run / LAST}"

    def _write(self, progress: Progress) -> None:
        state = self.step.state(replace(progress, seconds=progress.clock()), self.fingerprint)
        save_state(self.run, state, self.step.master.info)
