"""Networks reproduce the golden numbers of independent implementations, with weights through the real converter."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
import torch

import twins

FEATURES = sorted(path.stem for path in (Path(__file__).parents[1] / "golden").glob("features_*.json"))
VARIANTS = ["pcpvt_small", "svt_small"]


@pytest.fixture(scope="module")
def save_formula(tmp_path_factory, golden, formula_weights):
    @functools.cache
    def save(keys: str) -> Path:
        path = tmp_path_factory.mktemp(keys) / "weights.pth"
        torch.save(formula_weights(golden(keys)), path)
        return path

    return save


@pytest.fixture(scope="module")
def build_backbone(save_formula):
    """Build each backbone once, in float64: the cases are sorted, so the last one is enough to keep."""

    @functools.lru_cache(maxsize=1)
    def build(model: str, **settings):
        backbone = twins.create_backbone(model, **settings).double()
        variant = model.removeprefix("twins_")
        twins.load_weights(backbone, save_formula(f"keys_reference_segmentation_backbone_{variant}"))
        return backbone.eval()

    return build


@pytest.mark.slow
@pytest.mark.parametrize("name", FEATURES)
def test_features_are_those_of_the_reference(name, golden, build_backbone, formula_input, deviation):
    expected = golden(name)
    backbone = build_backbone(expected["model"], padding=expected["padding"], stage_norms=expected["stage_norms"])
    with torch.inference_mode():
        maps = backbone(formula_input(*expected["input"][2:]))
    worst = max(deviation(actual, summary) for actual, summary in zip(maps, expected["features"], strict=True))
    assert worst < 1e-8


@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_are_those_of_the_reference(variant, golden, save_formula, formula_input, deviation):
    expected = golden(f"classification_{variant}")
    model = twins.create_model(expected["model"], padding="reference").double().eval()
    twins.load_weights(model, save_formula(f"keys_reference_classification_{variant}"))
    with torch.inference_mode():
        maps = model.forward_features(formula_input(224, 224))
        pooled, logits = model.forward_head(maps, pre_logits=True), model.forward_head(maps)
    assert deviation(pooled, expected["pooled"]) < 1e-8
    assert deviation(logits, expected["logits"]) < 1e-8
    assert logits.argmax(dim=1).tolist() == expected["argmax"]


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_are_those_of_mmpretrain(variant, golden, save_formula, formula_input, deviation):
    expected = golden(f"classification_mmpretrain_{variant}")
    model = twins.create_model(expected["model"]).double().eval()
    twins.load_weights(model, save_formula(f"keys_mmpretrain_{variant}"))
    with torch.inference_mode():
        assert deviation(model(formula_input(224, 224)), expected["logits"]) < 1e-8


@pytest.mark.slow
def test_float32_agrees_to_its_own_precision(golden, save_formula, formula_input, deviation):
    expected = golden("features_exact_svt_small_200x230")
    backbone = twins.create_backbone("twins_svt_small").eval()
    twins.load_weights(backbone, save_formula("keys_reference_segmentation_backbone_svt_small"))
    with torch.inference_mode():
        maps = backbone(formula_input(200, 230).float())
    assert max(map(deviation, maps, expected["features"])) < 1e-4
