"""Mask files: in every encoding, each pixel gets the class that its author meant."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from twins.data.classes import build_table, built_in
from twins.data.config import MaskConfig
from twins.data.formats.masks import MaskReader, build_reader, read_values
from twins.errors import ConfigError, DataError

PIXELS = np.array([[0, 1, 2], [2, 255, 0]])
RED, GREEN, BLACK, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 0), (255, 255, 255)
THREE = build_table(("a", "b", "c"))
TWO = build_table(("plain", "spot"))


def palette_mask(path, pixels, colours):
    image = Image.fromarray(np.asarray(pixels, dtype=np.uint8))
    image.putpalette([channel for colour in colours for channel in colour])
    image.save(path)
    return path


def reader_for(masks, classes=None, ignored=(), **settings):
    reader, notes = build_reader(MaskConfig(**settings), masks, classes, ignored=ignored)
    return reader, " ".join(notes)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "P", "I", "I;16"])
def test_class_values_are_read_from_every_kind_of_image(tmp_path, mode):
    image = Image.fromarray(PIXELS.astype({"I": np.int32, "I;16": np.uint16}.get(mode, np.uint8)))
    if mode == "P":
        image.putpalette([7] * 768)
    elif image.mode != mode:
        image = image.convert(mode)
    image.save(tmp_path / "a.tif")
    assert image.mode == mode
    assert (read_values(tmp_path / "a.tif") == PIXELS).all()


def test_one_bit_masks_hold_0_and_255(tmp_path):
    Image.fromarray(np.eye(3, dtype=bool)).save(tmp_path / "a.png")
    assert (read_values(tmp_path / "a.png") == 255 * np.eye(3)).all()


def test_values_become_class_ids_and_255_is_ignored(tmp_path, save_mask):
    path = save_mask(tmp_path / "a.png", [[7, 40, 255], [9, 3, 7]])
    reader = MaskReader(build_table(("a", "b"), (7, 40)), ignore=(3, 9))
    assert reader(path).tolist() == [[0, 1, 255], [255, 255, 0]]
    assert reader(path).dtype == np.uint8


def test_values_of_sixteen_bits_become_class_ids(tmp_path, save_mask):
    path = save_mask(tmp_path / "a.png", [[1000, 65535], [24000, 0]], np.uint16)
    reader = MaskReader(build_table(("a", "b", "c"), (0, 1000, 24000)), ignore=(65535,))
    assert reader(path).tolist() == [[1, 255], [2, 0]]


def test_palette_masks_are_read_by_index_with_their_borders_ignored(tmp_path):
    colours = built_in("voc").colours + ((0, 0, 0),) * 234 + ((224, 224, 192),)
    path = palette_mask(tmp_path / "a.png", [[0, 255, 20]], colours)
    reader, _ = reader_for([path], built_in("voc"))
    assert reader(path).tolist() == [[0, 255, 20]]


def test_colours_become_class_ids(tmp_path, save_mask):
    classes = build_table(("void", "red", "green"), colours=(BLACK, RED, GREEN))
    paths = [save_mask(tmp_path / "a.png", [[RED, GREEN], [BLACK, RED]]), save_mask(tmp_path / "b.png", [[BLACK] * 2])]
    paths.append(palette_mask(tmp_path / "c.png", [[1, 0]], (GREEN, RED)))
    reader, note = reader_for(paths, classes)
    assert [reader(path).tolist() for path in paths] == [[[1, 2], [0, 1]], [[0, 0]], [[1, 2]]]
    assert "by their colours" in note


def test_masks_of_0_and_255_are_two_classes(tmp_path, save_mask):
    paths = [save_mask(tmp_path / f"{i}.png", [[0, 255]]) for i in range(3)]
    for classes in (None, TWO):
        reader, note = reader_for(paths, classes)
        assert reader(paths[0]).tolist() == [[0, 1]]
        assert "two classes, background and foreground" in note
    assert reader_for(paths)[0].classes.names == ("background", "foreground")
    assert reader_for(paths, TWO)[0].classes.names == ("plain", "spot")


def test_masks_with_a_rare_class_are_not_read_as_binary(tmp_path, save_mask):
    paths = [save_mask(tmp_path / f"{i:03}.png", [[0, 255]]) for i in range(60)]
    save_mask(paths[59], [[1, 255]])
    reader, _ = reader_for(paths)
    assert reader.classes.names == ("0", "1")
    assert reader(paths[0]).tolist() == [[0, 255]]


def test_binary_masks_read_any_value_except_0_and_ignored_ones_as_foreground(tmp_path, save_mask):
    path = save_mask(tmp_path / "a.png", [[0, 1, 7, 30]])
    assert reader_for([path], values="binary")[0](path).tolist() == [[0, 1, 1, 1]]
    assert reader_for([path], values="binary", ignore=(7,))[0](path).tolist() == [[0, 1, 255, 1]]


def test_binary_masks_with_white_are_cut_at_half(tmp_path, save_mask):
    soft, hard = (
        save_mask(tmp_path / "a.png", [[0, 3, 127, 128, 255]]),
        save_mask(tmp_path / "b.png", [[0, 0, 0, 255, 252]]),
    )
    reader, _ = reader_for([soft, hard], values="binary")
    assert [reader(path).tolist() for path in (soft, hard)] == [[[0, 0, 0, 1, 1]]] * 2
    assert reader_for([soft], values="binary", ignore=(127,))[0](soft).tolist() == [[0, 0, 255, 1, 1]]


def test_an_ignored_value_between_0_and_255_leaves_masks_binary(tmp_path, save_mask):
    path = save_mask(tmp_path / "a.png", [[0, 128, 255]])
    assert reader_for([path], ignore=(128,))[0](path).tolist() == [[0, 255, 1]]


def test_without_a_class_list_the_classes_are_the_values_of_all_masks(tmp_path, save_mask):
    paths = [save_mask(tmp_path / f"{i:02}.png", [[0, 4 if i == 31 else 2, 255]]) for i in range(40)]
    reader, note = reader_for(paths)
    assert reader.classes.names == ("0", "2", "4")
    assert "3 values that the masks hold, which have gaps" in note
    (tmp_path / "05.png").write_bytes(b"")
    assert reader_for(paths)[0].classes.names == ("0", "2", "4")


def test_reducing_the_zero_label_moves_names_up_by_one(tmp_path, save_mask):
    path = save_mask(tmp_path / "a.png", [[0, 1, 3, 255]])
    reader, _ = reader_for([path], THREE, reduce_zero_label=True)
    assert reader(path).tolist() == [[255, 0, 2, 255]]
    assert reader_for([path], reduce_zero_label=True)[0].classes.names == ("1", "3")


def test_ade20k_ignores_0_unless_its_masks_were_reduced_before(tmp_path, save_mask):
    path = save_mask(tmp_path / "a.png", [[0, 1, 149, 255]])
    assert reader_for([path], built_in("ade20k"), (0,))[0](path).tolist() == [[255, 0, 148, 255]]
    reduced, _ = reader_for([path], built_in("ade20k"), (0,), reduce_zero_label=False)
    assert reduced(path).tolist() == [[0, 1, 149, 255]]
    reduced, _ = reader_for([path], built_in("ade20k"), (0,), reduce_zero_label=False, ignore=(0,))
    assert reduced(path).tolist() == [[255, 0, 148, 255]]


def test_0_is_still_ignored_without_reduction_if_no_class_has_it(tmp_path, save_mask):
    path = save_mask(tmp_path / "a.png", [[0, 7, 8]])
    cityscapes, _ = reader_for([path], built_in("cityscapes"), (0,), reduce_zero_label=False)
    assert cityscapes(path).tolist() == [[255, 0, 1]]


@pytest.mark.parametrize(
    ("pixels", "reader", "message"),
    [
        (
            [[0, 1, 9, 9]],
            MaskReader(THREE),
            r"a\.png holds values that no class has: 9 \(50\.0% .*3 classes have the values 0 to 2",
        ),
        (
            [[0, 1]],
            MaskReader(build_table(("a", "b"), (1, 2))),
            r"values .*: 0 \(50\.0%.*`masks\.reduce_zero_label=True`",
        ),
        ([list(range(20))], MaskReader(THREE), r"3, 4, 5, 6, 7, \.\.\."),
        (
            [[RED, GREEN]],
            MaskReader(build_table("ab", colours=(RED, BLACK)), "colour"),
            r"\(0, 255, 0\).*its colour in a file",
        ),
        (
            [[0, 7]],
            MaskReader(build_table("ab", colours=(BLACK, RED)), "colour"),
            r"colours that no class has: \(7, 7, 7\)",
        ),
        ([[RED, GREEN]], MaskReader(THREE), r"a\.png is a colour image where .*`masks\.values=\"colour\"`"),
    ],
)
def test_pixels_of_no_class_are_named(tmp_path, save_mask, refused, pixels, reader, message):
    with refused(message):
        reader(save_mask(tmp_path / "a.png", pixels))


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (Image.new("CMYK", (4, 4)), r"a\.tif is an image of mode CMYK.*save masks as grey PNG"),
        (Image.new("F", (4, 4)), r"a\.tif is an image of mode F"),
        (Image.new("I", (4, 4), 70000), r"a\.tif holds values beyond 16 bits"),
        (Image.new("I", (4, 4), -1), r"a\.tif holds values beyond 16 bits"),
    ],
)
def test_images_that_hold_no_classes_are_refused(tmp_path, refused, image, message):
    image.save(tmp_path / "a.tif")
    with refused(message):
        MaskReader(THREE)(tmp_path / "a.tif")


def test_damaged_masks_are_named(tmp_path, save_mask, refused):
    path = save_mask(tmp_path / "a.png", np.random.default_rng(0).integers(0, 3, (64, 64)))
    path.write_bytes(path.read_bytes()[:300])
    (tmp_path / "b.png").write_bytes(b"")
    (tmp_path / "c.png").write_text("no image")
    for name, message in (("a", "is damaged"), ("b", "is empty"), ("c", "is no image"), ("d", "there is no image")):
        with refused(f"{message}.*{name}\\.png" if name == "d" else f"{name}\\.png {message}"):
            MaskReader(THREE)(tmp_path / f"{name}.png")


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", r"a\.png is empty"), (None, "no mask can be read, or all of them hold only 255; check the masks")],
)
def test_masks_without_any_class_are_refused(tmp_path, save_mask, refused, content, message):
    path = save_mask(tmp_path / "a.png", 255)
    if content is not None:
        path.write_bytes(content)
    with refused(message):
        reader_for([path])


def test_colours_without_a_list_of_classes_are_refused(tmp_path, save_mask, refused):
    with refused(r"need a list of classes with their colours; give it with `masks\.classes=FILE`"):
        reader_for([save_mask(tmp_path / "a.png", [[RED, GREEN]])])


def test_classes_that_a_label_map_cannot_hold_are_refused(refused):
    assert len(MaskReader(build_table([str(i) for i in range(255)])).classes) == 255
    with refused("at most 255 classes, found 256; join some"):
        MaskReader(build_table([str(i) for i in range(256)]))
    with refused("two classes have the same colour"):
        MaskReader(build_table(("a", "b"), colours=(RED, RED)), "colour")
    with refused("binary masks have two classes, found 3 names; list two"):
        MaskReader(THREE, "binary")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"values": "rgb"}, r"`masks\.values` must be one of auto, .*found 'rgb'"),
        ({"ignore": (0, 70000)}, r"`masks\.ignore` must list values between 0 and 65535, or names, found"),
        ({"ignore": (-1,)}, r"`masks\.ignore`"),
    ],
)
def test_settings_out_of_range_are_refused(refused, settings, message):
    with refused(message):
        MaskConfig(**settings)


def test_an_ignored_class_is_removed_by_value_or_by_name(tmp_path, save_mask):
    path = save_mask(tmp_path / "a.png", [[0, 1, 2]])
    classes = build_table(("soil", "root", "void"))
    for ignore in ((2,), ("void",), ("2",)):
        reader, _ = build_reader(MaskConfig(ignore=ignore), [path], classes)
        assert reader.classes.names == ("soil", "root")
        assert reader(path).tolist() == [[0, 1, 255]]
    with pytest.raises(ConfigError, match="'viod', which is no class; did you mean void"):
        build_reader(MaskConfig(ignore=("viod",)), [path], classes)


def test_a_colour_can_be_ignored(tmp_path, save_mask):
    path = save_mask(tmp_path / "a.png", [[(255, 0, 0), (0, 0, 0), (0, 0, 255)]])
    classes = build_table(("red", "void", "blue"), colours=((255, 0, 0), (0, 0, 0), (0, 0, 255)))
    reader, _ = build_reader(MaskConfig(values="colour", ignore=("void",)), [path], classes)
    assert reader(path).tolist() == [[0, 255, 1]]


def test_a_jpeg_is_refused_as_a_mask(tmp_path):
    path = tmp_path / "a.jpg"
    Image.new("L", (8, 8), 3).save(path)
    with pytest.raises(DataError, match="is a JPEG, whose compression changes the values"):
        read_values(path)


def test_the_values_of_a_single_class_are_named_in_the_singular(tmp_path, save_mask):
    path = save_mask(tmp_path / "a.png", [[0, 9]])
    with pytest.raises(DataError, match=r"the class has the value 0; fix it"):
        MaskReader(build_table(("soil",)))(path)


def soft_jpeg(path, quality=75):
    pixels = np.zeros((48, 48), dtype=np.uint8)
    pixels[10:30, 10:30] = 255
    Image.fromarray(pixels).save(path, quality=quality)
    return path, pixels > 0


def test_jpegs_of_black_and_white_are_cut_at_half(tmp_path):
    path, inside = soft_jpeg(tmp_path / "a.jpg")
    for settings in ({}, {"values": "binary"}):
        reader, note = reader_for([path], **settings)
        assert (reader(path) == inside).mean() > 0.99
        assert settings or "JPEGs of black and white" in note
    assert reader_for([path], TWO)[0].classes.names == ("plain", "spot")


@pytest.mark.parametrize("values", [(0, 1, 2), (0, 90, 180)])
def test_jpegs_of_class_values_are_refused(tmp_path, refused, values):
    path = tmp_path / "a.jpg"
    Image.fromarray(np.repeat([values], 24, axis=0).astype(np.uint8).repeat(8, axis=1)).save(path)
    with refused("is a JPEG, whose compression changes the values"):
        reader_for([path])


def test_masks_of_sixteen_bits_with_two_values_are_binary(tmp_path, save_mask):
    path = save_mask(tmp_path / "a.png", [[0, 65535]], np.uint16)
    assert reader_for([path])[0](path).tolist() == [[0, 1]]


@pytest.mark.parametrize("row", [[0, 255, 255], [0, 1, 1]])
def test_a_single_name_is_that_of_the_foreground(tmp_path, save_mask, row):
    paths = [save_mask(tmp_path / "a.png", [row]), save_mask(tmp_path / "empty.png", [[0, 0, 0]])]
    reader, note = reader_for(paths, build_table(("road",)))
    assert reader.classes.names == ("background", "road")
    assert [reader(path).tolist() for path in paths] == [[[0, 1, 1]], [[0, 0, 0]]]
    assert "the one class that is named, road, has every value but 0" in note


def test_the_background_is_0_in_masks_of_two_values_also_if_it_is_named_second(tmp_path, save_mask):
    path = save_mask(tmp_path / "a.png", [[0, 255, 255]])
    reader, note = reader_for([path], build_table(("road", "_background_")))
    assert reader.classes.names == ("_background_", "road")
    assert reader(path).tolist() == [[0, 1, 1]]
    assert "0 is _background_, and the other value road" in note


def test_masks_that_count_from_1_get_the_names_in_order(tmp_path, save_mask):
    paths = [save_mask(tmp_path / "a.png", [[1, 2, 255]]), save_mask(tmp_path / "b.png", [[3, 3, 2]])]
    reader, note = reader_for(paths, THREE)
    assert [reader(path).tolist() for path in paths] == [[[0, 1, 255]], [[2, 2, 1]]]
    assert "no mask holds 0, and the highest value is 3" in note
    save_mask(paths[0], [[0, 1, 2]])
    with pytest.raises(DataError, match=r"no class has: 3 .*if 0 is a background without a name, add its name"):
        reader_for(paths, THREE)[0](paths[1])


def test_shades_of_grey_are_colours_where_the_classes_have_them(tmp_path, save_mask):
    path = save_mask(tmp_path / "a.png", [[0, 128, 255]])
    classes = build_table(("a", "b", "c"), colours=(WHITE, BLACK, (128, 128, 128)))
    assert reader_for([path], classes)[0](path).tolist() == [[1, 2, 0]]
    two = build_table(("a", "b"), colours=(WHITE, BLACK))
    path = save_mask(tmp_path / "b.png", [[0, 255, 255]])
    assert reader_for([path], two)[0](path).tolist() == [[1, 0, 0]]
    small = build_table(("a", "b"), colours=((1, 1, 1), BLACK))
    path = save_mask(tmp_path / "c.png", [[0, 1, 1]])
    assert reader_for([path], small)[0](path).tolist() == [[1, 0, 0]]


def test_masks_without_any_object_are_used(tmp_path, save_mask):
    paths = [save_mask(tmp_path / f"{i}.png", [[0, 255 * (i == 7)]]) for i in range(40)]
    reader, _ = reader_for(paths)
    assert [int(reader(path).sum()) for path in paths] == [int(i == 7) for i in range(40)]
    assert reader_for(paths[:5], THREE)[0](paths[0]).tolist() == [[0, 0]]


def test_grey_levels_and_soft_edges_are_problems_already_in_opening(tmp_path, save_mask):
    path = save_mask(tmp_path / "a.png", [[0, 0, 128, 255]])
    problems = []
    build_reader(MaskConfig(), [path], None, problems=problems)
    assert problems[0].startswith("255 is ignored and fills 25.0% of the pixels")
