"""The scripts of docs/without-this-package.md predict as the network does, without torch and without this package."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import twins
from twins.tasks.table import TASKS

PAGE = (Path(__file__).parents[2] / "docs" / "without-this-package.md").read_text()
RUNTIMES = {"onnx": "## ONNX Runtime", "openvino": "## OpenVINO"}
TITLES = {
    "classification": "### Classification",
    "semantic": "### Semantic segmentation",
    "detection": "### Detection",
    "instance": "### Instance segmentation",
}
BLOCKER = """import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "torchvision", "twins"):
            raise ImportError(f"{name} is not installed here")
sys.meta_path.insert(0, Blocker())
sys.argv = sys.argv[1:]
exec(open(sys.argv[0]).read())
"""


def script_of(runtime: str, task: str) -> str:
    """Return the script of the page."""
    section = PAGE[PAGE.index(RUNTIMES[runtime]) :]
    section = section[section.index(TITLES[task]) :]
    return re.search(r"```python\n(.*?)```", section, flags=re.DOTALL)[1]


@pytest.fixture(scope="module", params=list(TASKS))
def network(request):
    """Return a small network of each task, which finds objects."""
    torch.manual_seed(0)
    names = [f"class {number}" for number in range(4)]
    model = twins.create_model("twins_svt_nano", task=request.param, num_classes=4, names=names).eval()
    preprocess = model.info.preprocess
    small = {"size": 64} if preprocess.fit != "keep" else {"size": 64, "longest": 96}
    model.info = replace(model.info, preprocess=replace(preprocess, **small))
    return model


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    """Return an image that is not of the network's size."""
    from sklearn.datasets import load_sample_images

    path = tmp_path_factory.mktemp("images") / "photo.png"
    Image.fromarray(load_sample_images().images[0][:300, :380]).save(path)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_script_prints_what_the_network_predicts(network, runtime, picture, tmp_path):
    file = tmp_path / ("file.onnx" if runtime == "onnx" else "file.xml")
    twins.export(network, file, twins.ExportConfig(format=runtime))
    script = tmp_path / "script.py"
    script.write_text(script_of(runtime, network.task))
    command = [sys.executable, "-I", "-c", BLOCKER, str(script), str(file), str(picture)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert done.returncode == 0, done.stderr
    printed = [line.rsplit(" ", done_values(network.task)) for line in done.stdout.splitlines()]
    (expected,) = (
        twins.Predictor(network, selection=twins.SelectionConfig() if "boxes" in PAGE else None)(picture)
        if (network.task in ("detection", "instance"))
        else twins.Predictor(network)(picture)
    )
    compare(network.task, printed, expected)


def done_values(task: str) -> int:
    """Return how many values follow a class name in a printed line."""
    return {"classification": 1, "semantic": 1, "detection": 5, "instance": 6}[task]


def compare(task: str, printed: list[list[str]], expected: twins.Prediction) -> None:
    """Compare printed lines with a prediction."""
    names = [
        expected.names[label] for label in (np.unique(expected.label_map) if task == "semantic" else expected.labels)
    ]
    values = np.array([[float(value) for value in line[1:]] for line in printed])
    if task == "classification":
        assert [line[0] for line in printed] == names[:5]
        np.testing.assert_allclose(values[:, 0], expected.scores[:5], atol=1e-3)
    elif task == "semantic":
        pixels = {line[0]: int(line[1]) for line in printed}
        true = {name: int((expected.label_map == expected.names.index(name)).sum()) for name in expected.names}
        off = sum(abs(pixels.get(name, 0) - count) for name, count in true.items())
        assert off < 0.05 * expected.label_map.size
    else:
        assert len(printed) == len(expected) > 0
        np.testing.assert_allclose(values[:, 0], expected.scores, atol=1e-3)
        np.testing.assert_allclose(values[:, 1:5], expected.boxes, atol=0.1 if task == "detection" else 0.6)
    if task == "instance":
        areas = expected.masks.sum(axis=(1, 2))
        assert (np.abs(values[:, 5] - areas) < 0.15 * areas + 60).all()
