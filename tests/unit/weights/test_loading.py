"""Loading is strict with one report of all differences; saved weights round-trip bit for bit in every layout."""

from __future__ import annotations

import json

import pytest
import timm
import torch

import twins
from twins.errors import ConfigError, WeightsError
from twins.factory import model_from_checkpoint
from twins.preprocess import Preprocess
from twins.run_folder import BEST
from twins.weights import files
from twins.weights.convert import convert
from twins.weights.dialects import from_twins, to_twins
from twins.weights.files import read_tensors

NAME = "twins_svt_nano"
DENSE = {
    "semantic_fpn": "semantic",
    "upernet": "semantic",
    "retinanet": "detection",
    "faster_rcnn": "detection",
    "mask_rcnn": "instance",
}


def _classifier(classes=3, name=NAME, **settings):
    return twins.create_model(name, num_classes=classes, **settings)


def _clone_state(model):
    return {key: value.clone() for key, value in model.state_dict().items()}


def _assert_equal(tensors, expected):
    assert tensors.keys() == expected.keys()
    assert all(torch.equal(tensors[key], expected[key]) for key in expected)


@pytest.fixture
def saved(tmp_path):
    torch.manual_seed(1)
    model = _classifier(names=["a", "b", "c"])
    path = tmp_path / "model.safetensors"
    twins.save_weights(model, path)
    return model, path


@pytest.fixture
def save_timm(tmp_path):
    def save(state):
        path = tmp_path / "timm.pth"
        torch.save(state, path)
        return path

    return save


def test_all_tensors_of_a_matching_file_are_loaded(saved):
    model, path = saved
    network = _classifier()
    report = twins.load_weights(network, path)
    _assert_equal(network.state_dict(), model.state_dict())
    assert report.ok
    assert set(report.loaded) == set(model.state_dict())
    assert (report.dialect, report.unused, report.initialised) == ("twins", (), ())
    assert f"{len(report.loaded)} tensors loaded" in str(report)


def test_one_message_lists_all_differences_and_the_network_is_untouched(saved, save_timm):
    model, _ = saved
    state = _clone_state(model)
    del state["backbone.stages.1.position.conv.bias"], state["norm.weight"]
    state |= {"ema.decay": torch.zeros(1), "head.bias": torch.zeros(7)}
    before = _clone_state(network := _classifier())
    with pytest.raises(WeightsError) as caught:
        twins.load_weights(network, save_timm(state))
    message = str(caught.value)
    assert "nothing was loaded" in message
    assert "missing (2): backbone.stages.1.position.conv.bias, norm.weight" in message
    assert "unexpected (1): ema.decay" in message
    assert "mis-shaped (1): head.bias (7,) for (3,)" in message
    _assert_equal(network.state_dict(), before)


def test_a_long_list_is_shortened_with_a_count(saved, save_timm):
    model, _ = saved
    state = {key: value for key, value in model.state_dict().items() if ".stages.3." not in key}
    with pytest.raises(WeightsError, match=r"missing \((\d+)\): .*, and \d+ more"):
        twins.load_weights(_classifier(), save_timm(state))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_network_keeps_its_dtype_and_its_parameters(saved, dtype):
    model, path = saved
    network = _classifier().to(dtype)
    identities = {name: id(parameter) for name, parameter in network.named_parameters()}
    twins.load_weights(network, path)
    assert {name: id(parameter) for name, parameter in network.named_parameters()} == identities
    assert all(parameter.dtype == dtype and parameter.requires_grad for parameter in network.parameters())
    assert torch.equal(network.head.weight, model.head.weight.to(dtype))


def test_half_precision_files_load_into_full_precision_networks(saved, save_timm):
    model, _ = saved
    network = _classifier()
    twins.load_weights(network, save_timm({key: value.half() for key, value in model.state_dict().items()}))
    assert torch.equal(network.head.weight, model.head.weight.half().float())


def test_another_number_of_classes_needs_resize_head(saved):
    model, path = saved
    network = _classifier(5)
    head = network.head.weight.clone()
    with pytest.raises(WeightsError, match=r"head\.weight \(3, 256\) for \(5, 256\)"):
        twins.load_weights(network, path)
    report = twins.load_weights(network, path, resize_head=True)
    assert report.initialised == ("head.bias", "head.weight")
    assert torch.equal(network.head.weight, head)
    assert torch.equal(network.norm.weight, model.norm.weight)


def test_resize_head_ignores_or_initialises_a_head(saved, tmp_path):
    _, path = saved
    headless = _classifier(0)
    with pytest.raises(WeightsError, match=r"unexpected \(2\): head\.bias, head\.weight"):
        twins.load_weights(headless, path)
    assert twins.load_weights(headless, path, resize_head=True).unused == ("head.bias", "head.weight")
    twins.save_weights(headless, tmp_path / "headless.safetensors")
    with pytest.raises(WeightsError, match=r"missing \(2\): head\.bias, head\.weight"):
        twins.load_weights(_classifier(4), tmp_path / "headless.safetensors")
    report = twins.load_weights(_classifier(4), tmp_path / "headless.safetensors", resize_head=True)
    assert report.initialised == ("head.bias", "head.weight")


def test_resize_head_accepts_no_other_difference(saved, save_timm):
    model, _ = saved
    state = model.state_dict() | {"norm.bias": torch.zeros(7)}
    with pytest.raises(WeightsError, match=r"mis-shaped \(1\): norm\.bias \(7,\) for \(256,\)\n"):
        twins.load_weights(_classifier(5), save_timm(state), resize_head=True)


def test_a_dense_backbone_loads_the_file_of_a_classifier(saved):
    model, path = saved
    backbone = twins.create_backbone(NAME, stage_norms=True)
    report = twins.load_weights(backbone, path)
    norms = {f"stages.{i}.norm.{part}" for i in range(4) for part in ("weight", "bias")}
    assert set(report.initialised) == norms
    assert report.unused == ("head.bias", "head.weight", "norm.bias", "norm.weight")
    assert set(report.loaded) == set(model.backbone.state_dict())
    assert torch.equal(backbone.stages[3].blocks[1].mlp.fc2.bias, model.backbone.stages[3].blocks[1].mlp.fc2.bias)


def test_a_shorter_backbone_leaves_the_later_stages_unused(saved):
    _, path = saved
    report = twins.load_weights(twins.create_backbone(NAME, stage_norms=False, out_indices=(0, 1)), path)
    assert not report.initialised
    assert {key.partition(".")[0] for key in report.unused} == {"stages", "norm", "head"}
    assert {key[:9] for key in report.unused if "stages" in key} == {"stages.2.", "stages.3."}


def test_stage_norms_that_the_network_does_not_have_are_refused(tmp_path):
    twins.save_weights(twins.create_backbone(NAME, stage_norms=True), tmp_path / "dense.safetensors")
    with pytest.raises(WeightsError, match=r"unexpected \(8\): stages\.0\.norm\.bias"):
        twins.load_weights(twins.create_backbone(NAME, stage_norms=False), tmp_path / "dense.safetensors")


def test_the_error_for_a_file_of_another_variant_names_both_variants(saved):
    _, path = saved
    with pytest.raises(WeightsError, match="holds a twins_svt_nano, the network is a twins_pcpvt_nano"):
        twins.load_weights(_classifier(name="twins_pcpvt_nano"), path)
    with pytest.raises(WeightsError, match="holds a twins_svt_nano, the network is a twins_pcpvt_nano"):
        twins.create_backbone("twins_pcpvt_nano", weights=path)


@pytest.mark.parametrize("dialect", ["twins", "timm", "reference"])
@pytest.mark.parametrize("ending", [".safetensors", ".pth"])
@pytest.mark.parametrize("name", ["twins_svt_nano", "twins_pcpvt_nano"])
def test_a_classifier_survives_a_round_trip_bit_for_bit(name, ending, dialect, tmp_path):
    model, path = _classifier(name=name), tmp_path / f"model{ending}"
    twins.save_weights(model, path, dialect)
    network = _classifier(name=name)
    report = twins.load_weights(network, path)
    assert report.dialect == ("twins" if dialect == "twins" else "timm")
    _assert_equal(network.state_dict(), model.state_dict())


@pytest.mark.parametrize("dialect", ["twins", "timm", "reference"])
@pytest.mark.parametrize("ending", [".safetensors", ".pth"])
@pytest.mark.parametrize("norms", [True, False])
def test_a_backbone_survives_a_round_trip_bit_for_bit(norms, ending, dialect, tmp_path):
    backbone, path = twins.create_backbone(NAME, stage_norms=norms), tmp_path / f"backbone{ending}"
    twins.save_weights(backbone, path, dialect)
    network = twins.create_backbone(NAME, stage_norms=norms)
    assert not twins.load_weights(network, path).initialised
    _assert_equal(network.state_dict(), backbone.state_dict())


@pytest.mark.slow
@pytest.mark.parametrize("ending", [".safetensors", ".pth"])
def test_timm_loads_our_export_strictly(ending, tmp_path):
    model, path = _classifier(name="twins_svt_small", padding="unmasked").eval(), tmp_path / f"model{ending}"
    twins.save_weights(model, path, "timm")
    timm_model = timm.create_model("twins_svt_small", num_classes=3, checkpoint_path=str(path)).eval()
    timm_model.load_state_dict(read_tensors(path).tensors, strict=True)
    images = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(timm_model(images), model(images), rtol=0, atol=1e-5)


def test_a_saved_network_is_rebuilt_with_its_settings_and_weights(tmp_path):
    settings = {"names": ["a", "b"], "padding": "reference", "in_chans": 4, "preprocess": Preprocess(size=64, crop=1.0)}
    model = twins.create_model(NAME, **settings)
    twins.save_weights(model, tmp_path / "model.safetensors")
    rebuilt = model_from_checkpoint(tmp_path / "model.safetensors")
    assert rebuilt.info == model.info
    _assert_equal(rebuilt.state_dict(), model.state_dict())


def test_a_classifier_of_another_layout_is_rebuilt_from_its_tensors(tmp_path):
    model = _classifier(1000)
    twins.save_weights(model, tmp_path / "model.pth", "timm")
    rebuilt = model_from_checkpoint(tmp_path / "model.pth")
    assert (rebuilt.info.model, rebuilt.info.num_classes, len(rebuilt.info.names)) == (NAME, 1000, 1000)
    _assert_equal(rebuilt.state_dict(), model.state_dict())


def test_preprocessing_is_read_from_the_hubs_config(tmp_path):
    twins.save_weights(_classifier(), tmp_path / "model.safetensors", "timm")
    config = {"input_size": [3, 256, 256], "crop_pct": 0.9, "interpolation": "bilinear"}
    config |= {"mean": [0.5] * 3, "std": [0.5] * 3}
    (tmp_path / "config.json").write_text(json.dumps({"pretrained_cfg": config}))
    expected = Preprocess(size=256, crop=0.9, interpolation="bilinear", mean=(0.5,) * 3, std=(0.5,) * 3)
    assert model_from_checkpoint(tmp_path / "model.safetensors").info.preprocess == expected


@pytest.mark.parametrize("text", ["{", "[]", '{"pretrained_cfg": null}', '{"pretrained_cfg": {"input_size": []}}'])
def test_a_broken_hub_config_is_ignored(text, tmp_path):
    twins.save_weights(_classifier(), tmp_path / "model.safetensors", "timm")
    (tmp_path / "config.json").write_text(text)
    assert model_from_checkpoint(tmp_path / "model.safetensors").info.preprocess == Preprocess()


def test_a_hub_config_with_values_out_of_range_is_ignored(tmp_path):
    twins.save_weights(_classifier(), tmp_path / "model.safetensors", "timm")
    config = {"input_size": [3, 8, 8], "crop_pct": 9, "interpolation": "x", "mean": [0.5] * 3, "std": [0.5] * 3}
    (tmp_path / "config.json").write_text(json.dumps({"pretrained_cfg": config}))
    assert model_from_checkpoint(tmp_path / "model.safetensors").info.preprocess == Preprocess()


def test_a_file_with_only_a_backbone_cannot_be_rebuilt(tmp_path):
    twins.save_weights(twins.create_backbone(NAME), tmp_path / "backbone.safetensors")
    with pytest.raises(WeightsError, match=r"backbone of twins_svt_nano without a classifier.*create_backbone"):
        model_from_checkpoint(tmp_path / "backbone.safetensors")


@pytest.mark.slow
@pytest.mark.parametrize("ending", [".safetensors", ".pth"])
def test_a_file_of_mmsegmentation_is_converted_bit_for_bit(ending, tmp_path, golden, formula_weights):
    state = formula_weights(golden("keys_mmseg_semantic_fpn_svt_small"))
    torch.save({"meta": {}, "state_dict": state}, tmp_path / "mm.pth")
    target = tmp_path / f"ours{ending}"
    assert convert(tmp_path / "mm.pth", target, to="twins").dialect == "mmseg"
    tensors = read_tensors(target).tensors
    q_and_kv = [tensors[f"backbone.stages.0.blocks.1.attn.{part}.weight"] for part in ("q", "kv")]
    assert torch.equal(torch.cat(q_and_kv), state["backbone.layers.0.1.attn.attn.in_proj_weight"])
    assert not twins.load_weights(twins.create_backbone("twins_svt_small").double(), target).initialised


def test_converting_to_timm_and_back_keeps_every_tensor(saved, tmp_path):
    model, path = saved
    assert convert(path, tmp_path / "timm.pth", to="timm").dialect == "twins"
    assert convert(tmp_path / "timm.pth", tmp_path / "again.safetensors", to="twins").dialect == "timm"
    _assert_equal(read_tensors(tmp_path / "again.safetensors").tensors, model.state_dict())


def test_unknown_layouts_endings_and_folders_are_refused(saved, tmp_path):
    model, _ = saved
    with pytest.raises(ConfigError, match=r"twins, timm, reference, found 'tim'; did you mean timm"):
        twins.save_weights(model, tmp_path / "x.pth", "tim")
    with pytest.raises(WeightsError, match=r"\.safetensors, \.pth.*found 'x\.onnx'"):
        twins.save_weights(model, tmp_path / "x.onnx")
    with pytest.raises(ConfigError, match=r"no folder .*nowhere"):
        twins.save_weights(model, tmp_path / "nowhere" / "x.pth")


@pytest.mark.parametrize("task", ["classification", "semantic", "detection", "instance"])
def test_a_model_keeps_its_load_report(saved, task):
    _, path = saved
    assert twins.create_model(NAME, task=task).load_report is None
    report = twins.create_model(NAME, task=task, num_classes=3, weights=path, resize_head=True).load_report
    assert report == twins.load_weights(twins.create_model(NAME, task=task, num_classes=3), path, resize_head=True)
    assert report.ok
    assert bool(report.unused) == bool(report.initialised) == (task != "classification")
    assert str(report).splitlines()[0] == f"{path} (twins layout): {len(report.loaded)} tensors loaded"


def test_a_backbone_and_a_rebuilt_network_keep_their_load_report(saved):
    model, path = saved
    assert twins.create_backbone(NAME).load_report is None
    report = twins.create_backbone(NAME, weights=path, stage_norms=False).load_report
    assert report.unused == ("head.bias", "head.weight", "norm.bias", "norm.weight")
    assert set(model_from_checkpoint(path).load_report.loaded) == set(model.state_dict())


@pytest.mark.slow
@pytest.mark.parametrize("head", DENSE)
def test_a_converted_dense_file_contains_the_description(head, tmp_path):
    model = twins.create_model(NAME, task=DENSE[head], head=head, num_classes=4)
    torch.save(model.state_dict(), tmp_path / "foreign.pth")
    convert(tmp_path / "foreign.pth", tmp_path / "ours.safetensors", to="twins")
    info = read_tensors(tmp_path / "ours.safetensors").info
    assert info is not None
    assert (info.task, info.head, info.num_classes, info.width) == (DENSE[head], head, 4, model.info.width)
    _assert_equal(model_from_checkpoint(tmp_path / "ours.safetensors").state_dict(), model.state_dict())
    predictor = twins.load(tmp_path / "ours.safetensors", device="cpu")
    assert predictor.predict([torch.zeros(3, 64, 64, dtype=torch.uint8)])[0].task == DENSE[head]


def test_an_unknown_variant_is_converted_without_a_description(tmp_path):
    state = twins.create_model(NAME, task="semantic", num_classes=4).state_dict()
    state["backbone.stages.0.blocks.2.norm1.weight"] = torch.ones(32)  # deeper than any variant
    torch.save(state, tmp_path / "deeper.pth")
    convert(tmp_path / "deeper.pth", tmp_path / "ours.safetensors", to="twins")
    assert read_tensors(tmp_path / "ours.safetensors").info is None
    _assert_equal(read_tensors(tmp_path / "ours.safetensors").tensors, state)


def test_the_error_for_a_file_without_a_twins_network_names_it(save_timm):
    path = save_timm({"conv1.weight": torch.zeros(1)})
    for read in (model_from_checkpoint, lambda path: convert(path, "never.pth", to="timm"), twins.load):
        with pytest.raises(WeightsError, match=rf"{path} holds no Twins network.*first keys are conv1\.weight"):
            read(path)


def test_keys_are_renamed_once_per_load(saved, save_timm, monkeypatch):
    model, _ = saved
    calls = []
    monkeypatch.setattr(files, "to_twins", lambda *arguments: calls.append(arguments) or to_twins(*arguments))
    path = save_timm(from_twins(model.state_dict(), "timm"))
    twins.create_model(NAME, task="semantic", num_classes=2, weights=path, resize_head=True)
    assert len(calls) == 1
    with pytest.raises(WeightsError, match="holds a twins_svt_nano"):
        twins.create_model("twins_pcpvt_nano", weights=path)
    assert len(calls) == 2


@pytest.mark.parametrize("key", ["stages.3.blocks.1.mlp.fc1.weight", "stages.0.patch_embed.proj.weight"])
def test_tensors_without_dimensions_are_mis_shaped_and_match_no_variant(key, saved, save_timm):
    model, _ = saved
    path = save_timm(model.state_dict() | {f"backbone.{key}": torch.tensor(0.0)})
    with pytest.raises(WeightsError, match=rf"mis-shaped \(1\): backbone\.{key} \(\) for"):
        twins.load_weights(_classifier(), path)
    with pytest.raises(WeightsError, match="no known Twins variant"):
        model_from_checkpoint(path)


def test_the_best_weights_of_a_run_are_converted(tmp_path):
    torch.manual_seed(0)
    network = twins.create_model("twins_svt_nano", num_classes=2)
    run = tmp_path / "run"
    run.mkdir()
    twins.save_weights(network, run / BEST)
    convert(run, tmp_path / "timm.pth", to="timm")
    again = model_from_checkpoint(tmp_path / "timm.pth").state_dict()
    assert all(torch.equal(value, again[name]) for name, value in network.state_dict().items())
    with pytest.raises(ConfigError, match=r"is the run's best\.safetensors, which would be lost"):
        convert(run, run / BEST, to="timm")
