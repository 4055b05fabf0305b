"""Drawings of semantic maps, as overlays, palette images and with a legend, and of labelled objects."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from twins import drawing
from twins.data.classes import distinct_colours
from twins.data.formats.masks import IGNORE, read_values
from twins.drawing import (
    MAX_LABELLED,
    MIN_SIDE,
    DrawConfig,
    Mark,
    draw_prediction,
    index_image,
    mark,
    mask_tones,
    overlay,
    palette,
)
from twins.drawing_labels import CROWDED
from twins.errors import ConfigError, InputError
from twins.predictions import Prediction

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)
NAMES = ("sky", "road", "tree")


def grey(width: int, height: int) -> Image.Image:
    return Image.new("RGB", (width, height), (100, 100, 100))


def semantic(label_map, names=NAMES, colours=(RED, GREEN, BLUE)) -> Prediction:
    label_map = np.asarray(label_map)
    return Prediction(task="semantic", size=label_map.shape, names=names, colours=colours, label_map=label_map)


def columns(*labels: int, kind=np.uint8, height: int = 6) -> np.ndarray:
    """A map of stripes, each six pixels wide."""
    return np.repeat(np.array([labels], dtype=kind), 6, axis=1).repeat(height, axis=0)


def test_an_overlay_colours_classes_and_leaves_ignored_pixels_unchanged():
    stripes = columns(IGNORE, 0, IGNORE, 2, 3)  # no colour for 3
    drawn = np.asarray(overlay(grey(30, 6), stripes, (RED, GREEN, BLUE), strength=0.5)).astype(int)
    unchanged = np.isin(stripes, (IGNORE, 3))
    assert (drawn[unchanged] == 100).all()
    assert (abs(drawn[2, 7:11] - (178, 50, 50)) <= 1).all()
    assert (abs(drawn[2, 19:23] - (50, 50, 178)) <= 1).all()


def test_an_overlay_has_a_dark_line_between_classes():
    drawn = np.asarray(overlay(grey(12, 6), columns(0, 1), ((100, 100, 100),) * 2)).astype(int)
    dark = drawn[..., 0] < 60
    assert dark[:, 5:7].any(axis=1).all()
    assert not dark[:, :5].any()
    assert not dark[:, 7:].any()


def test_an_overlay_of_strength_1_shows_the_colours_and_of_strength_0_the_image():
    stripes, image = columns(0, 0, 0), Image.fromarray(np.arange(324, dtype=np.uint8).reshape(6, 18, 3))
    assert (np.asarray(overlay(image, stripes, (BLUE,), strength=1.0)) == BLUE).all()
    assert (np.asarray(overlay(image, stripes, (BLUE,), strength=0.0)) == np.asarray(image)).all()


@pytest.mark.parametrize("count", [2, 255, 256, 300])
def test_any_number_of_classes_can_be_drawn(count):
    kind = np.uint8 if count <= 256 else np.int32  # the types of a semantic network's predictions
    prediction = semantic(columns(0, count - 1, kind=kind), tuple(map(str, range(count))), ())
    last = np.asarray(overlay(grey(12, 6), prediction.label_map, palette(prediction), strength=1.0))[2, 9]
    assert tuple(last) == distinct_colours(count)[-1]
    assert draw_prediction(prediction, grey(12, 6)).height > 6


def test_a_map_of_another_size_than_its_image_is_refused():
    with pytest.raises(InputError, match=r"12 x 6 pixels, its map \(6, 12\)"):
        overlay(grey(12, 6), columns(0, height=12), (RED,))
    with pytest.raises(InputError, match="13 x 6"):
        draw_prediction(semantic(columns(0, 1)), grey(13, 6))


@pytest.mark.parametrize("labels", [(0, 1), (0, 2, IGNORE), (5, 17, 200), (254, 255), (0, 255, 256), (300, 65000)])
@pytest.mark.parametrize("count", [1, 3, 16, 150, 256])
def test_class_ids_survive_in_a_saved_file_for_any_palette(labels, count, tmp_path):
    label_map = columns(*labels, kind=np.int32)
    index_image(label_map, distinct_colours(count)).save(tmp_path / "map.png")
    assert (read_values(tmp_path / "map.png") == label_map).all()


def test_a_saved_map_shows_the_colours_of_its_classes(tmp_path):
    index_image(columns(0, 2), (RED, GREEN, BLUE)).save(tmp_path / "map.png")
    with Image.open(tmp_path / "map.png") as saved:
        shown = np.asarray(saved.convert("RGB"))
    assert (shown == np.array((RED, BLUE))[columns(0, 1)]).all()


def test_distinct_colours_are_chosen_if_a_prediction_lacks_some():
    assert palette(semantic(columns(0, 1))) == (RED, GREEN, BLUE)
    assert palette(semantic(columns(0, 1), colours=(RED, GREEN))) == distinct_colours(3)
    assert len(palette(semantic(columns(0, 7), ()))) == 8


@pytest.fixture
def legend(monkeypatch):
    """Return a function that draws a prediction and returns the texts of its legend, in order, and the picture."""

    def draw(prediction: Prediction):
        texts = []
        draw_text = drawing.ImageDraw.ImageDraw.text

        def text(self, position, words, **settings):
            texts.append(words)
            return draw_text(self, position, words, **settings)

        monkeypatch.setattr(drawing.ImageDraw.ImageDraw, "text", text)
        height, width = prediction.size
        return texts, draw_prediction(prediction, grey(width, height))

    return draw


def test_the_legend_lists_the_largest_class_first_with_its_share(legend):
    texts, picture = legend(semantic(columns(1, 2, 2, 2, 0, 0, 2, 2, height=60)))
    assert texts == ["tree 62.5%", "sky 25.0%", "road 12.5%"]
    below = np.asarray(picture)[60:].reshape(-1, 3).tolist()
    first = [below.index(list(colour)) for colour in (BLUE, RED, GREEN)]
    assert len(set(first)) == 3


def test_the_legend_of_many_classes_names_the_twelve_largest(legend):
    names = tuple(f"class {number}" for number in range(20))
    sizes = np.repeat(np.arange(20, dtype=np.uint8), np.arange(20) + 1)  # the last is the largest
    texts, picture = legend(semantic(sizes[None].repeat(50, 0), names, ()))
    assert [text.rsplit(" ", 1)[0] for text in texts] == [f"class {number}" for number in range(19, 7, -1)]
    assert picture.width == 210


# objects


def objects(boxes, labels=None, size=(600, 800), masks=None, names=NAMES, colours=(RED, GREEN, BLUE)) -> Prediction:
    count = len(boxes)
    return Prediction(
        task="detection" if masks is None else "instance",
        size=size,
        names=names,
        colours=colours,
        boxes=np.array(boxes, dtype=np.float32).reshape(-1, 4),
        labels=np.array(labels if labels is not None else [0] * count, dtype=np.int64),
        scores=np.linspace(0.9, 0.4, count, dtype=np.float32),
        masks=masks,
    )


def scattered(count: int, width: int = 800, height: int = 600) -> list[list[float]]:
    random = np.random.default_rng(0)
    low = random.uniform(0, (width - 60, height - 60), (count, 2))
    return np.concatenate([low, low + random.uniform(12, 60, (count, 2))], axis=1).tolist()


@pytest.fixture
def written(monkeypatch):
    """The drawn texts, each with its rectangle `(left, top, right, bottom)` in the picture."""
    texts = []
    draw_text = drawing.ImageDraw.ImageDraw.text

    def text(self, position, words, **settings):
        texts.append((words, self.textbbox(position, words, font=settings["font"])))
        return draw_text(self, position, words, **settings)

    monkeypatch.setattr(drawing.ImageDraw.ImageDraw, "text", text)
    return texts


@pytest.mark.parametrize("size", [(600, 800), (100, 133), (2000, 1500)])
def test_the_edges_of_a_box_have_the_colour_of_its_class(size):
    height, width = size
    box = [0.25 * width, 0.25 * height, 0.75 * width, 0.75 * height]
    picture = draw_prediction(objects([box], [1], size), grey(width, height))
    scale = picture.width // width
    left, top, right, bottom = (round(scale * side) for side in box)
    x, y = picture.width // 2, picture.height // 2
    for point in ((left, y), (right - 1, y), (x, bottom - 1), (right - 2, top)):
        assert picture.getpixel(point) == GREEN
    assert picture.getpixel((x, y)) == (100, 100, 100)


def test_small_images_are_enlarged_so_that_labels_can_be_read(written):
    picture = draw_prediction(objects([[30, 40, 60, 80]], size=(112, 112)), grey(112, 112))
    assert picture.size == (448, 448)
    ((text, (_, top, _, bottom)),) = written
    assert text == "sky 90%"
    assert bottom - top >= 8
    assert draw_prediction(objects([], size=(112, 100)), grey(100, 112)).size == (400, 448)
    assert draw_prediction(objects([], size=(MIN_SIDE, MIN_SIDE)), grey(MIN_SIDE, MIN_SIDE)).size == (
        MIN_SIDE,
        MIN_SIDE,
    )


def test_an_image_without_objects_is_unchanged():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (500, 600, 3), dtype=np.uint8))
    assert (np.asarray(draw_prediction(objects([], size=(500, 600)), image)) == np.asarray(image)).all()


def test_drawing_does_not_change_the_image_or_the_prediction():
    masks = np.zeros((2, 600, 800), dtype=bool)
    masks[:, 100:200, 100:300] = True
    image, prediction = grey(800, 600), objects([[100, 100, 300, 200]] * 2, masks=masks)
    before = (np.asarray(image).copy(), prediction.boxes.copy(), masks.copy())
    draw_prediction(prediction, image)
    for old, new in zip(before, (np.asarray(image), prediction.boxes, prediction.masks), strict=True):
        assert (old == new).all()


@pytest.mark.parametrize("count", [1, 12, CROWDED + 10, MAX_LABELLED])
@pytest.mark.parametrize("size", [(600, 800), (112, 112), (90, 700)])
def test_labels_stay_inside_the_picture_and_hardly_overlap(written, count, size):
    height, width = size
    boxes = scattered(count, width, height)
    boxes[0] = [-20.0, -20.0, width + 20.0, height + 20.0]  # larger than the image
    picture = draw_prediction(objects(boxes, size=size), grey(width, height))
    assert written
    for _, (left, top, right, bottom) in written:
        assert left >= 0
        assert top >= 0
        assert right <= picture.width
        assert bottom <= picture.height
    if count > 1 and size == (600, 800):
        areas = np.zeros((picture.height, picture.width), dtype=int)
        for _, (left, top, right, bottom) in written:
            areas[round(top) : round(bottom), round(left) : round(right)] += 1
        assert (areas > 1).sum() < 0.05 * (areas > 0).sum()


@pytest.mark.parametrize("box", [[300, 200, 500, 400], [0, 0, 200, 200], [600, 400, 800, 600], [300, 0, 420, 600]])
def test_a_label_does_not_hide_its_object_if_there_is_room_elsewhere(box):
    picture = np.asarray(draw_prediction(objects([box]), grey(800, 600)))
    left, top, right, bottom = box
    inside = picture[top + 4 : bottom - 4, left + 4 : right - 4]
    assert (inside == 100).all()
    assert ((picture == RED).all(axis=2).sum()) > 2 * (right - left) + 2 * (bottom - top)  # the box and a label


def test_a_name_wider_than_the_picture_is_shortened(written):
    draw_prediction(objects([[10, 10, 60, 90]], names=("a very long name " * 9,), size=(100, 100)), grey(100, 100))
    ((text, (left, _, right, _)),) = written
    assert text.endswith("…")
    assert left >= 0
    assert right <= 500


def test_the_highest_scoring_object_is_on_top():
    boxes = [[100, 100, 300, 300], [100, 100, 300, 300]]
    assert draw_prediction(objects(boxes, [2, 1]), grey(800, 600)).getpixel((100, 200)) == BLUE


def test_hundreds_of_objects_are_counted_by_class_in_a_legend_instead_of_labelled(written):
    boxes = scattered(300)
    labels = [0] * 200 + [2] * 100
    picture = draw_prediction(objects(boxes, labels), grey(800, 600))
    assert [text for text, _ in written] == ["200 × sky", "100 × tree"]
    assert picture.width == 800
    assert picture.height > 600
    image = np.asarray(picture)[:600]
    assert (image == 100).all(axis=2).mean() > 0.5  # boxes have thin lines
    assert draw_prediction(objects(boxes, labels), grey(800, 600), steady=True).size == (800, 600)


def test_masks_are_tints_with_an_outline_in_the_colour_of_their_class():
    masks = np.zeros((1, 600, 800), dtype=bool)
    masks[0, 200:400, 300:500] = True
    picture = draw_prediction(objects([[300, 200, 500, 400]], [2], masks=masks), grey(800, 600))
    assert picture.getpixel((301, 300)) == BLUE  # inside the box's thin line
    red, green, blue = picture.getpixel((400, 300))
    assert red == green < 100 < blue < 255
    assert picture.getpixel((600, 300)) == (100, 100, 100)


def test_small_masks_are_enlarged_with_their_image_and_empty_ones_draw_nothing():
    masks = np.zeros((2, 112, 112), dtype=bool)
    masks[0, 50:60, 40:60] = True
    prediction = objects([[40, 50, 60, 60], [80, 80, 90, 90]], size=(112, 112), masks=masks)
    picture = np.asarray(draw_prediction(prediction, grey(112, 112))).astype(int)
    assert (picture[4 * 55, 4 * 50] != 100).any()
    assert (picture[4 * 85, 4 * 85] == 100).all()


def test_a_mask_of_another_size_is_refused():
    with pytest.raises(InputError, match=r"800 x 600 pixels, its mask \(80, 60\)"):
        draw_prediction(objects([[1, 1, 9, 9]], masks=np.ones((1, 60, 80), dtype=bool)), grey(800, 600))


def test_default_colours_of_objects_are_bright():
    for colour in palette(objects([[1, 1, 9, 9]], [5], names=(), colours=())):
        assert max(colour) > 150


def test_line_styles_differ_in_thickness_and_gaps():
    styles = {}
    for line in ("solid", "dashed", "double"):
        picture = np.asarray(mark(grey(800, 600), [Mark(box=(100, 100, 400, 400), colour=RED, line=line)]))
        across, along = picture[250, 90:120] == RED, picture[100:400, 100] == RED
        styles[line] = across.all(axis=1).sum(), along.all(axis=1).mean()
    thickness, coverage = styles["solid"]
    assert coverage == 1.0
    assert 0.3 < styles["dashed"][1] < 0.8
    assert styles["double"] == (2 * thickness, 1.0)


@pytest.mark.parametrize("line", ["solid", "dashed", "double"])
@pytest.mark.parametrize("box", [(5, 5, 5, 5), (3, 3, 4, 9), (-50, -50, -10, -10), (900, 700, 950, 800), (9, 9, 2, 2)])
def test_boxes_without_area_or_beyond_the_image_can_be_drawn(line, box):
    assert mark(grey(800, 600), [Mark(box=box, colour=RED, text="odd", line=line)]).size == (800, 600)


def test_frames_of_a_video_have_the_same_size_for_any_classes():
    names = tuple(f"class {number}" for number in range(30))
    maps = [np.full((60, 90), 3, dtype=np.uint8), np.arange(5400, dtype=np.uint8).reshape(60, 90) % 30]
    sizes = {draw_prediction(semantic(one, names, ()), grey(90, 60), steady=True).size for one in maps}
    assert len(sizes) == 1
    assert len({draw_prediction(semantic(one, names, ()), grey(90, 60)).size for one in maps}) == 2


def two_masks() -> Prediction:
    """Two overlapping objects of a class."""
    masks = np.zeros((2, 600, 800), dtype=bool)
    masks[0, 100:300, 100:300] = masks[1, 200:400, 200:400] = True
    return objects([[100, 100, 300, 300], [200, 200, 400, 400]], [0, 0], masks=masks)


def test_neighbouring_masks_of_a_class_have_different_tones_and_distant_ones_its_colour():
    picture = draw_prediction(two_masks(), grey(800, 600), DrawConfig(labels=False))
    assert picture.getpixel((150, 150)) == (178, 50, 50)
    assert picture.getpixel((350, 350)) != picture.getpixel((150, 150))
    boxes = [(x, 10, x + 40, 50) for x in (0, 41, 82, 123, 400)]
    marks = [Mark(box=box, colour=RED, mask=np.ones((60, 800), dtype=bool)) for box in boxes]
    tones = mask_tones(marks, reach=50)
    assert len(set(tones[:3])) == 3
    assert tones[4] == RED
    assert mask_tones([replace(item, mask=None) for item in marks], reach=50) == [RED] * 5


def test_each_object_can_have_its_own_colour():
    picture = draw_prediction(two_masks(), grey(800, 600), DrawConfig(labels=False, colours="object"))
    assert picture.getpixel((101, 150)) == distinct_colours(3)[1]
    assert picture.getpixel((399, 350)) == distinct_colours(3)[2]


def test_opacity_and_line_width_are_those_asked_for():
    picture = draw_prediction(two_masks(), grey(800, 600), DrawConfig(labels=False, opacity=0.0, line_width=9))
    assert picture.getpixel((150, 150)) == (100, 100, 100)
    assert [picture.getpixel((100 + x, 150)) == RED for x in (0, 8, 9)] == [True, True, False]
    stripes = draw_prediction(semantic(columns(0, 2)), grey(12, 6), DrawConfig(opacity=1.0, labels=False))
    assert stripes.size == (12, 6)
    assert stripes.getpixel((2, 2)) == RED


def test_labels_can_be_left_out(written):
    picture = draw_prediction(objects([[100, 100, 300, 300]]), grey(800, 600), DrawConfig(labels=False))
    assert (picture.size, written) == ((800, 600), [])
    crowd = draw_prediction(objects(scattered(300)), grey(800, 600), DrawConfig(labels=False))
    assert (crowd.size, written) == ((800, 600), [])


@pytest.mark.parametrize("size", [(100, 100), (375, 500), (2000, 1500)])
@pytest.mark.parametrize("count", [5, 60])
def test_no_label_covers_another_or_leaves_the_picture(size, count, monkeypatch):
    rectangles = []
    draw = drawing.ImageDraw.ImageDraw.rectangle

    def rectangle(self, box, fill=None, outline=None, width=1):
        if fill is not None:
            rectangles.append(box)
        draw(self, box, fill=fill, outline=outline, width=width)

    monkeypatch.setattr(drawing.ImageDraw.ImageDraw, "rectangle", rectangle)
    height, width = size
    boxes = [[0.3 * width, 0.3 * height, 0.6 * width, 0.6 * height]] * 4 + scattered(count, width, height)[4:]
    picture = draw_prediction(objects(boxes, size=size), grey(width, height))
    hits = np.zeros((picture.height, picture.width), dtype=int)
    for left, top, right, bottom in rectangles:
        assert 0 <= left < right < picture.width
        assert 0 <= top < bottom < picture.height
        hits[top : bottom + 1, left : right + 1] += 1
    assert hits.max() == 1
    assert len(rectangles) >= 4


@pytest.mark.parametrize(
    "setting",
    [
        {"line_width": 0},
        {"line_width": "3"},
        {"opacity": 1.5},
        {"opacity": None},
        {"labels": "no"},
        {"colours": "rainbow"},
    ],
)
def test_drawing_settings_out_of_range_are_refused(setting):
    (name,) = setting
    with pytest.raises(ConfigError, match=f"`{name}` must be"):
        DrawConfig(**setting)


def test_lines_are_at_most_a_quarter_of_the_picture():
    wide, limit = (
        draw_prediction(objects([[100, 100, 300, 300]]), grey(800, 600), DrawConfig(line_width=n)) for n in (9**9, 150)
    )
    assert np.array_equal(wide, limit)
