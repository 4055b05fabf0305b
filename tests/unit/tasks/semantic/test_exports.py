"""Exported semantic networks: label maps as the network decodes them, in padded batches too, and predictions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import twins
from twins.tasks.exports import export_of
from twins.tasks.inference import SelectionConfig
from twins.tasks.semantic import exports, network

EXPORT = export_of("semantic")
SIZES = [(96, 75), (40, 96), (33, 32)]


@pytest.fixture(scope="module", params=["semantic_fpn", "upernet"])
def model(request):
    torch.manual_seed(0)
    result = twins.create_model("twins_svt_nano", task="semantic", head=request.param, num_classes=5)
    torch.nn.init.normal_(result.decode_head.conv_seg.weight)  # so that the classes depend on the image
    return result.eval()


def outputs(model, images, sizes=None, **settings):
    with torch.inference_mode():
        return EXPORT.outputs(model, images, None if sizes is None else torch.tensor(sizes), **settings)


def predictions(model, arrays, sizes, originals):
    arrays = {name: values.numpy() for name, values in arrays.items()}
    return EXPORT.predictions(model.info, arrays, sizes, originals, SelectionConfig())


def agreement(actual, expected):
    assert actual.shape == expected.shape
    return (np.asarray(actual) == np.asarray(expected)).mean()


def test_a_label_map_is_the_one_that_the_network_decodes(model):
    images = torch.randn(2, 3, 75, 90)
    result = outputs(model, images, logits=False)
    decoded = model.decode(model(images), None, [(75, 90)] * 2)
    assert result["label_map"].dtype == torch.uint8
    assert len(result["label_map"].unique()) > 2
    for label_map, prediction in zip(result["label_map"], decoded, strict=True):
        assert agreement(label_map, prediction.label_map) == 1
    same = predictions(model, result, [(75, 90)] * 2, [(75, 90)] * 2)
    assert [agreement(one.label_map, two.label_map) for one, two in zip(same, decoded, strict=True)] == [1, 1]


def test_in_a_padded_batch_an_image_has_the_label_map_that_it_has_alone(model):
    images = torch.full((3, 3, 96, 96), torch.nan)
    for image, (height, width) in zip(images, SIZES, strict=True):
        image[:, :height, :width] = torch.randn(3, height, width)
    together = outputs(model, images, SIZES, logits=False)["label_map"]
    for image, label_map, (height, width) in zip(images, together, SIZES, strict=True):
        alone = outputs(model, image[None, :, :height, :width], logits=False)["label_map"][0]
        assert agreement(label_map[:height, :width], alone) > 0.999
        assert label_map.count_nonzero() == label_map[:height, :width].count_nonzero()


def test_logits_are_decoded_as_the_network_decodes_them(model):
    images, sizes, originals = torch.randn(2, 3, 96, 75), [(96, 75), (40, 66)], [(50, 120), (41, 66)]
    result = outputs(model, images, sizes, logits=True)
    assert list(result) == ["logits"]
    assert result["logits"].shape == (2, 5, 24, 19)
    decoded = model.decode(model(images, torch.tensor(sizes)), torch.tensor(sizes), originals)
    for one, two in zip(predictions(model, result, sizes, originals), decoded, strict=True):
        assert agreement(one.label_map, two.label_map) == 1


def test_a_label_map_is_cropped_to_the_image_and_resized_by_the_nearest_pixel(model):
    label_map = torch.randint(0, 5, (1, 40, 50), dtype=torch.uint8)
    (prediction,) = predictions(model, {"label_map": label_map}, [(32, 41)], [(77, 30)])
    expected = F.interpolate(label_map[None, :, :32, :41].float(), size=(77, 30), mode="nearest-exact")[0, 0]
    assert agreement(prediction.label_map, expected) == 1
    assert prediction.label_map.dtype == np.uint8


def test_more_than_256_classes_are_int32_and_chunks_of_classes_change_nothing(monkeypatch):
    torch.manual_seed(0)
    model = twins.create_model("twins_svt_nano", task="semantic", num_classes=300).eval()
    torch.nn.init.normal_(model.decode_head.conv_seg.weight)
    images = torch.randn(1, 3, 64, 96)
    whole = outputs(model, images, logits=False)["label_map"]
    monkeypatch.setattr(network, "CHUNK", 64 * 96 * 7)
    assert exports.chunk_of((64, 96)) == 7
    assert torch.equal(outputs(model, images, logits=False)["label_map"], whole)
    assert whole.dtype == torch.int32
    assert whole.max() > 255
