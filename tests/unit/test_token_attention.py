"""Attention of one token against the full weights of the network, its boxes, and the point that is chosen."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import twins
from twins.attention_maps import attention_inputs, attention_modules
from twins.backbone.attention import LocalAttention
from twins.errors import ConfigError, InputError, WeightsError
from twins.exported import ExportedNetwork
from twins.predictor import Predictor
from twins.tasks.contract import Decision
from twins.tasks.semantic.spec import SemanticSpec
from twins.token_attention import attention_at

TASKS = ("classification", "semantic", "detection", "instance")


def predictor(name="twins_svt_nano", task="classification", size=64, fit=None, crop=1.0, objects=False, **settings):
    """A small network; with `objects` a detector that finds some."""
    torch.manual_seed(1)
    model = twins.create_model(name, task=task, num_classes=4, **settings)
    if objects:
        for key, values in model.named_parameters():
            if "cls" in key and key.endswith("weight"):
                values.data *= 30
    preprocess = replace(model.info.preprocess, size=size, crop=crop)
    model.info = replace(model.info, preprocess=preprocess if fit is None else replace(preprocess, fit=fit))
    return Predictor(model, device="cpu")


def noise(width, height):
    pixels = np.random.default_rng(width * height).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def full_weights(network, image):
    """The full weights of each block of each stage, from the network's own modules and inputs."""
    modules = [attention_modules(network.backbone, stage) for stage in range(4)]
    images, _ = network.prepare(network.info.preprocess.pixels(image)[None], None)
    with torch.no_grad(), attention_inputs([module for stage in modules for module in stage]) as inputs:
        network(images)
        return [[(module, inputs[module], module.weights(inputs[module])[0]) for module in stage] for stage in modules]


def expected(module, x, weights, token, head=None):
    """A token's row of the full weights as a grid of tokens or cells; the window without padding."""
    (row, column), (height, width) = token, x.shape[1:3]
    if not isinstance(module, LocalAttention):
        grid = weights[:, row * width + column].view(-1, *module.key_grid(height, width))
        return (grid.mean(0) if head is None else grid[head - 1]).numpy()
    side = module.window
    window = row // side * -(-width // side) + column // side
    grid = weights[window, :, row % side * side + column % side].view(-1, side, side)
    grid = grid[:, : height - row // side * side, : width - column // side * side]
    return (grid.mean(0) if head is None else grid[head - 1]).numpy()


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("name", ["twins_svt_nano", "twins_pcpvt_nano"])
def test_the_weights_are_those_of_the_networks_own_attention(name, task):
    one, image = predictor(name, task), noise(101, 133)
    one.model.double()
    full = full_weights(one.model, image)
    found = attention_at(one, image, (61.0, 70.0))
    assert (found.size, found.point, found.chosen_by, found.target) == ((133, 101), (61.0, 70.0), "request", None)
    assert [stage.stage for stage in found.stages] == [1, 2, 3, 4]
    for stage, blocks in zip(found.stages, full, strict=True):
        kinds = ["local" if isinstance(module, LocalAttention) else "global" for module, *_ in blocks]
        assert list(stage.blocks) == kinds
        assert (stage.rows, stage.columns) == blocks[0][1].shape[1:3]
        assert stage.heads == blocks[0][0].num_heads
        assert stage.evidence is None
        assert (stage.window is None) == ("local" not in kinds)
        for part in (stage.window, stage.keys):
            if part is not None:
                np.testing.assert_allclose(part.weights, expected(*blocks[part.block - 1], stage.token), atol=1e-12)
                assert float(part.weights.sum()) == pytest.approx(1.0, abs=1e-12)


def test_a_stage_a_block_and_a_head_can_be_chosen():
    one, image = predictor(size=100), noise(100, 100)
    one.model.double()
    blocks = full_weights(one.model, image)[2]
    (local,) = attention_at(one, image, (50, 50), stage=3, block=1, head=3).stages
    (subsampled,) = attention_at(one, image, (50, 50), stage=3, block=2, head=4).stages
    assert local.stage == subsampled.stage == 3
    assert local.keys is None
    assert subsampled.window is None
    np.testing.assert_allclose(local.window.weights, expected(*blocks[0], local.token, head=3), atol=1e-12)
    np.testing.assert_allclose(subsampled.keys.weights, expected(*blocks[1], local.token, head=4), atol=1e-12)


@pytest.mark.usefixtures("few_blocks")
def test_a_stage_with_one_block_has_no_weights_of_the_other_kind():
    found = attention_at(predictor(), noise(64, 64))
    assert [stage.blocks for stage in found.stages] == [("local",)] * 3 + [("local", "global")]
    assert [stage.keys is None for stage in found.stages] == [True, True, True, False]
    assert all(stage.window is not None and stage.evidence is not None for stage in found.stages)


def test_boxes_are_in_pixels_of_the_image_and_reach_beyond_it_where_cells_are_padded():
    """The input is 50 x 100 pixels, half the image: 13 x 25 tokens."""
    one = predictor(task="semantic", size=50)
    first, *_, last = attention_at(one, noise(200, 100), (199.5, 99.5)).stages
    assert (first.rows, first.columns, first.token) == (13, 25, (12, 24))
    assert first.token_box == (192, 96, 200, 104)
    assert first.window.box == (168, 56, 200, 104)
    assert first.window.weights.shape == (6, 4)
    assert first.keys.box == (0, 0, 256, 128)
    assert first.keys.weights.shape == (2, 4)
    assert (last.rows, last.columns, last.token, last.token_box) == (2, 4, (1, 3), (192, 64, 256, 128))
    explained = attention_at(one, noise(200, 100)).stages[0].evidence
    assert (explained.box, explained.values.shape) == ((0, 0, 200, 104), (13, 25))


@pytest.mark.parametrize("padding", ["reference", "unmasked"])
def test_networks_that_crop_their_maps_have_a_token_for_every_point(padding):
    found = attention_at(predictor(task="semantic", size=50, padding=padding), noise(200, 100), (199.5, 99.5))
    first = found.stages[0]
    assert (first.rows, first.columns, first.token) == (12, 25, (11, 24))
    assert first.keys.box == (0, 0, 192, 64)  # 1 x 3 cells
    assert first.window.weights.shape == (5, 4)
    total = float(first.window.weights.sum())
    assert total == pytest.approx(1.0, abs=1e-6) if padding == "reference" else total < 0.9  # padded tokens are keys


def test_the_part_that_a_crop_shows_is_where_boxes_lie():
    found = attention_at(predictor(), noise(100, 50), (25, 0))
    assert found.seen == (25, 0, 75, 50)
    scale = 50 / 64
    assert found.stages[0].token_box == (25, 0, 25 + 4 * scale, 4 * scale)
    assert found.stages[3].keys.box == (25, 0, 75, 50)


def test_a_squashed_image_has_oblong_tokens():
    found = attention_at(predictor(fit="squash"), noise(128, 64), (127, 63))
    assert found.seen == (0, 0, 128, 64)
    assert found.stages[3].token_box == (64, 32, 128, 64)


@pytest.mark.parametrize("fit", ["crop", "squash", "keep"])
@pytest.mark.parametrize("size", [(97, 143), (211, 67)])
def test_the_token_of_a_point_holds_it(fit, size):
    task = "classification" if fit != "keep" else "semantic"
    one, image = predictor(task=task, fit=fit, crop=0.9), noise(*size)
    x0, y0, x1, y1 = one.model.info.preprocess.seen_part(*size)
    for share in (0.0, 0.37, 0.999):
        x, y = x0 + share * (x1 - x0), y0 + (1 - share - 0.0005) * (y1 - y0)
        for stage in attention_at(one, image, (x, y)).stages:
            left, top, right, bottom = stage.token_box
            assert left - 1e-9 <= x <= right + 1e-9
            assert top - 1e-9 <= y <= bottom + 1e-9


def test_a_classifier_is_explained_for_its_class_at_the_largest_evidence():
    one, image = predictor(size=128), noise(140, 140)
    (prediction,) = one.predict(image)
    found = attention_at(one, image)
    assert found.chosen_by == "evidence"
    assert (found.target.label, found.target.name) == (prediction.labels[0], str(prediction.labels[0]))
    assert found.target.score == pytest.approx(float(prediction.scores[0]), abs=1e-6)
    for stage in found.stages:
        assert stage.evidence.values.shape == (stage.rows, stage.columns)
        assert stage.evidence.values.min() >= 0
        assert stage.evidence.values.max() == 1
    row, column = found.stages[3].token
    assert found.stages[3].evidence.values[row, column] > 0.5


def test_the_evidence_of_a_known_score_is_in_its_corner(monkeypatch):
    def corner(self, outputs, prediction):
        return Decision(label=2, score=None, value=outputs["logits"][0, 2, 24:, 24:].sum())

    monkeypatch.setattr(SemanticSpec, "decision", corner)
    found = attention_at(predictor(task="semantic", size=128), noise(256, 256))
    assert (found.target.label, found.target.score, found.chosen_by) == (2, None, "evidence")
    assert min(found.point) > 128
    for stage in found.stages[:3]:
        values, half = stage.evidence.values, stage.rows // 2
        assert values[half:, half:].mean() > 2 * values[:half, :half].mean()


@pytest.mark.parametrize(
    ("task", "head"), [("detection", "retinanet"), ("detection", "faster_rcnn"), ("instance", "mask_rcnn")]
)
def test_a_detector_is_explained_for_its_surest_object(task, head):
    one, image = predictor(task=task, head=head, objects=True), noise(150, 100)
    (prediction,) = one.predict(image)
    assert len(prediction)
    found = attention_at(one, image)
    x0, y0, x1, y1 = prediction.boxes[0]
    assert found.chosen_by == "object"
    assert found.target.label == prediction.labels[0]
    assert found.target.score == pytest.approx(float(prediction.scores[0]), abs=1e-4)
    np.testing.assert_allclose(found.point, ((x0 + x1) / 2, (y0 + y1) / 2), atol=0.01)
    assert any(stage.evidence is not None and stage.evidence.values.max() == 1 for stage in found.stages)


def test_without_an_object_the_point_is_the_middle():
    found = attention_at(predictor(task="detection"), noise(150, 100))
    assert (found.point, found.chosen_by, found.target) == ((75, 50), "centre", None)
    assert all(stage.evidence is None for stage in found.stages)


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"point": (100, 20)}, InputError, "100 x 50 pixels, found x 100 and y 20"),
        ({"point": (-1, 20)}, InputError, "100 x 50 pixels"),
        ({"point": (float("nan"), 20)}, InputError, "two finite numbers"),
        ({"point": (24, 20)}, InputError, "from x 25 to 75 and y 0 to 50"),
        ({"stage": 5}, ConfigError, "4 stages, found stage 5"),
        ({"stage": 1, "block": 3}, ConfigError, "stage 1 has 2 blocks, found block 3"),
        ({"stage": 2, "head": 3}, ConfigError, "stage 2 has 2 heads, found head 3"),
        ({"block": 1}, ConfigError, "give the stage too"),
    ],
)
def test_what_does_not_exist_is_refused_in_one_sentence(settings, error, words):
    with pytest.raises(error, match=words):
        attention_at(predictor(), noise(100, 50), **settings)


@pytest.mark.parametrize(
    "point", [(), (1,), (1, 2, 3), ("1", 2), "ab", 5, (None, None), (1j, 1), (10**400, 1), {1: 2, 3: 4}]
)
def test_a_point_is_two_finite_numbers(point):
    with pytest.raises(InputError, match="two finite numbers"):
        attention_at(predictor(), noise(64, 64), point)


@pytest.mark.parametrize(
    "number", ["1", 1.5, [1], True, b"1", np.array([1, 2]), 10**5000], ids=lambda x: type(x).__name__
)
@pytest.mark.parametrize("name", ["stage", "block", "head"])
def test_a_stage_a_block_or_a_head_is_a_whole_number(name, number):
    with pytest.raises(ConfigError, match=f"`{name}` must be a whole number"):
        attention_at(predictor(), noise(64, 64), (1, 1), **({"stage": 1} | {name: number}))


def test_numbers_of_numpy_are_taken():
    found = attention_at(predictor(), noise(64, 64), (np.float32(3), np.float32(2)), stage=np.int64(2))
    assert json.loads(json.dumps(found.to_dict()))["stages"][0]["stage"] == 2


@pytest.mark.parametrize("bad", [None, 5, "run"])
def test_only_a_predictor_can_be_looked_at(bad):
    with pytest.raises(ConfigError, match="predictor"):
        attention_at(bad, noise(64, 64))


def test_an_exported_file_holds_no_maps():
    file = Predictor.__new__(Predictor)
    file.model = ExportedNetwork.__new__(ExportedNetwork)
    with pytest.raises(ConfigError, match="use the run or checkpoint"):
        attention_at(file, noise(64, 64))


@pytest.mark.parametrize("point", [None, (30, 30)])
def test_a_network_whose_maps_are_not_finite_is_refused(point):
    one = predictor()
    with torch.no_grad():
        one.model.backbone.stages[1].patch_embed.proj.bias.fill_(torch.nan)
    with pytest.raises(WeightsError, match="not finite"):
        attention_at(one, noise(64, 64), point)


def test_the_dictionary_is_ready_for_json():
    values = attention_at(predictor(), noise(100, 50)).to_dict()
    assert list(values) == ["size", "seen", "point", "target", "stages"]
    assert values["size"] == [50, 100]
    assert set(values["point"]) == {"x", "y", "chosen_by"}
    assert set(values["target"]) == {"label", "name", "score"}
    stage = values["stages"][0]
    parts = ["window", "keys", "evidence"]
    names = ["stage", "rows", "columns", "heads", "blocks", "token", "token_box", *parts]
    assert list(stage) == names
    assert list(stage["window"]) == list(stage["keys"]) == ["block", "box", "rows", "columns", "weights"]
    assert list(stage["evidence"]) == ["box", "rows", "columns", "values"]
    assert (stage["window"]["block"], stage["keys"]["block"], stage["blocks"]) == (1, 2, ["local", "global"])
    assert np.sum(stage["window"]["weights"]) == pytest.approx(1.0, abs=1e-5)
