"""Our dense networks are mmsegmentation's: its numbers, reached through the converter; and the reference's files."""

from __future__ import annotations

import pytest
import torch

import twins
from twins.errors import ConfigError, WeightsError

PARAMETERS = {  # millions, PCPVT-S/B/L then SVT-S/B/L
    "upernet": (54.08, 73.80, 90.96, 53.86, 87.72, 132.78),
    "semantic_fpn": (27.86, 47.58, 64.74, 27.80, 59.68, 102.74),
}
MODELS = [f"twins_{family}_{size}" for family in ("pcpvt", "svt") for size in ("small", "base", "large")]
GOLDEN = [
    "semantic_fpn_mmseg_pcpvt_small_96x128",
    "semantic_fpn_mmseg_svt_small_128x128",
    "upernet_mmseg_pcpvt_small_128x160",
    "upernet_mmseg_svt_small_128x128",
]


@pytest.mark.slow
@pytest.mark.parametrize("name", GOLDEN)
def test_maps_and_logits_are_those_of_mmsegmentation(name, golden, formula_weights, formula_input, deviation, tmp_path):
    expected = golden(name)
    head, variant = expected["head"], expected["model"].removeprefix("twins_")
    path = tmp_path / "weights.pth"
    torch.save(formula_weights(golden(f"keys_mmseg_{head}_{variant}")), path)
    model = twins.create_model(expected["model"], task="semantic", weights=path).double().eval()
    assert (model.info.head, model.num_classes) == (head, 150)
    twins.load_weights(model, path)  # in float64
    images = formula_input(*expected["input"][2:])
    with torch.inference_mode():
        maps, outputs = model.backbone(images), model(images)
    found = [*maps, outputs["logits"]]
    summaries = [*expected["features"], expected["logits"]]
    if "auxiliary_logits" in expected:
        found.append(outputs["auxiliary"])
        summaries.append(expected["auxiliary_logits"])
    assert max(deviation(*pair) for pair in zip(found, summaries, strict=True)) < 1e-8


@pytest.mark.parametrize("head", PARAMETERS)
@pytest.mark.parametrize("model", MODELS)
def test_parameters_are_those_of_the_networks_without_dead_ones(model, head):
    with torch.device("meta"):
        network = twins.create_model(model, task="semantic", head=head)
    millions = sum(parameter.numel() for parameter in network.parameters()) / 1e6
    assert abs(millions - PARAMETERS[head][MODELS.index(model)]) <= 0.005001


@pytest.mark.slow
def test_the_references_own_files_load_with_their_classifier_aside(golden, formula_weights, tmp_path):
    backbone = formula_weights(golden("keys_reference_segmentation_backbone_svt_small"))
    rest = formula_weights(golden("keys_mmseg_upernet_svt_small"))
    state = {f"backbone.{key}": value for key, value in backbone.items()}
    state |= {key: value for key, value in rest.items() if not key.startswith("backbone.")}
    path = tmp_path / "upernet.pth"
    torch.save({"state_dict": state}, path)
    model = twins.create_model("twins_svt_small", task="semantic", weights=path)
    report = twins.load_weights(model, path)
    assert report.dialect == "reference_segmentation"
    assert not report.missing
    assert set(report.unused) <= {"norm.weight", "norm.bias", "head.weight", "head.bias"}
    assert torch.equal(model.decode_head.conv_seg.weight.double(), rest["decode_head.conv_seg.weight"].float().double())


def test_a_classifier_feeds_a_dense_network_when_its_head_may_be_new(tmp_path):
    path = tmp_path / "classifier.safetensors"
    classifier = twins.create_model("twins_svt_nano", num_classes=7)
    twins.save_weights(classifier, path)
    model = twins.create_model("twins_svt_nano", task="semantic", num_classes=3, weights=path, resize_head=True)
    assert torch.equal(
        model.backbone.stages[1].blocks[0].mlp.fc1.weight, classifier.backbone.stages[1].blocks[0].mlp.fc1.weight
    )
    with pytest.raises(WeightsError, match=r"decode_head\.conv_seg"):
        twins.create_model("twins_svt_nano", task="semantic", num_classes=3, weights=path)


@pytest.mark.slow
def test_a_backbone_alone_feeds_a_dense_network(golden, formula_weights, tmp_path):
    path = tmp_path / "backbone.pth"
    state = formula_weights(golden("keys_reference_segmentation_backbone_svt_small"))
    torch.save({key: value for key, value in state.items() if not key.startswith(("norm.", "head."))}, path)
    model = twins.create_model("twins_svt_small", task="semantic", num_classes=3, weights=path, resize_head=True)
    backbone = twins.create_backbone("twins_svt_small", weights=path)
    assert all(torch.equal(model.backbone.state_dict()[key], value) for key, value in backbone.state_dict().items())
    with pytest.raises(WeightsError, match="create_backbone"):
        twins.create_model("twins_svt_small", task="semantic", num_classes=3, weights=path)


def test_a_dense_network_comes_back_as_it_was_saved(tmp_path):
    model = twins.create_model("twins_svt_nano", task="semantic", head="upernet", num_classes=4, names=tuple("abcd"))
    twins.save_weights(model, tmp_path / "a.safetensors")
    again = twins.create_model("twins_svt_nano", task="semantic", weights=tmp_path / "a.safetensors")
    assert again.info == model.info
    saved, loaded = model.state_dict(), again.state_dict()
    assert saved.keys() == loaded.keys()
    assert all(torch.equal(saved[key], loaded[key]) for key in saved)


def test_a_head_that_does_not_exist_is_said():
    with pytest.raises(ConfigError, match="did you mean upernet"):
        twins.create_model("twins_svt_nano", task="semantic", head="upernett")
