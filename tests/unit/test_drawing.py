"""Maps of classes as overlays, as images whose pixels are class ids, and with their legend."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from twins import drawing
from twins.data.classes import distinct_colours
from twins.data.masks import IGNORE, read_values
from twins.drawing import draw, index_image, overlay, palette
from twins.errors import InputError
from twins.predictions import Prediction

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)
NAMES = ("sky", "road", "tree")


def grey(width: int, height: int) -> Image.Image:
    return Image.new("RGB", (width, height), (100, 100, 100))


def said(label_map, names=NAMES, colours=(RED, GREEN, BLUE)) -> Prediction:
    label_map = np.asarray(label_map)
    return Prediction(task="semantic", size=label_map.shape, names=names, colours=colours, label_map=label_map)


def columns(*labels: int, kind=np.uint8, height: int = 6) -> np.ndarray:
    """A map of stripes, each six pixels wide."""
    return np.repeat(np.array([labels], dtype=kind), 6, axis=1).repeat(height, axis=0)


def test_an_overlay_colours_classes_and_leaves_ignored_pixels_as_they_are():
    stripes = columns(IGNORE, 0, IGNORE, 2, 3)  # no colour for 3
    found = np.asarray(overlay(grey(30, 6), stripes, (RED, GREEN, BLUE), strength=0.5)).astype(int)
    left = np.isin(stripes, (IGNORE, 3))
    assert (found[left] == 100).all()
    assert (abs(found[2, 7:11] - (178, 50, 50)) <= 1).all()
    assert (abs(found[2, 19:23] - (50, 50, 178)) <= 1).all()


def test_an_overlay_has_a_dark_line_where_classes_meet():
    found = np.asarray(overlay(grey(12, 6), columns(0, 1), ((100, 100, 100),) * 2)).astype(int)
    dark = found[..., 0] < 60
    assert dark[:, 5:7].any(axis=1).all()
    assert not dark[:, :5].any()
    assert not dark[:, 7:].any()


def test_an_overlay_of_full_strength_is_the_colours_and_of_none_the_image():
    stripes, image = columns(0, 0, 0), Image.fromarray(np.arange(324, dtype=np.uint8).reshape(6, 18, 3))
    assert (np.asarray(overlay(image, stripes, (BLUE,), strength=1.0)) == BLUE).all()
    assert (np.asarray(overlay(image, stripes, (BLUE,), strength=0.0)) == np.asarray(image)).all()


@pytest.mark.parametrize("count", [2, 255, 256, 300])
def test_as_many_classes_as_a_network_has_can_be_drawn(count):
    kind = np.uint8 if count <= 256 else np.int32  # as `SemanticSegmentation.prediction` has it
    prediction = said(columns(0, count - 1, kind=kind), tuple(map(str, range(count))), ())
    last = np.asarray(overlay(grey(12, 6), prediction.label_map, palette(prediction), strength=1.0))[2, 9]
    assert tuple(last) == distinct_colours(count)[-1]
    assert draw(prediction, grey(12, 6)).height > 6


def test_a_map_of_another_size_than_its_image_is_refused():
    with pytest.raises(InputError, match=r"12 x 6 pixels, its map \(6, 12\)"):
        overlay(grey(12, 6), columns(0, height=12), (RED,))
    with pytest.raises(InputError, match="13 x 6"):
        draw(said(columns(0, 1)), grey(13, 6))


@pytest.mark.parametrize("labels", [(0, 1), (0, 2, IGNORE), (5, 17, 200), (254, 255), (0, 255, 256), (300, 65000)])
@pytest.mark.parametrize("count", [1, 3, 16, 150, 256])
def test_class_ids_survive_in_a_saved_file_whatever_colours_they_have(labels, count, tmp_path):
    label_map = columns(*labels, kind=np.int32)
    index_image(label_map, distinct_colours(count)).save(tmp_path / "map.png")
    assert (read_values(tmp_path / "map.png") == label_map).all()


def test_a_saved_map_shows_the_colours_of_its_classes(tmp_path):
    index_image(columns(0, 2), (RED, GREEN, BLUE)).save(tmp_path / "map.png")
    with Image.open(tmp_path / "map.png") as saved:
        shown = np.asarray(saved.convert("RGB"))
    assert (shown == np.array((RED, BLUE))[columns(0, 1)]).all()


def test_colours_are_chosen_where_a_prediction_lacks_some():
    assert palette(said(columns(0, 1))) == (RED, GREEN, BLUE)
    assert palette(said(columns(0, 1), colours=(RED, GREEN))) == distinct_colours(3)
    assert len(palette(said(columns(0, 7), ()))) == 8


@pytest.fixture
def legend(monkeypatch):
    """Draw a prediction and return the texts of its legend, in order, with the picture."""

    def drawn(prediction: Prediction):
        texts = []
        plain = drawing.ImageDraw.ImageDraw.text

        def text(self, place, words, **settings):
            texts.append(words)
            return plain(self, place, words, **settings)

        monkeypatch.setattr(drawing.ImageDraw.ImageDraw, "text", text)
        height, width = prediction.size
        return texts, draw(prediction, grey(width, height))

    return drawn


def test_the_legend_lists_the_largest_class_first_with_its_share(legend):
    texts, picture = legend(said(columns(1, 2, 2, 2, 0, 0, 2, 2, height=60)))
    assert texts == ["tree 62.5%", "sky 25.0%", "road 12.5%"]
    below = np.asarray(picture)[60:].reshape(-1, 3).tolist()
    first = [below.index(list(colour)) for colour in (BLUE, RED, GREEN)]
    assert len(set(first)) == 3


def test_the_legend_of_many_classes_names_the_twelve_largest(legend):
    names = tuple(f"class {number}" for number in range(20))
    sizes = np.repeat(np.arange(20, dtype=np.uint8), np.arange(20) + 1)  # the last is the largest
    texts, picture = legend(said(sizes[None].repeat(50, 0), names, ()))
    assert [text.rsplit(" ", 1)[0] for text in texts] == [f"class {number}" for number in range(19, 7, -1)]
    assert picture.width == 210
