"""Small valid data sets of each format, which `mutations.py` changes; a new format is a function and a row here."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 12, 9
"""Pixels of each image."""
PARTS = {"train": ("a", "b 2"), "val": ("c", "d")}
"""Image names by part."""


class Format(NamedTuple):
    """A format of data sets."""

    name: str
    tasks: tuple[str, ...]
    """Tasks that read it."""
    build: Callable[[Path], None]
    """Writes a small valid set into a folder."""


def save_image(path: Path, seed: int = 0) -> None:
    """Write an image of noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng([len(path.name), *path.name.encode(), seed]).integers(0, 256, (HEIGHT, WIDTH, 3))
    Image.fromarray(pixels.astype(np.uint8)).save(path)


def save_mask(path: Path, values: Sequence[int] = (0, 1)) -> None:
    """Write a mask of two halves."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((HEIGHT, WIDTH), values[0], dtype=np.uint8)
    pixels[:, WIDTH // 2 :] = values[1]
    Image.fromarray(pixels).save(path)


def save_text(path: Path, text: str) -> None:
    """Write a text, and its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def build_class_folders(root: Path) -> None:
    """Write class folders with two parts."""
    for part, names in PARTS.items():
        for label in ("cat", "dog"):
            for name in names:
                save_image(root / part / label / f"{label} {name}.png")


def build_unsplit_classes(root: Path) -> None:
    """Write class folders without parts."""
    for label in ("cat", "dög"):
        for name in "abc":
            save_image(root / label / f"{name}{label}.png")


def build_masks(root: Path) -> None:
    """Write images and masks in folders of the parts, with a list of names."""
    for part, names in PARTS.items():
        for name in names:
            save_image(root / "images" / part / f"{name}.png")
            save_mask(root / "masks" / part / f"{name}.png")
    save_text(root / "classes.txt", "background\nobject\n")


def build_settings(root: Path) -> None:
    """Write images and masks whose parts are named by `twins.yaml`."""
    build_masks(root)
    layout = "layout:\n  images: images\n  annotations: masks\n  train: [images/train]\n  val: [images/val]\n"
    save_text(root / "twins.yaml", f"format: 1\n{layout}")


def build_voc_masks(root: Path) -> None:
    """Write Pascal VOC's masks."""
    for part, names in PARTS.items():
        for name in names:
            save_image(root / "JPEGImages" / f"{name}.jpg")
            save_mask(root / "SegmentationClass" / f"{name}.png", (0, 15))
        save_text(root / "ImageSets" / "Segmentation" / f"{part}.txt", "\n".join(names))


def build_voc(root: Path) -> None:
    """Write Pascal VOC's XML files and lists."""
    for part, names in PARTS.items():
        for name in names:
            save_image(root / "JPEGImages" / f"{name}.jpg")
            box = "<bndbox><xmin>2</xmin><ymin>1</ymin><xmax>6</xmax><ymax>8</ymax></bndbox>"
            objects = "".join(f"<object>\n<name>{label}</name>\n{box}\n</object>\n" for label in ("cat", "dog"))
            size = f"<size><width>{WIDTH}</width><height>{HEIGHT}</height><depth>3</depth></size>"
            text = f"<annotation>\n<filename>{name}.jpg</filename>\n{size}\n{objects}</annotation>\n"
            save_text(root / "Annotations" / f"{name}.xml", text)
        save_text(root / "ImageSets" / "Main" / f"{part}.txt", "\n".join(names))


def build_yolo(root: Path) -> None:
    """Write YOLO's boxes and polygons with a `data.yaml`."""
    for part, names in PARTS.items():
        for name in names:
            save_image(root / part / "images" / f"{name}.png")
            line = "1 0.1 0.1 0.6 0.1 0.6 0.6 0.1 0.6"
            save_text(root / part / "labels" / f"{name}.txt", f"{line}\n{line.replace('1', '0', 1)}\n")
    save_text(root / "data.yaml", "train: ../train/images\nval: ../val/images\nnc: 2\nnames: ['cat', 'dog']\n")


def build_yolo_boxes(root: Path) -> None:
    """Write YOLO's boxes without a `data.yaml`."""
    for part, names in PARTS.items():
        for name in names:
            save_image(root / "images" / part / f"{name}.png")
            save_text(root / "labels" / part / f"{name}.txt", "0 0.5 0.5 0.4 0.4\n1 0.25 0.3 0.3 0.25\n")
    save_text(root / "classes.txt", "cat\ndog\n")


def build_coco(root: Path, *, masks: bool = False) -> None:
    """Write COCO's instances, boxes alone or with polygons and run lengths."""
    for number, (part, names) in enumerate(PARTS.items()):
        images, annotations = [], []
        for position, name in enumerate(names, start=10 * number):
            save_image(root / "images" / part / f"{name}.png")
            images.append({"id": position, "file_name": f"{name}.png", "width": WIDTH, "height": HEIGHT})
            for label in (1, 7):
                shape: dict[str, Any] = {"segmentation": [[2, 1, 8, 1, 8, 7, 2, 7]]} if masks else {}
                if masks and label == 7:
                    shape = {"segmentation": {"size": [HEIGHT, WIDTH], "counts": [19, 6, HEIGHT * WIDTH - 25]}}
                entry = {"id": 2 * position + label, "image_id": position, "category_id": label, "iscrowd": 0}
                annotations.append({**entry, "bbox": [2, 1, 6, 6], "area": 36.0, **shape})
        content = {"images": images, "annotations": annotations, "categories": _categories()}
        save_text(root / "annotations" / f"instances_{part}.json", json.dumps(content))


def build_coco_masks(root: Path) -> None:
    """Write COCO's instances with masks."""
    build_coco(root, masks=True)


def build_panoptic(root: Path) -> None:
    """Write COCO's panoptic segments."""
    for number, (part, names) in enumerate(PARTS.items()):
        images, annotations = [], []
        for position, name in enumerate(names, start=10 * number):
            save_image(root / "images" / part / f"{name}.png")
            save_mask(root / "annotations" / f"panoptic_{part}" / f"{name}.png", (5, 6))
            file = root / "annotations" / f"panoptic_{part}" / f"{name}.png"
            values = np.asarray(Image.open(file))
            Image.fromarray(np.stack([values, 0 * values, 0 * values], axis=-1)).save(file)
            segments = [{"id": 5, "category_id": 1, "area": 54}, {"id": 6, "category_id": 7, "area": 54}]
            images.append({"id": position, "file_name": f"{name}.png", "width": WIDTH, "height": HEIGHT})
            annotations.append({"image_id": position, "file_name": f"{name}.png", "segments_info": segments})
        content = {"images": images, "annotations": annotations, "categories": _categories()}
        save_text(root / "annotations" / f"panoptic_{part}.json", json.dumps(content))


def _categories() -> list[dict[str, Any]]:
    return [{"id": 1, "name": "cat", "isthing": 1}, {"id": 7, "name": "dog", "isthing": 1}]


OBJECTS = ("detection", "instance")
FORMATS = (
    Format("class folders", ("classification",), build_class_folders),
    Format("class folders without parts", ("classification",), build_unsplit_classes),
    Format("mask folders", ("semantic",), build_masks),
    Format("mask folders with twins.yaml", ("semantic",), build_settings),
    Format("VOC masks", ("semantic",), build_voc_masks),
    Format("VOC boxes", ("detection",), build_voc),
    Format("YOLO with data.yaml", OBJECTS, build_yolo),
    Format("YOLO without data.yaml", ("detection",), build_yolo_boxes),
    Format("COCO boxes", ("detection",), build_coco),
    Format("COCO masks", (*OBJECTS, "semantic"), build_coco_masks),
    Format("COCO panoptic", ("semantic",), build_panoptic),
)
