"""A run that was killed or stopped resumes exactly: its weights are bit-identical to those of a run without a stop."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from twins.cli.main import main
from twins.engine.config import read_config
from twins.engine.log import read_rows

STEPS = 24
SETTINGS = ["--model", "twins_svt_nano", "--size", "32", "--batch-size", "4", "--max-steps", str(STEPS)]
SETTINGS += ["--device", "cpu", "--save-every", "2", "--log-every", "1", "--eval-every", "1000", "--drop-path", "0.2"]
STATEFUL = ["--ema-decay", "0.9", "--accumulate", "2", "--workers", "1"]
STATEFUL += ["--augment.mixup", "0.8", "--augment.cutmix", "1.0"]
HELD_OUT = 7


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def pictures(tmp_path):
    """A folder of random pictures of two classes: 21 to train on, and an odd number held out."""
    random = np.random.default_rng(0)
    for part, count in (("train", 21), ("val", HELD_OUT)):
        for index in range(count):
            folder = tmp_path / "data" / part / "ab"[index % 2]
            folder.mkdir(parents=True, exist_ok=True)
            pixels = random.integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{index}.png")
    return tmp_path / "data"


@pytest.mark.slow
@pytest.mark.usefixtures("no_report")
def test_a_run_that_is_killed_and_stopped_resumes_exactly(pictures, tmp_path, start, assert_equal_weights):
    """With moving averages, accumulated passes, a loading process and mixed images: all that has a state."""
    uninterrupted, interrupted = tmp_path / "uninterrupted", tmp_path / "interrupted"
    settings = [*SETTINGS, *STATEFUL, "--data", str(pictures), "--out"]
    assert main(["train", *settings, str(uninterrupted)]) == 0
    training = start(*settings, str(interrupted))
    training.wait_for_step(interrupted, 5)
    training.kill()
    reached = len(read_rows(interrupted, "train"))
    assert reached < STEPS
    training = start("--resume", str(interrupted), program=("-m", "twins"))
    training.wait_for_step(interrupted, reached + 2)
    assert "--resume" in training.ask_to_stop()
    assert len(read_rows(interrupted, "train")) < STEPS
    start("--resume", str(interrupted), report=False).finish()
    assert_equal_weights(uninterrupted, interrupted)
    assert [row["step"] for row in read_rows(interrupted, "train")] == list(range(1, STEPS + 1))


@pytest.mark.slow
def test_two_killed_processes_resume_exactly_and_evaluate_each_image_once(
    pictures, tmp_path, start, assert_equal_weights
):
    settings = [*SETTINGS, "--data", str(pictures), "--out"]
    uninterrupted, interrupted = tmp_path / "uninterrupted", tmp_path / "interrupted"
    output = start(*settings, str(uninterrupted), processes=2, report=False).finish()
    assert "warn" not in output.lower(), output
    training = start(*settings, str(interrupted), processes=2)
    training.wait_for_step(interrupted, 5)
    training.kill()
    start("--resume", str(interrupted), processes=2, report=False).finish()
    assert_equal_weights(uninterrupted, interrupted)
    held_out = read_rows(uninterrupted, "eval")[-1]["top1"]
    result = json.loads((uninterrupted / "eval.json").read_text())
    assert result["protocol"]["images"] == HELD_OUT  # two processes cannot share these evenly
    assert held_out == pytest.approx(result["metrics"]["top1"], abs=1e-9)


@pytest.mark.slow
@pytest.mark.usefixtures("no_report")
def test_a_run_resumes_exactly_after_its_data_has_moved(pictures, tmp_path, start, assert_equal_weights, capsys):
    moved = tmp_path / "elsewhere" / "pictures"
    settings = [*SETTINGS, "--workers", "0", "--data", str(pictures)]
    uninterrupted, interrupted = tmp_path / "uninterrupted", tmp_path / "interrupted"
    assert main(["train", *settings, "--out", str(uninterrupted)]) == 0
    training = start(*settings, "--out", str(interrupted))
    training.wait_for_step(interrupted, 4)
    training.kill()
    moved.parent.mkdir()
    pictures.rename(moved)
    capsys.readouterr()
    assert main(["train", "--resume", str(interrupted)]) == 2
    assert "if it has moved, give its new folder as --data" in capsys.readouterr().err
    (moved / "train" / "a" / "0.png").rename(moved / "train" / "a" / "new.png")
    assert main(["train", "--resume", str(interrupted), "--data", str(moved)]) == 2
    assert "the training images have changed" in capsys.readouterr().err
    (moved / "train" / "a" / "new.png").rename(moved / "train" / "a" / "0.png")
    assert main(["train", "--resume", str(interrupted), "--data", str(moved)]) == 0
    assert_equal_weights(uninterrupted, interrupted)
    assert read_config(interrupted / "config.yaml").data == str(moved)
    plans = [json.loads((run / "data.json").read_text()) for run in (uninterrupted, interrupted)]
    assert [plan.pop("data") for plan in plans] == [str(pictures), str(moved)]
    assert plans[0] == plans[1]
    assert plans[0]["used"] == {"images": 28}
