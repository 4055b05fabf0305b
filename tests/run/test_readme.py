"""The README as a newcomer types it: every command and every line of Python, on sample images and a hub at hand."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import twins

README = Path(__file__).parents[2] / "README.md"
RUNS = ("runs/twins_svt_small-DATA-1", "runs/twins_svt_nano-DATA-1", "runs/twins_svt_small-MASKED-1")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README.read_text(), flags=re.DOTALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder where DATA, MASKED, image.jpg and alt_gvt_small.pth lie, as the README speaks of them."""
    folder = tmp_path_factory.mktemp("newcomer")
    random = np.random.default_rng(0)
    for name, tone in (("cat", 60), ("dog", 190)):
        (folder / "DATA" / name).mkdir(parents=True)
        for index in range(3):
            pixels = np.clip(random.normal(tone, 20, (48, 56, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / "DATA" / name / f"{index}.jpg")
    Image.fromarray(pixels).save(folder / "image.jpg")
    for part in ("images", "masks"):
        (folder / "MASKED" / part).mkdir(parents=True)
    for index in range(5):
        mask = np.zeros((48, 56), dtype=np.uint8)
        mask[8 * index :, 10:40] = 1
        pixels = np.clip(random.normal(90 + 80 * mask[..., None], 15, (48, 56, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / "MASKED" / "images" / f"{index}.jpg")
        Image.fromarray(mask).save(folder / "MASKED" / "masks" / f"{index}.png")
    twins.save_weights(twins.create_model("twins_svt_small"), folder / "alt_gvt_small.pth", "reference")
    return folder


@pytest.fixture(scope="module")
def type_in(folder, serve_hub, hub_environment, tmp_path_factory):
    """Type a command in that folder, beside a hub that has the published weights."""
    published = tmp_path_factory.mktemp("published") / "model.safetensors"
    twins.save_weights(twins.create_model("twins_svt_small"), published, "timm")
    with serve_hub(published.read_bytes()) as hub:
        environment = hub_environment(hub.url, tmp_path_factory.mktemp("hub"))

        def type_in(*command: str) -> subprocess.CompletedProcess[str]:
            done = subprocess.run(
                [sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True, timeout=600
            )
            assert done.returncode == 0, f"{shlex.join(command)}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
            return done

        yield type_in


@pytest.mark.slow
def test_its_commands_run_as_written(folder, type_in):
    lines = [line.partition("#")[0].strip() for block in blocks("bash") for line in block.splitlines()]
    commands = [line for line in lines if line.startswith("twins ")]
    assert len(commands) >= 6
    run = ""
    for command in commands:
        words = shlex.split(command.replace("IMAGE...", "image.jpg").replace("LARGE", "image.jpg"))
        if words[1] == "train" and "MASKED" in words:
            words += ["--max-steps", "2"]  # fine-tuning is of 80 epochs at 512 pixels
        if words[1] == "train" and "--data" in words:
            model = words[words.index("--model") + 1] if "--model" in words else "twins_svt_small"
            run = f"runs/{model}-{words[words.index('--data') + 1]}-1"
        type_in("-m", *(run if word == "RUN" else word for word in words))
    assert all((folder / name / "report.html").is_file() for name in RUNS)
    assert {"image.png", "image-classes.png"} <= {path.name for path in (folder / "drawn").iterdir()}


@pytest.mark.slow
def test_its_python_runs_as_written(folder, type_in):
    run = "runs/twins_svt_nano-digits-1"
    type_in("-m", "twins", "train", "--data", "digits", "--max-steps", "1", "--out", run)
    assert blocks("python")
    for block in blocks("python"):
        assert run in block
        done = type_in("-c", block)
    assert "probability" in done.stdout or "score" in done.stdout
