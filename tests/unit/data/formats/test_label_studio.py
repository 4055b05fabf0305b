"""Label Studio's exports: percents as pixels, brush labels, the annotation that is used, images by their address."""

from __future__ import annotations

import json
from itertools import groupby

import numpy as np
import pytest

from twins.data.formats.label_studio_rle import decode_brush, encode_brush

WIDTH, HEIGHT = 40, 30
BOX = {"x": 10.0, "y": 20.0, "width": 50.0, "height": 40.0, "rotation": 0}
PIXELS = [4, 6, 24, 18]
POLYGON = {"points": [[10, 20], [60, 20], [60, 60], [10, 60]], "closed": True}


def region(kind, label, value, **more):
    """Return a result of a rectangle, polygon, ellipse or brush."""
    sides = {"image_rotation": 0, "original_width": WIDTH, "original_height": HEIGHT}
    value = {**value, f"{kind}labels": [label]}
    return {"type": f"{kind}labels", "value": value, "to_name": "image", "from_name": "label", **sides, **more}


def task(image, *results, number=1, **more):
    """Return a task with one annotation."""
    annotation = {"id": number, "was_cancelled": False, "result": list(results), "updated_at": "2024-01-01T00:00:00Z"}
    return {"id": number, "annotations": [annotation], "data": {"image": image}, "predictions": [], **more}


def brush(mask):
    """Return a mask as bytes, by the format of thi.ng's rle-pack: RGBA, runs of at most 2^16 values."""
    values = np.repeat(np.asarray(mask, dtype=np.uint8).ravel() * 255, 4)
    sizes = (3, 4, 8, 16)
    bits = f"{len(values):032b}{8 - 1:05b}" + "".join(f"{size - 1:04b}" for size in sizes)
    for value, run in groupby(values.tolist()):
        length = len(list(run))
        index = next(i for i, size in enumerate(sizes) if length <= 2**size)
        bits += f"1{index:02b}{length - 1:0{sizes[index]}b}{value:08b}"
    bits += "0" * (-len(bits) % 8)
    return [int(bits[i : i + 8], 2) for i in range(0, len(bits), 8)]


@pytest.fixture
def folder(tmp_path, save_image):
    """Write an export, and images by their paths."""

    def write(tasks, images=("a.jpg", "b.jpg"), name="project-1.json"):
        for image in images:
            save_image(tmp_path / image, (WIDTH, HEIGHT))
        (tmp_path / name).write_text(json.dumps(tasks))
        return tmp_path

    return write


def test_percents_are_pixels_of_the_original_image(folder, reading):
    ellipse = {"x": 50, "y": 50, "radiusX": 25, "radiusY": 20, "rotation": 0}
    results = [region("rectangle", "cat", BOX), region("polygon", "dog", POLYGON), region("ellipse", "sun", ellipse)]
    root = folder([task("/data/upload/1/0a1b2c3d-a.jpg", *results), task("b.jpg")])
    splits = reading.check(root, reading.open(root))
    assert splits.names == ("cat", "dog", "sun")
    assert reading.objects(splits) == {
        "a.jpg": [("cat", PIXELS), ("dog", PIXELS), ("sun", [10, 9, 30, 21])],
        "b.jpg": [],
    }


def test_a_rectangle_turns_about_its_corner(folder, reading):
    root = folder([task("a.jpg", region("rectangle", "cat", BOX | {"x": 50, "rotation": 90}))], ["a.jpg"])
    [(_, turned)] = reading.objects(reading.open(root))["a.jpg"]
    assert turned == [20 - 12, 6, 20, 26]


def test_masks_of_polygons_and_brush_labels_are_exact(folder, reading):
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    mask[3:9, 5:30] = mask[20, 7] = True
    results = [
        region("polygon", "dog", POLYGON),
        region("brush", "cat", {"format": "rle", "rle": brush(mask)}),
    ]
    root = folder([task("a.jpg", *results), task("b.jpg", results[0])])
    splits = reading.check(root, reading.open(root, "masks"), "masks")
    polygon, painted = reading.masks(splits)["a.jpg"]
    assert polygon.sum() == 20 * 12
    assert (painted == mask).all()
    assert reading.objects(splits)["a.jpg"][1] == ("cat", [5, 3, 30, 21])
    maps = reading.maps(reading.check(root, reading.open(root, "maps"), "maps"))["a.jpg"]
    assert (maps == 255).sum() == (mask & polygon).sum() > 0


def test_brush_labels_with_single_values_are_decoded():
    bits = (
        f"{8:032b}{8 - 1:05b}{2:04b}{3:04b}{7:04b}{15:04b}"
        + f"000{4:03b}"
        + "".join(f"{v:08b}" for v in (9, 9, 9, 0, 1))
    )
    bits += f"100{2:03b}{255:08b}"
    data = [int(bits[i : i + 8].ljust(8, "0"), 2) for i in range(0, len(bits), 8)]
    assert decode_brush(data, (1, 2)).tolist() == [[False, True]]


def test_a_region_with_its_label_in_a_result_of_its_own(folder, reading):
    box = {"id": "x", "type": "rectangle", "value": BOX, "original_width": WIDTH, "original_height": HEIGHT}
    label = {"id": "x", "type": "labels", "value": BOX | {"labels": ["cat"]}}
    text = {"id": "x", "type": "textarea", "value": {"text": ["old"]}}
    root = folder([task("a.jpg", box, label, text)], ["a.jpg"])
    assert reading.objects(reading.open(root)) == {"a.jpg": [("cat", PIXELS)]}


def test_the_latest_annotation_that_was_not_cancelled_is_used(folder, reading):
    old, new, cancelled = (
        {"id": i, "was_cancelled": i == 3, "updated_at": f"2024-01-0{i}", "result": [region("rectangle", name, BOX)]}
        for i, name in ((1, "old"), (2, "new"), (3, "cancelled"))
    )
    tasks = [
        task("a.jpg") | {"annotations": [new, old, cancelled], "predictions": [{"result": [1]}]},
        task("b.jpg") | {"annotations": [cancelled]},
        task("c.jpg") | {"annotations": []},
        task("d.jpg", region("rectangle", "new", BOX)),
    ]
    root = folder(tasks, [f"{n}.jpg" for n in "abcd"])
    splits = reading.check(root, reading.open(root))
    assert splits.names == ("new",)
    assert sorted(reading.objects(splits)) == ["a.jpg", "d.jpg"]
    notes = " ".join(splits.notes)
    for text in ("1 task of Label Studio with predictions", "1 task of Label Studio with several", "2 tasks of"):
        assert text in notes
    assert ("an image without an annotation", 2) in [(g.reason, g.count) for g in splits.plan.passed_over]


@pytest.mark.parametrize(
    "address",
    [
        "/data/local-files/?d=sets/pets/my%20cat.jpg",
        "/data/upload/12/0a1b2c3d-my%20cat.jpg",
        "/data/media/?d=my%20cat.jpg",
        "http://localhost:8080/data/local-files/?d=pets/my%20cat.jpg",
        "http://[x/my cat.jpg",
        "s3://bucket/x/my cat.jpg",
        "https://host/x/my%20cat.jpg?X-Amz-Signature=1",
        "C:\\pets\\my cat.jpg",
        "my cat.jpg",
    ],
)
def test_images_are_found_by_the_end_of_their_address(folder, reading, address):
    tasks = [{"data": {"text": "x", "photo": address}, "annotations": [{"result": [region("rectangle", "cat", BOX)]}]}]
    root = folder(tasks, ["images/my cat.jpg"])
    splits = reading.check(root, reading.open(root))
    assert reading.objects(splits) == {"my cat.jpg": [("cat", PIXELS)]}


def test_json_min_is_read(folder, reading):
    sides = {"original_width": WIDTH, "original_height": HEIGHT}
    tasks = [
        {"image": "/data/upload/1/0a1b2c3d-a.jpg", "id": 1, "label": [BOX | sides | {"rectanglelabels": ["cat"]}],
         "annotator": 1, "annotation_id": 1, "created_at": "2024-01-01T00:00:00Z"},
        {"image": "b.jpg", "id": 2, "annotator": 1, "annotation_id": 2, "created_at": "2024-01-01T00:00:00Z"},
    ]  # fmt: skip
    root = folder(tasks)
    splits = reading.check(root, reading.open(root))
    assert reading.objects(splits) == {"a.jpg": [("cat", PIXELS)], "b.jpg": []}


def test_parts_are_files_or_folders_or_lists(folder, reading):
    one = [task("a.jpg", region("rectangle", "cat", BOX))]
    folder(one, ["images/a.jpg"], "train.json")
    root = folder([task("b.jpg", region("rectangle", "dog", BOX))], ["images/b.jpg"], "val.json")
    splits = reading.check(root, reading.open(root))
    assert reading.parts(splits) == {"train": ["a.jpg"], "val": ["b.jpg"]}
    assert splits.names == ("cat", "dog")
    splits = reading.open(root, train="val.json", test="train.json")
    assert reading.parts(splits)["train"] == ["b.jpg"]
    splits = reading.check(root, reading.open(root, annotations="train.json"))
    assert splits.count == 1


def test_choices_are_refused_with_the_way_to_read_them(folder, reading, refused):
    choice = {"type": "choices", "value": {"choices": ["cat"]}, "from_name": "c", "to_name": "image"}
    root = folder([task("a.jpg", choice), task("b.jpg", choice)])
    with refused('export it as CSV.*`task="classification"`'):
        reading.open(root)


@pytest.mark.parametrize(
    "result",
    [
        region("rectangle", "cat", BOX | {"x": "a"}),
        region("rectangle", "cat", BOX | {"width": float("inf")}),
        region("rectangle", "cat", BOX, original_width=0),
        region("rectangle", "cat", BOX, image_rotation=90),
        region("rectangle", "", BOX),
        region("rectangle", "cat", BOX) | {"value": BOX | {"rectanglelabels": ["a", "b"]}},
        region("polygon", "cat", {"points": [[1, 2], [3, 4]]}),
        region("polygon", "cat", {"points": "x"}),
        region("ellipse", "cat", {"x": 1}),
        region("brush", "cat", {"format": "rle", "rle": [0, 0, 255]}),
        region("brush", "cat", {"format": "rle", "rle": brush(np.ones((HEIGHT, WIDTH)))[:-1]}),
        region("brush", "cat", {"format": "rle", "rle": brush(np.ones((3, 3)))}),
        region("brush", "cat", {"format": "rle", "rle": brush(np.zeros((HEIGHT, WIDTH)))}),
    ],
)
def test_a_damaged_region_is_left_out_and_named(folder, reading, result):
    root = folder([task("a.jpg", result, region("rectangle", "cat", BOX)), task("b.jpg", 3, None, {"value": 4})])
    splits = reading.open(root)
    assert reading.objects(splits) == {"a.jpg": [("cat", PIXELS)], "b.jpg": []}
    assert len(splits.faults) == 1
    assert splits.faults[0].startswith("region 1 of a.jpg in ")


def test_damaged_files_and_missing_images_are_named(folder, reading, refused):
    root = folder([task("a.jpg", region("rectangle", "cat", BOX))], [])
    with refused("the images of .*project-1.json, such as a.jpg, are not in"):
        reading.open(root)
    (root / "project-1.json").write_text('[{"id": 1, "annotations": [], "data": {"image": ')
    with refused("project-1.json is no JSON"):
        reading.open(root)
    folder([task("a.jpg") | {"annotations": []}], ["a.jpg"])
    with refused("no task of .*project-1.json has an annotation"):
        reading.open(root)


def test_a_changed_file_is_read_or_refused_in_one_sentence(folder, reading):
    mask = {"format": "rle", "rle": brush(np.eye(HEIGHT, WIDTH))}
    results = [region("rectangle", "cat", BOX), region("polygon", "dog", POLYGON), region("brush", "cat", mask)]
    reading.survive(folder([task("a.jpg", *results), task("b.jpg", results[1])]), "project-1.json")


def test_results_that_are_no_region_are_counted(folder, reading):
    results = [region("keypoint", "nose", {"x": 1, "y": 2}), region("rectangle", "cat", BOX)]
    cuboid = {"type": "videorectangle", "value": {"sequence": []}}
    splits = reading.open(folder([task("a.jpg", *results, cuboid)], ["a.jpg"]))
    assert splits.names == ("cat",)
    assert any("1 × keypointlabels, 1 × videorectangle" in note for note in splits.notes)


def two_images(first, second, keys=("left", "right")):
    """Return a task with two images, and a region on each."""
    regions = [
        region("rectangle", "cat", BOX, to_name=first, id="1"),
        region("rectangle", "dog", BOX, to_name=second, id="2"),
    ]
    data = dict(zip(keys, ("/data/upload/1/a.jpg", "/data/upload/1/b.jpg"), strict=True))
    return task("", *regions, data=data)


def test_regions_are_on_the_image_of_the_task_that_they_name(folder, reading):
    splits = reading.open(folder([two_images("left", "right")]))
    assert reading.objects(splits) == {"a.jpg": [("cat", PIXELS)], "b.jpg": [("dog", PIXELS)]}
    splits = reading.open(folder([two_images("right", "right")]))
    assert reading.objects(splits) == {"b.jpg": [("cat", PIXELS), ("dog", PIXELS)]}


@pytest.mark.parametrize(
    "names", [("first", "second", ("left", "right")), ("image", "second", ("image", "other")), ("x", "x", ("a", "b"))]
)
def test_a_task_whose_regions_could_be_on_several_images_is_left_out_and_named(folder, reading, names):
    splits = reading.open(folder([two_images(*names), task("b.jpg", region("rectangle", "cat", BOX), number=2)]))
    assert reading.objects(splits) == {"b.jpg": [("cat", PIXELS)]}
    [fault] = splits.faults
    assert "has several images, " in fault


def test_two_exports_of_the_same_images_are_refused_unless_a_setting_chooses(folder, reading, refused):
    for name, label in (("project-1-at-1.json", "old"), ("project-1-at-2.json", "new")):
        root = folder([task("a.jpg", region("rectangle", label, BOX))], name=name)
    with refused("project-1-at-1.json and project-1-at-2.json in .* annotate the same images differently; give"):
        reading.open(root)
    assert reading.objects(reading.open(root, annotations="project-1-at-2.json"))["a.jpg"] == [("new", PIXELS)]
    folder([task("a.jpg", region("rectangle", "old", BOX))], name="project-1-at-2.json")
    assert len(reading.open(root).faults) == 1  # a copy


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_a_brush_label_is_written_as_it_is_read(share):
    mask = np.random.default_rng(0).random((230, 310)) < share
    assert np.array_equal(decode_brush(encode_brush(mask), mask.shape), mask)
