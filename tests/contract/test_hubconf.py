"""`torch.hub.load` on a checkout gives the networks that `create_model` gives, the package installed or not."""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import twins
from twins.backbone.config import PUBLISHED

ROOT = Path(__file__).parents[2]
NOT_INSTALLED = """
import sys
from pathlib import Path

sys.path = [folder for folder in sys.path if not Path(folder, "twins").is_dir()]
import torch

model = torch.hub.load(sys.argv[1], "twins_svt_small", source="local", pretrained=True)
import twins

detector = torch.hub.load(sys.argv[1], "twins_detection", source="local", pretrained=True)
pairs = zip(model.backbone.stages[3].blocks.parameters(), detector.backbone.stages[3].blocks.parameters(), strict=True)
assert all(torch.equal(*pair) for pair in pairs), "the detector's backbone is not the published one"
assert Path(twins.__file__).is_relative_to(Path(sys.argv[1], "src")), twins.__file__
torch.save(model.eval()(torch.ones(1, 3, 32, 32)), sys.argv[2])
"""


def load(entry, **settings):
    torch.manual_seed(0)
    return torch.hub.load(str(ROOT), entry, source="local", **settings)


def created(name, create=twins.create_model, **settings):
    torch.manual_seed(0)
    return create(name, **settings)


def assert_equal_outputs(first, second):
    images = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(first.eval()(images), second.eval()(images), rtol=0, atol=0)


def test_the_entries_are_the_published_networks_and_the_tasks_each_with_a_docstring():
    names = runpy.run_path(str(ROOT / "hubconf.py"))
    entries = {name: entry for name, entry in names.items() if callable(entry) and name[0] != "_"}  # torch.hub's rule
    tasks = ["twins_backbone", "twins_detection", "twins_instance", "twins_semantic"]
    assert sorted(entries) == sorted([*PUBLISHED, *tasks])
    for name, variant in PUBLISHED.items():
        with torch.device("meta"):
            millions = sum(weight.numel() for weight in twins.create_model(name).parameters()) / 1e6
        assert f"{millions:.1f} million parameters, {variant.top1:.1f} % top-1" in entries[name].__doc__
    assert all(entries[name].__doc__ for name in tasks)


def test_a_network_equals_that_of_create_model():
    assert_equal_outputs(load("twins_pcpvt_small", num_classes=5), created("twins_pcpvt_small", num_classes=5))


@pytest.mark.parametrize("task", ["semantic", "detection", "instance"])
def test_a_task_equals_that_of_create_model(task):
    assert_equal_outputs(load(f"twins_{task}", name="twins_svt_nano"), created("twins_svt_nano", task=task))


def test_a_backbone_equals_that_of_create_backbone():
    settings = {"name": "twins_svt_nano", "out_indices": (1, 3)}
    assert_equal_outputs(load("twins_backbone", **settings), created(create=twins.create_backbone, **settings))


def test_a_weight_file_is_loaded_and_two_choices_of_weights_are_refused(tmp_path):
    file = tmp_path / "model.safetensors"
    twins.save_weights(created("twins_svt_nano"), file)
    backbone = load("twins_backbone", name="twins_svt_nano", weights=file)
    assert backbone.load_report.path == file
    for settings in ({"pretrained": True, "weights": file}, {"pretrained": "no"}):
        with pytest.raises(twins.TwinsError, match="`pretrained`"):
            load("twins_svt_small", **settings)


@pytest.mark.slow
def test_a_checkout_that_is_not_installed_loads_published_weights_for_every_task(tmp_path, serve_hub, hub_environment):
    model = created("twins_svt_small")
    twins.save_weights(model, tmp_path / "model.safetensors", "timm")
    with serve_hub((tmp_path / "model.safetensors").read_bytes()) as hub:
        environment = hub_environment(hub.url, tmp_path / "hub")
        command = [sys.executable, "-c", NOT_INSTALLED, str(ROOT), str(tmp_path / "logits.pt")]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    with torch.no_grad():
        logits = model.eval()(torch.ones(1, 3, 32, 32))
    torch.testing.assert_close(torch.load(tmp_path / "logits.pt"), logits, rtol=1e-5, atol=1e-5)
