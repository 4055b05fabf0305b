"""The folder of a COCO file's images: images of the same names in several folders are never mixed up."""

from __future__ import annotations

import json
import random

import pytest
from PIL import Image

from twins.data.config import DataConfig, LayoutConfig
from twins.data.formats.open import open_label_maps, open_objects

NAMES = [f"{number:06}.png" for number in range(4)]
BOX = [2, 1, 4, 3]


def write_images(folder, seed, names=NAMES):
    folder.mkdir(parents=True)
    for number, name in enumerate(names):
        Image.frombytes("RGB", (8, 6), random.Random(f"{seed} {number}").randbytes(144)).save(folder / name)


def write_file(path, names=NAMES):
    path.parent.mkdir(parents=True, exist_ok=True)
    images = [{"id": i, "file_name": name, "height": 6, "width": 8} for i, name in enumerate(names)]
    polygon = [[2, 1, 6, 1, 6, 4, 2, 4]]
    annotations = [
        {"id": i, "image_id": i, "category_id": 1, "bbox": BOX, "segmentation": polygon} for i in range(len(names))
    ]
    path.write_text(
        json.dumps({"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "cat"}]})
    )


def opened(root, maps=False, **layout):
    config = DataConfig(data=str(root), layout=LayoutConfig(**layout))
    return open_label_maps(config) if maps else open_objects(config, masks=False)


def folders(splits):
    return {part: {images.path(i).split("/")[-2] for i in range(len(images))} for part, images in splits.parts.items()}


@pytest.mark.parametrize("maps", [False, True])
@pytest.mark.parametrize(
    ("file", "first", "second"),
    [
        ("annotations.json", "train", "val"),
        ("annotations/instances_default.json", "images/train", "images/val"),
        ("train.json", "train1", "train2"),
        ("labels.json", "images", "img"),
        ("labels.json", "test", "images"),
        ("labels.json", "train/images", "val/images"),
    ],
)
def test_images_of_the_same_names_in_two_folders_are_refused_until_one_is_given(
    tmp_path, refused, file, first, second, maps
):
    write_images(tmp_path / first, 1)
    write_images(tmp_path / second, 2)
    write_file(tmp_path / file)
    with refused(f"{first} and .*{second} each have another image of that name; .* `layout.images`"):
        opened(tmp_path, maps)
    splits = opened(tmp_path, maps, images=second)
    assert set.union(*folders(splits).values()) == {second.rpartition("/")[2]}


@pytest.mark.parametrize("change", [lambda name: name.upper(), lambda name: f"images\\{name}"])
def test_they_are_refused_also_if_the_names_are_spelled_otherwise(tmp_path, refused, change):
    for part in ("train", "val"):
        write_images(tmp_path / part / "images", part)
    write_file(tmp_path / "labels.json", [change(name) for name in NAMES])
    with refused("each have another image of that name|could be those in"):
        opened(tmp_path)


def test_copies_and_folders_with_fewer_of_the_names_are_no_contradiction(tmp_path):
    write_images(tmp_path / "images", 1)
    write_images(tmp_path / "img", 1)
    write_images(tmp_path / "test", 2, NAMES[:3])
    write_file(tmp_path / "labels.json")
    assert folders(opened(tmp_path)) == {"train": {"images"}, "val": {"images"}}


def test_each_part_has_its_own_images_of_the_same_names(tmp_path):
    for part in ("train", "val"):
        write_images(tmp_path / "images" / part, part)
        write_file(tmp_path / "annotations" / f"{part}.json")
    assert folders(opened(tmp_path)) == {"train": {"train"}, "val": {"val"}}


def test_masks_in_a_folder_called_like_the_file_or_the_part_are_no_images(tmp_path):
    for folder in ("images", "labels", "masks_val", "images_val"):
        write_images(tmp_path / folder, folder)
    write_file(tmp_path / "labels.json")
    assert folders(opened(tmp_path, images="images")) == {"train": {"images"}, "val": {"images"}}
    (tmp_path / "labels.json").rename(tmp_path / "val.json")
    assert folders(opened(tmp_path)) == {"val": {"images_val"}}


def test_folders_of_any_names_are_named_in_the_refusal(tmp_path, refused):
    for folder in ("first", "second"):
        write_images(tmp_path / folder, folder)
    write_file(tmp_path / "labels.json")
    with refused(r"such as 000000\.png, could be those in first, second; say where"):
        opened(tmp_path)
