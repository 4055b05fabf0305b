"""The example images of a run: held-out ones, spread over the set, that replace those of before."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from twins.data.formats.digits import Digits
from twins.errors import DataError, TrainingError
from twins.report.examples import write_examples
from twins.run_folder import example_files


class Images:
    """Images of given sizes; `None` cannot be read."""

    names = ("thing",)

    def __init__(self, *sizes, mode="RGB"):
        self.sizes, self.mode = sizes, mode

    def __len__(self):
        return len(self.sizes)

    def load(self, index):
        if self.sizes[index] is None:
            raise DataError("damaged")
        image = Image.new("RGB", self.sizes[index], (index, 99, 199)).convert(self.mode)
        image.info["comment"] = "where it was taken"
        return image


def names(run):
    return [path.name for path in example_files(run)]


def test_small_images_keep_their_pixels_and_are_spread_over_the_set(tmp_path):
    digits = Digits(train=False)
    write_examples(tmp_path, digits)
    assert names(tmp_path) == [f"{number:02}.png" for number in range(1, 9)]
    for number, path in enumerate(example_files(tmp_path)):
        expected = digits.load(number * len(digits) // 8)
        assert np.array_equal(np.asarray(Image.open(path)), np.asarray(expected))


def test_large_images_are_jpegs_of_at_most_1600_pixels(tmp_path):
    write_examples(tmp_path, Images((256, 90), (257, 90), (3200, 100)))
    assert names(tmp_path) == ["01.png", "02.jpg", "03.jpg"]
    small, middle, large = map(Image.open, example_files(tmp_path))
    assert (small.size, middle.size, large.size) == ((256, 90), (257, 90), (1600, 50))
    assert "comment" not in small.info | middle.info


def test_images_that_cannot_be_read_or_have_other_channels_are_left_out(tmp_path):
    write_examples(tmp_path, Images((9, 9), None, (8, 8)))
    assert names(tmp_path) == ["01.png", "02.png"]
    write_examples(tmp_path, Images((9, 9), mode="L"))
    assert names(tmp_path) == ["01.png"]
    assert Image.open(example_files(tmp_path)[0]).mode == "L"
    write_examples(tmp_path, Images((9, 9), mode="CMYK"))
    assert names(tmp_path) == []


def test_a_second_drawing_replaces_the_examples_and_nothing_else(tmp_path):
    write_examples(tmp_path, Images(*[(9, 9)] * 20))
    (tmp_path / "examples" / "mine.png").write_bytes(b"mine")
    write_examples(tmp_path, Images((300, 9), (9, 9)))
    assert sorted(path.name for path in (tmp_path / "examples").iterdir()) == ["01.jpg", "02.png", "mine.png"]


def test_a_file_in_the_way_is_one_sentence(tmp_path):
    (tmp_path / "examples").write_text("")
    with pytest.raises(TrainingError, match="cannot be made"):
        write_examples(tmp_path, Images((9, 9)))
