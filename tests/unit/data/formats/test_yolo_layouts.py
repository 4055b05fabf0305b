"""YOLO's dialects as tools lay them out: parts, names and lines of any form, and every file accounted for."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from twins.data.config import DataConfig, LayoutConfig
from twins.data.formats.open import open_objects
from twins.data.formats.source import LAYOUT_FILE, Source, layout_text
from twins.data.formats.yolo import find_yolo

NAMES = "names: [cat, dog]\n"
BOX = "1 0.5 0.5 0.5 0.5"
COLOURS = {"a": "red", "b": "green", "c": "blue", "d": "white", "e": "black", "f": "grey"}


def write(root, files):
    """Write texts, and images of 8 x 6 pixels for `None`."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if content is None:
            Image.new("RGB", (8, 6), COLOURS.get(path.stem, "pink")).save(path)
        else:
            path.write_text(content, encoding="utf-8")
    return root


def yolo(names, images="images/{}.jpg", labels="labels/{}.txt", content=BOX):
    return {images.format(n): None for n in names} | {labels.format(n): content for n in names}


def opened(data, masks=False, **settings):
    return open_objects(DataConfig(data=str(data), layout=LayoutConfig(**settings)), masks=masks)


def names(images):
    return "".join(sorted(images.path(i).rpartition("/")[2].partition(".")[0] for i in range(len(images))))


def parts(splits):
    return {part: names(images) for part, images in splits.parts.items()}


def whole(splits):
    return "".join(sorted("".join(parts(splits).values())))


def check_plan(splits, root):
    """Check that all files are accounted for, and that the layout as recognised opens the same images."""
    plan = splits.plan
    assert sum(plan.used.values()) + sum(group.count for group in plan.passed_over) == plan.files
    (root / LAYOUT_FILE).write_text(layout_text(splits.layout))
    again = opened(root)
    assert parts(again) == parts(splits)
    assert [again.parts[name].path(0) for name in again.parts] == [splits.parts[name].path(0) for name in splits.parts]
    (root / LAYOUT_FILE).unlink()


DARKNET = "classes = 2\ntrain = data/train.txt\nvalid = data/valid.txt\nnames = data/obj.names\nbackup = backup/\n"
LISTS = {"train.txt": "data/obj_train_data/a.jpg\ndata/obj_train_data/b.jpg", "valid.txt": "data/obj_train_data/c.jpg"}
WHOLE = None
LAYOUTS = {
    "ultralytics": (
        yolo("ab", "images/train/{}.jpg", "labels/train/{}.txt")
        | yolo("c", "images/val/{}.jpg", "labels/val/{}.txt")
        | yolo("d", "images/test/{}.jpg", "labels/test/{}.txt")
        | {"data.yaml": f"path: ../datasets/x\ntrain: images/train\nval: images/val\ntest: images/test\n{NAMES}"},
        ("ab", "c", "d"),
    ),
    "any case": (
        yolo("ab", "Images/Train/{}.JPG", "Labels/Train/{}.txt")
        | yolo("c", "Images/Val/{}.JPG", "Labels/val/{}.txt")
        | {"data.yaml": NAMES},
        ("ab", "c", None),
    ),
    "darknet": (
        yolo("abc", "obj_train_data/{}.jpg", "obj_train_data/{}.txt")
        | LISTS
        | {"obj.data": DARKNET, "obj.names": "cat\ndog\n"},
        ("ab", "c", None),
    ),
    "darknet in data": (
        {f"data/{name}": content for name, content in LISTS.items()}
        | yolo("abc", "data/obj_train_data/{}.jpg", "data/obj_train_data/{}.txt")
        | {"cfg/obj.data": DARKNET, "data/obj.names": "cat\ndog\n", "cfg/yolo.cfg": "[net]"},
        ("ab", "c", None),
    ),
    "cvat's folders": (
        yolo("ab", "obj_train_data/{}.jpg", "obj_train_data/{}.txt")
        | yolo("c", "obj_valid_data/{}.jpg", "obj_valid_data/{}.txt")
        | {"obj.names": "cat\ndog\n"},
        ("ab", "c", None),
    ),
    "cvat's ultralytics": (
        yolo("ab", "images/train/{}.jpg", "labels/train/{}.txt")
        | yolo("c", "images/Validation/{}.jpg", "labels/Validation/{}.txt")
        | {"data.yaml": "path: .\ntrain: train.txt\nval: Validation.txt\nnames: {0: cat, 1: dog}\n"}
        | {
            "train.txt": "data/images/train/a.jpg\ndata/images/train/b.jpg",
            "Validation.txt": "images/Validation/c.jpg",
        },
        ("ab", "c", None),
    ),
    "roboflow": (
        yolo("ab", "train/images/{}.jpg", "train/labels/{}.txt")
        | yolo("c", "valid/images/{}.jpg", "valid/labels/{}.txt")
        | {"data.yaml": f"train: ../train/images\nval: ../valid/images\nnc: 2\n{NAMES}", "README.roboflow.txt": "hi"},
        ("ab", "c", None),
    ),
    "label studio": (yolo("abcde") | {"classes.txt": "cat\ndog\n", "notes.json": "{}"}, WHOLE),
    "labelImg": (yolo("abcde", "{}.jpg", "{}.txt") | {"classes.txt": "cat\ndog\n"}, WHOLE),
    "beside": (yolo("abcde", "images/{}.jpg", "images/{}.txt") | {"images/classes.txt": "cat\ndog\n"}, WHOLE),
    "cameras": (
        yolo("abc", "cam1/{}.jpg", "cam1/{}.txt") | yolo("de", "cam2/{}.jpg", "cam2/{}.txt") | {"data.yaml": NAMES},
        WHOLE,
    ),
    "images at the top": (yolo("abcde", "{}.jpg") | {"data.yaml": NAMES}, WHOLE),
    "labels not split": (
        yolo("ab", "images/train/{}.jpg") | yolo("c", "images/val/{}.jpg") | {"data.yaml": NAMES},
        ("ab", "c", None),
    ),
    "lists without settings": (
        yolo("abcd")
        | {"autosplit_train.txt": "./images/a.jpg\n./images/b.jpg", "autosplit_val.txt": "./images/c.jpg"}
        | {"classes.txt": "cat\ndog\n"},
        ("ab", "c", None),
    ),
    "one folder inside": (
        {f"set/{name}": content for name, content in (yolo("abcde") | {"data.yaml": NAMES}).items()},
        WHOLE,
    ),
    "darknet voc": (
        yolo("abcde", "JPEGImages/{}.jpg") | {"voc.names": "cat\ndog\n"},
        WHOLE,
    ),
    "several entries": (
        yolo("a", "images/x/{}.jpg", "labels/x/{}.txt")
        | yolo("b", "images/y/{}.jpg", "labels/y/{}.txt")
        | yolo("c", "images/z/{}.jpg", "labels/z/{}.txt")
        | {"data.yaml": f"train: [images/x, more.txt]\nval: images/z\n{NAMES}", "more.txt": "images/y/b.jpg"},
        ("ab", "c", None),
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_parts_are_those_of_settings_lists_and_folders(tmp_path, layout):
    files, expected = LAYOUTS[layout]
    first = next(name for name, content in files.items() if content == BOX)
    splits = opened(write(tmp_path, files | {f"{first.rpartition('/')[0] or '.'}/train.cache": "x"}))
    found = parts(splits)
    if expected is WHOLE:
        assert whole(splits) == "abcde"
    else:
        assert tuple(found.get(part) for part in ("train", "val", "test")) == expected
    assert splits.names == ("cat", "dog")
    assert all(images.target(0).boxes.tolist() == [[2, 1.5, 6, 4.5]] for images in splits.parts.values())
    assert not splits.faults
    assert not splits.problems
    assert not [group for group in splits.plan.passed_over if "cache" in group.first and not group.quiet]
    assert len(find_yolo(Source(DataConfig(data=str(tmp_path)), "a folder"))) >= 1
    check_plan(splits, tmp_path)


@pytest.mark.parametrize("form", ["images/{}", "./images/{}", "{root}/images/{}", "C:\\x\\images\\{}", ".\\images\\{}"])
def test_lists_hold_paths_of_any_kind(tmp_path, form):
    lists = {name: form.format(image, root=tmp_path) for name, image in (("t.txt", "a.jpg"), ("v.txt", "b.jpg"))}
    splits = opened(write(tmp_path, yolo("abc") | lists | {"data.yaml": f"train: t.txt\nval: v.txt\n{NAMES}"}))
    assert parts(splits) == {"train": "a", "val": "b"}
    assert {group.reason: group.count for group in splits.plan.passed_over}["an image that no list names"] == 1


def test_a_settings_file_may_be_the_data(tmp_path):
    files = yolo("a", "images/train/{}.jpg", "labels/train/{}.txt") | yolo(
        "b", "images/val/{}.jpg", "labels/val/{}.txt"
    )
    write(tmp_path / "set", files)
    write(
        tmp_path,
        {"x.yaml": f"path: set\ntrain: images/train\nval: images/val\n{NAMES}", "data.yaml": "names: [x, y]\n"},
    )
    splits = opened(tmp_path / "x.yaml")
    assert (parts(splits), splits.names) == ({"train": "a", "val": "b"}, ("cat", "dog"))


def test_settings_files_that_contradict_each_other_are_refused(tmp_path, refused):
    write(tmp_path, yolo("ab") | {"one.yaml": NAMES, "two.yaml": "names: [dog, cat]\n", "hyp.yaml": "lr: 1\n"})
    with refused("one.yaml and two.yaml in .* name different classes or images; give the one to use .*as `data`"):
        opened(tmp_path)
    assert opened(tmp_path / "two.yaml").names == ("dog", "cat")
    write(tmp_path, {"two.yaml": "names: ['cat', 'dog']\n"})
    assert opened(tmp_path).names == ("cat", "dog")
    write(tmp_path, {"two.yaml": "names: [dog, cat]\n", "data.yaml": "names: [eel, fox]\n"})
    assert opened(tmp_path).names == ("eel", "fox")


def test_settings_of_the_layout_win_over_all(tmp_path):
    root = write(tmp_path, yolo("ab") | {"data.yaml": f"train: images\nval: images\n{NAMES}"})
    write(root, yolo("c", "pictures/{}.jpg", "boxes/{}.txt") | yolo("d", "other/x/{}.jpg", "boxes/{}.txt"))
    splits = opened(root, train=("pictures",), val=("other",), annotations="boxes")
    assert parts(splits) == {"train": "c", "val": "d"}
    assert [len(images.target(0)) for images in splits.parts.values()] == [1, 1]
    check_plan(splits, root)
    assert parts(opened(root, images="pictures", annotations="boxes", val=("other",))) == {"val": "d"}


def test_images_outside_are_found_by_a_setting(tmp_path):
    write(tmp_path, yolo("abcde", "images/{}.jpg", "yolo/labels/{}.txt") | {"yolo/data.yaml": NAMES})
    splits = opened(tmp_path / "yolo", images="../images")
    assert (whole(splits), len(splits.train.target(0))) == ("abcde", 1)
    assert splits.plan.outside == 5


def test_label_files_without_any_image_are_refused(tmp_path, refused):
    write(tmp_path, yolo("ab", "images/{}.jpg", "yolo/labels/{}.txt"))
    for folder, shown in (("yolo", "labels"), ("yolo/labels", ".")):
        with refused(
            f"holds YOLO's label files in {shown}, and no images are found for them; put them in .*/images, or"
        ):
            opened(tmp_path / folder)
        assert whole(opened(tmp_path / folder, images="../" * len(folder.split("/")) + "images")) == "ab"


def test_labels_without_image_and_labels_of_two_images_are_said(tmp_path):
    splits = opened(write(tmp_path, yolo("ab") | {"labels/x.txt": BOX, "images/a.png": None, "data.yaml": NAMES}))
    assert any("1 label file in" in note and "without an image, left out; x.txt first" in note for note in splits.notes)
    assert splits.plan.passed_over[0].reason == "a label file without an image"
    (problem,) = splits.problems
    assert "1 label file with two images, such as a.jpg and a.png for " in problem


def test_images_in_two_parts_are_a_problem_and_one_folder_for_both_is_said(tmp_path):
    root = write(tmp_path, yolo("ab") | {"data.yaml": f"train: images\nval: images\n{NAMES}"})
    splits = opened(root)
    assert any("the train and the val part of" in note and "are the same images" in note for note in splits.notes)
    write(root, {"data.yaml": f"train: images\nval: v.txt\n{NAMES}", "v.txt": "images/a.jpg\nimages/a.jpg\n"})
    splits = opened(root)
    assert splits.problems[-1].startswith("1 image in both the train and the val part, images/a.jpg first")
    assert any("v.txt names 1 image more than once" in note for note in splits.notes)


@pytest.mark.parametrize(
    "line",
    [
        "1.0 .5 .5 .5 .5",
        "dog .5 .5 .5 .5",
        "1,.5,.5,.5,.5",
        "1, 0.5, 0.5, 5e-1, 0.5",
        "1\t.5\t.5\t.5\t.5",
        "1e0 .5 .5 .5 .5",
    ],
)
def test_lines_are_read_in_any_form(tmp_path, line):
    splits = opened(write(tmp_path, yolo("ab", content=f"\ufeff{line}\r\n") | {"data.yaml": NAMES}))
    objects = splits.train.target(0)
    assert (objects.labels.tolist(), objects.boxes.tolist()) == ([1], [[2, 1.5, 6, 4.5]])
    assert any("with the name of a class" in note for note in splits.notes) == line.startswith("dog")


def test_names_in_lines_are_those_of_the_classes_or_become_the_classes(tmp_path):
    files = yolo("ab", content="traffic light .5 .5 .5 .5\nbird .5 .5 .5 .5\n")
    splits = opened(write(tmp_path, files | {"data.yaml": "names: [cat, traffic light]\n"}))
    assert splits.train.target(0).labels.tolist() == [1]
    assert "has the class bird, which is not listed" in splits.faults[0]
    (tmp_path / "data.yaml").unlink()
    splits = opened(tmp_path)
    assert (splits.names, splits.train.target(0).labels.tolist()) == (("bird", "traffic light"), [1, 0])


def test_a_confidence_at_the_end_of_all_lines_is_left_out_and_said(tmp_path):
    splits = opened(write(tmp_path, yolo("ab", content=f"{BOX} 0.93\n0 .5 .5 1 1 0.5") | {"data.yaml": NAMES}))
    assert splits.train.target(0).boxes.tolist() == [[2, 1.5, 6, 4.5], [0, 0, 8, 6]]
    assert any(
        "4 lines in" in note and "with a confidence at the end, as in predictions" in note for note in splits.notes
    )


QUAD = "0 .25 .25 .75 .25 .75 .75 .25 .75"


def test_oriented_boxes_are_said_where_the_settings_say_so(tmp_path):
    root = write(tmp_path, yolo("ab", content=QUAD) | {"data.yaml": f"task: obb\n{NAMES}"})
    splits = opened(root)
    assert splits.train.target(0).boxes.tolist() == [[2, 1.5, 6, 4.5]]
    assert any(
        "2 lines in" in note and "with an oriented box: the smallest upright box" in note for note in splits.notes
    )
    write(root, {"data.yaml": NAMES})
    assert not any("oriented" in note for note in opened(root).notes)
    assert len(opened(root, masks=True).train.target(0).masks) == 1


def pose(count, points, seed):
    """Return lines with a box and points of two numbers inside it."""
    random = np.random.default_rng(seed)
    lines = []
    for _ in range(count):
        size = random.uniform(0.1, 0.4, 2)
        centre = random.uniform(size / 2, 1 - size / 2)
        inside = centre + random.uniform(-0.5, 0.5, (points, 2)) * size
        lines.append(f"0 {' '.join(f'{value:.5f}' for value in (*centre, *size, *inside.ravel()))}")
    return lines


def polygons(count, points, seed, size):
    """Return lines with polygons around random places."""
    random = np.random.default_rng(seed)
    angles = np.linspace(0, 2 * np.pi, points, endpoint=False)
    lines = []
    for _ in range(count):
        centre = random.uniform(size, 1 - size, 2)
        ring = centre + size * np.stack([np.cos(angles), np.sin(angles)], axis=1) * random.uniform(0.5, 1, 2)
        lines.append(f"0 {' '.join(f'{value:.5f}' for value in ring.ravel())}")
    return lines


@pytest.mark.parametrize("points", [2, 4, 17])
def test_points_in_the_box_of_each_line_are_keypoints(tmp_path, points):
    lines = pose(20, points, points)
    splits = opened(write(tmp_path, yolo("ab", content="\n".join(lines)) | {"data.yaml": NAMES}))
    x, y, width, height = (float(word) for word in lines[0].split()[1:5])
    expected = [8 * (x - width / 2), 6 * (y - height / 2), 8 * (x + width / 2), 6 * (y + height / 2)]
    assert splits.train.target(0).boxes[0].tolist() == pytest.approx(expected, abs=1e-3)
    assert any(f"with {points} keypoints after the box, by the points in the box" in note for note in splits.notes)


@pytest.mark.parametrize("points", [3, 4, 6, 20])
@pytest.mark.parametrize("size", [0.01, 0.05, 0.2, 0.4])
def test_polygons_of_one_length_stay_polygons(tmp_path, points, size):
    lines = polygons(20, points, points, size)
    splits = opened(write(tmp_path, yolo("ab", content="\n".join(lines)) | {"data.yaml": NAMES}))
    ring = np.array([float(word) for word in lines[0].split()[1:]]).reshape(-1, 2) * (8, 6)
    assert splits.train.target(0).boxes[0].tolist() == pytest.approx([*ring.min(axis=0), *ring.max(axis=0)], abs=1e-3)


def test_lines_that_could_be_polygons_or_keypoints_are_refused_and_a_task_decides(tmp_path, refused):
    line = "0 0.5 0.5 0.6 0.5 0.7 0.7 0.3 0.3"
    root = write(tmp_path, yolo("ab", content=line) | {"data.yaml": NAMES})
    with refused(r"2 lines in .* could be polygons, or boxes with 2 keypoints; add `task: segment` or `kpt"):
        opened(root)
    write(root, {"data.yaml": f"task: segment\n{NAMES}"})
    assert opened(root).train.target(0).boxes[0].tolist() == pytest.approx([2.4, 1.8, 5.6, 4.2])
    write(root, {"data.yaml": f"task: pose\n{NAMES}"})
    assert opened(root).train.target(0).boxes[0].tolist() == pytest.approx([1.6, 1.5, 6.4, 4.5])


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        (["1 320 240 100 80", BOX], "2 of 4 lines in .* have coordinates up to 320, which look like pixels"),
        (["1 50 50 20 20"], "2 of 2 lines in .* have coordinates up to 50, which look like per cent"),
        (["1 0.1 0.1 0.5 0.5", "0 0.2 0.3 0.9 0.9"], "of 4 boxes in .* fit if their numbers are left, top, right"),
        (["1 0.1 0.1 0.5 0.5", "0 0.2 0.3 0.1 0.1"], "of 4 boxes in .* fit if their numbers are left, top, width and"),
        (["1 .5 .5 1 1", "2 .5 .5 1 1"], "class ids in .* begin at 1 and end at 2, and names are counted from 0 to 1"),
    ],
)  # fmt: skip
def test_numbers_that_look_like_something_else_are_a_problem_with_counts(tmp_path, lines, problem):
    import re

    splits = opened(write(tmp_path, yolo("ab", content="\n".join(lines)) | {"data.yaml": NAMES}))
    assert any(re.search(problem, text) for text in splits.problems), splits.problems


def test_names_that_are_alike_or_too_many_are_a_problem(tmp_path):
    splits = opened(write(tmp_path, yolo("ab") | {"data.yaml": "nc: 3\nnames: [Dog, dog]\n"}))
    assert "says 3 classes and gives 2 names" in splits.problems[0]
    assert "the classes 'Dog' and 'dog' in data.yaml differ by case" in splits.problems[1]


@pytest.mark.parametrize("other", ["classes.txt", "obj.names"])
def test_files_of_names_that_contradict_each_other_are_a_problem_or_refused(tmp_path, refused, other):
    splits = opened(write(tmp_path, yolo("ab") | {"data.yaml": NAMES, other: "dog\ncat\n"}))
    assert splits.names == ("cat", "dog")
    (problem,) = splits.problems
    assert problem.startswith(f"{other} lists other classes than data.yaml, which is used, such as 'dog' for 'cat'")
    write(tmp_path, {other: "cat\ndog\n"})
    assert not opened(tmp_path).problems
    (tmp_path / "data.yaml").unlink()
    write(tmp_path, {"a.names": "cat\ndog\n", "b.names": "dog\ncat\n"})
    with refused("a.names and .*b.names list different class names; remove one, or"):
        opened(tmp_path)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("100.0 20 200 20 200 80 100 80 plane 0", "line 1 of .* is DOTA's: .*; convert .*`convert_dota_to_yolo_obb`"),
        ("imagesource:GoogleEarth\ngsd:0.1\n", "is DOTA's"),
        (
            "Car 0.00 0 1.5 10 20 30 40 1 1 1 1 1 1 1.5",
            "line 1 of .* is KITTI's: .*; convert the files to YOLO's or COCO's",
        ),
    ],
)
@pytest.mark.parametrize("folder", ["labels", "labelTxt"])
def test_other_formats_are_refused_with_their_converter(tmp_path, refused, line, message, folder):
    with refused(message):
        opened(write(tmp_path, yolo("ab", labels=folder + "/{}.txt", content=line)))


def test_percent_encoded_names_are_those_of_their_images(tmp_path):
    files = {
        "images/a b.jpg": None,
        "labels/a%20b.txt": BOX,
        "images/c.jpg": None,
        "labels/c.txt": "",
        "data.yaml": NAMES,
    }
    splits = opened(write(tmp_path, files))
    assert sorted(len(images.target(0)) for images in splits.parts.values()) == [0, 1]
    assert any("in percent-encoding (1)" in note for note in splits.notes)


def test_pictures_alone_and_texts_alone_are_not_yolos(tmp_path):
    root = write(
        tmp_path, {"images/a.jpg": None, "images/b.jpg": None, "readme.txt": "1 2 3", "labels/x.txt": "a\nb\n"}
    )
    assert find_yolo(Source(DataConfig(data=str(root)), "a folder")) == ()


@pytest.mark.parametrize("entry", ["..", "/", "../..", "//", "~", "."])
def test_an_entry_that_leads_out_of_the_data_reads_nothing_else(tmp_path, entry):
    write(tmp_path, {"other.jpg": None})
    root = write(tmp_path / "set", yolo("abcde") | {"data.yaml": f"train: {entry}\n{NAMES}"})
    assert whole(opened(root)) == "abcde"
