"""Checkpoints of self-supervised learning: the backbone is found, its momentum copy and projections are left out."""

from __future__ import annotations

import pytest
import torch

import twins
from twins.weights.dialects import from_twins
from twins.weights.files import read_tensors

NAME = "twins_svt_nano"


@pytest.fixture(scope="module")
def flat():
    torch.manual_seed(0)
    return _state()


@pytest.fixture(scope="module")
def momentum():
    torch.manual_seed(1)
    return _state()


@pytest.fixture
def save(tmp_path):
    def save(content):
        torch.save(content, tmp_path / "c.pth")
        return tmp_path / "c.pth"

    return save


def _state():
    return from_twins(twins.create_model(NAME, num_classes=3).state_dict(), "timm")


def _prefixed(prefix, state):
    return {prefix + name: value for name, value in state.items()}


def _body(state):
    return {name: value for name, value in state.items() if not name.startswith("head.")}


MLP = {"0.weight": torch.zeros(8, 256), "0.bias": torch.zeros(8), "2.weight": torch.zeros(4, 8)}
SELF_SUPERVISED = {
    "MoCo": lambda own, copy: {
        "state_dict": _prefixed("module.encoder_q.", own | _prefixed("head.", MLP))
        | _prefixed("module.encoder_k.", copy | _prefixed("head.", MLP))
        | {"module.queue": torch.zeros(4, 16), "module.queue_ptr": torch.zeros(1, dtype=torch.int64)}
    },
    "MoCo v3": lambda own, copy: {
        "state_dict": _prefixed("module.base_encoder.", own | _prefixed("head.", MLP))
        | _prefixed("module.momentum_encoder.", copy | _prefixed("head.", MLP))
        | _prefixed("module.predictor.", MLP)
    },
    "BYOL": lambda own, copy: (
        _prefixed("online_network.", own | _prefixed("projection.", MLP))
        | _prefixed("target_network.", copy | _prefixed("projection.", MLP))
        | _prefixed("predictor.", MLP)
    ),
    "BYOL in dicts": lambda own, copy: {
        "online_network_state_dict": _prefixed("encoder.", own) | _prefixed("projection.net.", MLP),
        "target_network_state_dict": _prefixed("encoder.", copy) | _prefixed("projection.net.", MLP),
    },
    "SimCLR": lambda own, _: {"state_dict": _prefixed("backbone.0.", own) | _prefixed("projection_head.layers.", MLP)},
    "SwAV": lambda own, _: {
        "state_dict": _prefixed("module.", own | _prefixed("projection_head.", MLP))
        | {"module.prototypes.weight": torch.zeros(30, 4)}
    },
    "lightly's MoCo": lambda own, copy: {
        "state_dict": _prefixed("backbone.", own)
        | _prefixed("projection_head.layers.", MLP)
        | _prefixed("backbone_momentum.", copy)
        | _prefixed("projection_head_momentum.layers.", MLP)
    },
    "mmselfsup": lambda own, copy: {
        "state_dict": _prefixed("backbone.", own)
        | _prefixed("neck.", MLP)
        | _prefixed("head.predictor.", MLP)
        | _prefixed("target_generator.module.0.", copy)
    },
}


@pytest.mark.slow
@pytest.mark.parametrize("method", SELF_SUPERVISED)
def test_the_backbone_of_self_supervised_learning_is_found_and_not_its_momentum_copy(method, flat, momentum, save):
    path = save(SELF_SUPERVISED[method](_body(flat), _body(momentum)))
    expected = flat["blocks.2.1.mlp.fc1.weight"]
    backbone = twins.create_backbone(NAME, weights=path)
    classifier = twins.create_model(NAME, num_classes=2, weights=path, resize_head=True)
    assert torch.equal(backbone.state_dict()["stages.2.blocks.1.mlp.fc1.weight"], expected)
    assert torch.equal(classifier.state_dict()["backbone.stages.2.blocks.1.mlp.fc1.weight"], expected)
    report = backbone.load_report
    assert len(report.others) == (method not in ("SimCLR", "SwAV"))
    assert report.left_out or report.unused
    assert report.note.startswith(str(path))
    if report.others:
        copy = twins.create_backbone(NAME, weights=path, weights_key=report.others[0])
        assert torch.equal(copy.state_dict()["stages.2.blocks.1.mlp.fc1.weight"], momentum["blocks.2.1.mlp.fc1.weight"])


def test_a_predictor_without_a_projection_may_be_a_part_of_the_network(flat, save):
    checkpoint = read_tensors(save(_prefixed("encoder.", _body(flat)) | {"predictor.weight": torch.zeros(2, 256)}))
    assert checkpoint.network.beside == ("predictor.weight",)
