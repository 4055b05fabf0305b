"""What the default recipe measures before it chooses."""

from __future__ import annotations

from types import SimpleNamespace

import torch

from twins.choosing import _step_seconds
from twins.data.base import Splits
from twins.data.transforms.config import SemanticConfig
from twins.engine.config import TrainConfig
from twins.tasks.contract import spec_of


def test_timing_a_step_reads_no_masks():
    """Class weights and the prior count the pixels of up to 500 masks, which takes seconds for each of two sizes."""

    class Unread:
        names = ("sky", "road")
        classes = SimpleNamespace(colours=None)

        def __len__(self):
            return 2

        def target(self, index):
            raise AssertionError("a mask was read")

    splits = Splits({"train": Unread(), "val": Unread()}, "maps")
    settings = TrainConfig(
        task="semantic", model="twins_svt_nano", class_weights="sqrt", semantic=SemanticConfig(prior_bias=True)
    )
    assert _step_seconds(settings, spec_of("semantic"), splits, torch.device("cpu"), (2, 64, 64)) > 0
