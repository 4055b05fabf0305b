"""Layouts of images and masks of toolboxes and labelling tools: pairs, parts, classes, and every file counted."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path
from random import Random

import numpy as np
import pytest
from PIL import Image

from twins.data.checks.scan import check
from twins.data.checks.semantic import LabelMapCheck
from twins.data.classes import built_in
from twins.data.config import DataConfig, LayoutConfig, MaskConfig
from twins.data.formats.mask_folders import find_mask_folders, open_mask_folders
from twins.data.formats.mask_names import role_of
from twins.data.formats.source import Source, layout_text, split
from twins.errors import DataError, NotFoundError

RED, GREEN, BLUE, BLACK, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (0, 0, 0), (255, 255, 255)
VOC = built_in("voc")
CAMVID = "64 128 64\tAnimal\n192 0 128\tArchway\n0 128 192\tBicyclist\n"
CAMVID_COLOURS = ((64, 128, 64), (192, 0, 128), (0, 128, 192))
NAMED = ("sky", "tree", "road")


def opened(root, *, layout=None, **masks):
    source = Source(DataConfig(data=str(root), masks=MaskConfig(**masks), layout=layout or LayoutConfig()), "a folder")
    folders = find_mask_folders(source)
    result = open_mask_folders(source)
    assert bool(folders) == (result is not None)
    if result is None:
        return None
    splits = split(result, source)
    plan = splits.plan
    assert sum(plan.used.values()) + sum(group.count for group in plan.passed_over) == plan.files
    return splits


def content(splits, root):
    """Return, by part, the class names in each image's mask, in order of the pixels."""
    names = (*splits.names, *["ignored"] * 255)
    return {
        part: {
            Path(images.path(i)).relative_to(root).as_posix(): [names[label] for label in images.target(i)[0]]
            for i in range(len(images))
        }
        for part, images in splits.parts.items()
    }


def write(root, *, images=(), masks=None, **files):
    """Write images, masks by path (a row of values or colours, or a Pillow image), and other files."""
    for name in images:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(sum(map(ord, name))).integers(0, 256, (4, 3, 3), dtype=np.uint8)
        Image.fromarray(noise).save(path)
    for name, row in (masks or {}).items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        image = row if isinstance(row, Image.Image) else Image.fromarray(np.array([row] * 4, dtype=np.uint8))
        image.save(path)
    for name, text in files.pop("files", {}).items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    return root


def palette(row, colours):
    image = Image.fromarray(np.array([row] * 4, dtype=np.uint8))
    image.putpalette([channel for colour in colours for channel in colour])
    return image


def reopened(splits, root):
    """Return the set that the written layout opens."""
    (root / "twins.yaml").write_text(layout_text(splits.layout))
    return opened(root)


TWO_PARTS = {"train": ("a", [0, 1, 2]), "val": ("b", [1, 1, 2])}
"""By part, an image and the row of its mask."""
FOLDERS = {
    "mmsegmentation": ("img_dir/{part}/{name}.jpg", "ann_dir/{part}/{name}.png"),
    "upper case": ("Images/Train/{name}.jpg", "Masks/Train/{name}.png"),
    "VOC names in parts": ("{part}/JPEGImages/{name}.jpg", "{part}/SegmentationClass/{name}.png"),
    "CamVid": ("{part}/{name}.png", "{part}annot/{name}.png"),
    "parts before": ("{part}_images/{name}.jpg", "{part}_masks/{name}.png"),
    "parts behind": ("imgs_{part}/{name}.jpg", "labels-{part}/{name}_L.png"),
    "beside": ("{part}/{name}.jpg", "{part}/{name}_mask.png"),
    "beside, lab": ("{part}/{name}.jpg", "{part}/{name}_lab.png"),
    "photos": ("photos/{part}/{name}.jpg", "groundtruth/{part}/{name}_gt.png"),
    "rgb": ("{part}/rgb/{name}_rgb.png", "{part}/segmentation/{name}_seg.png"),
    "flat masks": ("images/{part}/{name}.jpg", "masks/{name}.png"),
    "flat images": ("images/{name}.jpg", "masks/{part}/{name}.png"),
    "wrapped": ("set/images/{part}/{name}.jpg", "set/masks/{part}/{name}.png"),
    "prefixes": ("images/{part}/img_{name}.jpg", "masks/{part}/mask_{name}.png"),
    "whole name": ("img/{part}/{name}.jpg", "label/{part}/{name}.jpg.png"),
    "subfolders": ("leftImg8bit/{part}/x/{name}.jpg", "SegmentationClass/{part}/x/{name}.png"),
}


@pytest.mark.parametrize("kind", FOLDERS)
def test_folders_are_read_under_the_usual_names(tmp_path, kind):
    expected = {}
    for part, (name, row) in TWO_PARTS.items():
        spelled = "Train" if kind == "upper case" and part == "train" else part
        image, mask = (
            text.format(part=spelled, name=name).replace("Train", spelled.capitalize()) for text in FOLDERS[kind]
        )
        write(tmp_path, images=[image], masks={mask: row})
        expected[part] = {image: [NAMED[value] for value in row]}
    write(tmp_path, files={"labels.txt": "\n".join(NAMED)})
    splits = opened(tmp_path)
    assert content(splits, tmp_path) == expected
    assert splits.plan.used == {"images": 2, "masks": 2, "files of class names": 1}
    assert content(reopened(splits, tmp_path), tmp_path) == expected


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("701_StillsRaw_full", ("images", None)), ("LabeledApproved_full", ("masks", None)),
        ("trainannot", ("masks", "train")), ("valannot", ("masks", "val")), ("imagesTr", ("images", "train")),
        ("labelsTs", ("masks", "test")), ("Training_Images", ("images", "train")), ("GT", ("masks", None)),
        ("train", None), ("cats", None), ("instance_ids", None), ("semantic", None), ("panoptic", None),
    ],
)  # fmt: skip
def test_a_name_says_what_a_folder_holds(name, role):
    found = role_of(name)
    assert (found and (found.kind, found.part)) == role


def test_camvid_is_read_by_its_colours(tmp_path):
    names = [f"{i:04}" for i in range(5)]
    root = write(
        tmp_path,
        images=[f"701_StillsRaw_full/{name}.png" for name in names],
        masks={f"LabeledApproved_full/{name}_L.png": CAMVID_COLOURS for name in names},
        files={"label_colors.txt": CAMVID},
    )
    splits = opened(root)
    assert splits.train.target(0).tolist() == [[0, 1, 2]] * 4
    assert splits.names == ("Animal", "Archway", "Bicyclist")
    assert splits.plan.names == "label_colors.txt"


def test_carvanas_test_images_without_masks_are_passed_over(tmp_path):
    root = write(
        tmp_path,
        images=["train/a_01.jpg", "train/b_01.jpg", "test/c_01.jpg"],
        masks={f"train_masks/{name}_01_mask.gif": palette([0, 1, 1], (BLACK, WHITE)) for name in "ab"},
    )
    splits = opened(root)
    assert splits.plan.images == 2
    assert any("which has no masks" in group.reason and group.count == 1 for group in splits.plan.passed_over)
    assert {name for part in content(splits, root).values() for name in part} == {"train/a_01.jpg", "train/b_01.jpg"}


def voc_layout(root, lists, masks=lambda row: palette(row, VOC.colours), names="abcd"):
    return write(
        root,
        images=[f"JPEGImages/{name}.jpg" for name in (*names, "unmasked")],
        masks={f"SegmentationClass/{name}.png": masks([0, i % 3, 2]) for i, name in enumerate(names)},
        files={f"ImageSets/Segmentation/{name}.txt": "\n".join(lines) for name, lines in lists.items()},
    )


@pytest.mark.parametrize(
    ("lists", "parts"),
    [
        ({"trainval": "ab", "test": "cd"}, {"train": "ab", "test": "cd", "val": "cd"}),
        ({"Train": "abc", "Validation": "d"}, {"train": "abc", "val": "d"}),
        ({"train": "ab", "val": "c", "trainval": "abc", "test": "d"}, {"train": "ab", "val": "c", "test": "d"}),
    ],
)
def test_voc_lists_hold_under_any_name(tmp_path, lists, parts):
    splits = opened(voc_layout(tmp_path, lists))
    held = {part: "".join(Path(name).stem for name in images) for part, images in content(splits, tmp_path).items()}
    assert held == parts
    assert splits.names == VOC.names
    assert any("the classes are Pascal VOC's 21" in note for note in splits.notes)
    assert any(group.reason == "an image without a mask" and group.count == 1 for group in splits.plan.passed_over)


def test_lists_of_objects_make_the_parts_where_there_are_none_of_masks(tmp_path):
    root = voc_layout(tmp_path, {})
    lists = {"train": "a\nb\nunmasked", "val": "c", "cat_train": "a 1\nd -1"}
    write(root, files={f"ImageSets/Main/{name}.txt": lines for name, lines in lists.items()})
    splits = opened(root)
    assert {part: len(images) for part, images in splits.parts.items()} == {"train": 2, "val": 1}
    assert any("1 image that" in note and "without a mask, left out" in note for note in splits.notes)


@pytest.mark.parametrize(
    ("lists", "masks", "reason"),
    [
        (False, lambda row: Image.fromarray(np.array([row] * 4, np.uint8)), "the masks have no palette"),
        (True, lambda row: palette(row, (BLACK, RED, GREEN)), "the palette of the masks has another colour for"),
        (True, lambda row: Image.fromarray(np.array([[0, 1, 40]] * 4, np.uint8)), "masks hold the value 40"),
    ],
)
def test_masks_in_vocs_folders_do_not_get_its_names_if_they_contradict(tmp_path, lists, masks, reason):
    splits = opened(voc_layout(tmp_path, {"train": "ab", "val": "cd"} if lists else {}, masks))
    assert "aeroplane" not in splits.names
    assert any(reason in note for note in splits.notes)


def test_labelmes_names_come_before_vocs(tmp_path):
    root = voc_layout(tmp_path, {})
    write(
        root,
        masks={"SegmentationClassVisualization/a.jpg": [1, 2, 3]},
        files={
            "class_names.txt": "_background_\nscratch\ndent\n",
            "labels.txt": "__ignore__\n_background_\nscratch\ndent\n",
            "SegmentationClassNpy/a.npy": "",
        },
    )
    splits = opened(root)
    assert splits.names == ("_background_", "scratch", "dent")
    assert splits.plan.names == "class_names.txt"
    assert {group.reason for group in splits.plan.passed_over} == {
        "an image without a mask", "pictures of the masks for people",
        "the masks as arrays of NumPy, which are read as images",
    }  # fmt: skip


def test_labelmes_older_folders_are_read(tmp_path):
    root = write(
        tmp_path,
        images=[f"JPEGImages/{name}.jpg" for name in "abcde"],
        masks={f"SegmentationClassPNG/{name}.png": palette([0, 1, 255], VOC.colours) for name in "abcde"},
        files={"class_names.txt": "_background_\ncat\n", "SegmentationClass/a.npy": ""},
    )
    assert opened(root).train.target(0).tolist() == [[0, 1, 255]] * 4
    write(root, masks={"SegmentationClass/a.png": [0, 1, 1]})


def test_cvats_masks_are_read_by_labelmap(tmp_path):
    names = "abcde"
    root = write(
        tmp_path,
        images=[f"JPEGImages/{name}.jpg" for name in names],
        masks={f"{folder}/{name}.png": [BLACK, RED, GREEN] for name in names
               for folder in ("SegmentationClass", "SegmentationObject")},
        files={
            "labelmap.txt": "# label:color_rgb:parts:actions\ncat:0,255,0::\nbackground:0,0,0::\ndog:255,0,0::\n",
            "ImageSets/Segmentation/default.txt": "\n".join(names),
        },
    )  # fmt: skip
    splits = opened(root)

    assert {tuple(row) for part in content(splits, root).values() for row in part.values()} == {
        ("background", "dog", "cat")
    }
    assert splits.plan.used == {"images": 5, "masks": 5, "lists": 1, "files of class names": 1}
    assert [group.reason for group in splits.plan.passed_over] == ["masks of instances, which label maps do not need"]


def test_a_palette_in_another_order_than_the_file_of_colours_is_read_by_its_colours(tmp_path):
    root = write(
        tmp_path,
        images=["images/a.jpg", "images/b.jpg"],
        masks={f"masks/{name}.png": palette([0, 1, 2], (BLACK, RED, GREEN)) for name in "ab"},
        files={"class_dict.csv": "name,r,g,b\nvoid,0,0,0\ncat,0,255,0\ndog,255,0,0\n"},
    )
    assert opened(root).train.target(0).tolist() == [[0, 2, 1]] * 4


def test_roboflows_masks_are_read(tmp_path):
    for part, name in (("train", "a"), ("valid", "b"), ("test", "c")):
        write(
            tmp_path,
            images=[f"{part}/{name}_jpg.rf.1.jpg"],
            masks={f"{part}/{name}_jpg.rf.1_mask.png": [0, 1, 2]},
            files={f"{part}/_classes.csv": "Pixel Value, Class\n0, background\n1, cat\n2, dog\n"},
        )
    write(tmp_path, files={"README.roboflow.txt": "x"})
    splits = opened(tmp_path)
    expected = [["background", "cat", "dog"]]
    assert {part: list(images.values()) for part, images in content(splits, tmp_path).items()} == {
        "train": expected, "val": expected, "test": expected,
    }  # fmt: skip
    assert splits.plan.used == {"images": 3, "masks": 3, "files of class names": 3}


def test_oxfords_trimaps_are_read_by_their_lists(tmp_path):
    root = write(
        tmp_path,
        images=[f"images/{name}_1.jpg" for name in "abc"],
        masks={f"annotations/trimaps/{name}_1.png": [1, 2, 3] for name in "abc"},
        files={
            "annotations/list.txt": "#Image CLASS-ID\na_1 1 1 1\n",
            "annotations/trainval.txt": "a_1 1 1 1\nb_1 2 1 2\n",
            "annotations/test.txt": "c_1 1 2 1\n", "annotations/xmls/a_1.xml": "<annotation/>",
        },
    )  # fmt: skip
    splits, row = opened(root), ["pet", "background", "border"]
    assert content(splits, root) == {
        "train": {"images/a_1.jpg": row, "images/b_1.jpg": row},
        "val": {"images/c_1.jpg": row},
        "test": {"images/c_1.jpg": row},
    }
    assert any("boxes" in group.reason for group in splits.plan.passed_over)
    assert content(reopened(splits, root), root) == content(splits, root)


@pytest.mark.parametrize(
    "line", ["images/{}.jpg masks/{}.png", "{}", "/home/me/set/images/{}.jpg", "{}.jpg,masks/{}.png"]
)
def test_lists_beside_the_folders_make_the_parts(tmp_path, line):
    root = write(
        tmp_path,
        images=[f"images/{name}.jpg" for name in "abcd"],
        masks={f"masks/{name}.png": [0, 1, 0] for name in "abcd"},
        files={
            "train_list.txt": "\n".join(line.format(name, name) for name in "ab"),
            "val_list.txt": line.format("c", "c"),
        },
    )
    splits = opened(root)
    assert {part: list(images) for part, images in content(splits, root).items()} == {
        "train": ["images/a.jpg", "images/b.jpg"], "val": ["images/c.jpg"],
    }  # fmt: skip
    assert any("no list names" in group.reason and group.count == 1 for group in splits.plan.passed_over)
    assert content(reopened(splits, root), root) == content(splits, root)


def test_lists_of_other_images_are_passed_over(tmp_path):
    root = write(
        tmp_path,
        images=["images/a.jpg", "images/b.jpg"],
        masks={"masks/a.png": [0, 1, 0], "masks/b.png": [0, 1, 0]},
        files={"train.txt": "x.jpg\ny.jpg\n"},
    )
    splits = opened(root)
    assert splits.plan.images == 2
    assert any(group.reason == "a list that names none of these images" for group in splits.plan.passed_over)


@pytest.mark.parametrize("base", ["", "train/", "stage1_train/"])
def test_a_mask_for_each_object_gives_their_union(tmp_path, base):
    for name in "abcde":
        write(
            tmp_path,
            images=[f"{base}{name}/images/{name}.png"],
            masks={f"{base}{name}/masks/1.png": [255, 0, 0], f"{base}{name}/masks/2.png": [0, 255, 0]},
        )
    splits = opened(tmp_path)
    rows = [row for part in content(splits, tmp_path).values() for row in part.values()]
    assert rows == [["foreground", "foreground", "background"]] * 5
    assert splits.plan.used == {"images": 5, "masks": 10}
    assert content(reopened(splits, tmp_path), tmp_path) == content(splits, tmp_path)


def test_the_nuclei_are_read_in_their_original_layout(sample_data):
    splits = opened(sample_data / "instance" / "dsb2018" / "raw_layout_example")
    assert splits.plan.images == 3
    stored = sample_data / "instance" / "dsb2018" / "raw_layout_example"
    for images in splits.parts.values():
        for index in range(len(images)):
            masks = Path(images.path(index)).parents[1] / "masks"
            union = sum(np.asarray(Image.open(path)).astype(int) for path in masks.iterdir()) > 0
            assert (images.target(index) == union).all()
    assert splits.plan.files == sum(path.is_file() for path in stored.rglob("*"))


def cityscapes(root, kinds=("labelIds", "labelTrainIds", "color", "instanceIds")):
    rows = {"labelIds": [7, 0, 33], "labelTrainIds": [0, 255, 18], "instanceIds": [9, 9, 9],
            "color": [(128, 64, 128), BLACK, (119, 11, 32)]}  # fmt: skip
    for part, city in (("train", "aachen"), ("val", "bonn"), ("test", "berlin")):
        name = f"{city}/{city}_000000_000019"
        write(
            root,
            images=[f"leftImg8bit/{part}/{name}_leftImg8bit.png"],
            masks={
                f"gtFine/{part}/{name}_gtFine_{kind}.png": [1, 2, 3]
                if part == "test" and kind != "color"
                else rows[kind]
                for kind in kinds
            },
            files={f"gtFine/{part}/{name}_gtFine_polygons.json": "{}"},
        )
    return root


@pytest.mark.parametrize("kinds", [("labelIds", "labelTrainIds", "color", "instanceIds"), ("color",)])
def test_cityscapes_is_read_without_its_dummy_test_masks(tmp_path, kinds):
    splits = opened(cityscapes(tmp_path, kinds))
    expected = ["road", "ignored", "bicycle"]
    assert {part: next(iter(images.values())) for part, images in content(splits, tmp_path).items()} == {
        "train": expected, "val": expected, **({} if len(kinds) > 1 else {"test": expected})
    }  # fmt: skip
    dummies = [group for group in splits.plan.passed_over if "dummies" in group.reason]
    assert sum(group.count for group in dummies) == (2 if len(kinds) > 1 else 0)


def test_supervisely_is_read_by_the_colours_of_its_machine_masks(tmp_path):
    root = write(
        tmp_path,
        images=[f"ds/img/{name}.jpg" for name in "ab"],
        masks={f"ds/{folder}/{name}.png": [0, 1, 2] for name in "ab" for folder in ("masks_machine", "masks_human")},
        files={
            "obj_class_to_machine_color.json": '{"dog": [2, 2, 2], "cat": [1, 1, 1]}',
            "meta.json": '{"classes": [{"title": "dog", "color": "#FF0000"}, {"title": "cat", "color": "#00FF00"}]}',
        },
    )
    splits = opened(root)
    assert {tuple(row) for part in content(splits, root).values() for row in part.values()} == {
        ("background", "cat", "dog")
    }


def two(root, *folders, images="images"):
    return write(
        root,
        images=[f"{images}/a.jpg", f"{images}/b.jpg"],
        masks={f"{folder}/{name}.png": [0, 1, 1] for folder in folders for name in "ab"},
    )


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (("masks", "labels"), r"labels and masks in .* could each be the folder of the masks; .*`layout\.annotations`"),
        (
            ("SegmentationClass", "SegmentationClassPNG"),
            r"SegmentationClass and SegmentationClassPNG .*`layout\.annotat",
        ),
        (("masks", "train/masks"), None),
    ],
)
def test_two_folders_that_fit_are_refused_until_a_setting_decides(tmp_path, refused, folders, message):
    root = two(tmp_path, *folders)
    if message is None:
        write(root, images=["train/images/a.jpg"])
        message = r"holds images and masks twice, in images and masks, and in train/images and train/masks; give"
    with refused(message):
        opened(root)
    splits = opened(root, layout=LayoutConfig(images="images", annotations=folders[0]))
    assert splits.plan.images == 2
    assert splits.plan.used["masks"] == 2


@pytest.mark.parametrize(
    "layout",
    [
        {"images": "a", "annotations": "b", "train": ("a/x", "b/x"), "val": ("a/y", "b/y")},
        {"train": ("a/x", "gt"), "val": ("a/y", "gt")},
        {"images": "a", "annotations": "b", "train": ("one.lst.txt",), "val": ("two.txt",)},
        {"images": "a", "annotations": "b", "train": ("a/x",), "val": ("a/y",)},
    ],
)
def test_settings_say_where_the_parts_are(tmp_path, layout):
    root = write(
        tmp_path,
        images=["a/x/1.jpg", "a/x/2.jpg", "a/y/3.jpg"],
        masks={f"{folder}/{name}.png": [0, 1, 1] for folder in ("b/x", "gt") for name in "12"}
        | {"b/y/3.png": [1, 1, 1], "gt/3.png": [1, 1, 1]},
        files={"one.lst.txt": "x/1\nx/2", "two.txt": "a/y/3.jpg"},
    )
    splits = opened(root, layout=LayoutConfig(**layout))
    assert {part: list(images) for part, images in content(splits, root).items()} == {
        "train": ["a/x/1.jpg", "a/x/2.jpg"], "val": ["a/y/3.jpg"],
    }  # fmt: skip
    assert content(reopened(splits, root), root) == content(splits, root)


@pytest.mark.parametrize(
    ("files", "masks"),
    [
        ({"classes.txt": "a\nb\n", "labels.txt": "a\nc\n"}, {}),
        ({"classes.txt": "a\nb\n", "masks/class_names.txt": "b\na\n"}, {}),
        ({"classes.csv": "name,value\na,0\nb,1\n", "data.yaml": "names: [x, y]"}, {}),
    ],
)
def test_files_of_names_that_contradict_are_refused(tmp_path, refused, files, masks):
    root = write(two(tmp_path, "masks"), files=files)
    with refused(r"name different classes; give the one to use, such as `masks\.classes="):
        opened(root)
    assert opened(root, classes=str(root / next(iter(files)))).names == ("a", "b")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("classes.txt", "sky\ntree\n"), ("masks/class_names.txt", "sky\ntree\n"),
        ("dataset.yaml", "names: [sky, tree]"),
        ("obj.names", "sky\ntree"), ("codes.txt", "sky\ntree"), ("label_map.json", '{"sky": 0, "tree": 1}'),
        ("images/_classes.csv", "Pixel Value, Class\n0, sky\n1, tree\n"),
        ("id2label.json", '{"0": "sky", "1": "tree"}'),
        ("semantic_classes.yaml", "train: {images: x}\nnames:\n  0: sky\n  1: tree\n"),
    ],
)  # fmt: skip
def test_names_are_found_in_whatever_file_the_tools_write(tmp_path, name, text):
    splits = opened(write(two(tmp_path, "masks"), files={name: text}))
    assert splits.names == ("sky", "tree")
    assert splits.plan.names == name


def test_files_that_hold_something_else_are_no_names(tmp_path):
    root = write(two(tmp_path, "masks"), files={"config.json": "{}", "data.yaml": "lr: [1", "labels.txt": "a\na\n"})
    assert opened(root).names == ("0", "1")


def test_the_sign_of_ade20k_counts_also_in_a_folder_around(tmp_path):
    root = two(tmp_path / "set", "annotations")
    write(root, files={"objectInfo150.txt": "Idx\tRatio\tTrain\tVal\tStuff\tName\n1\t0.15\t1\t1\t1\twall"})
    splits = opened(tmp_path)
    assert splits.names == built_in("ade20k").names
    assert splits.train.target(0)[0].tolist() == [255, 0, 0]


def test_two_folders_of_masks_in_a_part_are_decided_by_its_setting(tmp_path, refused):
    root = two(tmp_path / "train", "masks", "gt").parent
    two(root / "val", "masks")
    with refused(r"train/gt and train/masks in .*; give the folder of images and that of masks as `layout\.train`"):
        opened(root)
    splits = opened(root, layout=LayoutConfig(train=("train/images", "train/gt"), val=("val",)))
    assert [len(splits.train), len(splits.val)] == [2, 2]
    assert all(mask.parent.name == "gt" for mask in splits.train.masks)


def test_a_part_whose_images_have_no_masks_of_their_names_is_refused(tmp_path, refused):
    root = two(tmp_path / "train", "masks").parent
    write(root, images=["val/images/c.jpg"], masks={"val/masks/d.png": [0, 1, 1]})
    with refused(r"no image in .*val/images has a mask of its name in .*val/masks, c\.jpg first"):
        opened(root)


def damage(root, random):
    """Change one file or folder of a set as people, disks and scripts do."""
    files = sorted(path for path in root.rglob("*") if path.is_file())
    folders = sorted(path for path in root.rglob("*") if path.is_dir())
    path, folder = random.choice(files), random.choice(folders)
    names = ["a_mask.png", "b.jpg", "classes.txt", "train.txt", "\u00fc.png", "x y.jpg"]
    actions = {
        "delete": path.unlink,
        "cut": lambda: path.write_bytes(path.read_bytes()[: random.randrange(60)]),
        "noise": lambda: path.write_bytes(random.randbytes(40)),
        "rename": lambda: path.rename(path.with_name(random.choice(names))),
        "copy": lambda: shutil.copy(path, path.with_name(random.choice(names))),
        "rename folder": lambda: folder.rename(folder.with_name(random.choice(["masks", "val", "gt2", "x"]) + "0")),
        "upper case": lambda: path.rename(path.with_name(path.name.upper())),
        "names": lambda: (root / "labels.txt").write_text(random.choice(["a\nb\nc", "1 2 3", "\x00", "a:b:c"])),
        "list": lambda: (root / "val.txt").write_text(random.choice(["a\nb", "zzz", ""])),
    }
    with contextlib.suppress(OSError):
        actions[random.choice(sorted(actions))]()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(40))
def test_a_damaged_set_is_read_and_accounted_for_or_refused(tmp_path, seed):
    random = Random(seed)
    layouts = [*FOLDERS, "voc", "cityscapes"]
    kind = layouts[seed % len(layouts)]
    if kind == "voc":
        voc_layout(tmp_path, {"trainval": "ab", "test": "cd"})
    elif kind == "cityscapes":
        cityscapes(tmp_path)
    else:
        for part, (name, row) in TWO_PARTS.items():
            image, mask = (text.format(part=part, name=name) for text in FOLDERS[kind])
            write(tmp_path, images=[image], masks={mask: row}, files={"labels.txt": "\n".join(NAMED)})
    for _ in range(random.randint(1, 3)):
        damage(tmp_path, random)
    try:
        if (splits := opened(tmp_path)) is None:
            return
        check(splits, LabelMapCheck())
    except (DataError, NotFoundError):
        return
    paths = {part: [images.path(i) for i in range(len(images))] for part, images in splits.parts.items()}
    again = reopened(splits, tmp_path)
    assert {part: [images.path(i) for i in range(len(images))] for part, images in again.parts.items()} == paths


def test_coco_open_is_read_by_the_settings_with_its_own_names(sample_data):
    root = sample_data / "coco_open"
    splits = opened(root, layout=LayoutConfig(annotations="semantic"))
    assert (splits.plan.images, splits.plan.names) == (26, "semantic_classes.yaml")
    target = splits.train.target(0)
    stored = np.asarray(Image.open(root / "semantic" / (Path(splits.train.path(0)).stem + ".png")))
    assert (np.array(splits.train.classes.values)[target] == stored).all()


def test_folders_of_images_without_masks_are_left_to_other_formats(tmp_path):
    write(tmp_path, images=["images/a.jpg", "JPEGImages/a.jpg"], files={"annotations/instances.json": "{}"})
    assert opened(tmp_path) is None
    assert opened(tmp_path, layout=LayoutConfig(annotations="annotations")) is None
    assert opened(tmp_path, layout=LayoutConfig(annotations="annotations/instances.json")) is None


def test_masks_of_the_settings_need_a_folder_of_images(tmp_path, refused):
    write(tmp_path, images=["x/a.jpg"], masks={"y/a.png": [0, 1, 1]})
    source = Source(DataConfig(data=str(tmp_path), layout=LayoutConfig(annotations="y")), "a folder")
    with refused(
        r"no folder named like one of images; give it as `layout\.images`, beside `layout\.annotations=\"y\"`"
    ):
        open_mask_folders(source)
    splits = opened(tmp_path, layout=LayoutConfig(images="x", annotations="y"))
    assert splits.plan.images == 1


def test_label_studios_masks_are_refused(tmp_path, refused):
    root = write(tmp_path, masks={"task-1-annotation-2-by-1-tag-cat-0.png": [0, 255, 255]})
    with refused("Label Studio's export of brush labels.*export COCO instead"):
        opened(root)


@pytest.mark.parametrize("path", ["images", "masks", "images/train"])
def test_half_of_a_set_is_no_set(tmp_path, path):
    root = two(tmp_path, "masks") / path
    root.mkdir(exist_ok=True)
    assert opened(root) is None


def test_masks_of_two_kinds_beside_the_images_are_refused(tmp_path, refused):
    write(tmp_path, images=["a.jpg"], masks={"a_mask.png": [0, 1, 1], "a_lab.png": [0, 1, 1]})
    with refused("have masks of several kinds, ending in _lab, _mask; move those to use"):
        opened(tmp_path)
