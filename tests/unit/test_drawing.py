"""Maps of classes as overlays, as images whose pixels are class ids, and with their legend; objects with labels."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from twins import drawing
from twins.data.classes import distinct_colours
from twins.data.formats.masks import IGNORE, read_values
from twins.drawing import CROWDED, MIN_SIDE, NAMED, Mark, draw_prediction, index_image, mark, overlay, palette
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
    assert draw_prediction(prediction, grey(12, 6)).height > 6


def test_a_map_of_another_size_than_its_image_is_refused():
    with pytest.raises(InputError, match=r"12 x 6 pixels, its map \(6, 12\)"):
        overlay(grey(12, 6), columns(0, height=12), (RED,))
    with pytest.raises(InputError, match="13 x 6"):
        draw_prediction(said(columns(0, 1)), grey(13, 6))


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
        return texts, draw_prediction(prediction, grey(width, height))

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


# objects


def found(boxes, labels=None, size=(600, 800), masks=None, names=NAMES, colours=(RED, GREEN, BLUE)) -> Prediction:
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
    """What is written where: texts with their rectangles `(left, top, right, bottom)` in the picture."""
    texts = []
    plain = drawing.ImageDraw.ImageDraw.text

    def text(self, place, words, **settings):
        texts.append((words, self.textbbox(place, words, font=settings["font"])))
        return plain(self, place, words, **settings)

    monkeypatch.setattr(drawing.ImageDraw.ImageDraw, "text", text)
    return texts


@pytest.mark.parametrize("size", [(600, 800), (100, 133), (2000, 1500)])
def test_a_boxs_edges_have_its_classs_colour(size):
    height, width = size
    box = [0.25 * width, 0.25 * height, 0.75 * width, 0.75 * height]
    picture = draw_prediction(found([box], [1], size), grey(width, height))
    scale = picture.width // width
    left, top, right, bottom = (round(scale * side) for side in box)
    x, y = picture.width // 2, picture.height // 2
    for place in ((left, y), (right - 1, y), (x, bottom - 1), (right - 2, top)):
        assert picture.getpixel(place) == GREEN
    assert picture.getpixel((x, y)) == (100, 100, 100)


def test_small_images_are_enlarged_so_that_labels_can_be_read(written):
    picture = draw_prediction(found([[30, 40, 60, 80]], size=(112, 112)), grey(112, 112))
    assert picture.size == (448, 448)
    ((text, (_, top, _, bottom)),) = written
    assert text == "sky 90%"
    assert bottom - top >= 8
    assert draw_prediction(found([], size=(112, 100)), grey(100, 112)).size == (400, 448)
    assert draw_prediction(found([], size=(MIN_SIDE, MIN_SIDE)), grey(MIN_SIDE, MIN_SIDE)).size == (MIN_SIDE, MIN_SIDE)


def test_an_image_in_which_nothing_was_found_is_as_it_was():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (500, 600, 3), dtype=np.uint8))
    assert (np.asarray(draw_prediction(found([], size=(500, 600)), image)) == np.asarray(image)).all()


def test_drawing_leaves_the_image_and_the_prediction_alone():
    masks = np.zeros((2, 600, 800), dtype=bool)
    masks[:, 100:200, 100:300] = True
    image, prediction = grey(800, 600), found([[100, 100, 300, 200]] * 2, masks=masks)
    before = (np.asarray(image).copy(), prediction.boxes.copy(), masks.copy())
    draw_prediction(prediction, image)
    for then, now in zip(before, (np.asarray(image), prediction.boxes, prediction.masks), strict=True):
        assert (then == now).all()


@pytest.mark.parametrize("count", [1, 12, CROWDED + 10, NAMED])
@pytest.mark.parametrize("size", [(600, 800), (112, 112), (90, 700)])
def test_labels_stay_inside_the_picture_whole_and_cover_no_other(written, count, size):
    height, width = size
    boxes = scattered(count, width, height)
    boxes[0] = [-20.0, -20.0, width + 20.0, height + 20.0]  # as large as the image, and more
    picture = draw_prediction(found(boxes, size=size), grey(width, height))
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
def test_a_label_leaves_its_object_free_where_it_can(box):
    picture = np.asarray(draw_prediction(found([box]), grey(800, 600)))
    left, top, right, bottom = box
    inside = picture[top + 4 : bottom - 4, left + 4 : right - 4]
    assert (inside == 100).all()
    assert ((picture == RED).all(axis=2).sum()) > 2 * (right - left) + 2 * (bottom - top)  # the label is elsewhere


def test_a_name_that_is_wider_than_the_picture_is_shortened(written):
    draw_prediction(found([[10, 10, 60, 90]], names=("a very long name " * 9,), size=(100, 100)), grey(100, 100))
    ((text, (left, _, right, _)),) = written
    assert text.endswith("…")
    assert left >= 0
    assert right <= 500


def test_the_surest_object_lies_on_top():
    boxes = [[100, 100, 300, 300], [100, 100, 300, 300]]
    assert draw_prediction(found(boxes, [2, 1]), grey(800, 600)).getpixel((100, 200)) == BLUE


def test_hundreds_of_objects_are_counted_by_class_below_instead_of_named(written):
    boxes = scattered(300)
    labels = [0] * 200 + [2] * 100
    picture = draw_prediction(found(boxes, labels), grey(800, 600))
    assert [text for text, _ in written] == ["200 × sky", "100 × tree"]
    assert picture.width == 800
    assert picture.height > 600
    shown = np.asarray(picture)[:600]
    assert (shown == 100).all(axis=2).mean() > 0.5  # lines, not blocks
    assert draw_prediction(found(boxes, labels), grey(800, 600), steady=True).size == (800, 600)


def test_masks_are_tints_with_an_outline_in_their_classs_colour():
    masks = np.zeros((1, 600, 800), dtype=bool)
    masks[0, 200:400, 300:500] = True
    picture = draw_prediction(found([[300, 200, 500, 400]], [2], masks=masks), grey(800, 600))
    assert picture.getpixel((301, 300)) == BLUE  # inside the box's thin line
    red, green, blue = picture.getpixel((400, 300))
    assert red == green < 100 < blue < 255
    assert picture.getpixel((600, 300)) == (100, 100, 100)


def test_small_masks_are_enlarged_with_their_image_and_empty_ones_are_nothing():
    masks = np.zeros((2, 112, 112), dtype=bool)
    masks[0, 50:60, 40:60] = True
    prediction = found([[40, 50, 60, 60], [80, 80, 90, 90]], size=(112, 112), masks=masks)
    picture = np.asarray(draw_prediction(prediction, grey(112, 112))).astype(int)
    assert (picture[4 * 55, 4 * 50] != 100).any()
    assert (picture[4 * 85, 4 * 85] == 100).all()


def test_a_mask_of_another_size_is_refused():
    with pytest.raises(InputError, match=r"800 x 600 pixels, its mask \(80, 60\)"):
        draw_prediction(found([[1, 1, 9, 9]], masks=np.ones((1, 60, 80), dtype=bool)), grey(800, 600))


def test_chosen_colours_of_objects_are_bright():
    for colour in palette(found([[1, 1, 9, 9]], [5], names=(), colours=())):
        assert max(colour) > 150


def test_lines_tell_marks_apart_without_colours():
    shown = {}
    for line in ("solid", "dashed", "double"):
        picture = np.asarray(mark(grey(800, 600), [Mark(box=(100, 100, 400, 400), colour=RED, line=line)]))
        shown[line] = (picture[250, 90:120] == RED).all(axis=1).sum(), (picture[100:400, 100] == RED).all(axis=1).mean()
    thick, whole = shown["solid"]
    assert whole == 1.0
    assert 0.3 < shown["dashed"][1] < 0.8
    assert shown["double"] == (2 * thick, 1.0)


@pytest.mark.parametrize("line", ["solid", "dashed", "double"])
@pytest.mark.parametrize("box", [(5, 5, 5, 5), (3, 3, 4, 9), (-50, -50, -10, -10), (900, 700, 950, 800), (9, 9, 2, 2)])
def test_boxes_without_area_or_beyond_the_image_can_be_drawn(line, box):
    assert mark(grey(800, 600), [Mark(box=box, colour=RED, text="odd", line=line)]).size == (800, 600)


def test_frames_of_a_video_are_alike_in_size_whatever_is_seen():
    names = tuple(f"class {number}" for number in range(30))
    maps = [np.full((60, 90), 3, dtype=np.uint8), np.arange(5400, dtype=np.uint8).reshape(60, 90) % 30]
    sizes = {draw_prediction(said(one, names, ()), grey(90, 60), steady=True).size for one in maps}
    assert len(sizes) == 1
    assert len({draw_prediction(said(one, names, ()), grey(90, 60)).size for one in maps}) == 2
