"""Values of masks that are no classes: each kind is a problem that says what the masks hold."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from twins.data.classes import build_table
from twins.data.config import DataConfig, MaskConfig
from twins.data.formats.masks import build_reader
from twins.errors import DataError
from twins.tasks.semantic.spec import SPEC

RED, GREEN, BLACK = (255, 0, 0), (0, 255, 0), (0, 0, 0)
SOFT = np.array([[0] * 10, [0, 10, 40, 90, 130, 170, 210, 240, 254, 254], [254] * 10])


def problems_of(masks, classes=None, **settings):
    problems: list[str] = []
    reader, _ = build_reader(MaskConfig(**settings), masks, classes, problems=problems)
    return reader, " ".join(problems)


def ids(folder, counts, dtype, border=None):
    """Save masks of ids from 1 to each count, with 0 and optionally a border of another value."""
    for number, count in enumerate(counts):
        values = [0, *range(1, count + 1), *([border] if border else [])]
        Image.fromarray(np.array([values] * 2, dtype=dtype)).save(folder / f"{number}.png")
    return sorted(folder.glob("*.png"))


@pytest.mark.parametrize(("dtype", "border"), [(np.uint8, None), (np.uint16, None), (np.uint8, 255)])
def test_ids_of_objects_are_a_problem_and_one_class_as_binary_masks(tmp_path, dtype, border):
    masks = ids(tmp_path, (2, 5, 3, 7), dtype, border)
    reader, problems = problems_of(masks)
    assert "ids of objects" in problems
    assert "up to 7" in problems
    reader, _ = problems_of(masks, values="binary")
    assert reader(masks[3])[0, :8].tolist() == [0, 1, 1, 1, 1, 1, 1, 1]


def test_255_ids_of_objects_are_all_foreground(tmp_path):
    masks = ids(tmp_path, (9, 255, 12), np.uint8)
    reader, _ = problems_of(masks, values="binary")
    assert reader(masks[1])[0].tolist() == [0] + [1] * 255


def test_more_ids_than_classes_can_be_are_refused_as_ids(tmp_path):
    with pytest.raises(DataError, match="as ids of objects do"):
        problems_of(ids(tmp_path, (9, 300, 12), np.uint16))


@pytest.mark.parametrize("counts", [(1, 2, 3), (5, 5, 4, 5), (0, 0)])
def test_few_classes_are_no_ids(tmp_path, counts):
    assert problems_of(ids(tmp_path, counts, np.uint8))[1] == ""


def test_soft_edges_without_255_are_a_problem_and_are_cut_at_half(tmp_path, save_mask):
    mask = save_mask(tmp_path / "a.png", SOFT)
    assert "look like soft edges" in problems_of([mask])[1]
    reader, problems = problems_of([mask], values="binary")
    assert (reader(mask) == (SOFT >= 128)).all()
    assert problems == ""


def test_binary_masks_with_a_class_and_255_are_a_problem_unless_255_is_ignored(tmp_path, save_mask):
    mask = save_mask(tmp_path / "a.png", [[0, 1, 255]])
    assert "masks hold 1 besides 0 and white" in problems_of([mask], values="binary")[1]
    reader, problems = problems_of([mask], values="binary", ignore=(255,))
    assert (reader(mask).tolist(), problems) == ([[0, 1, 255]], "")


def palette_masks(folder):
    """Save two masks of black, red and green whose palettes have another order."""
    for name, colours, values in (("a", (BLACK, RED, GREEN), [0, 1, 2]), ("b", (BLACK, GREEN, RED), [0, 2, 1])):
        image = Image.fromarray(np.array([values], dtype=np.uint8))
        image.putpalette([channel for colour in colours for channel in colour])
        image.save(folder / f"{name}.png")
    return [folder / "a.png", folder / "b.png"]


def test_palettes_that_differ_are_a_problem_and_are_read_by_colours(tmp_path):
    masks = palette_masks(tmp_path)
    names = ("plain", "red", "green")
    assert "the value 1 is (255, 0, 0) in" in problems_of(masks)[1]
    assert "palettes that differ" in problems_of(masks, build_table(names))[1]
    assert problems_of(masks, values="index")[1] == ""
    reader, problems = problems_of(masks, build_table(names, colours=(BLACK, RED, GREEN)))
    assert ([reader(mask).tolist() for mask in masks], problems) == ([[[0, 1, 2]]] * 2, "")


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
@pytest.mark.parametrize("colour", [0, 255])
def test_a_mask_in_the_alpha_channel_is_refused(tmp_path, mode, colour):
    image = Image.new(mode[:-1], (4, 4), colour if mode == "LA" else (colour,) * 3)
    image.putalpha(Image.fromarray(np.tri(4, dtype=np.uint8) * 255))
    image.save(tmp_path / "a.png")
    with pytest.raises(DataError, match="differs only in its alpha channel"):
        problems_of([tmp_path / "a.png"])


@pytest.mark.parametrize(("kind", "name"), [("JPEG", "a JPEG"), ("WEBP", "a lossy WebP")])
def test_a_file_compressed_with_loss_is_refused_whatever_its_name(tmp_path, kind, name):
    Image.fromarray(np.eye(8, dtype=np.uint8) * 3).save(tmp_path / "a.png", format=kind)
    with pytest.raises(DataError, match=f"is {name}, whose compression changes the values"):
        problems_of([tmp_path / "a.png"])


def test_a_lossless_webp_holds_its_values(tmp_path):
    values = np.eye(8, dtype=np.uint8)
    Image.fromarray(values).convert("RGB").save(tmp_path / "a.webp", lossless=True)
    assert (problems_of([tmp_path / "a.webp"])[0](tmp_path / "a.webp") == values).all()


@pytest.mark.parametrize("names", ["", "soil\nroot\n"])
def test_masks_of_255_among_masks_of_class_ids_are_a_problem(tmp_path, save_image, save_mask, names):
    if names:
        (tmp_path / "classes.txt").write_text(names)
    for number in range(6):
        save_image(tmp_path / "images" / f"{number}.png", (8, 6))
        save_mask(tmp_path / "masks" / f"{number}.png", np.tile([0, 1 if number % 2 else 255], (6, 4)))
    (problem,) = SPEC.check(DataConfig(data=str(tmp_path))).problems
    assert problem.startswith("3 masks of 6 with only the first class and 255, which is ignored")


def colour_masks(folder, save_image):
    """Save images, and masks of Pascal VOC's first three colours and its border."""
    colours = np.array([BLACK, (128, 0, 0), (0, 128, 0), (224, 224, 192)], dtype=np.uint8)
    (folder / "masks").mkdir()
    for number in range(4):
        save_image(folder / "images" / f"{number}.png", (4, 4))
        Image.fromarray(np.tile(colours, (4, 1, 1))).save(folder / "masks" / f"{number}.png")


def test_a_labelmap_without_colours_means_vocs_palette_by_position(tmp_path, save_image):
    colour_masks(tmp_path, save_image)
    (tmp_path / "labelmap.txt").write_text("# label:color_rgb:parts:actions\nbackground:::\ncat:::\ndog:::\n")
    splits = SPEC.open(DataConfig(data=str(tmp_path)))
    assert tuple(splits.names) == ("background", "cat", "dog")
    assert splits.train.target(0)[0].tolist() == [0, 1, 2, 255]


@pytest.mark.parametrize("names", ["cat\ndog\nbird\n", "background\ncat\n"])
def test_names_without_colours_do_not_read_masks_of_colours(tmp_path, save_image, names):
    colour_masks(tmp_path, save_image)
    (tmp_path / "classes.txt").write_text(names)
    with pytest.raises(DataError, match="have no colours"):
        SPEC.open(DataConfig(data=str(tmp_path)))


@pytest.mark.parametrize("names", ["cat\ndog\n", "background\ncat\ndog\n"])
def test_a_background_that_is_to_be_ignored_shifts_no_names(tmp_path, save_mask, names):
    mask = save_mask(tmp_path / "a.png", [[0, 1, 2]])
    reader, _ = problems_of([mask], build_table(names.split()), reduce_zero_label=True)
    assert reader.classes.names == ("cat", "dog")
    assert reader(mask).tolist() == [[255, 0, 1]]


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("meta.csv", "id,name\n0,0\n1,1\n2,2\n3,3\n"),
        ("data.csv", "id,name\n0,0.png\n1,1.png\n2,2.png\n3,3.png\n"),
        ("labels.csv", "image,label\n0.png,benign\n1.png,malignant\n2.png,normal\n"),
    ],
)
def test_a_table_of_the_images_names_no_classes(tmp_path, save_image, save_mask, file, text):
    for number in range(4):
        save_image(tmp_path / "images" / f"{number}.png", (3, 4))
        save_mask(tmp_path / "masks" / f"{number}.png", np.tile([0, 5, 9], (4, 1)))
    (tmp_path / file).write_text(text)
    splits = SPEC.open(DataConfig(data=str(tmp_path)))
    assert tuple(splits.names) == ("0", "5", "9")
    assert any(group.first == file for group in splits.plan.passed_over)


def test_a_colour_that_is_transparent_in_places_is_refused(tmp_path):
    pixels = np.array([[(0, 0, 0, 0), (128, 0, 0, 255), (128, 0, 0, 0), (0, 9, 0, 255)]], dtype=np.uint8)
    classes = build_table(("plain", "red", "green"), colours=(BLACK, (128, 0, 0), (0, 9, 0)))
    Image.fromarray(pixels).save(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"has the colour \(128, 0, 0\) in pixels that are transparent and in others"):
        problems_of([tmp_path / "a.png"], classes, values="colour")[0](tmp_path / "a.png")
    Image.fromarray(pixels[:, [0, 1, 3]]).save(tmp_path / "b.png")
    assert problems_of([tmp_path / "b.png"], classes)[0](tmp_path / "b.png").tolist() == [[0, 1, 2]]


@pytest.mark.parametrize(("size", "is_refused"), [((4, 4), True), ((2, 2), False)])
def test_a_second_page_of_a_mask_is_refused_unless_it_is_an_overview(tmp_path, size, is_refused):
    page = Image.fromarray(np.eye(4, dtype=np.uint8))
    page.save(tmp_path / "a.tif", save_all=True, append_images=[Image.new("L", size, 1)])
    if is_refused:
        with pytest.raises(DataError, match="has several pages of one size"):
            problems_of([tmp_path / "a.tif"])
    else:
        assert (problems_of([tmp_path / "a.tif"])[0](tmp_path / "a.tif") == np.eye(4)).all()


def test_soft_edges_of_a_mask_for_each_object_are_cut_at_half(tmp_path, save_image, save_mask):
    for name in "abc":
        save_image(tmp_path / name / "images" / f"{name}.png", (4, 1))
        save_mask(tmp_path / name / "masks" / "first.png", [[255, 200, 90, 0]])
        save_mask(tmp_path / name / "masks" / "second.png", [[0, 0, 0, 1]])
    splits = SPEC.open(DataConfig(data=str(tmp_path)))
    assert splits.train.target(0).tolist() == [[1, 1, 0, 1]]


def test_a_palette_that_contradicts_the_file_of_classes_is_a_problem(tmp_path):
    masks = palette_masks(tmp_path)[:1]
    other = build_table(("plain", "green", "red"), colours=(BLACK, (1, 255, 0), RED))
    _, problems = problems_of(masks, other)
    assert problems.startswith(
        "masks hold the value 1, that of the class green, in the colour (255, 0, 0) of the class red"
    )
    assert problems_of(masks, other, values="index")[1] == ""
    assert problems_of(masks, build_table(("plain", "red", "green"), colours=(BLACK, RED, (1, 255, 0))))[1] == ""


def test_names_that_differ_by_case_only_are_a_problem(tmp_path, save_image, save_mask):
    for number in range(4):
        save_image(tmp_path / "images" / f"{number}.png", (3, 4))
        save_mask(tmp_path / "masks" / f"{number}.png", np.tile([0, 1, 2], (4, 1)))
    (tmp_path / "classes.txt").write_text("soil\nroot\nRoot\n")
    assert "'Root' and 'root' in classes.txt differ by case" in SPEC.open(DataConfig(data=str(tmp_path))).problems[0]


def test_pictures_in_the_place_of_masks_are_a_problem(tmp_path, save_mask):
    masks = [save_mask(tmp_path / f"{n}.png", np.arange(100).reshape(4, 25) * 2 + n) for n in range(3)]
    assert "as photographs and maps of shares do" in problems_of(masks)[1]
    rows = [save_mask(tmp_path / f"row{n}.png", np.arange(n, n + 25)[None] * 5) for n in range(9)]
    assert problems_of(rows)[1] == ""
