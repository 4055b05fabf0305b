"""Every layout's real keys: told apart, renamed into exactly our networks' keys, and back to the bit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import twins
from twins.errors import WeightsError
from twins.weights.dialects import DIALECTS, detect, from_twins, to_twins

LAYOUTS = {
    "keys_mmpretrain_pcpvt_small": "mmpretrain",
    "keys_mmpretrain_svt_small": "mmpretrain",
    "keys_mmseg_semantic_fpn_pcpvt_small": "mmseg",
    "keys_mmseg_semantic_fpn_svt_small": "mmseg",
    "keys_mmseg_upernet_pcpvt_small": "mmseg",
    "keys_mmseg_upernet_svt_small": "mmseg",
    "keys_reference_classification_pcpvt_small": "timm",
    "keys_reference_classification_svt_small": "timm",
    "keys_reference_segmentation_backbone_pcpvt_small": "timm",  # no stage norms: a classifier's keys
    "keys_reference_segmentation_backbone_svt_small": "reference_segmentation",
}
HEADS = ("decode_head.", "auxiliary_head.", "neck.")


@pytest.fixture(scope="module", params=LAYOUTS)
def case(request, golden, formula_weights):
    return request.param, formula_weights(golden(request.param))


def test_every_golden_key_list_is_covered():
    assert set(LAYOUTS) == {path.stem for path in (Path(__file__).parents[1] / "golden").glob("keys_*.json")}


@pytest.mark.slow
def test_the_layout_is_told_by_its_keys(case):
    name, state = case
    assert detect(state) == LAYOUTS[name]


@pytest.mark.slow
def test_renamed_keys_and_shapes_are_our_networks(case):
    name, state = case
    found = {key: value.shape for key, value in to_twins(state, LAYOUTS[name]).items()}
    assert {key for key in found if key.startswith(HEADS)} == {key for key in state if key.startswith(HEADS)}
    with torch.device("meta"):
        assert {key: shape for key, shape in found.items() if not key.startswith(HEADS)} == _ours(name)


def test_there_and_back_is_the_same_to_the_bit(case):
    name, state = case
    prefix = DIALECTS[LAYOUTS[name]].prefixed
    if not any(key.startswith(prefix) for key in state):  # a backbone saved alone comes back in its place
        state = {prefix + key: value for key, value in state.items()}
    back = from_twins(to_twins(state, LAYOUTS[name]), LAYOUTS[name])
    assert set(back) == set(state)
    assert all(torch.equal(back[key], state[key]) and back[key].dtype == state[key].dtype for key in state)


@pytest.mark.parametrize("case", [name for name in LAYOUTS if "mm" in name], indirect=True)
def test_a_backbone_saved_alone_is_told_and_renamed_alike(case):
    name, state = case
    state = {key: value for key, value in state.items() if key.startswith("backbone.")}
    alone = {key.removeprefix("backbone."): value for key, value in state.items()}
    dialect = detect(alone)
    assert dialect == LAYOUTS[name]
    assert to_twins(alone, dialect).keys() == to_twins(state, dialect).keys()


def test_joined_queries_keys_and_values_are_split_in_their_order(golden, formula_weights):
    state = formula_weights(golden("keys_mmseg_semantic_fpn_svt_small"))
    ours = to_twins(state, "mmseg")
    joined = state["backbone.layers.1.1.attn.attn.in_proj_weight"]
    assert torch.equal(ours["backbone.stages.1.blocks.1.attn.q.weight"], joined[:128])
    assert torch.equal(ours["backbone.stages.1.blocks.1.attn.kv.weight"], joined[128:])


def test_our_own_layout_is_told_with_and_without_a_head():
    model = twins.create_model("twins_svt_nano", num_classes=2)
    assert detect(model.state_dict()) == detect(model.backbone.state_dict()) == "twins"


def test_keys_of_no_known_layout_are_shown():
    with pytest.raises(WeightsError, match=r"no Twins network.*timm.*first keys are conv1\.weight, fc\.weight"):
        detect({"fc.weight": torch.zeros(1), "conv1.weight": torch.zeros(1)})


def _ours(name: str) -> dict[str, torch.Size]:
    variant = "twins_" + "_".join(name.split("_")[-2:])
    if "mmseg" in name:
        norms = "svt" in name
        state = twins.create_backbone(variant, stage_norms=norms).state_dict()
        return {f"backbone.{key}": value.shape for key, value in state.items()}
    model = twins.create_model(variant)
    shapes = {key: value.shape for key, value in model.state_dict().items()}
    if LAYOUTS[name] == "reference_segmentation":  # the reference's dense backbones keep the classifier they ignore
        for i, channels in enumerate(model.backbone.channels):
            shapes |= {f"backbone.stages.{i}.norm.{part}": torch.Size([channels]) for part in ("weight", "bias")}
    return shapes
