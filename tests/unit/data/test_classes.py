"""Class tables: those that come with the package, and those that users write."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest

from twins.data.classes import BUILT_IN, build_table, built_in, distinct_colours, read_table, table_from_values

MASK_VALUES = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)


@pytest.fixture
def write_file(tmp_path):
    def write(name, content):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


@pytest.mark.parametrize(
    ("name", "count", "first", "last"),
    [
        ("ade20k", 150, (1, "wall", (120, 120, 120)), (150, "flag", (92, 0, 255))),
        ("cityscapes", 19, (7, "road", (128, 64, 128)), (33, "bicycle", (119, 11, 32))),
        ("coco", 80, (1, "person", (220, 20, 60)), (90, "toothbrush", (191, 162, 208))),
        ("coco_panoptic", 133, (1, "person", (220, 20, 60)), (200, "rug-merged", (250, 141, 255))),
        ("voc", 21, (0, "background", (0, 0, 0)), (20, "tvmonitor", (0, 64, 128))),
    ],
)
def test_well_known_sets_have_their_published_classes(name, count, first, last):
    classes = built_in(name)
    rows = list(zip(classes.values, classes.names, classes.colours, strict=True))
    assert (len(classes), rows[0], rows[-1]) == (count, first, last)
    assert list(classes.values) == sorted(classes.values)


def test_cityscapes_has_the_label_ids_of_its_nineteen_classes():
    assert built_in("cityscapes").values == MASK_VALUES


def test_voc_has_the_colours_of_its_formula():
    def colour(value):
        bits = [[(value >> (3 * bit + channel)) & 1 for bit in range(3)] for channel in range(3)]
        return tuple(128 * low + 64 * middle + 32 * high for low, middle, high in bits)

    assert built_in("voc").colours == tuple(colour(value) for value in range(21))


def test_coco_things_are_the_first_eighty_panoptic_categories():
    things, everything = built_in("coco"), built_in("coco_panoptic")
    assert things.names == everything.names[:80]
    assert things.values == everything.values[:80]


def test_tables_agree_with_lists_that_came_with_data(sample_data):
    with (sample_data / "semantic" / "ade_sample" / "objectInfo150.csv").open() as file:
        upstream = {int(row["Idx"]): row["Name"].replace(";", " ") for row in csv.DictReader(file)}
    ade = built_in("ade20k")
    assert all(upstream[v].startswith(name) for v, name in zip(ade.values, ade.names, strict=True))
    categories = json.loads((sample_data / "coco_open" / "panoptic" / "panoptic.json").read_text())["categories"]
    coco = built_in("coco_panoptic")
    assert {category["id"]: category["name"] for category in categories} == dict(
        zip(coco.values, coco.names, strict=True)
    )


def test_an_unknown_set_is_answered_with_near_names(refused):
    with refused("did you mean ade20k"):
        built_in("ade")
    with refused(", ".join(BUILT_IN)):
        built_in("xyz")


@pytest.mark.parametrize(
    ("name", "content", "values"),
    [
        ("a.txt", "sky\ntraffic light\n\n", (0, 1)),
        ("a.txt", "\ufeffsky\r\ntraffic light\r\n", (0, 1)),
        ("a.txt", "sky\r\ntraffic light\r\n".encode("utf-16"), (0, 1)),
        ("a.names", "sky\ntraffic light", (0, 1)),
        ("a.csv", "name\nsky\ntraffic light\n", (0, 1)),
        ("a.CSV", "value, name\n3, sky\n7, traffic light\n", (3, 7)),
        ("a.json", '["sky", "traffic light"]', (0, 1)),
        ("a.json", '{"12": "traffic light", "3": "sky"}', (3, 12)),
        ("a.json", '{"classes": {"0": "sky", "9": "traffic light"}}', (0, 9)),
        ("a.yaml", "names:\n  - sky\n  - traffic light\n", (0, 1)),
        ("a.yml", "names:\n  5: sky\n  6: traffic light\n", (5, 6)),
    ],
)
def test_names_are_read_from_every_kind_of_file(write_file, name, content, values):
    classes = read_table(write_file(name, content))
    assert (classes.names, classes.values) == (("sky", "traffic light"), values)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.txt", "sky 1 2 3\ntraffic light 250 128 0\n"),
        ("a.txt", "sky, 1, 2, 3\ntraffic light, 250, 128, 0\n"),
        ("a.csv", "name,red,green,blue\nsky,1,2,3\ntraffic light,250,128,0\n"),
    ],
)
def test_colours_are_read_where_they_are_given(write_file, name, content):
    classes = read_table(write_file(name, content))
    assert classes.names == ("sky", "traffic light")
    assert classes.colours == ((1, 2, 3), (250, 128, 0))


SKY = ((1, 2, 3), (250, 128, 0))


@pytest.mark.parametrize(
    ("name", "content", "values", "colours"),
    [
        ("labelmap.txt", "# label:color_rgb:parts:actions\nsky:1,2,3::\ntraffic light:250,128,0:a,b:c\n", (0, 1), SKY),
        ("label_colors.txt", "1 2 3\tsky\n250 128 0\t\ttraffic light\n", (0, 1), SKY),
        ("a.txt", "4 1 2 3 sky\n6 250 128 0 traffic light\n", (4, 6), SKY),
        ("a.txt", "0 1 2 3 sky\n1 250 128 0 traffic light\n", (0, 1), SKY),
        ("a.txt", "0 sky 1 2 3\n1 traffic light 250 128 0\n", (0, 1), SKY),
        ("a.txt", "name r g b\nsky 1 2 3\ntraffic light 250 128 0\n", (0, 1), SKY),
        ("a.txt", "Name\tR\tG\tB\nsky\t1\t2\t3\ntraffic light\t250\t128\t0\n", (0, 1), SKY),
        ("class_dict.csv", "name, r, g, b\nsky,1,2,3\ntraffic light,250,128,0\n", (0, 1), SKY),
        ("a.csv", "Class;Pixel Value;R;G;B\nsky;4;1;2;3\ntraffic light;9;250;128;0\n", (4, 9), SKY),
        ("_classes.csv", "Pixel Value, Class\n0, sky\n1, traffic light\n", (0, 1), None),
        ("a.csv", "0,sky\n1,traffic light\n", (0, 1), None),
        ("a.csv", "sky,1,2,3\ntraffic light,250,128,0\n", (0, 1), SKY),
        ("a.txt", "0: sky\n5: traffic light\n", (0, 5), None),
        ("a.txt", "1 sky\n2 traffic light\n", (1, 2), None),
        ("a.txt", "sky 0\ntraffic light 1\n", (0, 1), None),
        ("labels.txt", "__ignore__\nsky\ntraffic light\n", (0, 1), None),
        ("a.json", '{"sky": 3, "traffic light": 7}', (3, 7), None),
        ("palette.json", '{"sky": [1, 2, 3], "traffic light": [250, 128, 0]}', (0, 1), SKY),
        ("a.json", '{"labels": [{"readable": "sky", "color": [1, 2, 3]}, {"readable": "traffic light", '
         '"color": [250, 128, 0]}]}', (0, 1), SKY),
        ("meta.json", '{"classes": [{"title": "sky", "color": "#010203"}, {"title": "traffic light", '
         '"color": "#FA8000"}]}', (0, 1), SKY),
        ("a.json", '[{"id": 3, "name": "sky"}, {"id": 7, "name": "traffic light"}]', (3, 7), None),
        ("a.json", '{"id2label": {"0": "sky", "1": "traffic light"}}', (0, 1), None),
        ("a.yaml", "names:\n  sky: {value: 3, color: [1, 2, 3]}\n  traffic light: {value: 5, color: [250, 128, 0]}\n",
         (3, 5), SKY),
    ],
)  # fmt: skip
def test_the_files_of_labelling_tools_are_read(write_file, name, content, values, colours):
    classes = read_table(write_file(name, content))
    assert classes.names == ("sky", "traffic light")
    assert classes.values == values
    assert colours is None or classes.colours == colours


@pytest.mark.parametrize(
    "names",
    [("1 euro", "2 euro"), ("1 cent", "2 cent", "1 euro"), ("class 1", "class 2"), ("5", "7"), ("3D box", "2D box")],
)
def test_numbers_in_names_stay_in_them(write_file, names):
    assert read_table(write_file("a.txt", "\n".join(names))).names == names


def test_names_that_yaml_takes_for_truth_values_stay_names(write_file):
    assert read_table(write_file("a.yaml", "- no\n- on\n- 12\n- null\n")).names == ("no", "on", "12", "null")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "", r"a\.txt.*no class; list at least one"),
        ("a.txt", "cat\ncat\n", r"a\.txt.*same name, 'cat'"),
        ("a.txt", "cat 1 2 3\ndog\n", r"1 of 2 classes have a colour"),
        ("a.txt", b"\xff\xfe\x00", r"a\.txt cannot be read as text.*UTF-8"),
        ("a.csv", "", r"column called name, found nothing"),
        ("a.csv", "value;title of it\nx;cat\n", r"column called name, found value;title of it"),
        ("a.csv", "name\n", r"no class"),
        ("a.csv", "value,name\n0,cat\n1\n", r"line 3 \(1, None\)"),
        ("a.csv", "value,name\none,cat\n", r"line 2 \(one, cat\)"),
        ("a.csv", "name,red,green,blue\ncat,1,2\n", r"line 2"),
        ("a.csv", "name,red,green,blue\ncat,1,2,300\n", r"cat has the colour \(1, 2, 300\)"),
        ("a.csv", "value,name\n5,cat\n5,dog\n", r"same value, '5'"),
        ("a.json", '["cat", ', r"a\.json is no list of classes.*line 1"),
        ("a.json", "3", r"expected a list of names or a dictionary .*found int"),
        ("a.json", "[]", r"no class"),
        ("a.json", '[{"id": 0, "kind": "cat"}]', r"expected the name of a class, found {'id'"),
        ("a.json", '["cat", null]', r"expected the name of a class, found None"),
        ("a.json", '{"cat": "dog"}', r"expected a value or a colour for the class 'cat', found 'dog'"),
        ("a.json", '{"0": [0, 0, 0]}', r"expected names of classes, found colours by value"),
        ("a.json", '{"cat": [1, 2, 3], "dog": 1}', r"1 of 2 classes have a value"),
        ("a.json", '[{"name": "cat", "color": "red"}]', r"class cat has the colour 'red'"),
        ("a.json", '{"-1": "cat"}', r"class cat has the value -1; masks hold 0 to 65535"),
        ("a.json", '{"70000": "cat"}', r"value 70000"),
        ("a.json", "[" * 100_000, r"a\.json is no list of classes \(RecursionError"),
        ("a.csv", "name\n" + "x" * 200_000, r"a\.csv is no list of classes \(Error: field larger"),
        ("a.json", '{"9' + "9" * 5000 + '": "cat"}', r"a\.json is no list of classes"),
        ("a.yaml", "names: [cat\n", r"a\.yaml is no list of classes"),
        ("a.yaml", "", r"expected a list of names"),
    ],
)
def test_a_list_that_cannot_be_understood_is_named_with_the_fault(write_file, refused, name, content, message):
    with refused(message):
        read_table(write_file(name, content))


def test_a_missing_list_is_named(tmp_path, refused):
    with refused(r"no file of classes .*gone\.txt; check the path"):
        read_table(tmp_path / "gone.txt")


def test_the_colours_of_255_classes_all_differ():
    colours = np.array(distinct_colours(255))
    assert len(np.unique(colours, axis=0)) == 255
    assert colours.min() >= 0
    assert colours.max() <= 255


def test_classes_without_names_are_named_after_their_values():
    classes = table_from_values({9, 2, 300})
    assert (classes.names, classes.values) == (("2", "9", "300"), (2, 9, 300))


@pytest.mark.parametrize(("names", "values"), [(("a", "a"), None), (("a", "b"), (4, 4)), ((), None)])
def test_a_table_with_duplicate_classes_or_none_is_refused(refused, names, values):
    with refused("two classes have the same|no class"):
        build_table(names, values)
