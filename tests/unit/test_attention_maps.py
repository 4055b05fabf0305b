"""Evidence comes from where the score comes from, and attention maps have the shape of keys and tokens."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

import twins
from twins.attention_maps import CellMap, combine_evidence, forward_with_maps, global_map, local_map, stage_evidence
from twins.predictor import Predictor
from twins.preprocess import Preprocess
from twins.report.attention import attention_section


def network(name="twins_svt_nano", **settings):
    torch.manual_seed(0)
    return twins.create_model(name, num_classes=4, **settings).eval()


def test_evidence_is_gradient_times_map_of_a_known_value():
    maps = [torch.rand(1, 3, 4, 2, requires_grad=True) for _ in range(3)]
    value = 2 * maps[0][0, 1, 2, 0] - maps[0][0, 0, 0, 1] + (maps[1] * torch.tensor([1.0, 3.0])).sum()
    first, second, third = stage_evidence(value, maps)
    expected = torch.zeros(3, 4)
    expected[1, 2] = 1.0  # what lowers the value is no evidence
    torch.testing.assert_close(first, expected)
    weighted = maps[1].detach()[0] @ torch.tensor([1.0, 3.0])
    torch.testing.assert_close(second, weighted / weighted.max())
    assert third is None


def test_the_evidence_for_a_score_is_where_the_score_comes_from():
    """With the score of one corner of the last map, of an image that is noise, most evidence is in this corner."""
    outputs, maps = forward_with_maps(network(task="semantic"), torch.randn(1, 3, 128, 128))
    evidence = combine_evidence(stage_evidence(outputs["logits"][0, 0, :8, :8].sum(), maps), (128, 128))
    assert evidence.shape == (128, 128)
    assert 0 <= float(evidence.min()) < float(evidence.max()) <= 1
    assert float(evidence[:64, :64].mean()) > 2 * float(evidence[64:, 64:].mean())


def test_the_outputs_with_maps_are_those_of_the_network_and_nothing_stays_behind():
    model, images = network(), torch.randn(1, 3, 70, 90)
    outputs, maps = forward_with_maps(model, images)
    with torch.no_grad():
        torch.testing.assert_close(outputs.detach(), model(images), rtol=0, atol=1e-5)
    assert [tuple(x.shape[1:3]) for x in maps] == [(18, 23), (9, 12), (5, 6), (3, 3)]
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_evidence_is_combined_where_its_tokens_are():
    """An input of 70 x 140 pixels has maps whose last tokens reach beyond it."""
    third, fourth = torch.zeros(5, 9), torch.zeros(4, 5)
    third[4, 0] = fourth[0, 0] = 1.0  # rows 64 to 80 of the input, which ends at 70; rows 0 to 32
    total = combine_evidence([None, None, third, fourth], (70, 140))
    assert total.shape == (70, 140)
    assert float(total[69, 0]) > 0.4
    assert float(total[16, 16]) == pytest.approx(0.5, abs=0.02)
    assert not combine_evidence([None] * 4, (8, 8)).any()


def test_attention_maps_have_the_shape_of_keys_and_tokens_and_are_normalised():
    backbone = network().backbone
    image = torch.randn(3, 70, 90)
    keys = global_map(backbone, image, 0)
    assert keys.values.shape == (3, 3)  # 18 x 23 tokens in cells of 8
    assert float(keys.values.sum()) == pytest.approx(1.0, abs=1e-5)
    windows = local_map(backbone, image, 0)
    assert windows.values.shape == (18, 23)
    assert float(windows.values[:7, :7].mean()) == pytest.approx(1.0, abs=1e-5)
    assert float(windows.values[14:, 21:].mean()) == pytest.approx(1.0, abs=1e-5)  # a partly filled window
    assert (keys.cell, windows.cell) == (32, 4)


def test_a_map_is_drawn_where_its_cells_are():
    """Keys of 32 pixels reach beyond an input of 70 x 90: its last row and column are those of the third cells."""
    values = torch.zeros(3, 3)
    values[2, 1] = 1.0
    pixels = CellMap(values, 32).pixels((70, 90))
    assert pixels.shape == (70, 90)
    assert float(pixels[69, 48]) == float(pixels.max()) > 0.6  # 11 pixels above the centre of the cell
    assert float(pixels[40:, 10].max()) == 0.0
    assert CellMap(torch.ones(2, 2), 32).pixels((70, 60))[64:].abs().max() == 0.0


@pytest.mark.usefixtures("few_blocks")
@pytest.mark.parametrize(("name", "windows"), [("twins_svt_nano", True), ("twins_pcpvt_nano", False)])
def test_a_stage_without_one_of_the_attentions_has_no_map_of_it(name, windows):
    model = network(name, preprocess=Preprocess(size=160, crop=1.0))
    image = torch.randn(3, 64, 64)
    assert (local_map(model.backbone, image, 0) is not None) == windows
    assert (global_map(model.backbone, image, 0) is not None) != windows
    predictor = Predictor(model, device="cpu")
    shown = Image.effect_noise((160, 160), 60).convert("RGB")
    page = attention_section(predictor, [(shown, "noise")], predictor.predict(shown), "the score")
    assert ("<figcaption>windows" in page) == windows
    assert ("<figcaption>keys" in page) != windows
    assert "evidence for" in page
