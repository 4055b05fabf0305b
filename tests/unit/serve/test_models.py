"""Networks inside a worker: channels, padding that is not exact, and predictions without an object."""

from __future__ import annotations

import gc
import json
import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch

import twins
from twins.errors import DataError
from twins.predictions import Prediction
from twins.serve.answers import FORMS, answer
from twins.serve.messages import Failure, Options
from twins.serve.models import ServedModel
from twins.serve.worker import decoded


def served(tmp_path, **settings):
    torch.manual_seed(0)
    model = twins.create_model("twins_svt_nano", num_classes=4, **settings)
    model.info = replace(model.info, preprocess=replace(model.info.preprocess, size=64))
    twins.save_weights(model, tmp_path / "net.safetensors")
    return ServedModel(str(tmp_path / "net.safetensors"), device="cpu")


@pytest.mark.parametrize("channels", [1, 4])
def test_networks_of_other_channels_are_warmed_up_and_described(tmp_path, channels):
    model = served(tmp_path, in_chans=channels)
    assert model.describe().info.in_chans == channels
    assert model.describe().outputs == (("probabilities", "FP32", (-1, 4)),)


@pytest.mark.parametrize("padding", ["exact", "unmasked"])
def test_unequal_images_give_what_each_gets_alone_whatever_the_padding(tmp_path, padding):
    model = served(tmp_path, padding=padding)
    assert model.describe().pads == (padding == "exact")
    random = torch.Generator().manual_seed(0)
    sides = [(64, 64), (40, 70)]
    images = [(torch.randint(256, (3, *side), dtype=torch.uint8, generator=random), side) for side in sides]
    options = [Options()] * 2
    together = [json.loads(text) for text in model.predict(images, options)]
    for one, image in zip(together, images, strict=True):
        (alone,) = (json.loads(text) for text in model.predict([image], options[:1]))
        assert one["labels"] == alone["labels"]
        assert np.allclose(one["scores"], alone["scores"], rtol=0, atol=1e-6)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("task", ["detection", "instance"])
def test_an_image_without_an_object_has_an_answer_in_each_form(form, task):
    none = np.zeros((0, 4), np.float32)
    masks = np.zeros((0, 6, 5), bool) if task == "instance" else None
    fields = {"boxes": none, "labels": none[:, 0].astype(np.int64), "scores": none[:, 0], "masks": masks}
    values = json.loads(answer(Prediction(task=task, size=(6, 5), **fields), Options(form=form)))
    assert (values["labels"] if form == "json" else values["result"] if form == "label_studio" else values) == []


def test_a_damaged_image_leaves_nothing_in_memory():
    """An exception that is raised again keeps the frames that it passed, and these the pixels of the image."""

    class Pixels:
        pass

    kept = []

    def decode():
        pixels = Pixels()
        kept.append(weakref.ref(pixels))
        raise DataError("the image is damaged")

    gc.disable()
    try:
        with ThreadPoolExecutor(1) as pool:
            failures = [decoded(future) for future in [pool.submit(decode)]]
        assert failures == [Failure(400, "the image is damaged")]
        assert kept[0]() is None
    finally:
        gc.enable()
