"""The summary of a data set for the default recipe."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from twins.data.base import Splits
from twins.data.config import DataConfig
from twins.data.summary import MAX_IMAGES, summarise
from twins.errors import DataError
from twins.tasks.contract import spec_of


class Pictures:
    """Images of given sizes whose targets are lists of sides; size `None` cannot be read."""

    names = ("a", "b")

    def __init__(self, sizes):
        self.sizes, self.opened = sizes, 0

    def __len__(self):
        return len(self.sizes)

    def load(self, index):
        self.opened += 1
        if self.sizes[index] is None:
            raise DataError("damaged")
        return Image.new("RGB", self.sizes[index])

    def target(self, index):
        return np.full(3, (index + 1) / len(self.sizes))


def test_it_gives_medians_and_leaves_unreadable_images_out():
    splits = Splits(
        parts={"train": Pictures([(40, 30), None, (60, 50), (80, 70)]), "val": Pictures([(9, 9)])}, source="x"
    )
    data = summarise(splits, lambda target: target)
    assert (data.images, data.val_images, data.width, data.height) == (4, 1, 60, 50)
    assert (data.per_image, data.shorter, data.aspect) == (3.0, 50, 1.2)
    assert data.quantile(0.0) == 0.25


def test_it_opens_few_images_of_a_large_set():
    images = Pictures([(8, 8)] * 5000)
    summarise(Splits(parts={"train": images, "val": images}, source="x"), lambda target: target)
    assert images.opened == MAX_IMAGES


def test_a_set_without_a_readable_image_is_refused():
    images = Pictures([None])
    with pytest.raises(DataError, match="none of the training images"):
        summarise(Splits(parts={"train": images, "val": images}, source="x"), lambda target: target)


@pytest.mark.parametrize("task", ["detection", "instance", "semantic"])
def test_the_digits_of_the_scenes_measure_what_was_pasted(task):
    spec = spec_of(task)
    data = summarise(spec.open(DataConfig(data="scenes")), spec.sides)
    assert (data.height, data.width) == (112, 112)
    assert 0.01 < data.quantile(0.1) < data.quantile(0.9) < 0.7
