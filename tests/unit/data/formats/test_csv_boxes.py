"""CSV files of boxes in the forms that people have, Open Images', their parts and class names, and damaged lines."""

from __future__ import annotations

import numpy as np
import pytest

from twins.data.config import BoxConfig, DataConfig
from twins.data.formats.open import open_objects

WIDTH, HEIGHT = 40, 30
BOX = [4, 6, 24, 18]


@pytest.fixture
def folder(tmp_path, save_image):
    """Write texts by their paths, and images."""

    def write(texts, images=("a.jpg", "b.jpg")):
        for name, text in texts.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
        for image in images:
            save_image(tmp_path / image, (WIDTH, HEIGHT))
        return tmp_path

    return write


@pytest.mark.parametrize(
    "text",
    [
        "filename,width,height,class,xmin,ymin,xmax,ymax\na.jpg,40,30,cat,4,6,24,18\nb.jpg,40,30,dog,4,6,24,18\n",
        'image,xmin,ymin,xmax,ymax,label\n"a.jpg",4.0,6.0,24.0,18.0,"cat"\n"b.jpg",4.0,6.0,24.0,18.0,"dog"\n',
        "\ufeffImage_Path;Label;X1;Y1;X2;Y2\nimgs\\a.jpg;cat;4;6;24;18\r\nimgs\\b.jpg;dog;4;6;24;18\r\n",
        "a.jpg,4,6,24,18,cat\nb.jpg,4,6,24,18,dog\n",
        "/content/data/a.jpg,4,6,24,18,cat\n/content/data/b.jpg,4,6,24,18,dog\n",
        'image_id,width,height,bbox,class\na,40,30,"[4, 6, 20.0, 12]",cat\nb,40,30,"[4, 6, 20.0, 12]",dog\n',
        "filename,class,xmin,ymin,xmax,ymax\na.jpg,cat,0.1,0.2,0.6,0.6\nb.jpg,dog,0.1,0.2,0.6,0.6\n",
    ],
)
def test_a_line_is_an_object(folder, reading, text):
    root = folder({"boxes.csv": text}, ["imgs/a.jpg", "imgs/b.jpg"])
    splits = reading.check(root, reading.open(root))
    assert reading.objects(splits) == {"a.jpg": [("cat", BOX)], "b.jpg": [("dog", BOX)]}
    assert splits.plan.used == {"images": 2, "annotation files": 1}


def test_roboflows_files_are_in_the_folders_of_the_parts(folder, reading):
    head = "filename,width,height,class,xmin,ymin,xmax,ymax\n"
    texts = {
        f"{part}/_annotations.csv": f"{head}{part}.jpg,40,30,cat,4,6,24,18\n" for part in ("train", "valid", "test")
    }
    root = folder({**texts, "README.roboflow.txt": "x"}, [f"{part}/{part}.jpg" for part in ("train", "valid", "test")])
    splits = reading.check(root, reading.open(root))
    assert reading.parts(splits) == {"train": ["train.jpg"], "val": ["valid.jpg"], "test": ["test.jpg"]}


def test_tensorflows_files_are_named_like_parts(folder, reading):
    head = "filename,width,height,class,xmin,ymin,xmax,ymax\n"
    texts = {f"data/{part}_labels.csv": f"{head}{part}.jpg,40,30,cat,4,6,24,18\n" for part in ("train", "test")}
    root = folder(texts, ["images/train/train.jpg", "images/test/test.jpg"])
    splits = reading.check(root, reading.open(root))
    assert reading.parts(splits)["train"] == ["train.jpg"]
    assert reading.parts(splits)["test"] == ["test.jpg"]


def test_kaggles_wheat_has_names_without_ending_and_one_class(folder, reading):
    text = 'image_id,width,height,bbox,source\na,40,30,"[4, 6, 20, 12]",x\na,40,30,"[0.0, 0.0, 5, 5]",x\n'
    root = folder({"train.csv": text, "sample_submission.csv": "image_id,PredictionString\nb,1.0 0 0 50 50\n"},
                  ["train/a.jpg", "train/c.jpg", "test/b.jpg"])  # fmt: skip
    splits = reading.check(root, reading.open(root))
    assert reading.objects(splits) == {"a.jpg": [("object", BOX), ("object", [0, 0, 5, 5])]}
    assert any("one class, object" in note for note in splits.notes)
    assert any("2 images left out" in note for note in splits.notes)


def test_keras_retinanets_classes_and_images_without_objects(folder, reading):
    texts = {"annotations.csv": "a.jpg,4,6,24,18,cat\nb.jpg,,,,,\n", "classes.csv": "dog,0\ncat,1\n"}
    root = folder(texts)
    splits = reading.check(root, reading.open(root))
    assert reading.objects(splits) == {"a.jpg": [("cat", BOX)], "b.jpg": []}
    assert splits.plan.names == "classes.csv"


def test_open_images_has_shares_groups_and_ids_of_classes(folder, reading):
    head = "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf\n"
    rows = {
        "train": "a,x,/m/02,1,0.1,0.6,0.2,0.6,0,0,0\na,x,/m/01,1,0.1,0.6,0.2,0.6,0,0,1\nz,x,/m/03,1,0,1,0,1,0,0,0\n",
        "validation": "b,x,/m/02,1,0.1,0.6,0.2,0.6,0,0,0\n",
    }
    texts = {f"oidv6-{part}-annotations-bbox.csv": head + text for part, text in rows.items()}
    texts["class-descriptions-boxable.csv"] = "/m/02,Cat\n/m/03,Cow\n/m/01,Dog\n"
    root = folder(texts, ["train/a.jpg", "validation/b.jpg"])
    splits = reading.check(root, reading.open(root))
    assert splits.names == ("Cat", "Dog")
    assert reading.parts(splits) == {"train": ["a.jpg"], "val": ["b.jpg"]}
    assert reading.objects(splits)["a.jpg"] == [("Cat", BOX), ("Dog", BOX)]
    assert splits.train.target(0).crowd.tolist() == [False, True]
    assert any("1 line of" in note and "not in" in note for note in splits.notes)


def test_some_boxes_that_look_like_shares_are_a_problem(folder, reading):
    root = folder({"boxes.csv": "a.jpg,0.1,0.2,0.6,0.6,cat\nb.jpg,4,6,24,18,cat\n"})
    [problem] = reading.open(root).problems
    assert "1 of 2 boxes in" in problem


@pytest.mark.parametrize(
    "line", ["a.jpg,1,2,3,cat,4", "a.jpg,nan,2,3,4,cat", "a.jpg,1,2,3,4,", ",1,2,3,4,cat", "a.jpg,1"]
)
def test_a_damaged_line_is_left_out_and_named(folder, reading, line):
    root = folder(
        {"boxes.csv": f"filename,xmin,ymin,xmax,ymax,class\n{line}\na.jpg,4,6,24,18,cat\nb.jpg,4,6,24,18,cat\n"}
    )
    splits = reading.open(root)
    assert reading.objects(splits) == {"a.jpg": [("cat", BOX)], "b.jpg": [("cat", BOX)]}
    assert len(splits.faults) == 1
    assert splits.faults[0].startswith("line 2 of ")


def test_masks_are_refused(folder, reading, refused):
    with refused("lists boxes, and this task needs masks"):
        reading.open(folder({"boxes.csv": "a.jpg,4,6,24,18,cat\n"}), "masks")


@pytest.mark.parametrize(
    "text",
    [
        "id,label\na.jpg,cat\n",
        "name,value,red,green,blue\ncat,1,2,3,4\n",
        "a.jpg,1,2,3\n",
        "",
        "\x00\x01,2\n",
        "x,1,2,3,4,5\n",
    ],
)
def test_other_csv_files_are_not_claimed(folder, reading, refused, text):
    with refused("holds no images with objects|no column|expected"):
        reading.open(folder({"other.csv": text}))


def test_ten_thousand_lines_are_read_in_a_moment(folder, reading):
    rows = np.random.default_rng(0).integers(0, 15, (10_000, 4))
    lines = "".join(f"a.jpg,{x},{y},{x + w + 1},{y + h + 1},cat\n" for x, y, w, h in rows)
    assert len(reading.objects(reading.open(folder({"boxes.csv": lines}, ["a.jpg"])))["a.jpg"]) == 10_000


def test_a_changed_file_is_read_or_refused_in_one_sentence(folder, reading):
    head = "filename,width,height,class,xmin,ymin,xmax,ymax\n"
    root = folder({"boxes.csv": f"{head}a.jpg,40,30,cat,4,6,24,18\nb.jpg,40,30,dog,0.1,0.2,0.3,0.4\n"})
    reading.survive(root, "boxes.csv", targets=("boxes",))


def test_corners_in_a_column_of_boxes_are_a_problem(folder, reading):
    text = 'image_id,width,height,bbox\na,40,30,"[24, 16, 38, 28]"\nb,40,30,"[20, 10, 30, 20]"\n'
    [problem] = reading.open(folder({"train.csv": text})).problems
    assert "2 of 2 boxes" in problem


def test_a_file_of_all_boxes_beside_files_of_parts_is_left_out(folder, reading):
    lines = {name: f"{name}.jpg,4,6,24,18,cat\n" for name in "ab"}
    texts = {"all.csv": "".join(lines.values()), "train.csv": lines["a"], "test.csv": lines["b"]}
    splits = reading.check(folder(texts), reading.open(folder(texts)))
    assert reading.parts(splits)["train"] == ["a.jpg"]
    assert reading.parts(splits)["test"] == ["b.jpg"]
    assert any(note.startswith("all.csv left out") for note in splits.notes)


def test_classes_of_the_settings_are_used(folder, reading):
    root = folder({"boxes.csv": "a.jpg,4,6,24,18,cat\nb.jpg,4,6,24,18,emu\n", "names.txt": "dog\ncat\n"})
    config = DataConfig(data=str(root), boxes=BoxConfig(classes=str(root / "names.txt")))
    splits = open_objects(config, masks=False)
    assert splits.names == ("dog", "cat")
    assert "class 'emu', which is not listed" in splits.faults[0]


def test_equal_names_are_found_in_the_folders_of_the_files_parts(folder, reading):
    texts = {"train_labels.csv": "0.jpg,4,6,24,18,cat\n", "test_labels.csv": "0.jpg,1,2,3,4,cat\n"}
    root = folder(texts, ["images/train/0.jpg", "images/test/0.jpg"])
    splits = reading.check(root, reading.open(root))
    assert splits.train.path(0).endswith("images/train/0.jpg")
    assert splits.train.target(0).boxes.tolist() == [BOX]
    assert splits.parts["test"].path(0).endswith("images/test/0.jpg")
    assert splits.parts["test"].target(0).boxes.tolist() == [[1, 2, 3, 4]]


def test_a_missing_image_is_never_another_ones_file(folder, reading):
    root = folder({"boxes.csv": "other/a.jpg,1,2,3,4,cat\na.jpg,4,6,24,18,cat\n"}, ["images/a.jpg"])
    splits = reading.open(root, val="images")
    assert splits.parts["val"].target(0).boxes.tolist() == [BOX]


@pytest.mark.parametrize(
    "head", ["image,x,y,w,h,class", "filename,xmin,ymin,width,height,class", "img,cx,cy,w,h,label"]
)
def test_columns_of_other_numbers_are_never_read_as_corners(folder, reading, refused, head):
    root = folder({"boxes.csv": f"{head}\na.jpg,4,6,20,12,cat\nb.jpg,4,6,20,12,cat\n"})
    with refused("holds a CSV file of boxes by a point and two sides .*; give the columns xmin, ymin, xmax and ymax"):
        reading.open(root)


def test_a_column_of_class_ids_gives_the_classes(folder, reading):
    root = folder({"boxes.csv": "filename,class_id,xmin,ymin,xmax,ymax\na.jpg,0,4,6,24,18\nb.jpg,1,4,6,24,18\n"})
    assert reading.objects(reading.open(root)) == {"a.jpg": [("0", BOX)], "b.jpg": [("1", BOX)]}


def test_ids_of_classes_get_the_names_that_a_file_lists(folder, reading):
    text = "filename,class,xmin,ymin,xmax,ymax\na.jpg,1,4,6,24,18\nb.jpg,{},4,6,24,18\n"
    splits = reading.open(folder({"boxes.csv": text.format(0), "classes.txt": "cat\ndog\n"}))
    assert reading.objects(splits) == {"a.jpg": [("dog", BOX)], "b.jpg": [("cat", BOX)]}
    assert any("have ids of classes, which get the names of classes.txt" in note for note in splits.notes)
    splits = reading.open(folder({"boxes.csv": text.format(2)}))
    assert (reading.objects(splits), len(splits.faults)) == ({"a.jpg": [], "b.jpg": []}, 2)


def test_names_without_ending_are_found_by_their_folders(folder, reading):
    text = "image,class,xmin,ymin,xmax,ymax\n1/a,cat,4,6,24,18\n2/a,dog,4,6,24,18\n3/b,cat,4,6,24,18\n"
    splits = reading.open(folder({"boxes.csv": text}, ["1/a.jpg", "2/a.jpg", "2/b.jpg"]))
    found = {images.path(i)[-7:]: images.names[images.target(i).labels[0]] for images, i in _items(splits)}
    assert found == {"1/a.jpg": "cat", "2/a.jpg": "dog", "2/b.jpg": "cat"}
    assert any("'3/b' is " in note and "in folders (1)" in note for note in splits.notes)


def _items(splits):
    parts = {id(images): images for images in splits.parts.values()}.values()
    return [(images, i) for images in parts for i in range(len(images))]
