"""The head of docs/extending.md, put in as the page says, is trained, saved, told from others and measured."""

from __future__ import annotations

import re
import sys
import textwrap
from pathlib import Path
from types import ModuleType

import pytest

import twins
from twins.cli.main import main
from twins.data.formats.scenes import COUNTS
from twins.tasks.semantic import facts, network
from twins.weights.files import read_tensors
from twins.weights.loading import infer_info

PAGE = (Path(__file__).parents[2] / "docs" / "extending.md").read_text()


@pytest.fixture
def linear(monkeypatch):
    """Run the page's three pieces of code where it puts them."""
    pieces = re.findall(r"^( *)```python\n(.*?)^ *```", PAGE, flags=re.DOTALL | re.MULTILINE)
    module, row, builder = (textwrap.dedent(code) for _, code in pieces[:3])
    added = ModuleType("twins.heads.linear")
    exec(module, vars(added))
    monkeypatch.setitem(sys.modules, "twins.heads.linear", added)
    known = eval(f"{{{row}}}", vars(facts).copy())
    monkeypatch.setitem(facts.FACTS.heads, "linear", known["linear"])
    scope = vars(network) | {"LinearHead": added.LinearHead}
    exec(builder.replace("from __future__ import annotations\n", ""), scope)
    monkeypatch.setitem(network.HEADS, "linear", scope["HEADS"]["linear"])


def test_the_documented_head_serves_in_every_verb(linear, monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(COUNTS, True, 16)
    monkeypatch.setitem(COUNTS, False, 4)
    settings = ["--model", "twins_svt_nano", "--weights", "none", "--device", "cpu", "--workers", "0"]
    command = ["train", "--data", "scenes", "--task", "semantic", "--head", "linear", "--out", str(tmp_path / "run")]
    assert main([*command, *settings, "--steps", "2", "--batch-size", "4"]) == 0
    assert main(["eval", str(tmp_path / "run"), "--data", "scenes"]) == 0
    assert "miou" in capsys.readouterr().out
    predictor = twins.load(tmp_path / "run", device="cpu")
    assert predictor.model.info.head == "linear"
    twins.save_weights(predictor.model, tmp_path / "plain.pth")
    assert infer_info(read_tensors(tmp_path / "plain.pth")).head == "linear"
    assert main(["models"]) == 0
