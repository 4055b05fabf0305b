"""VOC's XML files as tools lay them out: parts by any lists and folders, and every file accounted for."""

from __future__ import annotations

import shutil

import pytest
from PIL import Image

from twins.data.config import DataConfig, LayoutConfig
from twins.data.formats.open import open_objects
from twins.data.formats.source import LAYOUT_FILE, Source, layout_text
from twins.data.formats.voc import find_voc

COLOURS = {"a": "red", "b": "green", "c": "blue", "d": "white", "e": "black", "f": "grey"}


def xml(*boxes, name="cell", more="", size=(8, 6)):
    objects = "".join(
        f"<object><name>{name}</name><bndbox><xmin>{x0}</xmin><ymin>{y0}</ymin><xmax>{x1}</xmax><ymax>{y1}</ymax>"
        "</bndbox></object>"
        for x0, y0, x1, y1 in boxes or [(3, 2, 6, 5)]
    )
    width, height = size
    return f"<annotation>{more}<size><width>{width}</width><height>{height}</height></size>{objects}</annotation>"


def write(root, files):
    """Write texts, and images of 8 x 6 pixels for `None`."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if content is None:
            Image.new("RGB", (8, 6), COLOURS.get(path.stem, "pink")).save(path)
        elif isinstance(content, bytes):
            path.write_bytes(content)
        else:
            path.write_text(content, encoding="utf-8")
    return root


def voc(names, images="JPEGImages/{}.jpg", xmls="Annotations/{}.xml", content=None):
    return {images.format(n): None for n in names} | {xmls.format(n): content or xml() for n in names}


def opened(root, **settings):
    return open_objects(DataConfig(data=str(root), layout=LayoutConfig(**settings)), masks=False)


def names(images):
    return "".join(sorted(images.path(i).rpartition("/")[2].partition(".")[0] for i in range(len(images))))


def parts(splits):
    return {part: names(images) for part, images in splits.parts.items()}


def check_plan(splits, root):
    """Check that all files are accounted for, and that the layout as recognised opens the same images."""
    plan = splits.plan
    assert sum(plan.used.values()) + sum(group.count for group in plan.passed_over) == plan.files
    (root / LAYOUT_FILE).write_text(layout_text(splits.layout))
    again = opened(root)
    assert parts(again) == parts(splits)
    assert [again.parts[name].path(0) for name in again.parts] == [splits.parts[name].path(0) for name in splits.parts]
    (root / LAYOUT_FILE).unlink()


def reasons(splits):
    return {group.reason: group.count for group in splits.plan.passed_over}


WHOLE = None
LAYOUTS = {
    "lists": (voc("abcd") | {"ImageSets/Main/train.txt": "a\nb", "ImageSets/Main/val.txt": "c"}, ("ab", "c", None)),
    "trainval": (
        voc("abc") | {"ImageSets/Main/trainval.txt": "a\nb", "ImageSets/Main/test.txt": "c"},
        ("ab", "c", "c"),
    ),
    "cvat": (
        voc("abc") | {"ImageSets/Main/Train.txt": "a\nb", "ImageSets/Main/Validation.txt": "c"},
        ("ab", "c", None),
    ),
    "no Main": (voc("abc") | {"ImageSets/train.txt": "a\nb", "ImageSets/val.txt": "c"}, ("ab", "c", None)),
    "Layout": (voc("abc") | {"ImageSets/Layout/train.txt": "a", "ImageSets/Layout/val.txt": "c"}, ("a", "c", None)),
    "paddle": (
        voc("abc") | {"train.txt": "./JPEGImages/a.jpg ./Annotations/a.xml", "val.txt": "JPEGImages/c.jpg x"},
        ("a", "c", None),
    ),
    "default": (voc("abcdef") | {"ImageSets/Main/default.txt": "a\nb\nc"}, WHOLE),
    "class lists": (
        voc("abc") | {"ImageSets/Main/cell_train.txt": "a 1\nb -1", "ImageSets/Main/cell_val.txt": "c -1"},
        ("ab", "c", None),
    ),
    "folders of XML": (
        voc("ab", "JPEGImages/train/{}.jpg", "Annotations/train/{}.xml")
        | voc("c", "JPEGImages/valid/{}.jpg", "Annotations/valid/{}.xml"),
        ("ab", "c", None),
    ),
    "images in folders": (voc("ab", "images/train/{}.jpg") | voc("c", "images/val/{}.jpg"), ("ab", "c", None)),
    "flat": (voc("abcde", "{}.jpg", "{}.xml"), WHOLE),
    "in one folder": (voc("abcde", "images/{}.jpg", "images/{}.xml"), WHOLE),
    "cameras": (voc("abc", "cam1/{}.jpg", "cam1/{}.xml") | voc("de", "cam2/{}.jpg", "cam2/{}.xml"), WHOLE),
    "images at the top": (voc("abcde", "{}.jpg", "annotations/{}.xml"), WHOLE),
    "roboflow": (
        voc("ab", "train/{}.jpg", "train/{}.xml")
        | voc("c", "valid/{}.jpg", "valid/{}.xml")
        | voc("d", "test/{}.jpg", "test/{}.xml"),
        ("ab", "c", "d"),
    ),
    "parts with folders": (
        voc("ab", "train/images/{}.jpg", "train/annotations/{}.xml")
        | voc("c", "val/images/{}.jpg", "val/annotations/{}.xml"),
        ("ab", "c", None),
    ),
    "oxford": (
        voc("abc", "images/{}.jpg", "annotations/xmls/{}.xml")
        | {"images/d.jpg": None, "annotations/trainval.txt": "a 1 1 1\nb 2 1 1", "annotations/test.txt": "c 1 1 1"},
        ("ab", "c", "c"),
    ),
    "ilsvrc": (
        voc("ab", "Data/CLS-LOC/train/n01/{}.JPEG", "Annotations/CLS-LOC/train/n01/{}.xml")
        | voc("c", "Data/CLS-LOC/val/{}.JPEG", "Annotations/CLS-LOC/val/{}.xml")
        | {"ImageSets/CLS-LOC/train_cls.txt": "n01/a 1", "ImageSets/CLS-LOC/train_loc.txt": "n01/a 1"},
        ("ab", "c", None),
    ),
    "one year": (
        voc("abc", "VOCdevkit/VOC2007/JPEGImages/{}.jpg", "VOCdevkit/VOC2007/Annotations/{}.xml")
        | {"VOCdevkit/VOC2007/ImageSets/Main/train.txt": "a", "VOCdevkit/VOC2007/ImageSets/Main/val.txt": "b"},
        ("a", "b", None),
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_parts_are_those_of_lists_and_folders(tmp_path, layout):
    files, expected = LAYOUTS[layout]
    splits = opened(write(tmp_path, files))
    found = parts(splits)
    if expected is WHOLE:
        listed = "abc" if layout == "default" else "abcde"
        assert "".join(sorted(found["train"] + found["val"])) == listed
    else:
        assert tuple(found.get(part) for part in ("train", "val", "test")) == expected
    assert all(images.target(0).boxes.tolist() == [[2, 1, 6, 5]] for images in splits.parts.values())
    assert not splits.faults
    assert not splits.problems
    check_plan(splits, tmp_path)


def test_class_lists_and_images_that_no_list_names_are_passed_over_with_a_reason(tmp_path):
    lists = {"ImageSets/Main/train.txt": "a", "ImageSets/Main/val.txt": "b", "ImageSets/Main/cell_train.txt": "a 1"}
    splits = opened(write(tmp_path, voc("abcd") | lists | {"JPEGImages/x.jpg": None, "SegmentationClass/a.png": None}))
    assert reasons(splits) == {
        "a list of one class, with flags; the lists of the parts are used": 1,
        "an image that no list names": 2,
        "the XML file of an image that no list names": 2,
        "an image without an XML file": 1,
        "masks, which objects with boxes do not need": 1,
    }


def test_several_years_are_refused_unless_settings_choose(tmp_path, refused):
    years = {"VOC2007": "ab", "VOC2012": "cd"}
    for year, stems in years.items():
        files = voc(stems, year + "/JPEGImages/{}.jpg", year + "/Annotations/{}.xml")
        write(
            tmp_path,
            files | {f"{year}/ImageSets/Main/trainval.txt": stems[0], f"{year}/ImageSets/Main/test.txt": stems[1]},
        )
    with refused(
        "several data sets with VOC's XML files, VOC2007 and VOC2012; give .* `layout.train` and `layout.val`"
    ):
        opened(tmp_path)
    lists = [f"{year}/ImageSets/Main/trainval.txt" for year in years]
    splits = opened(tmp_path, train=tuple(lists), val=("VOC2007/ImageSets/Main/test.txt",))
    assert parts(splits) == {"train": "ac", "val": "b"}
    check_plan(splits, tmp_path)
    assert parts(opened(tmp_path, images="VOC2012/JPEGImages", annotations="VOC2012/Annotations")) == {
        "train": "c", "val": "d", "test": "d"
    }  # fmt: skip
    assert parts(opened(tmp_path / "VOC2007"))["train"] == "a"


def test_two_lists_of_one_part_are_refused(tmp_path, refused):
    lists = {"ImageSets/Main/train.txt": "a", "ImageSets/Main/training.txt": "b"}
    with refused(
        r"train\.txt and ImageSets/Main/training\.txt .* could each be the train part; give .*`layout\.train`"
    ):
        opened(write(tmp_path, voc("ab") | lists))


def test_settings_win_over_lists_and_folders(tmp_path):
    files = voc("abcd") | {
        "ImageSets/Main/train.txt": "a",
        "ImageSets/Main/val.txt": "b",
        "mine.txt": "c",
        "rest.txt": "d",
    }
    splits = opened(write(tmp_path, files), train=("mine.txt",), val=("rest.txt", "ImageSets/Main/val.txt"))
    assert parts(splits) == {"train": "c", "val": "bd"}
    check_plan(splits, tmp_path)
    write(tmp_path, voc("ef", "pictures2/{}.jpg", "boxes/{}.xml"))
    splits = opened(tmp_path, images="pictures2", annotations="boxes")
    assert "".join(sorted("".join(parts(splits).values()))) == "ef"


def test_two_folders_of_xml_files_are_refused_unless_a_setting_chooses(tmp_path, refused):
    root = write(tmp_path, voc("ab") | voc("ab", xmls="xmls/{}.xml", content=xml((1, 1, 2, 2))))
    with refused(
        "Annotations and xmls in .* both hold XML files of VOC's; give the one to use as `layout.annotations`"
    ):
        opened(root)
    assert opened(root, annotations="xmls").train.target(0).boxes.tolist() == [[0, 0, 2, 2]]


def test_lists_of_no_part_and_parts_without_xml_files_are_said(tmp_path):
    root = write(tmp_path, voc("abcde") | {"ImageSets/Main/mine.txt": "a"})
    (note,) = opened(root).notes
    assert note.startswith("mine.txt in ImageSets/Main not read as lists, as their names say no part; give them as")
    root = write(tmp_path / "parts", voc("ab", "train/{}.jpg", "train/{}.xml") | {"valid/c.jpg": None})
    (note,) = opened(root).notes
    assert note == f"1 image in {root / 'valid'} without XML files, so this val part is left out"


def test_a_setting_that_gives_no_image_is_refused(tmp_path, refused):
    write(tmp_path, voc("ab") | {"mine.txt": "x\ny"})
    with refused("`layout.train` leads to .*mine.txt, which gives no image with an XML file"):
        opened(tmp_path, train=("mine.txt",))


def test_lists_that_name_no_image_are_refused_or_said(tmp_path, refused):
    root = write(tmp_path, voc("ab") | {"ImageSets/Main/train.txt": "x\ny", "ImageSets/Main/val.txt": ""})
    with refused("no name in ImageSets/Main/train.txt, ImageSets/Main/val.txt of .* is that of an image in JPEGImages"):
        opened(root)
    write(root, {"ImageSets/Main/val.txt": "a\nb"})
    assert any("train.txt names no image in" in problem for problem in opened(root).problems)


def test_a_listed_image_without_an_xml_file_is_left_out_and_said(tmp_path):
    lists = {"ImageSets/Main/train.txt": "a\nx", "ImageSets/Main/val.txt": "b\nb"}
    splits = opened(write(tmp_path, voc("ab") | lists | {"JPEGImages/x.jpg": None}))
    assert parts(splits) == {"train": "a", "val": "b"}
    assert any("train.txt names 1 image without an XML file in " in problem for problem in splits.problems)
    assert any("val.txt names 1 image more than once; each is read once" in note for note in splits.notes)


def test_a_link_to_itself_hides_nothing(tmp_path):
    root = write(tmp_path, voc("ab"))
    for loop in (root / "loop", root / "JPEGImages" / "loop", root / "Annotations" / "loop.json"):
        loop.symlink_to(loop)
    assert sorted(parts(opened(root)).values()) == ["a", "b"]


def test_images_in_two_parts_are_a_problem(tmp_path):
    splits = opened(write(tmp_path, voc("ab") | {"ImageSets/Main/train.txt": "a\nb", "ImageSets/Main/val.txt": "b"}))
    (problem,) = splits.problems
    assert problem.startswith("1 image in both the train and the val part, JPEGImages/b.jpg first; keep each in one")


@pytest.mark.parametrize(
    ("boxes", "first", "problem"),
    [
        ([(0, 2, 6, 5), (3, 2, 6, 5)], [0, 2, 6, 5], False),
        ([(0, 0, 8, 6), (1, 1, 4, 4), (1, 1, 5, 5), (1, 1, 3, 3)], [0, 0, 8, 6], False),
        ([(0.5, 2, 6, 5)], [0.5, 2, 6, 5], False),
        ([(3, 2, 6, 5), (0, 2, 6, 5), (1, 1, 4, 4), (1, 2, 5, 5)], [2, 1, 6, 5], True),
        ([(3, 2, 6, 5), (1, 1, 4, 4)], [2, 1, 6, 5], False),
    ],
)
def test_the_whole_set_shows_whether_pixels_are_counted_from_0_or_1(tmp_path, boxes, first, problem):
    splits = opened(write(tmp_path, voc("ab", content=xml(*boxes))))
    assert splits.train.target(0).boxes[0].tolist() == first
    from_0 = first == list(boxes[0])
    assert any("begin before pixel 1, so the files are 0-based" in note for note in splits.notes) == from_0
    assert any("so the files are 1-based as VOC's; fix these boxes" in text for text in splits.problems) == problem


@pytest.mark.parametrize(
    ("shape", "box"),
    [
        ("<polygon><x1>2</x1><y1>1</y1><x2>6</x2><y2>1.5</y2><x3>4</x3><y3>5e0</y3></polygon>", [2, 1, 6, 5]),
        (
            "<polygon><pt><x>2</x><y>1</y></pt><pt><x>6</x><y>1</y></pt><pt><x>3</x><y>5</y></pt></polygon>",
            [2, 1, 6, 5],
        ),
        ("<robndbox><cx>4</cx><cy>3</cy><w>4</w><h>2</h><angle>0</angle></robndbox>", [2, 2, 6, 4]),
    ],
)
def test_an_object_of_another_shape_has_the_smallest_box_around_it_and_this_is_said(tmp_path, shape, box):
    content = f"<annotation><object><name>cell</name>{shape}</object></annotation>"
    splits = opened(write(tmp_path, voc("ab", content=content)))
    assert splits.train.target(0).boxes.tolist() == [box]
    assert any(
        "2 objects in" in note and "without bndbox: the smallest box around the" in note for note in splits.notes
    )


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "latin-1"])
def test_names_are_read_in_any_encoding(tmp_path, encoding):
    content = ('<?xml version="1.0"?>' + xml(name="Bär")).encode(encoding)
    splits = opened(write(tmp_path, voc("ab", content=content)))
    assert splits.train.names == ("Bär",)
    assert any("read as Windows-1252" in note for note in splits.notes) == (encoding == "latin-1")


def test_names_that_differ_by_case_or_separator_are_a_problem(tmp_path):
    files = {"a": "Dog", "b": "dog", "c": "traffic light", "d": "traffic_light"}
    for stem, name in files.items():
        write(tmp_path, voc(stem, content=xml(name=name)))
    splits = opened(tmp_path)
    (problem,) = splits.problems
    assert problem.startswith(
        "the classes 'Dog' and 'dog'; 'traffic light' and 'traffic_light' in the XML files differ"
    )
    assert len(splits.names) == 4


@pytest.mark.parametrize("root", ["annotations", "boost_serialization", "opencv_storage"])
def test_xml_of_other_formats_is_not_vocs(tmp_path, root):
    write(tmp_path, {"images/a.jpg": None, "annotations/a.xml": f"<?xml version='1.0'?><!-- <annotation> --><{root}/>"})
    assert find_voc(Source(DataConfig(data=str(tmp_path)), "a folder")) == ()
    write(tmp_path, voc("bcd", "images/{}.jpg", "annotations/{}.xml"))
    splits = opened(tmp_path)
    assert "".join(sorted("".join(parts(splits).values()))) == "bcd"
    assert reasons(splits)["an XML file of another format than VOC's"] == 1
    check_plan(splits, tmp_path)


def test_stray_xml_files_do_not_make_a_folder_vocs(tmp_path):
    root = write(tmp_path, voc("ab", xmls="labels/{}.xml") | {f"labels/{stem}.txt": "0 .5 .5 .5 .5" for stem in "ab"})
    assert find_voc(Source(DataConfig(data=str(root)), "a folder")) == ()
    root = write(tmp_path / "other", {"train/images/a.jpg": None, "backup/a.xml": xml(), "deep/er/b.xml": xml()})
    assert find_voc(Source(DataConfig(data=str(root)), "a folder")) == ()


def test_labelmap_gives_cvats_names_and_colours(tmp_path):
    text = "# label:color_rgb:parts:actions\nbackground:0,0,0::\nrock:1,2,3::\ncell:4,5,6::\n"
    splits = opened(write(tmp_path, voc("ab") | {"labelmap.txt": text}))
    assert (splits.names, splits.train.classes.colours) == (("rock", "cell"), ((1, 2, 3), (4, 5, 6)))
    assert splits.plan.names == "labelmap.txt"
    splits = opened(write(tmp_path, {"labelmap.txt": "rock:::\n"}))
    assert splits.names == ("cell",)
    assert any("labelmap.txt does not list the class 'cell', so it is not used" in note for note in splits.notes)


def test_an_xml_file_of_another_name_belongs_to_the_image_that_it_names(tmp_path):
    more = "<folder>x</folder><filename>{}</filename><path>C:\\x\\{}</path>"
    files = {f"Annotations/0{i}.xml": xml(more=more.format(f"{n}.png", n)) for i, n in enumerate("abc")}
    splits = opened(write(tmp_path, files | {f"JPEGImages/{n}.jpg": None for n in "abc"}))
    assert "".join(sorted("".join(parts(splits).values()))) == "abc"
    assert any("3 XML files in" in note and "of other names than their images" in note for note in splits.notes)
    check_plan(splits, tmp_path)


def test_of_two_images_of_one_name_the_named_one_is_taken(tmp_path):
    content = xml(more="<filename>a.png</filename>")
    root = write(tmp_path, voc("ab", content=content) | {"JPEGImages/a.bmp": None, "JPEGImages/a.png": None})
    splits = opened(root)
    paths = {images.path(0).rpartition("/")[2] for images in splits.parts.values()}
    assert paths == {"a.png", "b.jpg"}
    (root / "JPEGImages" / "a.png").unlink()
    assert any("could belong to two images, such as a.bmp and a.jpg" in problem for problem in opened(root).problems)


def test_xml_files_without_any_image_are_refused(tmp_path, refused):
    root = write(tmp_path, voc("ab"))
    with refused("Annotations holds 2 XML files of VOC's, and no images are in .; give the folder that holds both, or"):
        opened(root / "Annotations")
    assert len(opened(root / "Annotations", images="../JPEGImages").train.target(0)) == 1


def test_damaged_files_never_end_in_a_traceback(tmp_path, refused):
    root = write(
        tmp_path, voc("abcd") | {"ImageSets/Main/train.txt": b"\xff\xfea\x00\n\x00b\x00", "ImageSets/Main/val.txt": "c"}
    )
    assert parts(opened(root)) == {"train": "ab", "val": "c"}
    for content in (b"", b"\0\0", b"<annotation>", b"<a/>", b"\xff\xfe<", xml().encode("utf-32")):
        shutil.rmtree(root / "Annotations")
        write(root, voc("abd") | {"Annotations/c.xml": content})
        splits = opened(root)
        assert len(splits.train) == 2
        plan = splits.plan
        assert sum(plan.used.values()) + sum(group.count for group in plan.passed_over) == plan.files


@pytest.mark.parametrize(("box", "first"), [((2.5, 2.25, 6, 5), [2.5, 2.25, 6, 5]), ((3, 2, 6, 5.5), [2, 1, 6, 5.5])])
def test_boxes_that_mostly_have_fractions_are_no_numbers_of_pixels(tmp_path, box, first):
    more = [] if box[0] % 1 else [(3, 2, 6, 5)]  # the published sets have a few fractions
    splits = opened(write(tmp_path, voc("ab", content=xml(box, *more))))
    assert splits.train.target(0).boxes[0].tolist() == first
    assert any("2 of 2 boxes" in note and "have fractions" in note for note in splits.notes) == bool(box[0] % 1)


@pytest.mark.parametrize("folders", [("cam1", "cam2"), ("train", "val")])
def test_an_xml_file_that_could_belong_to_two_images_belongs_to_none(tmp_path, folders, refused):
    images = {f"JPEGImages/{folder}/a.jpg": None for folder in folders} | {"JPEGImages/b.jpg": None}
    xmls = {f"Annotations/{name}.xml": xml(more=f"<filename>{name}.jpg</filename>") for name in "ab"}
    write(tmp_path, images | xmls)
    message = "could belong to several images, such as a.xml to "
    if folders == ("train", "val"):  # the parts of folders, in which no image is annotated
        with refused(message):
            opened(tmp_path)
    else:
        splits = opened(tmp_path)
        assert any(message in problem for problem in splits.problems)
        assert splits.plan.used["images"] == 1
