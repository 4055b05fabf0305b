"""Object data: every layout is read, COCO's JSON in every form, and annotations that are left out are reported."""

from __future__ import annotations

import json

import numpy as np
import pytest
from faster_coco_eval import mask as rle
from PIL import Image

from twins.data.config import DataConfig, LayoutConfig, MaskConfig
from twins.data.formats.open import open_objects_for_run
from twins.data.formats.scenes import draw_scene
from twins.data.images import image_size
from twins.data.objects import build_objects, decode_masks, has_area, trainable

SQUARE = np.zeros((6, 8), dtype=np.uint8)
SQUARE[1:4, 2:6] = 1
POLYGON = [[2, 1, 6, 1, 6, 4, 2, 4]]
PACKED = rle.encode(np.asfortranarray(SQUARE))
RUNS = [13, 3, 3, 3, 3, 3, 3, 3, 14]
CATEGORIES = [{"id": 5, "name": "dog"}, {"id": 2, "name": "cat"}]


def annotation(number=7, image=1, category=5, **more):
    return {
        "id": number, "image_id": image, "category_id": category, "bbox": [2, 1, 4, 3], "segmentation": POLYGON
    } | more  # fmt: skip


def without(*keys, **more):
    return {key: value for key, value in annotation(**more).items() if key not in keys}


@pytest.fixture
def coco(tmp_path, save_image):
    """Write a JSON file of two images with annotations, and the images."""

    def write(annotations, name="instances.json", folder="images", categories=CATEGORIES, **changed):
        images = [{"id": i, "file_name": f"{i}.jpg", "height": 6, "width": 8} | changed for i in (1, 2)]
        for i in (1, 2):
            save_image(tmp_path / folder / f"{i}.jpg")
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
        return tmp_path

    return write


def opened(root, masks=False, **settings):
    return open_objects_for_run(DataConfig(data=str(root), **settings), masks=masks)


def targets(splits):
    """Return the objects of each image by its name."""
    parts = (splits.train, splits.val)
    return {part.path(i).rpartition("/")[2]: part.target(i) for part in parts for i in range(len(part))}


def target(root, masks=False):
    return targets(opened(root, masks))["1.jpg"]


# COCO


def test_a_box_is_read_with_its_class_area_crowd_and_ids(coco):
    splits = opened(coco([annotation(), annotation(8, 2, 2, iscrowd=1, area=5.5)]))
    assert splits.train.names == splits.val.names == ("cat", "dog")
    assert splits.train.classes.values == (2, 5)
    first, second = (targets(splits)[name] for name in ("1.jpg", "2.jpg"))
    assert (first.boxes.tolist(), first.labels.tolist(), first.areas.tolist()) == ([[2, 1, 6, 4]], [1], [12])
    assert (second.labels.tolist(), second.areas.tolist()) == ([0], [5.5])
    assert (first.crowd.tolist(), second.crowd.tolist()) == ([False], [True])
    assert (first.image_id, second.image_id, first.size, first.masks) == (1, 2, (6, 8), None)
    assert splits.notes == ()


@pytest.mark.parametrize(
    "segmentation",
    [
        POLYGON,
        [[2, 1, 4, 1, 4, 4, 2, 4], [4, 1, 6, 1, 6, 4, 4, 4]],
        [[2, 1, 4, 1, 4, 4, 2, 4], [4, 1, 6, 1, 6, 4, 5, 4, 4, 4], [0, 0, 1, 1]],
        {"size": [6, 8], "counts": RUNS},
        {"size": [6, 8], "counts": PACKED["counts"].decode()},
    ],
)
def test_every_form_of_a_mask_gives_the_same_run_lengths(coco, segmentation):
    objects = target(coco([annotation(segmentation=segmentation), annotation(8)]), masks=True)
    assert objects.masks[0] == objects.masks[1] == PACKED
    assert (decode_masks(objects.masks, objects.size) == SQUARE.astype(bool)).all()


@pytest.mark.parametrize("masks", [False, True])
@pytest.mark.parametrize("box", [None, []])
def test_a_missing_box_is_taken_from_the_mask(coco, masks, box):
    objects = target(coco([without("bbox") | ({} if box is None else {"bbox": box})]), masks)
    assert (objects.boxes.tolist(), objects.areas.tolist()) == ([[2, 1, 6, 4]], [12])


def test_missing_areas_are_those_of_the_masks_if_masks_are_read(coco):
    root = coco([annotation(bbox=[0, 0, 8, 6])])
    assert (target(root).areas.tolist(), target(root, masks=True).areas.tolist()) == ([48], [12])


def test_masks_are_needed_only_for_instance_segmentation(coco, refused):
    root = coco([without("segmentation")])
    assert len(target(root)) == 1
    with refused(r"annotation 7 of .*instances\.json has no mask; add it or remove the annotation"):
        target(root, masks=True)


@pytest.mark.parametrize("masks", [False, True])
def test_an_image_without_objects_is_kept(coco, masks):
    objects = targets(opened(coco([annotation()]), masks))["2.jpg"]
    assert (len(objects), objects.boxes.shape, objects.size) == (0, (0, 4), (6, 8))
    assert objects.masks == (() if masks else None)


def test_image_ids_may_begin_at_0_and_sizes_may_be_missing(coco):
    root = coco([annotation(image=0)])
    path = root / "instances.json"
    content = json.loads(path.read_text())
    content["images"] = [{"id": i, "file_name": f"{i + 1}.jpg"} for i in (0, 1)]
    path.write_text(json.dumps(content))
    splits = opened(root)
    objects = targets(splits)["1.jpg"]
    assert (objects.image_id, objects.size, len(objects)) == (0, (6, 8), 1)
    assert splits.train.shape(0) is None


@pytest.mark.parametrize("train", ["train", "_train", "_train2017"])
@pytest.mark.parametrize("val", ["annotations/instances_val2017.json", "instances_test.json"])
def test_two_files_are_two_parts(coco, train, val):
    coco([annotation()], f"annotations/instances{train}.json")
    splits = opened(coco([annotation(category=2)], val))
    assert [splits.train.target(0).labels.tolist(), splits.val.target(0).labels.tolist()] == [[1], [0]]


@pytest.mark.parametrize("name", ["_annotations.coco.json", "annotations.json"])
def test_files_beside_their_images_are_found(coco, name):
    coco([annotation()], f"train/{name}", "train")
    splits = opened(coco([annotation(category=2)], f"valid/{name}", "valid"))
    assert [part.load(0).size for part in (splits.train, splits.val)] == [(8, 6), (8, 6)]
    assert "/train/" in splits.train.path(0)
    assert "/valid/" in splits.val.path(0)


@pytest.mark.parametrize("name", ["annotations.json", "annotations/instances_default.json", "_annotations.coco.json"])
def test_one_file_is_split_by_seed(coco, name):
    splits = opened(coco([annotation()], name))
    assert {splits.train.path(0)[-5:], splits.val.path(0)[-5:]} == {"1.jpg", "2.jpg"}
    assert splits.train.shape(0) == splits.val.shape(0) == (6, 8)
    assert splits.train.load(0).size == (8, 6)
    orders = {opened(coco([annotation()], name), seed=seed).val.path(0)[-5:] for seed in range(10)}
    assert len(orders) == 2


def test_an_image_outside_the_folder_is_read(coco, tmp_path, save_image):
    save_image(tmp_path / "elsewhere" / "1.jpg")
    root = coco([annotation()], file_name="../elsewhere/1.jpg")
    assert opened(root).train.load(0).size == (8, 6)


def test_an_unused_category_with_the_name_of_another_is_dropped(coco, refused):
    categories = [{"id": 0, "name": "dog", "supercategory": "none"}, *CATEGORIES]
    assert opened(coco([annotation()], categories=categories)).train.classes.values == (2, 5)
    with refused(r"instances\.json: two classes have the same name, 'dog'"):
        opened(coco([annotation(), annotation(8, category=0)], categories=categories))


def test_coco_classes_have_cocos_colours_and_others_are_bright(coco):
    categories = [{"id": 1, "name": "person"}]
    assert opened(coco([], categories=categories)).train.classes.colours == ((220, 20, 60),)
    assert all(max(colour) > 150 for colour in opened(coco([])).train.classes.colours)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (annotation(8, category=9), "annotation 8 of {} has the category 9, which is not listed"),
        (annotation(8, category="dog"), "annotation 8 of {} has the category 'dog', which is not listed"),
        (annotation(8, category=[5]), "annotation 8 of {} has the category [5], which is not listed"),
        (annotation(8, image=3), "annotation 8 of {} is for the image 3, which is not listed"),
        (annotation(8, image="01"), "annotation 8 of {} is for the image '01', which is not listed"),
        (annotation(8, image=1.5), "annotation 8 of {} is for the image 1.5, which is not listed"),
        (annotation(8, iscrowd="maybe"), "annotation 8 of {} has the iscrowd 'maybe', which is neither 0 nor 1"),
        (annotation(7), "annotation 7 of {} has an id that another annotation has; give each its own"),
        (without("category_id", number=8), "annotation 8 of {} has no category_id"),
        (without("image_id", number=8), "annotation 8 of {} has no image_id"),
        ("{text}", "{} has the annotation '{{text}}', which is no JSON object; remove it"),
    ],
)
def test_an_annotation_that_contradicts_its_file_is_left_out_and_reported(coco, wrong, message):
    splits = opened(coco([annotation(), wrong]))
    assert sum(map(len, targets(splits).values())) == 1
    (note,) = splits.notes
    expected = message.format(f"{splits.source}/instances.json")
    assert note.startswith(f"one entry of the annotations is left out: {expected}")


def test_many_annotations_that_contradict_their_file_are_counted(coco):
    splits = opened(coco([annotation(i, category=9) for i in range(30)]))
    (note,) = splits.notes
    assert note.startswith("30 entries of the annotations are left out, the first: annotation 0 of ")


def test_of_two_images_with_one_id_the_first_is_kept_and_the_other_is_reported(coco):
    root = coco([annotation()])
    path = root / "instances.json"
    content = json.loads(path.read_text())
    content["images"].append({"id": 1, "file_name": "2.jpg", "height": 6, "width": 8})
    path.write_text(json.dumps(content))
    splits = opened(root)
    assert (len(splits.train) + len(splits.val), len(targets(splits)["1.jpg"])) == (2, 1)
    assert f"image id 1 of {path} is given to 1.jpg and to 2.jpg; give each its own" in splits.notes[0]


def respell(root, **changes):
    """Change the values of keys everywhere in the file of a set."""
    path = root / "instances.json"
    content = json.loads(path.read_text())
    for name in ("images", "annotations", "categories"):
        for record in content[name]:
            record |= {key: change(record[key]) for key, change in changes.items() if key in record}
    path.write_text(json.dumps(content))
    return root


@pytest.mark.parametrize("form", [float, str, lambda value: f"{value}.0"])
def test_numbers_of_data_frames_and_scripts_are_the_numbers(coco, form):
    written = [annotation(iscrowd=0, area=12), annotation(8, 2, 2, iscrowd=1, area=5)]
    expected = targets(opened(coco(written), masks=True))
    numbers = dict.fromkeys(("id", "image_id", "category_id", "iscrowd", "area", "height", "width"), form)
    root = respell(coco(written), bbox=lambda box: [form(side) for side in box], **numbers)
    splits = opened(root, masks=True)
    for name, objects in targets(splits).items():
        for key, value in vars(expected[name]).items():
            assert np.array_equal(getattr(objects, key), value) if key != "masks" else objects.masks == value
    assert splits.train.classes.values == (2, 5)
    assert splits.notes == (f'10 ids in {root / "instances.json"}, written as 1.0 or "1", read as whole numbers',)


@pytest.mark.parametrize(("crowd", "expected"), [(True, True), ("true", True), (2, True), (float("nan"), False)])
def test_a_crowd_region_is_marked_by_any_true_value(coco, crowd, expected):
    assert target(coco([annotation(iscrowd=crowd)])).crowd.tolist() == [expected]


def test_run_lengths_of_data_frames_are_the_mask(coco):
    floats = {"size": ["6", 8.0], "counts": [float(run) for run in RUNS]}
    objects = target(coco([annotation(segmentation=floats), annotation(8)]), masks=True)
    assert objects.masks[0] == objects.masks[1] == PACKED


def test_boxes_that_are_fractions_of_their_image_are_said(coco):
    root = coco([annotation(bbox=[0.25, 0.2, 0.5, 0.5]), annotation(8, bbox=[0, 0, 1, 1])])
    splits = opened(root)
    (problem,) = splits.problems
    assert problem.startswith(f"2 of 2 boxes in {root / 'instances.json'} lie in the first pixels")
    assert problem in splits.notes


@pytest.mark.parametrize(
    ("boxes", "meant"),
    [
        ([[1, 1, 7, 5], [0, 0, 8, 6], [2, 3, 4, 5]], "left, top, right and bottom"),
        ([[4, 3, 8, 6], [6, 4, 4, 3], [2, 2, 2, 2]], "centre, width and height"),
        ([[4, 3, 8, 6], [1, 2, 1, 1], [0, 0, 6, 4]], None),
        ([[1, 1, 7, 5], [0, 0, 8, 6]], None),  # nothing reaches beyond the image
    ],
)
def test_boxes_that_fit_only_in_another_convention_are_said(coco, boxes, meant):
    splits = opened(coco([annotation(i, bbox=box) for i, box in enumerate(boxes)]))
    problems = [problem for problem in splits.problems if "beyond their image, and all fit if" in problem]
    assert [problem for problem in problems if f"are {meant}; give left" in problem] == problems
    assert len(problems) == (meant is not None)


@pytest.mark.parametrize("form", ["images\\{}", "..\\upload\\{}", "/media/upload/{}", "{}"])
def test_images_with_names_of_another_system_are_found(coco, form):
    root = respell(coco([annotation()]), file_name=lambda name: form.format(name.upper()))
    splits = opened(root)
    assert len(targets(splits)) == 2
    assert all(part.load(0).size == (8, 6) for part in (splits.train, splits.val))
    assert splits.notes[0].startswith(f"{root / 'instances.json'}: 2 names found although spelled otherwise, in ")


@pytest.mark.parametrize("name", ["x" * 300 + ".jpg", "a\0b.jpg", "images/1.jpg?" + "X" * 300], ids=ascii)
@pytest.mark.parametrize("masks", [False, True])
def test_a_name_that_no_file_can_have_is_named_when_it_is_read(coco, refused, name, masks):
    root = coco([annotation()])
    content = json.loads((root / "instances.json").read_text())
    content["images"][0]["file_name"] = name
    (root / "instances.json").write_text(json.dumps(content))
    splits = opened(root, masks)
    parts = [part for part in (splits.train, splits.val) if part.path(0).endswith(name)]
    with refused(r"instances\.json lists .*, which does not exist; add it or remove its record"):
        parts[0].load(0)


def test_an_image_is_never_found_in_place_of_another(coco):
    root = coco([annotation()])
    respell(root, file_name=lambda name: "images/1.jpg" if name == "1.jpg" else "other/1.jpg")
    splits = opened(root)
    paths = [part.path(0) for part in (splits.train, splits.val)]
    assert sorted(paths) == [str(root / "images" / "1.jpg"), str(root / "other" / "1.jpg")]


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ("2 1 4 3", "has the bbox '2 1 4 3'; give four finite numbers, x, y, width and height"),
        (["2", "one", "4", "3"], "has the bbox "),
        ([2, 1, 4], "has the bbox "),
        ([2, 1, 4, None], "has the bbox "),
        ([2, 1, float("nan"), 3], r"has the bbox \[2, 1, nan, 3\]; give four finite"),
        ([2, 1, float("inf"), 3], "has the bbox "),
        ([2, 1, 10**400, 3], "has the bbox "),
        ({"x": 2}, "has the bbox "),
    ],
)
@pytest.mark.parametrize("masks", [False, True])
def test_a_malformed_box_is_named(coco, refused, box, message, masks):
    with refused(rf"annotation 7 of .*instances\.json {message}"):
        target(coco([annotation(bbox=box)]), masks)


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ([2, 1, 0, 3], [2, 1, 2, 4]),
        ([2, 1, -2, -3], [2, 1, 0, -2]),
        ([8, 1, 4, 3], [8, 1, 12, 4]),
        ([-4, 1, 4, 3], [-4, 1, 0, 4]),
    ],
)
def test_boxes_without_area_in_their_image_are_kept_and_reported(coco, box, expected):
    root = coco([annotation(), annotation(8, bbox=box)], "instances_train.json")
    splits = opened(coco([annotation(bbox=box)], "instances_val.json"))
    assert splits.train.target(0).boxes.tolist() == [[2, 1, 6, 4], expected]
    message = "one training box has no area inside its image and is left out: annotation 8 of "
    assert splits.notes[-1] == f"{message}{root / 'instances_train.json'}"


def test_has_area_agrees_with_usable():
    sides = np.arange(-3, 12, 1.5)
    boxes = np.array([(left, 1, right, 2) for left in sides for right in sides])
    for all_boxes in (boxes, boxes[:, [1, 0, 3, 2]]):
        expected = trainable(build_objects(all_boxes.tolist(), [0] * len(boxes), size=(6, 8), image_id=0))
        assert [has_area(box, (6, 8)) for box in all_boxes.tolist()] == expected.tolist()


def test_boxes_without_area_are_counted_only_in_the_training_part(coco):
    root = coco([annotation(i, 1 + i % 2, bbox=[2, 1, 0, 3]) for i in range(10)])
    (note,) = opened(root).notes
    assert note.startswith("5 training boxes have no area inside their image and are left out, the first: ")


@pytest.mark.parametrize("height", ["six", -6, 0, 2**70, None])
def test_sizes_that_no_image_has_are_named(coco, refused, height):
    with refused(r"instances\.json gives \(.*, 8\) as height and width of .*[12]\.jpg; fix it"):
        target(coco([annotation()], height=height))


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ([[2, 1, 6, 1, 6]], "polygon .*must list x and y alternately, numbers below 1,000,000"),
        ([[2, 1, float("nan"), 1, 6, 4]], "numbers below 1,000,000"),
        ([["a", "b", "c", "d", "e", "f"]], "numbers below 1,000,000"),
        ([[[2, 1], [6, 1], [6, 4]]], "must list x and y alternately"),
        ({"size": [8, 6], "counts": RUNS}, r"mask of \[8, 6\] on an image of \[6, 8\] pixels; fix it"),
        ({"size": [6, 8], "counts": [13, 3]}, "which do not make 6 x 8 pixels"),
        ({"size": [6, 8], "counts": PACKED["counts"].decode()[:4]}, "which do not make 6 x 8 pixels"),
    ],
)
def test_a_damaged_mask_is_named_if_masks_are_needed(coco, refused, segmentation, message):
    root = coco([annotation(segmentation=segmentation)])
    assert len(target(root)) == 1
    with refused(f"annotation 7 of .*{message}"):
        target(root, masks=True)


def test_an_object_with_neither_box_nor_mask_is_named(coco, refused):
    with refused("annotation 7 of .* has neither box nor mask; add one or remove the annotation"):
        target(coco([without("bbox", "segmentation")]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("categories"), "has no categories, so it is no COCO file"),
        (lambda c: c.update(images=[]), "lists no image"),
        (lambda c: c.update(annotations=3), "has a record that is none of COCO's"),
        (lambda c: c["images"][0].pop("file_name"), "has a record without 'file_name'; fix the file"),
        (lambda c: c["images"][0].update(id="a"), r"image 1\.jpg has the id 'a'; give it a whole number"),
        (lambda c: c["categories"][0].update(id=float("inf")), "has a record that is none of COCO's"),
        (lambda c: c["categories"].clear(), "there is no class; list at least one"),
        (lambda c: c["annotations"][0].update(segments_info=[]), "holds panoptic segments; give it a name"),
    ],
)
def test_a_file_that_is_no_coco_file_is_named(coco, refused, change, message):
    root = coco([annotation()])
    content = json.loads((root / "instances.json").read_text())
    change(content)
    (root / "instances.json").write_text(json.dumps(content))
    with refused(rf"instances\.json.*{message}"):
        opened(root)


def test_two_files_with_no_category_in_common_are_refused(coco, refused):
    coco([annotation()], "instances_train.json")
    with refused("list different categories, .*; give both the same"):
        opened(coco([], "instances_val.json", categories=[{"id": 5, "name": "car"}]))


def test_a_link_to_itself_beside_the_annotations_hides_nothing(coco):
    root = coco([annotation()], "instances_train.json")
    (root / "loop.json").symlink_to(root / "loop.json")
    splits = opened(coco([annotation()], "instances_val.json"))
    assert (len(splits.train.target(0).boxes), len(splits.val.target(0).boxes)) == (1, 1)


def test_opening_opens_no_image(coco):
    root = coco([annotation()])
    for i in (1, 2):
        (root / "images" / f"{i}.jpg").write_bytes(b"no image")
    splits = opened(root)
    assert len(target(root)) == 1
    with pytest.raises(Exception, match="is no image in a known format"):
        splits.train.load(0)


# Layouts


def test_for_an_unknown_layout_the_known_ones_are_listed(tmp_path, refused, save_image):
    save_image(tmp_path / "cats" / "1.jpg")
    with refused(r"known layout; known are COCO's .*Pascal VOC's .*YOLO's .*; bring it into one"):
        opened(tmp_path)


def test_a_missing_folder_is_named(tmp_path, refused):
    with refused("does not exist; give a folder with images and annotations, or scenes"):
        opened(tmp_path / "none")
    (tmp_path / "file").write_text("")
    with refused("is a file; give a folder"):
        opened(tmp_path / "file")


def test_one_image_is_too_few(coco, refused):
    root = coco([annotation()])
    content = json.loads((root / "instances.json").read_text())
    content["images"].pop()
    (root / "instances.json").write_text(json.dumps(content))
    with refused(r"leaves no image to evaluate on \(1 image, share 0.2 held out\); add images"):
        assert opened(root).val


def test_settings_of_semantic_masks_are_refused(coco, refused):
    config = DataConfig(data=str(coco([annotation()])), masks=MaskConfig(ignore=(1,)))
    with refused("`masks` sets how semantic masks are read; leave it out"):
        open_objects_for_run(config, masks=False)


BOXES = [(2, 1, 6, 4), (0, 0, 8, 6), (5, 3, 8, 5), (0, 2, 1, 3)]
LABELS = [1, 0, 0, 1]
NAMES = ("cat", "dog")


def corners(box):
    left, top, right, bottom = box
    return [left, top, right, top, right, bottom, left, bottom]


def write_coco(root, save_image):
    save_image(root / "images" / "a.png", (8, 6))
    save_image(root / "images" / "b.png", (8, 6))
    annotations = [
        {
            "id": i, "image_id": 1, "category_id": label, "segmentation": [corners(box)],
            "bbox": [box[0], box[1], box[2] - box[0], box[3] - box[1]],
        }
        for i, (box, label) in enumerate(zip(BOXES, LABELS, strict=True))
    ]  # fmt: skip
    images = [{"id": i, "file_name": f"{name}.png", "height": 6, "width": 8} for i, name in ((1, "a"), (2, "b"))]
    categories = [{"id": i, "name": name} for i, name in enumerate(NAMES)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (root / "instances.json").write_text(json.dumps(content))


def write_voc(root, save_image):
    (root / "Annotations").mkdir()
    for name, number in (("a", len(BOXES)), ("b", 0)):
        save_image(root / "JPEGImages" / f"{name}.png", (8, 6))
        objects = "".join(
            f"<object><name>{NAMES[label]}</name><bndbox><xmin>{box[0] + 1}</xmin><ymin>{box[1] + 1}</ymin>"
            f"<xmax>{box[2]}</xmax><ymax>{box[3]}</ymax></bndbox></object>"
            for box, label in list(zip(BOXES, LABELS, strict=True))[:number]
            if box[2] - box[0] > 1
        )
        size = "<size><width>8</width><height>6</height></size>"
        (root / "Annotations" / f"{name}.xml").write_text(f"<annotation>{size}{objects}</annotation>")


def write_yolo(root, save_image, polygons=False):
    (root / "labels").mkdir()
    for name in ("a", "b"):
        save_image(root / "images" / f"{name}.png", (8, 6))
    lines = []
    for (left, top, right, bottom), label in zip(BOXES, LABELS, strict=True):
        box = [(left + right) / 16, (top + bottom) / 12, (right - left) / 8, (bottom - top) / 6]
        fractions = (np.array(corners((left, top, right, bottom))).reshape(-1, 2) / (8, 6)).ravel().tolist()
        lines.append(" ".join([str(label), *(f"{value:.6f}" for value in (fractions if polygons else box))]))
    (root / "labels" / "a.txt").write_text("\n".join(lines))
    (root / "labels" / "b.txt").write_text("")
    (root / "data.yaml").write_text("names: [cat, dog]\n")


@pytest.mark.parametrize(
    ("write", "masks"),
    [
        (write_coco, False),
        (write_coco, True),
        (write_voc, False),
        (write_yolo, False),
        (lambda *where: write_yolo(*where, polygons=True), False),
        (lambda *where: write_yolo(*where, polygons=True), True),
    ],
)
def test_the_same_objects_in_every_format_are_the_same_objects(tmp_path, save_image, write, masks):
    write(tmp_path, save_image)
    splits = opened(tmp_path, masks)
    assert splits.train.names == NAMES
    objects_of = targets(splits)
    count = 3 if write is write_voc else 4  # VOC's files cannot hold a box that is one pixel wide
    assert objects_of["a.png"].labels.tolist() == LABELS[:count]
    np.testing.assert_allclose(objects_of["a.png"].boxes, BOXES[:count], atol=1e-4)
    assert len(objects_of["b.png"]) == 0
    assert {objects.size for objects in objects_of.values()} == {(6, 8)}
    if masks:
        decoded = decode_masks(objects_of["a.png"].masks, (6, 8))
        for (left, top, right, bottom), mask in zip(BOXES, decoded, strict=True):
            expected = np.zeros((6, 8), dtype=bool)
            expected[top:bottom, left:right] = True
            assert (mask == expected).all()


def test_voc_comes_before_yolo_and_coco_beside_voc_is_refused(tmp_path, save_image, refused):
    write_yolo(tmp_path, save_image)
    assert opened(tmp_path).train.path(0).endswith("png")
    (tmp_path / "data.yaml").write_text("names: [from_yolo, dog]\n")
    assert opened(tmp_path).train.names == ("from_yolo", "dog")
    write_voc(tmp_path, save_image)
    splits = opened(tmp_path)
    assert splits.train.names == ("cat", "dog")
    assert "JPEGImages" in splits.train.path(0)
    assert any("VOC's XML files" in note and "YOLO's" in note and "first is read" in note for note in splits.notes)
    write_coco(tmp_path, save_image)
    with refused(r"two formats, COCO's JSON \(.*\) and VOC's XML files \(.*\); give .* `layout\.annotations`"):
        opened(tmp_path)
    decided = DataConfig(data=str(tmp_path), layout=LayoutConfig(annotations="Annotations"))
    assert "JPEGImages" in open_objects_for_run(decided, masks=False).train.path(0)


# Scenes


@pytest.mark.parametrize("masks", [False, True])
def test_scenes_have_their_digits_as_objects_without_a_background(masks):
    splits = opened("scenes", masks)
    assert splits.train.names == splits.val.names == tuple("0123456789")
    assert (len(splits.train), len(splits.val), splits.notes) == (2000, 200, ())
    for part, train in ((splits.train, True), (splits.val, False)):
        scene, objects = draw_scene(5, train=train), part.target(5)
        assert part.load(5).tobytes() == scene.image.tobytes()
        assert (objects.boxes == scene.boxes).all()
        assert (objects.labels == scene.labels).all()
        assert (objects.areas == scene.masks.sum(axis=(1, 2))).all()
        assert (objects.size, objects.image_id, objects.crowd.any()) == ((112, 112), 5, False)
        assert part.shape(5) == (112, 112)
        if masks:
            assert (decode_masks(objects.masks, objects.size) == scene.masks).all()
        else:
            assert objects.masks is None


def test_images_with_exif_rotation_have_their_upright_size(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (8, 6)).save(tmp_path / "turned.jpg", exif=exif)
    Image.new("RGB", (8, 6)).save(tmp_path / "plain.png")
    assert image_size(tmp_path / "turned.jpg") == (8, 6)
    assert image_size(tmp_path / "plain.png") == (6, 8)
