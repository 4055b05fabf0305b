"""Classes of data and network are matched by every name that the field has for them, and never by a guess."""

from __future__ import annotations

import pytest

from twins.data.class_map import read_class_map
from twins.data.class_matching import imagenet_synsets, match_names
from twins.data.classes import built_in, imagenet_names
from twins.errors import DataError

COCO = built_in("coco")


def ids(data, network, **settings):
    count = settings.pop("num_classes", len(network))
    return match_names(data, network, count, **settings)


def test_equal_names_come_first_and_a_part_of_the_classes_is_enough():
    match = ids(("dog", "cat"), ("cat", "dog", "eel"))
    assert (match.class_ids, match.by, match.note) == ((1, 0), "name", "")


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (("n01440764", "n02012849", "n03126707", "n03710721"), (0, 134, 517, 639)),  # both cranes, one maillot
        (("n02085620-Chihuahua", "n02085782_japanese_spaniel"), (151, 152)),
        (("tench, Tinca tinca", "great_white_shark"), (0, 2)),
    ],
)
@pytest.mark.parametrize("named", [True, False])
def test_imagenet_classes_are_matched_by_synset(data, expected, named):
    match = ids(data, imagenet_names() if named else (), num_classes=1000, table="imagenet")
    assert match.class_ids == expected
    assert match.by == "synset"
    assert "synset" in match.note


def test_synsets_of_a_small_network_and_of_the_network_alone():
    assert ids(("n01440764", "n01443537"), ("goldfish", "tench"), table="imagenet").class_ids == (1, 0)
    match = ids(("tench", "goldfish"), ("n01440764", "n01443537", "n01484850"), table="imagenet")
    assert match.class_ids == (0, 1)


@pytest.mark.parametrize("data", [("crane", "tench"), ("n01440764", "n99999999"), ("n01440764", "pebble")])
def test_an_imagenet_class_that_is_unknown_or_two_is_refused(data):
    with pytest.raises(DataError, match="does not know the data's classes"):
        ids(data, imagenet_names(), table="imagenet")


def test_all_thousand_numbers_are_imagenets_ids_but_some_of_them_are_no_names():
    numbers = tuple(sorted(map(str, range(1000))))
    assert ids(numbers, imagenet_names(), table="imagenet").class_ids == tuple(map(int, numbers))
    with pytest.raises(DataError, match="0, 1, 2"):
        ids(("0", "1", "2"), imagenet_names(), table="imagenet")


@pytest.mark.parametrize("network", [COCO.names, ()])
def test_coco_categories_in_another_language_are_matched_by_id(network):
    names = tuple(f"Klasse {value}" for value in COCO.values)
    if network:
        match = ids(names, network, values=COCO.values, table="coco", num_classes=80)
        assert (match.class_ids, match.by) == (tuple(range(80)), "coco_id")
    match = ids(names, (), values=COCO.values, table="coco", num_classes=91)
    assert match.class_ids == COCO.values


def test_darknets_names_of_coco_are_matched_by_position():
    darknet = {"motorcycle": "motorbike", "airplane": "aeroplane", "couch": "sofa", "tv": "tvmonitor"}
    names = tuple(darknet.get(name, name) for name in COCO.names)
    for values in (range(80), range(1, 81), COCO.values):
        match = ids(names, COCO.names, values=values, table="coco")
        assert (match.class_ids, match.by) == (tuple(range(80)), "coco_id")
    assert "motorbike is motorcycle" in match.note


@pytest.mark.parametrize(
    ("names", "values"),
    [
        (("helmet", "vest"), (1, 2)),  # ids that any data set has
        (("person", "helmet"), (1, 2)),  # the beginning of many data sets
        (("person", "bicycle", "car", "scooter"), (0, 1, 2, 3)),
        (("cat", "puppy"), (1, 2)),  # a name that COCO has by another id
        (("0", "1", "2"), (0, 1, 2)),  # numbers of some data set or other
    ],
)
def test_ids_alone_do_not_make_a_class_one_of_cocos(names, values):
    with pytest.raises(DataError, match=names[-1]):
        ids(names, COCO.names, values=values, table="coco")


def test_yolo_labels_without_names_are_cocos_if_all_eighty_are_there():
    names = tuple(map(str, range(80)))
    match = ids(names, COCO.names, values=range(80), table="coco")
    assert (match.class_ids, match.by) == (tuple(range(80)), "number")


def test_spelling_may_differ_where_one_class_is_meant():
    match = ids(("Cafe\u0301", "traffic-light", "dog"), ("caf\u00e9", "traffic light", "dog"))
    assert (match.class_ids, match.by) == ((0, 1, 2), "spelling")
    assert "dog is" not in match.note
    with pytest.raises(DataError, match=r"classes Cat \(1 of 2\)"):
        ids(("Cat", "cat"), ("cat", "dog"))
    with pytest.raises(DataError, match=r"classes A_1_2"):
        ids(("A_1_2",), ("a_12",))
    with pytest.raises(DataError, match=r"classes CAT \(1 of 1\)"):
        ids(("CAT",), ("cat", "Cat"))


def test_a_name_that_the_network_has_twice_is_no_match():
    with pytest.raises(DataError, match="maillot"):
        ids(("maillot",), imagenet_names(), table="imagenet")
    assert ids(imagenet_names(), imagenet_names(), table="imagenet").class_ids == tuple(range(1000))


def test_masks_without_any_object_are_measured():
    assert ids(("0",), ("background", "foreground"), values=(0,), table="ade20k").class_ids == (0,)
    with pytest.raises(DataError, match="classes 0"):
        ids(("0",), ("road", "car"), values=(0,), table="ade20k")


def test_a_network_without_names_takes_the_order_and_says_so():
    match = ids(("a", "b"), (), num_classes=2)
    assert (match.class_ids, match.names, match.by) == ((0, 1), ("a", "b"), "order")
    assert "a, b" in match.note
    with pytest.raises(DataError, match="3 classes, the network 2 without names"):
        ids(("a", "b", "c"), (), num_classes=2)


@pytest.mark.parametrize("table", ["coco", "imagenet"])
def test_a_network_without_names_does_not_guess_between_two_orders(table):
    names = COCO.names if table == "coco" else imagenet_synsets()
    count, numbers = len(names), tuple(map(str, range(len(names))))
    for order in (names, numbers):
        assert match_names(order, (), count, table=table).by == "order"
    with pytest.raises(DataError, match="could be in the order of the data or in that of the published"):
        match_names(names[::-1], (), count, table=table)


def test_published_names_of_a_network_without_names_are_said():
    match = match_names(("car", "person"), (), 80, table="coco")
    assert (match.class_ids, match.by) == ((2, 0), "name")
    assert match.note.startswith("the network has no class names, and is taken to have those of the published")


def test_a_map_that_leaves_out_every_class_is_refused():
    with pytest.raises(DataError, match="leaves out every class"):
        ids(("cat", "dog"), ("cat", "dog"), class_map={"cat": None, "dog": None})


def test_a_map_comes_first_and_may_leave_classes_out():
    match = ids(("kitty", "dog", "pebble"), ("cat", "dog"), class_map={"kitty": "cat", "pebble": None})
    assert (match.class_ids, match.by) == ((0, 1, None), "class_map")
    assert "pebble is left out" in match.note
    match = ids(("crane", "tench"), imagenet_names(), table="imagenet", class_map={"crane": "517"})
    assert match.class_ids == (517, 0)  # of two cranes
    with pytest.raises(DataError, match="leads to crane, which is no class of the network, or two"):
        ids(("crane", "tench"), imagenet_names(), table="imagenet", class_map={"crane": "crane"})
    assert ids(("a", "b"), (), num_classes=7, class_map={"a": "6", "b": "0"}).class_ids == (6, 0)
    with pytest.raises(DataError, match=r"leads to cta.*did you mean cat"):
        ids(("kitty",), ("cat", "dog"), class_map={"kitty": "cta"})
    with pytest.raises(DataError, match=r"has kity.*did you mean kitty"):
        ids(("kitty",), ("cat", "dog"), class_map={"kity": "cat"})


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("m.json", '{"kitty": "cat", "no": "dog", "1": null}'),
        ("m.yaml", "kitty: cat\nno: dog\n1: null\n"),
        ("m.yml", "{kitty: cat, no: dog, 1: ~}"),
        ("m.csv", "data,network\nkitty, cat\nno,dog\n\n1,\n"),
        ("m.csv", "kitty,cat\nno,dog\n1,null\n"),
    ],
)
def test_a_map_is_read_from_json_yaml_and_csv(tmp_path, file, text):
    (tmp_path / file).write_text(text)
    assert read_class_map(tmp_path / file) == {"kitty": "cat", "no": "dog", "1": None}


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("m.json", '["cat"]', "no map of class names"),
        ("m.json", "[]", "no map of class names|maps no class"),
        ("m.json", '{"a": 1.5}', "1.5 is no name"),
        ("m.json", '{"a": "b", "a": "c"}', "maps the class a twice"),
        ("m.yaml", "a: b\na: c\n", "maps the class a twice"),
        ("m.yaml", "a: [b]\n", "one name"),
        ("m.yaml", "a: {", "no map of class names"),
        ("m.csv", "a,b,c\n", "3 cells instead of 2"),
        ("m.csv", "", "maps no class"),
        ("m.json", "\ud800".encode("utf-16", "surrogatepass"), "no map of class names"),
    ],
)
def test_a_map_that_cannot_be_read_is_refused_in_one_sentence(tmp_path, file, text, message):
    (tmp_path / file).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DataError, match=message) as caught:
        read_class_map(tmp_path / file)
    assert "\n" not in str(caught.value)
