"""Classes from tables and lists: each image has the right class and part, and every file is used or has its reason."""

from __future__ import annotations

import contextlib
import random
from collections import Counter

import pytest
from PIL import Image

from twins.data.config import DataConfig, LayoutConfig
from twins.data.formats.open import open_class_ids
from twins.data.formats.source import layout_text
from twins.errors import TwinsError


class Folder:
    """A data folder that is made step by step, and opened."""

    def __init__(self, root):
        self.root, self.count = root, 0

    def images(self, folder, *names):
        for name in names:
            path = self.root / folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            self.count += 1
            Image.new("RGB", (4, 4), (self.count % 256, self.count // 256, 0)).save(path)
        return self

    def text(self, name, text):
        (self.root / name).parent.mkdir(parents=True, exist_ok=True)
        (self.root / name).write_text(text, encoding="utf-8")
        return self

    def open(self, **layout):
        splits = open_class_ids(DataConfig(data=str(self.root), layout=LayoutConfig(**layout)))
        plan = splits.plan
        assert sum(plan.used.values()) + sum(group.count for group in plan.passed_over) == plan.files
        return splits

    def classes(self, **layout):
        """Return the classes of the images by name, in each part; an unsplit set is `all`."""
        splits = self.open(**layout)
        parts = {part: labels_of(images, self.root) for part, images in splits.parts.items()}
        return {"all": parts["train"] | parts["val"]} if splits.share else parts


def labels_of(images, root):
    names = [images.path(index)[len(str(root)) + 1 :] for index in range(len(images))]
    return dict(zip(names, [images.names[label] for label in images.labels], strict=True))


@pytest.fixture
def folder(tmp_path):
    return Folder(tmp_path)


def numbered(count, ending=".jpg"):
    return [f"{index}{ending}" for index in range(count)]


ANIMALS = {"im/0.jpg": "cat", "im/1.jpg": "dog", "im/2.jpg": "cat", "im/3.jpg": "dog"}
TABLES = {
    "header": ("labels.csv", "image,label\n0.jpg,cat\n1.jpg,dog\n2.jpg,cat\n3.jpg,dog\n"),
    "ids without ending": ("labels.csv", "image_id,label\n0,cat\n1,dog\n2,cat\n3,dog\n"),
    "another order, quotes": ("labels.csv", 'Category,File Name\n"cat","0.jpg"\n"dog",1.jpg\ncat,2.jpg\ndog,3.jpg\n'),
    "semicolons": ("labels.csv", "filename;class\nim/0.jpg;cat\nim/1.jpg;dog\nim/2.jpg;cat\nim/3.jpg;dog\n"),
    "tabs": ("labels.tsv", "path\ttarget\n0.jpg\tcat\n1.jpg\tdog\n2.jpg\tcat\n3.jpg\tdog\n"),
    "other columns": ("meta.csv", "lesion_id,image_id,dx,age\na,0,cat,5\nb,1,dog,6\nc,2,cat,7\nd,3,dog,5\n"),
    "the only other column": ("ids.csv", "Image,Who\n0.jpg,cat\n1.jpg,dog\n2.jpg,cat\n3.jpg,dog\n"),
    "one hot": ("labels.csv", "image,cat,dog,eel\n0,1.0,0.0,0\n1,0,1,0\n2,1,0,0\n3,0,1,0\n"),
    "numbers beside names": ("labels.csv", "image,label,class\n0,0,cat\n1,1,dog\n2,0,cat\n3,1,dog\n"),
    "no header": ("labels.csv", "0.jpg,cat\n1.jpg,dog\n2.jpg,cat\n3.jpg,dog\n"),
    "spaces": ("labels.txt", "im/0.jpg cat\nim/1.jpg dog\nim/2.jpg  cat\nim/3.jpg dog\n"),
    "backslashes": ("labels.txt", "im\\0.jpg cat\nim\\1.jpg dog\nim\\2.jpg cat\nim\\3.jpg dog\n"),
    "another machine": ("labels.txt", "/home/me/im/0.jpg cat\n/home/me/im/1.jpg dog\nim/2.jpg cat\nim/3.jpg dog\n"),
    "mxnet": ("labels.lst", "7\tcat\tim/0.jpg\n8\tdog\tim/1.jpg\n9\tcat\tim/2.jpg\n4\tdog\tim/3.jpg\n"),
}


@pytest.mark.parametrize("kind", list(TABLES))
def test_a_table_of_images_and_classes_is_read(folder, kind):
    name, text = TABLES[kind]
    folder.images("im", *numbered(4)).text(name, text)
    assert folder.classes() == {"all": ANIMALS}
    assert folder.classes(annotations=name) == {"all": ANIMALS}
    assert folder.open().plan.used["lists"] == 1


def test_kaggles_competition_learns_from_the_training_list_only(folder):
    folder.images("train", *numbered(4)).images("test", *numbered(3)).text("test.csv", "id\n0\n1\n2\n")
    folder.text("train.csv", "id,label\n0,cat\n1,dog\n2,cat\n3,dog\n").text(
        "sample_submission.csv", "id,label\n0,cat\n"
    )
    assert folder.classes() == {"all": {f"train/{index}.jpg": ("cat", "dog")[index % 2] for index in range(4)}}
    reasons = {group.first: group.reason for group in folder.open().plan.passed_over}
    assert "no list gives a class" in reasons["test/0.jpg"]
    assert "without classes" in reasons["test.csv"]
    assert "submissions or predictions" in reasons["sample_submission.csv"]


def test_folders_of_parts_may_each_have_a_list(folder):
    for part, label in (("train", "1, 0"), ("valid", "0, 1")):
        folder.images(part, *numbered(2))
        folder.text(f"{part}/_classes.csv", f"filename, cat, dog\n0.jpg, {label}\n1.jpg, 0, 1\n")
    assert folder.classes() == {
        "train": {"train/0.jpg": "cat", "train/1.jpg": "dog"},
        "val": {"valid/0.jpg": "dog", "valid/1.jpg": "dog"},
    }


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("split", ("train", "valid", "TEST")),
        ("Set", ("training", "val", "test")),
        ("subset", ("trainval", "dev", "tst")),
    ],
)
def test_a_column_gives_the_parts(folder, column, values):
    rows = "".join(f"{index},{('a', 'b')[index % 2]},{values[index // 2]}\n" for index in range(6))
    folder.images("im", *numbered(6)).text("labels.csv", f"id,label,{column}\n{rows}")
    assert {part: sorted(images) for part, images in folder.classes().items()} == {
        "train": ["im/0.jpg", "im/1.jpg"],
        "val": ["im/2.jpg", "im/3.jpg"],
        "test": ["im/4.jpg", "im/5.jpg"],
    }


@pytest.mark.parametrize("header", ["image,label,Usage\n", ""])
def test_a_column_that_names_parts_gives_them_whatever_its_name(folder, header):
    rows = "0.jpg,a,Training\n1.jpg,b,Training\n2.jpg,a,Test\n3.jpg,b,Test"
    folder.images("im", *numbered(4)).text("labels.csv", header + rows)
    assert folder.classes()["train"] == {"im/0.jpg": "a", "im/1.jpg": "b"}


@pytest.mark.parametrize(("column", "flags"), [("is_test", "0011"), ("train", "1100"), ("Test", "0011")])
def test_a_flag_of_a_part_is_no_class(folder, column, flags):
    rows = [f"{index}.jpg,{'ab'[index % 2]},{flag}" for index, flag in enumerate(flags)]
    folder.images("im", *numbered(4)).text("labels.csv", "\n".join([f"image,label,{column}", *rows]))
    assert folder.classes()["train"] == {"im/0.jpg": "a", "im/1.jpg": "b"}


def test_parts_that_link_to_the_same_folder_are_said(folder):
    folder.images("train/cat", *numbered(3)).images("train/dog", *numbered(3))
    (folder.root / "val").symlink_to("train")
    assert any("the train and the val part of" in problem for problem in folder.open().problems)
    folder.images("train/dog", "a.jpg")
    (folder.root / "val").unlink()
    (folder.root / "val" / "cat").mkdir(parents=True)
    (folder.root / "val" / "dog").symlink_to("../train/dog")
    (problem,) = folder.images("val/cat", "7.jpg").open().problems
    assert problem.startswith("4 images in both the train and the val part, train/dog/0.jpg first")


def test_lines_with_a_number_before_the_path_give_no_classes(folder, refused):
    names = [f"{name}/{index}.jpg" for name in ("001.cat", "002.dog") for index in range(2)]
    folder.images("images", *names).text("images.txt", "".join(f"{i} {name}\n" for i, name in enumerate(names, 1)))
    with refused("images.txt names no image .* such as 1 001.cat/0.jpg; give the images' folder"):
        folder.open()
    assert folder.open(images="images").names == ("001.cat", "002.dog")


def test_a_list_leaves_images_of_class_folders_out(folder):
    folder.images("cat", *numbered(3)).images("dog", *numbered(3))
    folder.text("train.txt", "cat/0.jpg\ncat/1.jpg\ndog/0.jpg\ndog/1.jpg\n")
    assert folder.classes()["all"] == {"cat/0.jpg": "cat", "cat/1.jpg": "cat", "dog/0.jpg": "dog", "dog/1.jpg": "dog"}
    assert sum(group.count for group in folder.open().plan.passed_over) == 2


def test_a_flag_gives_the_validation_part_and_another_word_is_refused(folder, refused):
    folder.images("im", *numbered(4))
    folder.text("labels.csv", "path,label,is_valid\n0.jpg,a,False\n1.jpg,b,False\n2.jpg,a,True\n3.jpg,b,True\n")
    assert {part: len(images) for part, images in folder.classes().items()} == {"train": 2, "val": 2}
    folder.text("labels.csv", "path,label,split\n0.jpg,a,one\n1.jpg,b,two\n")
    with refused("the part one; write train, val or test"):
        folder.open()


SYNSETS = ("n01440764", "n01443537")
FLAT = [f"ILSVRC2012_val_{number:08d}.JPEG" for number in (1, 2, 3)]


@pytest.mark.parametrize(
    ("file", "lines"),
    [
        ("val.txt", [f"{name} {label}" for name, label in zip(FLAT, (1, 0, 0), strict=True)]),
        ("val.txt", [f"val/{name} {SYNSETS[label]}" for name, label in zip(FLAT, (1, 0, 0), strict=True)]),
        ("val_labels.csv", ["file,label", *(f"{n},{SYNSETS[i]}" for n, i in zip(FLAT, (1, 0, 0), strict=True))]),
        ("imagenet_2012_validation_synset_labels.txt", [SYNSETS[1], SYNSETS[0], SYNSETS[0]]),
        (
            "LOC_val_solution.csv",
            [
                "ImageId,PredictionString",
                *(f"{n[:-5]},{SYNSETS[i]} 8 1 9 2 {SYNSETS[i]} 3 4 5 6 " for n, i in zip(FLAT, (1, 0, 0), strict=True)),
            ],
        ),
    ],
)
def test_imagenets_flat_validation_folder_has_its_classes_from_a_list(folder, file, lines):
    for synset in SYNSETS:
        folder.images(f"train/{synset}", "0.jpg", "1.jpg")
    folder.images("val", *FLAT).text(file, "\n".join(lines))
    classes = folder.classes()
    assert classes["val"] == dict(zip((f"val/{name}" for name in FLAT), (SYNSETS[i] for i in (1, 0, 0)), strict=True))
    assert Counter(classes["train"].values()) == {SYNSETS[0]: 2, SYNSETS[1]: 2}
    assert folder.open().names == SYNSETS


def test_tiny_imagenets_validation_folder_has_its_classes_from_lines_with_boxes(folder):
    for synset in SYNSETS[:2]:
        folder.images(f"train/{synset}/images", f"{synset}_0.JPEG", f"{synset}_1.JPEG")
    folder.images("val/images", "val_0.JPEG", "val_1.JPEG").images("test/images", "test_0.JPEG")
    folder.text(
        "val/val_annotations.txt", f"val_0.JPEG\t{SYNSETS[1]}\t0\t0\t3\t3\nval_1.JPEG\t{SYNSETS[0]}\t0\t0\t3\t3\n"
    )
    folder.text("wnids.txt", "\n".join(SYNSETS[1::-1])).text("words.txt", f"{SYNSETS[0]}\ta fish\n")
    classes = folder.classes()
    assert classes["val"] == {"val/images/val_0.JPEG": SYNSETS[1], "val/images/val_1.JPEG": SYNSETS[0]}
    assert len(classes["train"]) == 4


def test_the_flat_validation_folder_alone_has_imagenets_classes(folder):
    folder.images("val", *FLAT).text("val.txt", "".join(f"{name} {400 * i}\n" for i, name in enumerate(FLAT)))
    splits = folder.open()
    assert len(splits.names) == 1000
    assert splits.val.labels == [0, 400, 800]
    assert "positions in ImageNet's sorted synsets" in splits.notes[0]


def test_ids_of_the_devkit_or_from_one_are_refused(folder, refused):
    for synset in SYNSETS:
        folder.images(f"train/{synset}", "0.jpg", "1.jpg")
    folder.images("val", *FLAT).text("ILSVRC2012_validation_ground_truth.txt", "1\n2\n2\n")
    with refused("numbers of ImageNet's devkit"):
        folder.open()
    (folder.root / "ILSVRC2012_validation_ground_truth.txt").unlink()
    folder.text("val.txt", "".join(f"{name} {1 + i % 2}\n" for i, name in enumerate(FLAT)))
    with refused("has the class 2, and the sorted class folders are 2, from 0"):
        folder.open()


def test_food_101s_lists_of_paths_are_the_parts(folder):
    for name in ("pie", "ribs"):
        folder.images(f"images/{name}", *numbered(3))
    folder.text("meta/train.txt", "pie/0\npie/1\nribs/0\nribs/1\n").text("meta/test.txt", "pie/2\nribs/2\n")
    folder.text("meta/classes.txt", "pie\nribs\n").text("meta/labels.txt", "Pie\nRibs\n")
    classes = folder.classes()
    assert classes["test"] == {"images/pie/2.jpg": "pie", "images/ribs/2.jpg": "ribs"}
    assert len(classes["train"]) == 4


def test_numbers_get_the_names_of_a_file(folder):
    folder.images("im", *numbered(4)).text("train.txt", "im/0.jpg 1\nim/1.jpg 0\nim/2.jpg 1.0\n")
    folder.text("val.txt", "im/3.jpg 0\n")
    assert folder.classes()["train"] == {"im/0.jpg": "1", "im/1.jpg": "0", "im/2.jpg": "1"}
    assert "numbers without names" in folder.open().notes[0]
    folder.text("classes.txt", "zebra\ncat\n")
    assert folder.classes()["train"] == {"im/0.jpg": "cat", "im/1.jpg": "zebra", "im/2.jpg": "cat"}


def test_class_folders_are_read_where_a_list_says_the_same_and_else_refused(folder, refused):
    folder.images("cat", *numbered(3)).images("dog", *numbered(3))
    rows = [(name, number, label) for label in ("cat", "dog") for number, name in enumerate(numbered(3))]
    folder.text("labels.csv", "path,label\n" + "".join(f"{label}/{name},{label}\n" for name, _, label in rows))
    splits = folder.open()
    assert splits.plan.layout == "class folders"
    assert "the folders are read" in splits.notes[0]
    other = [(name, label, "dog" if number == 0 else label) for name, number, label in rows]
    folder.text("labels.csv", "path,label\n" + "".join(f"{home}/{name},{label}\n" for name, home, label in other))
    with refused(r"gives cat/0\.jpg the class dog"):
        folder.open()
    assert folder.classes(annotations="labels.csv")["all"]["cat/0.jpg"] == "dog"
    assert folder.classes(images=".")["all"]["cat/0.jpg"] == "cat"


def test_several_lists_or_columns_are_refused_with_the_setting_that_decides(folder, refused):
    folder.images("im", *numbered(4)).text("a.csv", "image,label\n0.jpg,x\n1.jpg,y\n")
    folder.text("b.csv", "image,label\n2.jpg,x\n3.jpg,y\n")
    with refused(r"a\.csv, b\.csv .*`layout\.annotations`"):
        folder.open()
    assert {k: len(v) for k, v in folder.classes(train=("a.csv",), val=("b.csv",)).items()} == {"train": 2, "val": 2}
    assert len(folder.classes(train=("a.csv", "b.csv"))["all"]) == 4
    folder.text("a.csv", "image,target,diagnosis\n0,0,p\n1,1,q\n2,0,r\n3,1,q\n")
    with refused("several columns that could be the class, target, diagnosis"):
        folder.open(annotations="a.csv")


def test_a_name_that_two_images_have_is_refused_unless_a_setting_decides(folder, refused):
    folder.images("train", "0.jpg", "1.jpg", "2.jpg").images("test", "0.jpg", "1.jpg")
    folder.text("labels.csv", "id,breed\n0,a\n1,b\n2,a\n")
    with refused(r"names 0, and test/0\.jpg and train/0\.jpg could both be meant"):
        folder.open()
    assert sorted(folder.classes(images="train")["all"]) == ["train/0.jpg", "train/1.jpg", "train/2.jpg"]


def test_rows_without_image_or_class_are_counted(folder):
    text = "image,label\n0.jpg,a\n1.jpg,b\n2.jpg,\n9.jpg,a\n3.jpg,a\n3.jpg,b\n4.jpg,NaN\nx\n0.jpg,a\n"
    splits = folder.images("im", *numbered(5)).text("labels.csv", text).open()
    assert splits.count == 2
    counts = [fault.replace(str(folder.root), "") for fault in splits.faults]
    assert counts == [
        "1 line of /labels.csv with another number of cells than its header",
        "2 images of /labels.csv without a class, 2.jpg first",
        "1 of 6 rows in /labels.csv with an image that does not exist, 9.jpg first",
        "1 image of /labels.csv with several classes, im/3.jpg first",
    ]


def test_an_image_to_train_and_to_measure_on_is_a_problem(folder):
    folder.images("im", *numbered(3)).text("train.csv", "image,label\n0.jpg,a\n1.jpg,b\n")
    (problem,) = folder.text("val.csv", "image,label\n1.jpg,b\n2.jpg,a\n").open().problems
    assert "im/1.jpg first" in problem


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image,a,b\n0,1,1\n1,0,0\n2,1,0\n", "no class or several"),
        ("image,label\n0,cat\n1,Cat\n", "differ only in case"),
        ("image,label\n0,cat\n1,cat\n", "one class only"),
        ("image,label\n7,cat\n8,dog\n", "names no image"),
        ("image,label\n0,0.25\n1,1.5\n", "measurements instead of classes, such as 0.25, 1.5"),
        ("0.jpg,cat,5\n1.jpg,dog,5\n2.jpg,cat,7\n", "several columns that could be the class"),
        ("image,age,sex\n0,5,m\n1,7,f\n", "no column of classes, found image, age, sex"),
    ],
)
def test_a_list_that_makes_no_classes_is_refused(folder, refused, text, message):
    folder.images("im", *numbered(3)).text("labels.csv", text)
    with refused(message):
        folder.open(annotations="labels.csv")


def test_a_list_of_class_names_is_no_list_of_images(folder):
    folder.images("cat", *numbered(2)).images("dog", *numbered(2))
    folder.text("class_names.csv", "id,name\n0,cat\n1,dog\n").text("train.txt", "cat\ndog\n").text("notes.txt", "a b\n")
    assert folder.open().plan.layout == "class folders"


@pytest.mark.parametrize(
    ("folders", "labels", "expected"),
    [
        (("1", "2", "10"), ("10", "2"), ("10", "2")),  # names, not positions in 1, 10, 2
        (("001", "002", "010"), ("10", "2"), ("010", "002")),
        (("a", "b", "c"), ("2", "0"), ("c", "a")),
        (("a", "b", "c"), ("-1", "0"), None),
        (("1", "2", "10"), ("3", "2"), None),
        (("001", "002"), ("3", "1"), None),
    ],
)
def test_numbers_are_names_of_class_folders_before_they_are_positions(folder, refused, folders, labels, expected):
    for name in folders:
        folder.images(f"train/{name}", "0.jpg", "1.jpg")
    folder.images("val", "0.jpg", "1.jpg").text("val.txt", f"0.jpg {labels[0]}\n1.jpg {labels[1]}\n")
    if expected is None:
        with refused("classes that the class folders lack"):
            folder.open()
    else:
        assert tuple(folder.classes()["val"].values()) == expected


def test_lists_without_use_are_passed_over_or_named(folder, refused):
    folder.images("im", *numbered(3)).text("labels.csv", "id,label\n007,cat\n008,dog\n")
    with refused(r"labels\.csv names no image that is in .*, such as 007"):
        folder.open()
    folder.images("cat", *numbered(2)).images("dog", *numbered(2)).text("im.csv", "path,label,score\ncat/0.jpg,dog,1\n")
    reasons = {group.first: group.reason for group in folder.open().plan.passed_over}
    assert "gives no image of this folder a class" in reasons["labels.csv"]


def test_a_list_of_one_class_folder_is_compared_with_it(folder, refused):
    folder.images("train/cat", *numbered(2)).images("train/dog", *numbered(2)).images("test/cat", *numbered(2))
    folder.text("test.csv", "file,label\ntest/cat/0.jpg,dog\ntest/cat/1.jpg,dog\n")
    with refused(r"gives test/cat/0\.jpg the class dog"):
        folder.open()
    folder.text("test.csv", "file,label\ntest/cat/0.jpg,cat\ntest/cat/1.jpg,cat\n")
    assert folder.open().plan.layout == "class folders"


def test_joined_classes_are_a_problem_and_wrong_encodings_are_refused(folder, refused):
    folder.images("im", *numbered(3)).text("labels.csv", "image,labels\n0,rust\n1,scab\n2,rust scab\n")
    assert "made of others, such as 'rust scab'" in folder.open().problems[0]
    (folder.root / "labels.csv").write_bytes("image,label\n0,caf\u00e9\n1,b\n".encode("latin-1"))
    with refused("not in UTF-8"):
        folder.open()
    (folder.root / "labels.csv").write_bytes("image,label\n0,caf\u00e9\n1,b\n".encode("utf-16"))
    assert folder.open().names == ("b", "caf\u00e9")


@pytest.mark.parametrize("kind", ["header", "one hot", "spaces", "mxnet", "tabs"])
def test_the_written_layout_opens_the_same_images(folder, kind):
    name, text = TABLES[kind]
    folder.images("im", *numbered(4)).text(name, text)
    first = folder.open()
    again = folder.text("twins.yaml", layout_text(first.layout)).open()
    assert [labels_of(part, folder.root) for part in again.parts.values()] == [
        labels_of(part, folder.root) for part in first.parts.values()
    ]


@pytest.mark.parametrize("kind", list(TABLES))
def test_a_damaged_list_is_read_or_refused_without_a_traceback(folder, kind):
    name, text = TABLES[kind]
    folder.images("im", *numbered(4))
    chance = random.Random(kind)
    for _ in range(60):
        data = bytearray(text.encode())
        for _ in range(chance.randint(1, 6)):
            position = chance.randrange(len(data))
            data[position : position + chance.randint(0, 3)] = chance.choice(
                (b"", b"\0", b"\n", b",", b'"', b"\xff\xfe", b"\t", b"/../", b"9" * 30, bytes([chance.randrange(256)]))
            )
        (folder.root / name).write_bytes(bytes(data))
        for layout in ({}, {"annotations": name}, {"train": (name,)}):
            with contextlib.suppress(TwinsError):
                folder.open(**layout)
