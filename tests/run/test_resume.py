"""A run that was killed or stopped ends with the weights, to the bit, of one that never was."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

STEPS = 14
SETTINGS = ["--data", "digits", "--max-steps", str(STEPS), "--batch-size", "32", "--device", "cpu"]
SETTINGS += ["--save-every", "2", "--log-every", "1", "--eval-every", "100", "--drop-path", "0.2"]
CASES = {
    "running mean and accumulation": ["--ema-decay", "0.9", "--accumulate", "2"],
    "workers and mixing": ["--workers", "1", "--augment.mixup", "0.8", "--augment.cutmix", "1.0"],
}


def start(*arguments: str, processes: int = 1) -> subprocess.Popen[str]:
    launcher = [sys.executable, "-m"]
    if processes > 1:
        launcher += ["torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", "-m"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*launcher, "twins", "train", *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return output


def trained_steps(run: Path) -> int:
    records = run / "metrics.jsonl"
    lines = records.read_text().splitlines() if records.exists() else []
    return sum('"train"' in line for line in lines)


def wait_for_step(run: Path, step: int, process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 240
    while trained_steps(run) < step:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end, "the run made no step"
        time.sleep(0.02)


def assert_same_weights(first: Path, second: Path) -> None:
    for name in ("last/model.safetensors", "best.safetensors"):
        one, other = load_file(first / name), load_file(second / name)
        assert one.keys() == other.keys()
        for key, value in one.items():
            assert torch.equal(value, other[key]), f"{name}: {key}"


@pytest.mark.slow
@pytest.mark.parametrize("case", sorted(CASES))
@pytest.mark.parametrize("stop", [signal.SIGKILL, signal.SIGTERM], ids=["kill -9", "SIGTERM"])
def test_a_stopped_run_goes_on_to_the_bit(tmp_path, case, stop):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    finish(start(*SETTINGS, *CASES[case], "--out", str(whole)))
    process = start(*SETTINGS, *CASES[case], "--out", str(broken))
    wait_for_step(broken, 5, process)
    if stop == signal.SIGKILL:
        os.killpg(process.pid, stop)
        process.communicate()
    else:
        process.send_signal(stop)
        output, _ = process.communicate(timeout=120)
        assert "--resume" in output
    assert trained_steps(broken) < STEPS
    finish(start("--resume", str(broken)))
    assert_same_weights(whole, broken)
    rows = [json.loads(line) for line in (broken / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if row["kind"] == "train"] == list(range(1, STEPS + 1))


@pytest.mark.slow
def test_two_processes_killed_go_on_to_the_bit_and_count_each_image_once(tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    finish(start(*SETTINGS, "--out", str(whole), processes=2))
    process = start(*SETTINGS, "--out", str(broken), processes=2)
    wait_for_step(broken, 5, process)
    subprocess.run(["pkill", "-9", "-f", str(broken)], check=False)
    process.communicate(timeout=60)
    finish(start("--resume", str(broken), processes=2))
    assert_same_weights(whole, broken)
    rows = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    held_out = [row["top1"] for row in rows if row["kind"] == "eval"][-1]
    result = json.loads((whole / "eval.json").read_text())
    assert result["protocol"]["images"] == 359  # two processes cannot share these evenly
    assert held_out == pytest.approx(result["metrics"]["top1"], abs=1e-9)
