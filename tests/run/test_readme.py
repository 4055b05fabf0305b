"""Every command and every Python example of the README, with sample images and a local hub server."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import twins
from twins.cli.main import main
from twins.data.loading.video import VideoWriter

README = Path(__file__).parents[2] / "README.md"
RUNS = ("runs/twins_svt_small-DATA-1", "runs/twins_svt_nano-DATA-1", "runs/twins_svt_nano-MASKED-1")
RUNS += ("runs/twins_svt_nano-BOXED-1", "runs/twins_svt_nano-BOXED-2")
NANO = ["--model", "twins_svt_nano"]
FEW = {  # the defaults train 100 epochs at 224 pixels, 80 at 512 and 12 at 800; one network is fetched from the hub
    "DATA": ["--max-steps", "2", "--batch-size", "2", "--size", "64"],
    "MASKED": [*NANO, "--max-steps", "2", "--batch-size", "2", "--size", "64", "--semantic.crop", "64"],
    "BOXED": [*NANO, "--max-steps", "1", "--batch-size", "2", "--size", "64"],
}
SESSION = """
import json, os, signal, socket, sys, threading, time, urllib.request
from twins.cli.main import main

def stop_when_ready(port):
    while True:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health/ready")
            break
        except OSError:
            time.sleep(0.1)
    os.kill(os.getpid(), signal.SIGTERM)

for arguments in json.loads(sys.argv[1]):
    print("$ twins", *arguments, flush=True)
    if arguments[0] == "serve":
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        arguments += ["--port", str(port), "--threads", "1"]
        threading.Thread(target=stop_when_ready, args=(port,), daemon=True).start()
    if code := main(arguments):
        sys.exit(f"exit code {code}")
"""
"""Runs the commands in one process; a server is stopped when it is ready."""


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README.read_text(), flags=re.DOTALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with DATA, MASKED, BOXED, image.jpg, clip.mp4 and alt_gvt_small.pth, as in the README."""
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
    write_boxed(folder / "BOXED", random)
    with VideoWriter(folder / "clip.mp4") as clip:
        for number in range(3):
            clip.add(Image.new("RGB", (64, 48), (80 * number, 90, 60)), number / 10)
    twins.save_weights(twins.create_model("twins_svt_small"), folder / "alt_gvt_small.pth", "reference")
    return folder


def write_boxed(root: Path, random: np.random.Generator) -> None:
    """Write images with one bright rectangle each, in COCO's layout."""
    (root / "images").mkdir(parents=True)
    images, annotations = [], []
    for index in range(5):
        pixels = random.normal(70, 15, (48, 56, 3))
        x, y = 4 + 3 * index, 6 + 2 * index
        pixels[y : y + 20, x : x + 24] += 120
        Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(root / "images" / f"{index}.jpg")
        images.append({"id": index, "file_name": f"{index}.jpg", "height": 48, "width": 56})
        corners = [x, y, x + 24, y, x + 24, y + 20, x, y + 20]
        annotation = {"bbox": [x, y, 24, 20], "area": 480, "iscrowd": 0, "segmentation": [corners]}
        annotations.append({"id": index, "image_id": index, "category_id": 1, **annotation})
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "lamp"}]}
    (root / "instances.json").write_text(json.dumps(content))


@pytest.fixture(scope="module")
def run_in_folder(folder, serve_hub, hub_environment, tmp_path_factory):
    """Run a command in that folder, with a local hub server that has the published weights."""
    published = tmp_path_factory.mktemp("published") / "model.safetensors"
    twins.save_weights(twins.create_model("twins_svt_small"), published, "timm")
    with serve_hub(published.read_bytes()) as hub:
        environment = hub_environment(hub.url, tmp_path_factory.mktemp("hub"))

        def run_in_folder(*command: str | Path) -> subprocess.CompletedProcess[str]:
            done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)
            assert done.returncode == 0, f"{shlex.join(map(str, command))}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
            return done

        yield run_in_folder


def arguments_of(commands: list[str]) -> list[list[str]]:
    """Return the arguments of every command, with sample files, the two newest runs and a few steps filled in."""
    commands_with_files, run, other, started = [], "", "", Counter()
    for command in commands:
        words = shlex.split(command.replace("IMAGE...", "image.jpg").replace("LARGE", "image.jpg"))[1:]
        words = [{"RUN": run, "OTHER": other}.get(word, word) for word in words]
        if words[0] == "train" and "--data" in words:
            data = words[words.index("--data") + 1]
            words += FEW[data]
            model = words[words.index("--model") + 1] if "--model" in words else "twins_svt_small"
            started[model, data] += 1
            other, run = run, f"runs/{model}-{data}-{started[model, data]}"
        commands_with_files.append(words)
    return commands_with_files


@pytest.mark.slow
def test_commands_of_the_readme_run_as_written(folder, run_in_folder):
    lines = [line.partition("#")[0].strip() for block in blocks("bash") for line in block.splitlines()]
    commands = [line for line in lines if line.startswith("twins ")]
    assert len(commands) >= 6
    check, *others = arguments_of(commands)
    run_in_folder(Path(sys.executable).with_name("twins"), *check)
    output = run_in_folder(sys.executable, "-c", SESSION, json.dumps(others)).stdout
    assert output.count("$ twins ") == len(others)
    assert all((folder / name / "report.html").is_file() for name in RUNS)
    assert {"image.png", "image-classes.png", "clip.mp4"} <= {path.name for path in (folder / "drawn").iterdir()}
    assert (folder / "results.json").is_file()


@pytest.mark.slow
def test_python_of_the_readme_runs_as_written(folder, run_in_folder, monkeypatch):
    run = "runs/twins_svt_nano-digits-1"
    monkeypatch.chdir(folder)
    assert main(["train", "--data", "digits", "--model", "twins_svt_nano", *FEW["DATA"][:4], "--out", run]) == 0
    assert blocks("python")
    for block in blocks("python"):
        assert run in block
        done = run_in_folder(sys.executable, "-c", block)
    assert "probability" in done.stdout or "score" in done.stdout
