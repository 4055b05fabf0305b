"""COCO's JSON as its exporters write it: any file name, any image folder, parts by name, folder or settings."""

from __future__ import annotations

import json
import random

import pytest

from twins.data.config import DataConfig, LayoutConfig
from twins.data.formats.coco_files import find_coco, inspect
from twins.data.formats.coco_maps import open_coco_maps
from twins.data.formats.open import open_label_maps, open_objects
from twins.data.formats.source import Source, layout_text
from twins.errors import TwinsError

NAMES = ("cat", "dog")
POLYGON = [[2, 1, 6, 1, 6, 4, 2, 4]]


def content(names, first=0, ids=None, **changes):
    """Return a file of images, each with one object, whose class is that of its number."""
    ids = ids or {name: number for number, name in enumerate(NAMES, 1)}
    images = [{"id": i, "file_name": name, "height": 6, "width": 8} for i, name in enumerate(names, first)]
    annotations = [
        {
            "id": record["id"], "image_id": record["id"], "bbox": [2, 1, 4, 3], "area": 12, "iscrowd": 0,
            "category_id": ids[NAMES[label_of(record["file_name"])]], "segmentation": POLYGON,
        }
        for record in images
    ]  # fmt: skip
    categories = [{"id": number, "name": name} for name, number in ids.items()]
    return {"info": {}, "images": images, "annotations": annotations, "categories": categories} | changes


def label_of(name):
    """Return the class of the object in the image of a name: by the last digit in it."""
    return int([letter for letter in name.rpartition(".")[0] if letter.isdigit()][-1]) % 2


@pytest.fixture
def put(tmp_path, save_image):
    """Write COCO files and images: a path with a list of names is a file, one with a set is a folder of images."""

    def write(**layout):
        for path, names in layout.items():
            target = tmp_path / path
            target.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(names, set):
                for name in names:
                    save_image(target / name)
            else:
                is_list_of_names = isinstance(names, list) and isinstance(names[0], str)
                target.write_text(json.dumps(content(names) if is_list_of_names else names))
        return tmp_path

    return write


def opened(root, masks=False, **layout):
    return open_objects(DataConfig(data=str(root), layout=LayoutConfig(**layout)), masks=masks)


def parts(splits):
    """Return the names of the images of each part, after checking the object of each and that every file has a fate."""
    found = {}
    for part, images in splits.parts.items():
        for index in range(len(images)):
            name = images.path(index).rpartition("/")[2]
            assert images.load(index).size == (8, 6)
            target = images.target(index)
            assert target.boxes.tolist() == [[2, 1, 6, 4]]
            assert images.names[target.labels[0]] == NAMES[label_of(name)]
            found.setdefault(part, set()).add(name)
    check_account(splits)
    return found


def check_account(splits):
    plan = splits.plan
    assert sum(plan.used.values()) + sum(group.count for group in plan.passed_over) == plan.files


A, B, C = {"a0.png", "a1.png", "a2.png"}, {"b0.png", "b1.png"}, {"c0.png", "c1.png"}
TRAIN, VAL, TEST = sorted(A), sorted(B), sorted(C)


def split_by(train, val, *, train_images="train", val_images="val"):
    """Return a layout of a training file and a validation file, and their folders of images."""
    return {train: TRAIN, val: VAL, train_images: A} | {val_images: A | B if val_images == train_images else B}


def beside(train, val, file, images):
    """Return a layout of files and folders of images in the folders of the parts."""
    return split_by(f"{train}/{file}", f"{val}/{file}", train_images=f"{train}/{images}", val_images=f"{val}/{images}")


INSTANCES = "annotations/instances_"
SPLIT = {
    "coco 2017": split_by(
        f"{INSTANCES}train2017.json", f"{INSTANCES}val2017.json", train_images="train2017", val_images="val2017"
    ),
    "minitrain": split_by(
        f"{INSTANCES}minitrain2017.json", f"{INSTANCES}minival.json", train_images="train2017", val_images="val2017"
    ),
    "cvat": split_by(
        f"{INSTANCES}Train.json", f"{INSTANCES}Validation.json", train_images="images/Train", val_images="images/VALID"
    ),
    "mixed case": split_by(
        f"{INSTANCES}train.json", f"{INSTANCES}Val.json", train_images="images/train", val_images="images/Val"
    ),
    "mmdetection": split_by("annotations/train.json", "annotations/val.json"),
    "names in root": split_by("train.json", "val.json", train_images="images", val_images="images"),
    "labels": split_by(
        "labels/coco_train.json", "labels/coco_val.json", train_images="data/train", val_images="data/val"
    ),
    "roboflow": beside("train", "valid", "_annotations.coco.json", "."),
    "beside images": beside("train", "val", "annotations.json", "images"),
    "fiftyone": beside("train", "validation", "labels.json", "data"),
    "supervisely": beside("train", "val", "annotations/instances.json", "images"),
    "folders of parts": split_by(
        "annotations/train/all.json", "annotations/val/all.json", train_images="images/train", val_images="images/val"
    ),
    "wrapped": split_by(
        "set/annotations/train.json", "set/annotations/val.json", train_images="set/train", val_images="set/val"
    ),
    "by image folder": split_by("first.json", "second.json"),
    "lvis": split_by("lvis_v1_train.json", "lvis_v1_val.json", train_images="train2017", val_images="val2017"),
    "names with folders": {
        "data.json": [*(f"train/{name}" for name in TRAIN), *(f"val/{name}" for name in VAL)],
        "train": A,
        "val": B,
    },
    "one file, two folders": {"data.json": TRAIN + VAL, "images/train": A, "images/val": B},
}


@pytest.mark.parametrize("layout", SPLIT.values(), ids=SPLIT)
@pytest.mark.parametrize("masks", [False, True])
def test_the_parts_of_every_exporter_are_its_parts(put, layout, masks):
    splits = opened(put(**layout), masks)
    assert parts(splits) == {"train": A, "val": B}
    maps = open_coco_maps(Source(DataConfig(data=splits.source), "a folder"), "instances").parts
    assert {part: len(images) for part, images in maps.items()} == {"train": 3, "val": 2}
    assert (maps["train"].target(0) == label_of(maps["train"].path(0).rpartition("/")[2]) + 1).sum() == 12


@pytest.mark.parametrize("layout", SPLIT.values(), ids=SPLIT)
def test_what_was_recognised_opens_the_same_images_again(put, layout):
    root = put(**layout)
    first = opened(root)
    (root / "twins.yaml").write_text(layout_text(first.layout))
    again = opened(root)
    for part in ("train", "val"):
        images = first.parts[part], again.parts[part]
        assert len({tuple(item.path(i) for i in range(len(item))) for item in images}) == 1
    check_account(again)


UNSPLIT_SETS = {
    "cvat": {"annotations/instances_default.json": TRAIN, "images/default": A},
    "label studio": {"result.json": [f"images/{name}" for name in TRAIN], "images": A},
    "label studio on windows": {"result.json": [f"images\\{name}" for name in TRAIN], "images": A},
    "label studio's uploads": {"result.json": [f"/data/upload/1/8f3a12bc-{name}" for name in TRAIN], "images": A},
    "label studio's files": {"result.json": [f"/data/local-files/?d=x/{name}" for name in TRAIN], "images/x": A},
    "fiftyone": {"labels.json": TRAIN, "data": A},
    "labelme2coco": {"annotations.json": [f"JPEGImages/{name}" for name in TRAIN], "JPEGImages": A},
    "via": {"via_export_coco.json": TRAIN, "imgs": A},
    "any name": {"my file (2).json": TRAIN, "pictures": A},
    "beside": {"x.json": TRAIN, ".": A},
    "another machine": {"coco.json": [f"C:\\Users\\me\\{name}" for name in TRAIN], "images": A},
    "an address": {"coco.json": [f"http://example.org/x%20y/{name}" for name in TRAIN], "images/x y": A},
    "percent": {"coco.json": ["a%200.png", "a%201.png"], "images": {"a 0.png", "a 1.png"}},
    "deep": {"coco.json": TRAIN, "some/where/else": A},
    "supervisely": {"ds0/annotations/instances.json": TRAIN, "ds0/images": A},
}  # fmt: skip


@pytest.mark.parametrize("layout", UNSPLIT_SETS.values(), ids=UNSPLIT_SETS)
def test_one_file_of_any_name_is_the_whole_set(put, layout):
    splits = opened(put(**layout))
    found = parts(splits)
    assert found["train"] | found["val"] == next(value for value in layout.values() if isinstance(value, set))
    assert splits.plan.used["images"] == len(found["train"]) + len(found["val"])


@pytest.mark.parametrize("layout", UNSPLIT_SETS.values(), ids=UNSPLIT_SETS)
def test_an_unsplit_set_is_opened_in_the_same_way_again(put, layout):
    root = put(**layout)
    first = opened(root)
    (root / "twins.yaml").write_text(layout_text(first.layout))
    assert parts(opened(root)) == parts(first)


def test_a_yaml_file_that_is_given_as_the_data_is_yolos(put, refused):
    root = put(**{"x.json": TRAIN, "images": A})
    (root / "data.yaml").write_text("names: [cat, dog]\ntrain: images\n")
    with refused("label|known layout"):
        opened(root / "data.yaml")


def test_masks_are_never_taken_for_images_of_the_same_name(put, refused):
    root = put(**{"annotations/x.json": TRAIN, "annotations": A, "images": A})
    assert "/images/" in opened(root).train.path(0)
    root = put(**{"set/x.json": TRAIN, "set/masks": A}) / "set"
    with refused("the images of .*x.json, such as a0.png, are not in"):
        opened(root)


def test_one_image_with_two_ids_is_a_problem(put):
    splits = opened(put(**{"x.json": [*TRAIN, TRAIN[0]], "images": A}))
    assert "x.json lists 1 image several times" in splits.problems[0]


def test_a_file_for_each_image_is_refused_in_one_sentence(put, refused):
    root = put(**{f"train/a{i}.json": [f"a{i}.png"] for i in range(9)}, train={f"a{i}.png" for i in range(9)})
    with refused("9 files, could each be the train part; join them to one"):
        opened(root)


def test_a_validation_set_alone_is_one(put):
    splits = opened(put(**{"annotations/instances_val2017.json": VAL, "val2017": B}))
    assert parts(splits) == {"val": B}


def test_a_train_file_never_takes_the_images_of_another_part(put, refused):
    root = put(**{"train.json": VAL, "val.json": VAL, "val": B, "images/train": A})
    splits = opened(root)
    assert sum("of 2 images that" in note and "do not exist" in note for note in splits.notes) == 1
    with refused("which does not exist"):
        splits.train.load(0)


def test_images_of_no_file_and_other_files_have_their_reason(put):
    root = put(**{
        "annotations/instances_train2017.json": TRAIN, "annotations/instances_val2017.json": VAL,
        "annotations/image_info_test2017.json": {"images": [], "categories": []},
        "annotations/captions_train2017.json": {"images": [], "annotations": [{"caption": "a"}]},
        "annotations/person_keypoints_train2017.json": TRAIN, "annotations/stuff_train2017.json": TRAIN,
        "annotations/extra.json": TRAIN, "results.json": [{"image_id": 1, "bbox": [1, 2, 3, 4], "annotations": 2}],
        "train2017": A | {"x9.png"}, "val2017": B, "test2017": C,
    })  # fmt: skip
    splits = opened(root)
    assert parts(splits) == {"train": A, "val": B}
    reasons = {group.first.rpartition("/")[2]: group.reason for group in splits.plan.passed_over}
    assert reasons == {
        "image_info_test2017.json": "a COCO file that lists images without annotations",
        "captions_train2017.json": "annotations without categories, such as captions",
        "person_keypoints_train2017.json": "keypoints, beside other annotations",
        "stuff_train2017.json": "stuff, beside other annotations",
        "extra.json": "a COCO file of no part, beside files of parts",
        "results.json": "a list, such as COCO's results, instead of the three lists of a COCO file",
        "x9.png": "an image that no annotation file lists",
        "c0.png": "an image that this layout does not use",
    }


def test_a_file_of_keypoints_alone_gives_its_boxes_and_says_so(put):
    assert parts(splits := opened(put(**{"annotations/person_keypoints_val2017.json": VAL, "val2017": B}))) == {
        "val": B
    }
    assert any("named after keypoints, the boxes" in note for note in splits.notes)


def test_a_test_file_without_annotations_is_passed_over(put):
    empty = content(TEST, annotations=[])
    root = put(**{"train/_annotations.coco.json": TRAIN, "valid/_annotations.coco.json": VAL, "train": A, "valid": B,
                  "test/_annotations.coco.json": empty, "test": C})  # fmt: skip
    assert parts(opened(root)) == {"train": A, "val": B}
    (root / "test" / "_annotations.coco.json").write_text(json.dumps(content(TEST)))
    assert parts(opened(root)) == {"train": A, "val": B, "test": C}


def test_two_files_of_one_part_are_refused_unless_both_are_given(put, refused):
    root = put(**{"annotations/instances_train2014.json": TRAIN, "annotations/instances_train2017.json": VAL,
                  "annotations/instances_val2017.json": TEST, "images": A | B | C})  # fmt: skip
    with refused("could each be the train part; give the one to use, or several, as `layout.train`"):
        opened(root)
    both = ("annotations/instances_train2014.json", "annotations/instances_train2017.json")
    splits = opened(root, train=both, val=("annotations/instances_val2017.json",))
    assert parts(splits) == {"train": A | B, "val": C}
    ids = [splits.train.target(i).image_id for i in range(5)]
    assert len(set(ids)) == 5


def test_two_whole_sets_are_refused_unless_one_is_given(put, refused):
    root = put(**{"one.json": TRAIN, "two.json": VAL, "images": A | B})
    with refused("one.json, two.json in .* could each be the whole set; give the one to use as `layout.annotations`"):
        opened(root)
    found = parts(opened(root, annotations="two.json"))
    assert found["train"] | found["val"] == B
    assert parts(opened(root, train=("one.json",), val=("two.json",))) == {"train": A, "val": B}


def test_several_data_sets_in_one_folder_are_refused(put, refused):
    root = put(**{"one/train.json": TRAIN, "one/images": A, "two/val.json": VAL, "two/images": B})
    with refused("COCO files in one, two, which may be several data sets; give one of these folders as the data"):
        opened(root)


@pytest.mark.parametrize("form", ["{}", "{}.png", "images/{}.png", "images\\{}.png"])
def test_lists_of_names_make_the_parts_of_an_unsplit_file(put, form):
    root = put(**{"all.json": TRAIN + VAL + TEST, "images": A | B | C})
    for part, names in (("train", TRAIN), ("val", VAL)):
        (root / f"{part}.txt").write_text("\n".join(form.format(name[:-4]) for name in names))
    splits = opened(root, train=("train.txt",), val=("val.txt",))
    assert parts(splits) == {"train": A, "val": B}
    assert [group.reason for group in splits.plan.passed_over] == ["an image that no part has"]
    (root / "twins.yaml").write_text(layout_text(splits.layout))
    assert parts(opened(root)) == {"train": A, "val": B}


def test_folders_make_the_parts_of_an_unsplit_file(put, refused):
    root = put(**{"all.json": TRAIN + VAL, "first": A, "second": B, "third": C})
    assert parts(opened(root, train=("first",), val=("second",))) == {"train": A, "val": B}
    with refused("names no image of all.json; check `layout.val`"):
        opened(root, train=("first",), val=("third",))


def test_settings_of_images_and_annotations_come_before_conventions(put, save_image):
    root = put(**{"annotations/instances_train.json": TRAIN, "other/train.json": TRAIN, "other/val.json": VAL,
                  "images": A | B, "pictures/train": A, "pictures/val": B})  # fmt: skip
    splits = opened(root, annotations="other", images="pictures")
    assert parts(splits) == {"train": A, "val": B}
    assert "/pictures/train/" in splits.train.path(0)
    (root / "twins.yaml").write_text(layout_text(splits.layout))
    assert "/pictures/val/" in opened(root).val.path(0)


def test_a_test_file_may_be_given_as_the_validation_part(put):
    root = put(**{"annotations/train.json": TRAIN, "annotations/test.json": TEST, "train": A, "test": C})
    assert parts(opened(root, train=("annotations/train.json",), val=("annotations/test.json",))) == {
        "train": A, "val": C
    }  # fmt: skip


def test_classes_of_files_with_other_ids_are_matched_by_name(put):
    root = put(**{"train.json": TRAIN, "val.json": content(VAL, ids={"dog": 1, "cat": 7}), "images": A | B})
    splits = opened(root)
    assert parts(splits) == {"train": A, "val": B}
    assert splits.train.classes.values == splits.val.classes.values == (1, 2)
    assert any("has other ids than" in note for note in splits.notes)


def test_classes_that_one_file_lacks_are_in_the_union(put, refused):
    few = content(["b1.png"], ids={"dog": 4})
    root = put(**{"train.json": content(TRAIN, ids={"cat": 4, "dog": 9}), "val.json": few, "images": A | {"b1.png"}})
    assert parts(opened(root)) == {"train": A, "val": {"b1.png"}}
    (root / "train.json").write_text(json.dumps(few | {"images": content(["b1.png"])["images"]}))
    (root / "val.json").write_text(json.dumps(content(TRAIN, ids={"cat": 4, "dog": 9})))
    splits = opened(root)
    assert parts(splits) == {"train": {"b1.png"}, "val": A}
    assert (splits.names, splits.train.classes.values) == (("dog", "cat"), (4, 5))
    (root / "train.json").write_text((root / "train.json").read_text().replace('"dog"', '"Dog"'))
    with refused("list different categories|give both the same name"):
        opened(root)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le"])
def test_other_encodings_are_read(put, encoding):
    root = put(**{"train.json": TRAIN, "val.json": VAL, "images": A | B})
    text = ("\ufeff" if encoding == "utf-16-le" else "") + (root / "val.json").read_text()
    (root / "val.json").write_bytes(text.encode(encoding))
    assert parts(opened(root)) == {"train": A, "val": B}


def test_a_list_that_is_written_twice_is_refused(put, refused):
    root = put(**{"instances.json": TRAIN, "images": A})
    text = (root / "instances.json").read_text()
    (root / "instances.json").write_text(text[:-1] + ', "annotations": []}')
    with refused("instances.json is no JSON .it has annotations twice"):
        opened(root)


def test_image_ids_with_zeros_in_front_are_numbers(put):
    written = content(TRAIN)
    for record in written["images"]:
        record["id"] = f"{record['id']:06}"
    for annotation in written["annotations"]:
        annotation["image_id"] = f"{annotation['image_id']:06}"
    splits = opened(put(**{"x.json": written, "images": A}))
    found = parts(splits)
    assert found["train"] | found["val"] == A
    assert any('written as "007"' in note for note in splits.notes)


def test_images_without_file_name_have_that_of_their_address(put):
    written = content(TRAIN)
    for record in written["images"]:
        record["coco_url"] = f"http://images.cocodataset.org/train2017/{record.pop('file_name')}"
    splits = opened(put(**{"lvis_v1_train.json": written, "train2017": A}))
    found = parts(splits)
    assert found["train"] | found["val"] == A


def test_objects_of_the_background_and_areas_of_0_are_problems(put):
    written = content(TRAIN)
    written["categories"].append({"id": 0, "name": "_background_"})
    written["annotations"][0] |= {"category_id": 0, "area": 0}
    splits = opened(put(**{"x.json": written, "images": A}))
    (background, area) = splits.problems
    assert "1 annotation of " in background
    assert "'_background_'" in background
    assert "1 of 3 areas in " in area


def test_large_files_are_recognised_by_their_keys_alone(put):
    written = content([f"a{i:06}.png" for i in range(9000)])
    root = put(**{"large.json": written, "image_info.json": written | {"annotations": []}})
    assert (root / "large.json").stat().st_size > 2**20
    assert (inspect(root / "large.json").kind, inspect(root / "large.json").empty) == ("instances", False)
    assert inspect(root / "image_info.json").empty
    del written["annotations"]
    put(**{"none.json": written})
    assert inspect(root / "none.json").kind is None


@pytest.mark.parametrize("count", [3, 9000])
def test_a_file_that_ends_too_early_is_never_passed_over(put, refused, count):
    names = [f"a{i:06}.png" for i in range(count)]
    root = put(**{"train.json": names, "val.json": VAL, "images": B})
    path = root / "train.json"
    path.write_bytes(path.read_bytes()[:-200])
    with refused("train.json is no JSON .*; copy it again"):
        opened(root)


@pytest.mark.parametrize("name", ["annotations", "annotations_train", "instances_train"])
def test_a_file_of_cocos_name_is_refused_rather_than_passed_over(put, refused, name):
    written = {key: value for key, value in content(TRAIN).items() if key != "categories"}
    root = put(**{f"{name}.json": written, "images": A})
    with refused(f"{name}.json has no categories, so it is no COCO file"):
        opened(root)
    (root / f"{name}.json").write_text("")
    with refused(f"{name}.json is no JSON"):
        opened(root)


def test_a_list_that_is_called_annotations_is_left_to_other_formats(put):
    root = put(**{"annotations.json": [{"image": "a0.png", "annotations": []}], "images": A})
    assert find_coco(Source(DataConfig(data=str(root)), "a folder")) == ()


def test_finding_reads_other_json_only_in_part(put):
    labelme = {"version": "5", "shapes": [{"label": "cat"}], "imagePath": "a0.png"}
    root = put(**{"a0.json": labelme, "b.json": [1], "tasks.json": [{"annotations": [], "data": {}}], ".": A})
    assert find_coco(Source(DataConfig(data=str(root)), "a folder")) == ()


def mutate(value, draw):
    """Return a JSON value with one change somewhere."""
    odd = [None, "", "x", "1", 1.0, -1, 0, 2**70, True, [], {}, [1], {"id": 1}, float("nan"), "0", 1e400]
    if isinstance(value, dict) and value and draw.random() < 0.9:
        key = draw.choice(sorted(value))
        change = draw.random()
        if change < 0.2:
            return {name: item for name, item in value.items() if name != key}
        return value | {key: mutate(value[key], draw)}
    if isinstance(value, list) and value and draw.random() < 0.9:
        place = draw.randrange(len(value))
        if draw.random() < 0.2:
            return [*value, value[place]]
        return [*value[:place], mutate(value[place], draw), *value[place + 1 :]]
    return draw.choice(odd)


def read_all(root, masks):
    """Read everything that a set has as objects; return the error if there is one."""
    try:
        splits = opened(root, masks)
        for images in splits.parts.values():
            [(images.target(i), images.load(i), images.shape(i)) for i in range(len(images))]
    except TwinsError as error:
        return str(error)
    check_account(splits)
    return ""


def read_maps(root):
    """Read everything that a set has as label maps; return the error if there is one."""
    try:
        splits = open_label_maps(DataConfig(data=str(root)))
        [images.target(i) for images in splits.parts.values() for i in range(len(images))]
    except TwinsError as error:
        return str(error)
    check_account(splits)
    return ""


@pytest.mark.parametrize("seed", range(40))
def test_a_damaged_file_is_read_or_refused_with_a_sentence(put, seed):
    draw = random.Random(seed)
    root = put(**{"train.json": TRAIN, "val.json": VAL, "images": A | B})
    for _ in range(4):
        changed = content(TRAIN)
        for _ in range(draw.randint(1, 3)):
            changed = mutate(changed, draw)
        text = json.dumps(changed)
        (root / "train.json").write_text(text[: draw.randrange(len(text))] if draw.random() < 0.1 else text)
        assert "\n" not in read_all(root, False) + read_all(root, True) + read_maps(root)
