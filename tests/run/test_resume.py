"""A run that was killed or stopped resumes exactly: its weights are bit-identical to those of a run without a stop."""

from __future__ import annotations

import json

import pytest

from twins.cli.main import main
from twins.engine.log import read_rows

STEPS = 16
SETTINGS = ["--data", "digits", "--max-steps", str(STEPS), "--batch-size", "32", "--device", "cpu"]
SETTINGS += ["--save-every", "2", "--log-every", "1", "--eval-every", "100", "--drop-path", "0.2"]
CASES = {
    "EMA and accumulation": ["--ema-decay", "0.9", "--accumulate", "2"],
    "workers and mixing": ["--workers", "1", "--augment.mixup", "0.8", "--augment.cutmix", "1.0"],
}


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.slow
@pytest.mark.parametrize("case", sorted(CASES))
@pytest.mark.usefixtures("no_report")
def test_a_run_that_is_killed_and_stopped_resumes_exactly(tmp_path, start, assert_equal_weights, case):
    uninterrupted, interrupted = tmp_path / "uninterrupted", tmp_path / "interrupted"
    assert main(["train", *SETTINGS, *CASES[case], "--out", str(uninterrupted)]) == 0
    training = start(*SETTINGS, *CASES[case], "--out", str(interrupted))
    training.wait_for_step(interrupted, 5)
    training.kill()
    reached = len(read_rows(interrupted, "train"))
    assert reached < STEPS
    training = start("--resume", str(interrupted), program=("-m", "twins"))
    training.wait_for_step(interrupted, reached + 2)
    assert "--resume" in training.ask_to_stop()
    assert len(read_rows(interrupted, "train")) < STEPS
    start("--resume", str(interrupted)).finish()
    assert_equal_weights(uninterrupted, interrupted)
    assert [row["step"] for row in read_rows(interrupted, "train")] == list(range(1, STEPS + 1))


@pytest.mark.slow
def test_two_killed_processes_resume_exactly_and_evaluate_each_image_once(tmp_path, start, assert_equal_weights):
    uninterrupted, interrupted = tmp_path / "uninterrupted", tmp_path / "interrupted"
    output = start(*SETTINGS, "--out", str(uninterrupted), processes=2).finish()
    assert "warn" not in output.lower(), output
    training = start(*SETTINGS, "--out", str(interrupted), processes=2)
    training.wait_for_step(interrupted, 5)
    training.kill()
    start("--resume", str(interrupted), processes=2).finish()
    assert_equal_weights(uninterrupted, interrupted)
    held_out = read_rows(uninterrupted, "eval")[-1]["top1"]
    result = json.loads((uninterrupted / "eval.json").read_text())
    assert result["protocol"]["images"] == 359  # two processes cannot share these evenly
    assert held_out == pytest.approx(result["metrics"]["top1"], abs=1e-9)
