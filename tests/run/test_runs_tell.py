"""What a run prints, a stopped run's report, and a finished run that goes on."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from PIL import Image

from twins.engine.config import read_config
from twins.engine.log import read_rows

pytestmark = pytest.mark.usefixtures("one_thread")
SETTINGS = ("--model", "twins_svt_nano", "--size", 32, "--device", "cpu", "--workers", 0)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Forty images of noise, 48 x 40, in two classes: darker and brighter."""
    root, random = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for index in range(40):
        name = ("dark", "light")[index % 2]
        (root / name).mkdir(exist_ok=True)
        pixels = random.integers(0, 128, (40, 48, 3), dtype=np.uint8) + 127 * np.uint8(index % 2)
        Image.fromarray(pixels).save(root / name / f"{index}.png")
    return root


@pytest.mark.slow
@pytest.mark.usefixtures("no_report")
def test_a_run_says_what_it_does_and_a_finished_run_goes_on(data, tmp_path, run_cli):
    run = tmp_path / "run"
    command = ["train", "--data", data, *SETTINGS, "--out", run]
    code, out, err = run_cli(*command, "--steps", 2, "--batch-size", "auto", "--recipe", "scratch")
    assert code == 0, err
    expected = (
        rf"run +{run}",
        r"recipe +scratch, as asked for",
        r"weights +random, from seed 0: training starts from scratch \(twins_svt_nano has no published weights\)",
        r"data +32 train \(.*\), 8 val \(.*\); read as .*",
        r"classes +2: dark, light",
        r"input +32 x 32 pixels; the images have about 48 x 40, so they are shrunk to 80%",
        r"machine +cpu, 1 thread, fp32, 0 loader processes",
        r"step +\d+ images, AdamW, peak rate .*",
        r"length +2 steps, .*",
        r"chosen +batch_size \d+: .*an image takes about .* MiB.*",
        r"epoch +[\d.]+  step +2  top1 .*  \(best\)",
        r"finished at step 2, epoch .*, after \d+:\d\d of training and evaluation",
        r"best top1 [\d.]+ at step 2, epoch .*",
        rf"files in {run}: best.safetensors, eval.json, report.html, metrics.jsonl, log.txt",
    )
    for pattern in expected:
        assert re.search(pattern, err), (pattern, err)
        assert re.search(pattern, (run / "log.txt").read_text())
    assert out.endswith(
        f"next: twins eval {run}\n      twins predict {run} IMAGE...\n      twins export {run} --format onnx\n"
        f"      twins serve {run} --open-browser\n"
    )
    config = read_config(run / "config.yaml")
    assert not config.auto_batch

    code, out, err = run_cli("train", "--resume", run, "--steps", 3, "--quiet")
    assert code == 0, err
    assert err.startswith("finished at step 5")
    assert read_config(run / "config.yaml").steps == 5
    assert not read_config(run / "config.yaml").extend
    assert [row["step"] for row in read_rows(run, "eval")][-1] == 5

    command[-1] = tmp_path / "next"
    code, out, err = run_cli(*command, "--weights", run, "--steps", 1)
    assert code == 0, err
    assert re.search(rf"weights +\d+ tensors of {run}/best.safetensors", err)
    assert re.search(r"recipe +default: settings that are not given are chosen from the data", err)


@pytest.mark.slow
def test_a_run_that_a_signal_stops_says_so_and_gets_its_report(data, tmp_path, start):
    run = tmp_path / "run"
    words = map(str, ("--data", data, *SETTINGS, "--out", run, "--epochs", 1000, "--batch-size", 8, "--log-every", 1))
    words = (*words, "--eval-every", "1")
    training = start(*words)
    training.wait_for_step(run, 6)  # an epoch has four steps
    output = training.ask_to_stop()
    order = ["stopping: the current step is finished", "stopped at step", "--resume", "best top1", "files in"]
    assert re.search(".*".join(order), output, flags=re.DOTALL), output
    assert json.loads((run / "eval.json").read_text())["metrics"]["top1"] >= 0
    assert (run / "report.html").is_file()
