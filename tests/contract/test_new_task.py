"""A task from outside the package, registered by the test, works in every verb without other changes."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

import twins
from twins.cli.main import main
from twins.serve.app import create_app
from twins.serve.config import ServeConfig
from twins.serve.local import LocalDispatcher
from twins.serve.metrics import Metrics
from twins.serve.queues import Queues
from twins.serve.routes import ROUTERS
from twins.serve.service import Service
from twins.serve.sources import parse_models
from twins.tasks.recipes import all_recipes
from twins.tasks.table import TASKS, Row, register


@pytest.fixture
def brightness(monkeypatch):
    """Register image regression for one test."""
    monkeypatch.syspath_prepend(Path(__file__).parent / "fifth")
    register(Row("brightness", "brightness"))
    yield
    del TASKS["brightness"]
    for name in [name for name in sys.modules if name.split(".")[0] == "brightness"]:
        del sys.modules[name]


@pytest.fixture
def photographs(tmp_path):
    """Ten images of uniform brightness with some noise."""
    folder, random = tmp_path / "photographs", np.random.default_rng(0)
    folder.mkdir()
    for index in range(10):
        pixels = np.clip(random.normal(25 * index, 9, (70, 80, 3)), 0, 255)
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{index}.png")
    return folder


async def served(run: Path, content: bytes, *routes: str) -> list[Any]:
    """Return what the server's routes answer, with the network in this process, where the task is registered."""
    config = ServeConfig(device="cpu", threads=1)
    queues = Queues(config, parse_models([str(run)]))
    dispatcher = LocalDispatcher(config, queues)
    await dispatcher.start()
    app = create_app(Service(config, queues, lambda: dispatcher.ready), Metrics(), *ROUTERS)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
        headers = {"content-type": "image/png"}
        return [
            (await client.post(route, content=content, headers=headers)).raise_for_status().json() for route in routes
        ]


@pytest.mark.usefixtures("few_blocks")
def test_a_registered_task_trains_evaluates_predicts_is_served_and_reports(brightness, photographs, tmp_path, capsys):
    run, result = tmp_path / "run", tmp_path / "result.json"
    settings = ["--out", str(run), "--batch-size", "4", "--workers", "0", "--device", "cpu"]
    settings += ["--model", "twins_pcpvt_nano"]
    assert main(["train", "--recipe", "brightness", "--data", str(photographs), "--steps", "2", *settings]) == 0
    page = (run / "report.html").read_text()
    assert "<h2>Brightness</h2>" in page
    assert "within a tenth" in page
    assert "Where it looks" in page
    assert main(["eval", str(run), "--data", str(photographs), "--out", str(result)]) == 0
    saved = json.loads(result.read_text())
    assert saved["protocol"]["task"] == "brightness"
    assert saved["metrics"] == json.loads((run / "eval.json").read_text())["metrics"]
    table, lines = tmp_path / "all.csv", tmp_path / "all.json"
    outputs = ["--csv", str(table), "--json", str(lines)]
    assert main(["predict", str(run), str(photographs), *outputs]) == 0
    assert "brightness 0." in capsys.readouterr().out
    assert table.read_text().splitlines()[0] == "image,name,value"
    predictor = twins.load(run, device="cpu")
    prediction = predictor.predict(photographs / "3.png")[0]
    saved_prediction = json.loads(lines.read_text())["predictions"][3]
    assert prediction.to_dict()["scores"] == pytest.approx(saved_prediction["scores"], abs=1e-6)
    routes = ("/v1/predict", "/v1/attention")
    answer, attention = asyncio.run(served(run, (photographs / "3.png").read_bytes(), *routes))
    assert answer["model"] == "run"
    assert answer["predictions"][0]["scores"] == pytest.approx(saved_prediction["scores"], abs=1e-5)
    assert attention["target"] == {"label": 0, "name": "brightness", "score": pytest.approx(prediction.scores[0])}
    assert [stage["evidence"] is not None for stage in attention["stages"]] == [True] * 4
    assert sorted(path.name for path in (run / "examples").iterdir()) == ["01.png", "02.png"]
    assert main(["export", str(run), "--format", "torch", "--size", "64", "--batch", "dynamic"]) == 0
    exported = twins.load(run / "exports" / "run-torch.pt2").predict(photographs)
    assert len(exported) == 10
    assert all(0 < one.scores[0] < 1 for one in exported)
    assert main(["eval", str(run / "exports" / "run-torch.pt2"), "--data", str(photographs)]) == 0


def test_a_registered_task_is_listed_and_checked_and_loads_a_classifiers_backbone(
    brightness, photographs, tmp_path, capsys
):
    assert main(["check", str(photographs), "--task", "brightness"]) == 0
    assert "8 images to train on, 2 held out" in capsys.readouterr().out
    assert main(["train", "--task", "brightnes", "--data", str(photographs)]) == 2
    assert "did you mean brightness" in capsys.readouterr().err
    assert "brightness" in all_recipes()
    assert main(["models"]) == 0
    assert "Brightness, 1 class, millions" in capsys.readouterr().out
    classifier = tmp_path / "classifier.safetensors"
    twins.save_weights(twins.create_model("twins_svt_nano", num_classes=3), classifier)
    model = twins.create_model("twins_svt_nano", task="brightness", weights=classifier, resize_head=True)
    assert model.load_report.ok
    assert "regressor.weight" in model.load_report.initialised
    assert "head.weight" in model.load_report.unused
