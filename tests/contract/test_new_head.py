"""The head of docs/extending.md, added as the page says, is trained, saved, recognised and measured."""

from __future__ import annotations

import json
import re
import sys
import textwrap
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image

import twins
from twins.cli.main import main
from twins.data.formats.scenes import COUNTS
from twins.heads.resampling import resize_map
from twins.tasks.semantic import facts, network
from twins.weights.files import read_tensors
from twins.weights.loading import infer_info

PAGE = (Path(__file__).parents[2] / "docs" / "extending.md").read_text()


@pytest.fixture
def shallow(monkeypatch):
    """Add the page's three blocks of code to the files that it names."""
    blocks = re.findall(r"^( *)```python\n(.*?)^ *```", PAGE, flags=re.DOTALL | re.MULTILINE)
    module, row, builder = (textwrap.dedent(code) for _, code in blocks[:3])
    added = ModuleType("twins.heads.shallow")
    exec(module, vars(added))
    monkeypatch.setitem(sys.modules, "twins.heads.shallow", added)
    rows = eval(f"{{{row}}}", vars(facts).copy())
    monkeypatch.setitem(facts.FACTS.heads, "shallow", rows["shallow"])
    scope = vars(network) | {"ShallowHead": added.ShallowHead}
    exec(builder.replace("from __future__ import annotations\n", ""), scope)
    monkeypatch.setitem(network.HEADS, "shallow", scope["HEADS"]["shallow"])


@pytest.mark.slow
def test_the_documented_head_works_in_every_verb(shallow, monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(COUNTS, True, 16)
    monkeypatch.setitem(COUNTS, False, 4)
    settings = ["--model", "twins_svt_nano", "--weights", "none", "--device", "cpu", "--workers", "0"]
    command = ["train", "--data", "scenes", "--task", "semantic", "--head", "shallow", "--out", str(tmp_path / "run")]
    assert main([*command, *settings, "--steps", "2", "--batch-size", "4"]) == 0
    assert main(["eval", str(tmp_path / "run"), "--data", "scenes"]) == 0
    assert "miou" in capsys.readouterr().out
    predictor = twins.load(tmp_path / "run", device="cpu")
    assert predictor.model.info.head == "shallow"
    twins.save_weights(predictor.model, tmp_path / "plain.pth")
    assert infer_info(read_tensors(tmp_path / "plain.pth")).head == "shallow"
    assert infer_info(read_tensors(tmp_path / "plain.pth")).width == predictor.model.info.width == 64
    capsys.readouterr()
    assert main(["models", "--json"]) == 0
    params = {row["name"]: row["semantic"]["shallow"]["params"] for row in json.loads(capsys.readouterr().out)}
    assert params["twins_svt_small"] > params["twins_svt_nano"] > 0


class Coarse(torch.nn.Module):
    """A head that resizes its logits from the third map to the first."""

    def __init__(self, backbone, settings):
        super().__init__()
        self.conv_seg = torch.nn.Conv2d(backbone.channels[2], settings.classes, 1)

    def forward(self, maps, sizes=None):
        sizes = [None] * len(maps) if sizes is None else sizes
        return resize_map(self.conv_seg(maps[2]), maps[0].shape[2:], sizes[2], sizes[0])


def test_with_a_head_that_resizes_its_logits_predictions_do_not_depend_on_the_batch(monkeypatch):
    monkeypatch.setitem(facts.FACTS.heads, "coarse", replace(facts.FACTS.heads["semantic_fpn"], marker="none"))
    monkeypatch.setitem(network.HEADS, "coarse", lambda *arguments: network.HeadParts(Coarse(*arguments)))
    model = twins.create_model("twins_svt_nano", task="semantic", head="coarse", num_classes=5)
    model.info = replace(model.info, preprocess=replace(model.info.preprocess, size=96, longest=192))
    predictor, random = twins.Predictor(model, device="cpu"), np.random.default_rng(0)
    images = [
        Image.fromarray(random.integers(0, 256, (*shape, 3), dtype=np.uint8)) for shape in ((120, 160), (150, 90))
    ]
    for together, image in zip(predictor.predict(images), images, strict=True):
        (alone,) = predictor.predict(image)
        assert (together.label_map == alone.label_map).mean() > 0.999
