"""A run that was killed or stopped ends with the weights, to the bit, of one that never was."""

from __future__ import annotations

import json

import pytest

from twins.cli.main import main
from twins.engine.log import read_rows

STEPS = 16
SETTINGS = ["--data", "digits", "--max-steps", str(STEPS), "--batch-size", "32", "--device", "cpu"]
SETTINGS += ["--save-every", "2", "--log-every", "1", "--eval-every", "100", "--drop-path", "0.2"]
CASES = {
    "running mean and accumulation": ["--ema-decay", "0.9", "--accumulate", "2"],
    "workers and mixing": ["--workers", "1", "--augment.mixup", "0.8", "--augment.cutmix", "1.0"],
}


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.slow
@pytest.mark.parametrize("case", sorted(CASES))
@pytest.mark.usefixtures("no_report")
def test_a_run_that_is_killed_and_stopped_goes_on_to_the_bit(tmp_path, start, assert_same_weights, case):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert main(["train", *SETTINGS, *CASES[case], "--out", str(whole)]) == 0
    training = start(*SETTINGS, *CASES[case], "--out", str(broken))
    training.wait_for_step(broken, 5)
    training.kill()
    reached = len(read_rows(broken, "train"))
    assert reached < STEPS
    training = start("--resume", str(broken), program=("-m", "twins"))
    training.wait_for_step(broken, reached + 2)
    assert "--resume" in training.ask_to_stop()
    assert len(read_rows(broken, "train")) < STEPS
    start("--resume", str(broken)).finish()
    assert_same_weights(whole, broken)
    assert [row["step"] for row in read_rows(broken, "train")] == list(range(1, STEPS + 1))


@pytest.mark.slow
def test_two_processes_killed_go_on_to_the_bit_and_count_each_image_once(tmp_path, start, assert_same_weights):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    said = start(*SETTINGS, "--out", str(whole), processes=2).finish()
    assert "warn" not in said.lower(), said
    training = start(*SETTINGS, "--out", str(broken), processes=2)
    training.wait_for_step(broken, 5)
    training.kill()
    start("--resume", str(broken), processes=2).finish()
    assert_same_weights(whole, broken)
    held_out = read_rows(whole, "eval")[-1]["top1"]
    result = json.loads((whole / "eval.json").read_text())
    assert result["protocol"]["images"] == 359  # two processes cannot share these evenly
    assert held_out == pytest.approx(result["metrics"]["top1"], abs=1e-9)
