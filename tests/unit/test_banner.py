"""What a run prints at its start and end."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from twins.banner import end_lines, input_size, length, recipe_reason, weights_origin
from twins.engine.config import TrainConfig
from twins.engine.loop import Outcome
from twins.engine.progress import Progress
from twins.errors import DataError
from twins.preprocess import Preprocess
from twins.weights.loading import LoadReport


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"recipe": None, "weights": "none"}, "none: the settings are those of the call"),
        ({"recipe": "default"}, "default: settings that are not given are chosen from the data"),
        ({"recipe": "scratch", "weights": "/a/b.pth"}, "scratch, as asked for"),
    ],
)
def test_the_recipe_is_named_with_the_reason_for_it(settings, expected):
    assert recipe_reason(TrainConfig(**{"data": "photos", "model": "twins_svt_nano"} | settings)) == expected


SEEN, SO = "pixels; the images have about", ", so they are"


class Images:
    """Images of given sizes, width and height; `None` cannot be read."""

    def __init__(self, *sizes):
        self.sizes = sizes

    def __len__(self):
        return len(self.sizes)

    def load(self, index):
        if self.sizes[index] is None:
            raise DataError("it is damaged")
        return Image.new("RGB", self.sizes[index])


@pytest.mark.parametrize(
    ("preprocess", "images", "expected"),
    [
        (
            Preprocess(size=64),
            Images((100, 100)),
            f"64 x 64 {SEEN} 100 x 100{SO} shrunk to 64%",
        ),
        (
            Preprocess(size=64),
            Images((64, 64)),
            f"64 x 64 {SEEN} 64 x 64{SO} kept at their size",
        ),
        (
            Preprocess(size=320, fit="keep", longest=640),
            Images((160, 120), None, (1600, 1200), (160, 120)),
            "shorter side 320 pixels, longer at most 640; the images have about 160 x 120, "
            "so they are enlarged to 267%",
        ),
        (
            Preprocess(size=800, fit="keep", longest=1333),
            Images((4000, 1000)),
            "shorter side 800 pixels, longer at most 1333; the images have about 4000 x 1000, "
            "so they are shrunk to 33%",
        ),
        (Preprocess(size=64), Images(None), "64 x 64 pixels"),
    ],
)
def test_the_input_size_is_compared_with_the_size_of_the_images(preprocess, images, expected):
    assert input_size(preprocess, images) == expected


def test_the_weights_are_named_with_what_is_new_and_what_is_not_used():
    report = LoadReport(
        path=Path("a.pth"),
        dialect="timm",
        loaded=("backbone.x",),
        initialised=("head.weight", "head.bias", "backbone.stages.3.norm.weight"),
        unused=("norm.weight",),
    )
    network = SimpleNamespace(load_report=report)
    origin = weights_origin(TrainConfig(weights="a.pth"), network)
    assert origin == "1 tensor of a.pth; new, from random weights: head, backbone.stages.3.norm; not used: norm"
    origin = weights_origin(TrainConfig(weights="published"), network)
    assert origin.startswith("1 tensor of the published weights of twins_svt_small; ")


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"epochs": 2}, "20 steps, 2 epochs; an epoch has 10 steps; evaluated every epoch"),
        ({"steps": 25, "eval_every": 0.5}, "25 steps, 2.5 epochs; an epoch has 10 steps; evaluated every 0.5 epochs"),
        ({"minutes": 3.0, "resume": "run"}, "3 minutes, then the report; an epoch has 10 steps; evaluated every epoch"),
    ],
)
def test_the_length_is_said_in_steps_epochs_or_minutes(settings, expected):
    assert length(TrainConfig(**settings), SimpleNamespace(steps_per_epoch=10)) == expected


def test_the_end_says_how_long_what_is_best_and_which_files_there_are(tmp_path):
    (tmp_path / "best.safetensors").touch()
    progress = Progress(step=1200, seconds=3725.0, best=0.5, best_step=1100, evaluated=1200)
    outcome = Outcome(reason="patience", progress=progress, metrics={"top1": 0.25})
    assert list(end_lines(tmp_path, outcome, "top1", 100)) == [
        "ended early at step 1,200, epoch 12, after 1:02:05 of training and evaluation",
        "best top1 0.5 at step 1,100, epoch 11; the newest evaluation has 0.25",
        f"files in {tmp_path}: best.safetensors",
    ]
