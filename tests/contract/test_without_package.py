"""The scripts of docs/without-this-package.md predict as the network does, without torch and without this package."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import openvino
import pytest
import torch
from PIL import Image

import twins
from twins import verification
from twins.backbone.config import VARIANTS
from twins.backbone.network import Twins
from twins.exporting.writers import write_openvino
from twins.tasks.table import TASKS, facts_of, part_of

PAGE = (Path(__file__).parents[2] / "docs" / "without-this-package.md").read_text()
RUNTIMES = {"onnx": "## ONNX Runtime", "xml": "## OpenVINO"}
TITLES = {
    "classification": "### Classification",
    "semantic": "### Semantic segmentation",
    "detection": "### Detection",
    "instance": "### Instance segmentation",
}
BLOCKER = """import sys
for name in ("torch", "torchvision", "twins"):
    sys.modules[name] = None
sys.argv = sys.argv[1:]
exec(open(sys.argv[0]).read())
"""


def script_of(ending: str, task: str) -> str:
    """Return the script of the page."""
    section = PAGE[PAGE.index(RUNTIMES[ending]) :]
    section = section[section.index(TITLES[task]) :]
    return re.search(r"```python\n(.*?)```", section, flags=re.DOTALL)[1]


def shallow(task):
    """Return a network of four blocks with random weights; a detector of two stages finds objects with them."""
    torch.manual_seed(0)
    head, names = "faster_rcnn" if task == "detection" else None, ("ant", "bee", "cat", "dog")
    info = twins.create_model("twins_svt_nano", task=task, head=head, num_classes=4, names=names).info
    limits = {"size": 96, "longest": 128} if info.preprocess.fit == "keep" else {"size": 64}
    info = replace(info, preprocess=replace(info.preprocess, **limits), width=32 if info.head else None)
    backbone = Twins(replace(VARIANTS["twins_svt_nano"], depths=(1, 1, 1, 1)))
    return part_of(task, "network").build(backbone, info, drop_rate=0.0).eval()


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    """Return an image that is not of the network's size."""
    from sklearn.datasets import load_sample_images

    path = tmp_path_factory.mktemp("images") / "photo.png"
    Image.fromarray(load_sample_images().images[0][:300, :400]).save(path)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_the_scripts_print_what_the_network_predicts(task, picture, tmp_path, monkeypatch):
    monkeypatch.setattr(verification, "SECONDS", 0.0)
    network = shallow(task)
    config = twins.ExportConfig(size=(96, 128) if task != "classification" else 64, opset=20, verify=(str(picture),))
    result = twins.export(network, tmp_path / "net.onnx", config)
    write_openvino(openvino.convert_model(result.path), tmp_path / "net.xml", result.info)
    settings = {"selection": twins.SelectionConfig()} if facts_of(task).selection else {}
    (expected,) = twins.Predictor(network, **settings)(picture)
    for ending in RUNTIMES:
        script = tmp_path / "script.py"
        script.write_text(script_of(ending, task))
        command = [sys.executable, "-I", "-c", BLOCKER, str(script), str(tmp_path / f"net.{ending}"), str(picture)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=120)
        assert done.returncode == 0, done.stderr
        COMPARISONS[task]([line.split() for line in done.stdout.splitlines()], expected)


def compare_classes(printed, expected):
    assert [name for name, _ in printed] == [expected.names[label] for label in expected.labels]
    np.testing.assert_allclose([float(score) for _, score in printed], expected.scores, atol=1e-3)


def compare_label_maps(printed, expected):
    pixels = {name: int(number) for name, number in printed}
    true = {name: int((expected.label_map == index).sum()) for index, name in enumerate(expected.names)}
    off = sum(abs(pixels.get(name, 0) - number) for name, number in true.items())
    assert off < 0.05 * expected.label_map.size  # the map is resized, not the logits


def compare_objects(printed, expected, pixels=0.1):
    assert len(printed) == len(expected) > 0
    values = np.array([[float(value) for value in line[1:]] for line in printed])
    np.testing.assert_allclose(values[:, 0], expected.scores, atol=1e-3)
    apart = np.abs(values[:, None, 1:5] - expected.boxes).max(axis=2)  # equal scores have no order
    apart[np.array([line[0] for line in printed])[:, None] != np.array(expected.names)[expected.labels]] = np.inf
    assert (apart.min(axis=1) < pixels).all()
    return values, apart.argmin(axis=1)


def compare_masks(printed, expected):
    values, rows = compare_objects(printed, expected, pixels=0.6)  # boxes are rounded
    areas = expected.masks.sum(axis=(1, 2))[rows]
    assert (np.abs(values[:, 5] - areas) < 0.15 * areas + 60).all()


COMPARISONS = {
    "classification": compare_classes,
    "semantic": compare_label_maps,
    "detection": compare_objects,
    "instance": compare_masks,
}
