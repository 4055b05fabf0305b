"""`twins check` of objects: it names every fault that would spoil a run, and nothing else."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from twins.data.config import DataConfig
from twins.tasks.detection.spec import DetectionSpec

CATEGORIES = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]


def shape(left, top, right, bottom):
    return [[left, top, right, top, right, bottom, left, bottom]]


class Data:
    """A clean set of two classes, three images to train on and two to evaluate on, in COCO's JSON."""

    def __init__(self, root, save_image):
        self.root = root
        for part, count in (("train", 3), ("val", 2)):
            images = [{"id": i, "file_name": f"{i}.png", "width": 80 + i, "height": 60} for i in range(count)]
            annotations = []
            for image in images:
                save_image(root / part / image["file_name"], (image["width"], 60))
                for category, box in ((1, (2, 4, 40, 40)), (2, (30, 8, 42, 50))):
                    left, top, width, height = box
                    polygon = shape(left, top, left + width, top + height)
                    annotations.append(
                        {
                            "id": len(annotations), "image_id": image["id"], "category_id": category,
                            "bbox": list(box), "segmentation": polygon,
                        }
                    )  # fmt: skip
            self.write(part, {"images": images, "annotations": annotations, "categories": CATEGORIES})

    def path(self, part):
        return self.root / f"instances_{part}.json"

    def write(self, part, content):
        self.path(part).write_text(json.dumps(content))

    def change(self, number, part="train", **changed):
        """Change an annotation."""
        content = json.loads(self.path(part).read_text())
        content["annotations"][number] |= changed
        self.write(part, content)

    def edit(self, change, part="train"):
        """Change a file's content."""
        content = json.loads(self.path(part).read_text())
        change(content)
        self.write(part, content)

    def check(self, masks=True):
        return DetectionSpec(masks=masks).check(DataConfig(data=str(self.root)))

    def only_problem(self, masks=True):
        """Return the one problem of the set."""
        (problem,) = self.check(masks).problems
        assert "\n" not in problem
        return problem


@pytest.fixture
def data(tmp_path, save_image):
    return Data(tmp_path, save_image)


@pytest.mark.parametrize("masks", [False, True])
def test_a_clean_set_has_no_problem_and_the_right_counts(data, masks):
    report = data.check(masks)
    assert (report.problems, report.notes) == ([], [])
    assert report.names == ["cat", "dog"]
    assert report.images == {"train": 3, "val": 2}
    assert report.counts == {"train": {"cat": 3, "dog": 3}, "val": {"cat": 2, "dog": 2}}
    assert report.sizes == {"width": [80, 81, 82], "height": [60, 60, 60]}
    assert report.shares == {}


def test_scenes_are_clean(monkeypatch):
    monkeypatch.setattr("twins.data.formats.scenes.COUNTS", {True: 40, False: 10})
    report = DetectionSpec(masks=True).check(DataConfig(data="scenes"))
    assert (report.problems, report.images) == ([], {"train": 40, "val": 10})
    assert sum(report.counts["train"].values()) > 100


def test_a_box_without_area_is_named(data):
    data.change(2, bbox=[5, 6, 0, 40])
    assert data.only_problem(masks=False) == (
        f"annotation 2 of {data.path('train')} has the box 5, 6, 5, 46, which has no area; fix it or remove it"
    )
    data.change(2, bbox=[5, 6, -4, 40])
    assert "has the box 5, 6, 1, 46, which has no area" in data.only_problem(masks=False)


def test_a_box_outside_its_image_is_named(data):
    data.change(3, part="val", bbox=[81, 6, 9, 9])
    assert data.only_problem(masks=False) == (
        f"annotation 3 of {data.path('val')} has the box 81, 6, 90, 15, which is outside its image of 81 x 60 "
        "pixels; fix it"
    )


@pytest.mark.parametrize(
    ("box", "beyond"),
    [
        ([-1, 4, 40, 40], None),
        ([50, 20, 31, 41], None),
        ([-1.5, 4, 40, 40], "1.5"),
        ([50, 20, 30, 42.5], "2.5"),
        ([50, 20, 40, 20], "10"),
    ],
)
def test_a_box_that_reaches_more_than_a_pixel_beyond_its_image_is_named(data, box, beyond):
    data.change(0, bbox=box)
    if beyond is None:
        assert data.check(masks=False).problems == []
    else:
        assert f"reaches {beyond} pixels beyond its image of 80 x 60; fix it" in data.only_problem(masks=False)


def test_a_wrong_size_is_named_with_both_sizes(data):
    data.edit(lambda content: content["images"][1].update(width=90, height=70))
    path = data.root / "train" / "1.png"
    assert data.only_problem() == (
        f"{path} has 81 x 60 pixels, its annotations say 90 x 70; fix one of them"
    )  # fmt: skip


def test_the_size_of_an_image_with_exif_rotation_is_named_with_its_cause(data):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (80, 60)).save(data.root / "train" / "0.jpg", exif=exif)
    data.edit(lambda content: content["images"][0].update(file_name="0.jpg"))
    problems = data.check(masks=False).problems
    assert problems[0].endswith(
        "has 60 x 80 pixels, its annotations say 80 x 60; height and width are swapped, or it is stored turned (EXIF) "
        "and must be annotated upright"
    )


def test_a_mask_that_does_not_fit_its_box_is_named(data):
    data.change(2, segmentation=shape(50, 4, 80, 44))
    assert data.only_problem() == (
        f"annotation 2 of {data.path('train')} has the box 2, 4, 42, 44, and a mask that fills 50, 4, 80, 44; "
        "fix one of them"
    )
    assert data.check(masks=False).problems == []


@pytest.mark.parametrize(("box", "polygon"), [((5, 5, 1.2, 0.8), (4, 4, 7, 6)), ((2, 4, 40, 40), (2, 4, 40, 30))])
def test_a_mask_that_differs_from_its_box_by_rounding_is_not_named(data, box, polygon):
    data.change(2, bbox=list(box), segmentation=shape(*polygon))
    assert data.check().problems == []


@pytest.mark.parametrize("segmentation", [shape(5, 5, 5.1, 5.1), {"size": [60, 81], "counts": [81 * 60]}])
def test_an_empty_mask_is_named(data, segmentation):
    data.change(2, segmentation=segmentation)
    assert data.only_problem() == (
        f"annotation 2 of {data.path('train')} has an empty mask; draw it or remove the object"
    )  # fmt: skip


def test_two_equal_boxes_of_one_class_are_named(data):
    data.edit(lambda content: content["annotations"].append(content["annotations"][3] | {"id": 77}))
    path = data.path("train")
    assert data.only_problem() == f"annotation 77 of {path} and annotation 3 of {path} are the same box of class " + (
        "dog; remove one"
    )


def test_two_equal_boxes_of_two_classes_are_not_named(data):
    data.edit(lambda content: content["annotations"].append(content["annotations"][3] | {"id": 77, "category_id": 1}))
    assert data.check().problems == []


def test_each_annotation_that_contradicts_its_file_is_named(data):
    data.change(0, category_id=9)
    data.change(1, id=5)
    data.change(2, image_id=40)
    data.change(3, part="val", category_id=7)
    path, other = data.path("train"), data.path("val")
    assert data.check().problems == [
        f"annotation 0 of {path} has the category 9, which is not listed; list it or remove the annotation",
        f"annotation 2 of {path} is for the image 40, which is not listed; list it or remove the annotation",
        f"annotation 5 of {path} has an id that another annotation has; give each its own",
        f"annotation 3 of {other} has the category 7, which is not listed; list it or remove the annotation",
    ]


def test_an_image_id_given_twice_is_named(data):
    data.edit(lambda content: content["images"].append(content["images"][0] | {"file_name": "1.png"}))
    expected = f"image id 0 of {data.path('train')} is given to 0.png and to 1.png; give each its own"
    assert data.only_problem() == expected


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"bbox": "1 2 3 4"}, "has the bbox '1 2 3 4'; give four finite numbers"),
        ({"segmentation": None}, "has no mask; add it or remove the annotation"),
        ({"segmentation": {"size": [1, 1], "counts": [1]}}, "has a mask of [1, 1] on an image of [60, 81] pixels"),
    ],
)
def test_annotations_that_cannot_be_read_are_named(data, changed, message):
    data.change(2, **changed)
    assert data.only_problem().startswith(f"annotation 2 of {data.path('train')} {message}")


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "is empty (0 bytes)"), (b"text", "is no image in a known format"), (None, "which does not exist")],
)
def test_images_that_cannot_be_read_are_named(data, content, message):
    path = data.root / "train" / "2.png"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    assert f"{path}" in data.only_problem()
    assert message in data.only_problem()
    assert data.check().counts["train"] == {"cat": 3, "dog": 3}


def test_a_class_that_training_lacks_is_named_and_one_that_evaluation_lacks_is_worth_a_note(data):
    data.edit(lambda content: content.update(annotations=[a for a in content["annotations"] if a["category_id"] == 1]))
    assert data.only_problem() == "class dog has 2 objects to evaluate on and none to train on; move some"
    data.edit(lambda content: content.update(annotations=[]), part="val")
    report = data.check()
    assert [problem.partition(",")[0] for problem in report.problems] == ["no held-out image has an object to find"]
    assert "1 class without objects, not to be learned: dog" in report.notes
    assert "1 class without objects to evaluate on, so without an AP: cat" in report.notes


def test_the_same_image_in_both_parts_is_named(data):
    original, copy = data.root / "train" / "0.png", data.root / "val" / "0.png"
    copy.write_bytes(original.read_bytes())
    expected = f"the same image is in training and in evaluation: {original}, {copy}; keep it in one"
    assert data.only_problem() == expected


def test_every_problem_is_named_at_once(data):
    (data.root / "val" / "0.png").write_bytes(b"")
    data.change(0, bbox=[5, 6, 0, 40])
    data.change(2, segmentation=[])
    data.change(1, category_id=9)
    assert len(data.check().problems) == 4


def test_crowds_are_counted_apart(data):
    data.change(0, iscrowd=1)
    report = data.check()
    assert report.counts["train"] == {"cat": 2, "dog": 3}
    assert report.notes == ["1 crowd region, in which detections are ignored"]


def test_images_without_objects_are_worth_a_note(data):
    data.edit(lambda content: content.update(annotations=content["annotations"][:2]))
    assert data.check().notes == [
        "2 images to train on and 0 images held out without objects; they are learned and measured as background"
    ]


def test_small_objects_are_worth_a_note(data):
    for number in (0, 2, 4, 1):
        data.change(number, bbox=[2, 4, 20, 20])
    (note,) = data.check(masks=False).notes
    assert note == "half of the training objects have a side below 20 pixels; consider a larger `size`"


def test_a_rare_class_is_worth_a_note(data):
    def repeat(content):
        copies = [content["annotations"][0] | {"id": 100 + i, "bbox": [2, 4, 40, 10 + i]} for i in range(28)]
        content["annotations"] += copies

    data.edit(repeat)
    (note,) = data.check(masks=False).notes
    assert note == "class cat has 31 training objects, dog 3; more images with dog would help it most"


def test_files_of_other_formats_are_named_by_object_and_line(tmp_path, save_image):
    for part, name in (("train", "a"), ("val", "b")):
        save_image(tmp_path / "images" / part / f"{name}.png", (80, 60))
        (tmp_path / "labels" / part).mkdir(parents=True)
        (tmp_path / "labels" / part / f"{name}.txt").write_text("0 .5 .5 .8 .8\n\n0 .5 .5 0 .5\n")
    (tmp_path / "labels" / "train" / "a.txt").write_text("0 .5 .5 .8 .8\n\n0 .9 .5 .5 .5\n3 .5 .5 .5 .5\n")
    (tmp_path / "data.yaml").write_text("names: [cat]")
    labels = tmp_path / "labels"
    report = DetectionSpec(masks=False).check(DataConfig(data=str(tmp_path)))
    assert report.problems == [
        f"line 4 of {labels / 'train' / 'a.txt'} has the class 3, which is not listed; list it or remove the line",
        f"line 3 of {labels / 'train' / 'a.txt'} has the box 52, 15, 92, 45, which reaches 12 pixels beyond its image "
        "of 80 x 60; fix it",
        f"line 3 of {labels / 'val' / 'b.txt'} has the box 40, 15, 40, 45, which has no area; fix it or remove it",
    ]


def test_a_damaged_file_of_voc_is_named_and_the_others_are_checked(tmp_path, save_image):
    box = "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>70</xmax><ymax>50</ymax></bndbox>"
    for name, content in (("a", f"<object><name>cat</name>{box}</object>"), ("b", "<object>"), ("c", "")):
        save_image(tmp_path / "JPEGImages" / f"{name}.jpg", (80, 60))
        (tmp_path / "Annotations").mkdir(exist_ok=True)
        (tmp_path / "Annotations" / f"{name}.xml").write_text(f"<annotation>{content}</annotation>")
    (tmp_path / "ImageSets" / "Main").mkdir(parents=True)
    for part in ("train", "val"):
        names = "a\nb\ngone\n" if part == "train" else "c\n"
        (tmp_path / "ImageSets" / "Main" / f"{part}.txt").write_text(names)
    problems = DetectionSpec(masks=False).check(DataConfig(data=str(tmp_path))).problems
    assert len(problems) == 4
    assert "no held-out image has an object" in problems[3]
    assert "b.xml is no XML" in problems[0]
    assert "there is no image" in problems[1]
    assert "there is no file of annotations" in problems[2]


def test_boxes_that_are_fractions_of_their_image_are_a_problem(data):
    for number in range(6):
        data.change(number, bbox=[0.1, 0.2, 0.5, 0.5 + number / 100])
    problem = data.only_problem(masks=False)
    assert problem.startswith(f"6 of 6 boxes in {data.path('train')} lie in the first pixels of their image, so they ")


def test_many_crowd_regions_are_a_problem_because_tools_write_them_for_objects_with_holes(data):
    for number in range(3):
        data.change(number, iscrowd=1)
    problems = [problem for problem in data.check().problems if "crowd" in problem]
    assert problems == [
        "3 of 10 annotations are crowd regions (iscrowd), which are neither learned nor counted; some tools write this "
        "for objects with holes or several parts: give these the iscrowd 0"
    ]
