"""The code of docs/python.md works as written, in order."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import twins

PAGE = (Path(__file__).parents[2] / "docs" / "python.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)


@pytest.fixture
def _folder(tmp_path, monkeypatch):
    """Work in a folder with the runs and images that the page names."""
    torch.manual_seed(0)
    for name, task in (("boxes", "detection"), ("maps", "semantic")):
        model = twins.create_model("twins_svt_nano", task=task, num_classes=10)
        model.info = replace(model.info, preprocess=replace(model.info.preprocess, size=64, longest=96))
        (tmp_path / "runs" / name).mkdir(parents=True)
        twins.save_weights(model, tmp_path / "runs" / name / "best.safetensors")
    for name, size in (("photo.jpg", (80, 64)), ("other.jpg", (64, 90))):
        Image.effect_noise(size, 80).convert("RGB").save(tmp_path / name)
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("_folder")
def test_its_code_runs_as_written(capsys):
    names: dict = {}
    for block in BLOCKS:
        exec(block, names)
    assert names["vectors"].shape == (2, 256)
    assert [one.shape[1:] for one in names["maps"]] == [(16, 20), (8, 10), (4, 5), (2, 3)]
    assert [prediction.size for prediction in names["predictions"]] == [(64, 80), (90, 64)]
    assert {"photo.jpg.drawn.png", "drawn.jpg"} <= {path.name for path in Path().iterdir()}
    assert "there is no image missing.jpg; check the path" in capsys.readouterr().out


@pytest.mark.usefixtures("_folder")
def test_its_padded_batch_predicts_as_the_predictor_does():
    names: dict = {}
    for block in (block for block in BLOCKS if "try:" not in block):
        exec(block.replace("score=0.5", "score=0.0"), names)
    for raw, prediction in zip(names["predictions"], names["predictor"](["photo.jpg", "other.jpg"]), strict=True):
        assert len(raw) == len(prediction) == 20
        np.testing.assert_allclose(np.sort(raw.scores), np.sort(prediction.scores), atol=1e-5)


def test_every_link_and_name_of_the_page_exists():
    docs = Path(__file__).parents[2] / "docs"
    assert all((docs / link).is_file() for link in re.findall(r"\]\(([\w/.-]+\.md)", PAGE))
    assert set(re.findall(r"twins\.([A-Z]\w+|load)\b", PAGE)) <= set(twins.__all__)
