"""Data sets written by the formats' own libraries, opened by twins: are boxes, masks, classes and parts the same?

Command: python -m venv build/libraries
         build/libraries/bin/pip install pycocotools supervision datumaro
         python benchmarks/format_libraries.py --python build/libraries/bin/python

One small set, 5 images in two parts with 8 objects of three classes, is written in each format by
`format_writers.py`, in the libraries' environment. Each folder is then opened here for each task that it can serve, and
compared with the set: parts, class names, boxes to a hundredth of a pixel, masks by their smallest intersection over
union, label maps by the share of pixels with the right class. The true mask of an object is its polygon as COCO fills
it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from twins.data.config import DataConfig
from twins.data.objects import decode_masks, encode_polygons
from twins.errors import TwinsError, few
from twins.tasks.contract import spec_of

CLASSES = ("cat", "dog", "traffic light")
SHAPES = ([(6, 4), (20, 4), (20, 18), (6, 18)], [(24, 3), (36, 3), (36, 9), (30, 9), (30, 20), (24, 20)])
"""Polygons of objects, a rectangle and an angle; both fit into each image."""
PARTS = {"train": ("street 1", "street2", "street3"), "val": ("park1", "park2")}
NOTHING = "background", "unlabeled", "ignored"
"""Class names of pixels without an object."""
OBJECTS = ("detection", "instance")
TASKS = {
    "supervision coco": OBJECTS, "supervision yolo": OBJECTS, "supervision voc": ("detection",),
    "supervision class folders": ("classification",), "pycocotools run lengths": (*OBJECTS, "semantic"),
    "datumaro coco": OBJECTS, "datumaro coco_instances": (*OBJECTS, "semantic"),
    "datumaro coco_panoptic": ("semantic",), "datumaro voc": ("detection",),
    "datumaro voc_detection": ("detection",),
    "datumaro voc_segmentation": ("semantic",), "datumaro yolo": ("detection",),
    "datumaro yolo_ultralytics": ("detection",), "datumaro cvat": OBJECTS, "datumaro label_me": OBJECTS,
    "datumaro camvid": ("semantic",), "datumaro cityscapes": ("semantic",), "datumaro open_images": ("detection",),
    "datumaro kitti_segmentation": ("semantic",), "datumaro kitti_detection": ("detection",),
    "datumaro mvtec_segmentation": ("semantic",), "datumaro segment_anything": OBJECTS, "datumaro datumaro": OBJECTS,
    "datumaro imagenet": ("classification",), "datumaro imagenet_with_subset_dirs": ("classification",),
    "datumaro imagenet_txt": ("classification",),
}  # fmt: skip
"""Tasks that a folder can serve."""


def make_set(folder: Path) -> dict[str, Any]:
    """Write the images of the set, and return what is true of it."""
    random = np.random.default_rng(0)
    parts: dict[str, list[dict[str, Any]]] = {}
    for part, names in PARTS.items():
        for position, name in enumerate(names):
            width, height = 40 + 3 * position, 28 + 5 * position
            file = folder / f"{name}.png"
            Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(file)
            objects = []
            for shape in SHAPES[: 1 + (position != 1)]:
                points = np.array(shape) + position
                box = [*points.min(axis=0).tolist(), *points.max(axis=0).tolist()]
                label = (position + len(objects)) % len(CLASSES)
                objects.append({"label": label, "box": box, "polygon": points.ravel().tolist()})
            size = {"width": width, "height": height}
            parts.setdefault(part, []).append({"name": name, "file": str(file), **size, "objects": objects})
    return {"classes": CLASSES, "parts": parts}


def compare(folder: Path, task: str, content: dict[str, Any]) -> str:
    """Open a folder for a task, and return what differs from the set, or `equal`."""
    try:
        splits = spec_of(task).open(DataConfig(data=str(folder)))
        truth = {image["name"]: image for part in content["parts"].values() for image in part}
        differences = _parts(splits, content) + _names(splits.names)
        results = [
            _compare_image(task, images, index, truth[name])
            for images in splits.parts.values()
            for index in range(len(images))
            if (name := _name_of(images.path(index), truth)) is not None
        ]
    except TwinsError as error:
        return f"refused: {str(error).replace(str(folder), '.').partition(';')[0]}"
    return "; ".join(dict.fromkeys((*differences, *sorted(result for result in results if result)))) or "equal"


def _name_of(path: str, names: Any) -> str | None:
    return next((name for name in names if name in Path(path).stem), None)


def _parts(splits: Any, content: dict[str, Any]) -> list[str]:
    expected = {part: sorted(image["name"] for image in images) for part, images in content["parts"].items()}
    names = [name for part in expected.values() for name in part]
    found = {
        part: sorted(str(_name_of(images.path(index), names)) for index in range(len(images)))
        for part, images in splits.parts.items()
    }
    if splits.share and sorted(name for part in found.values() for name in part) == sorted(names):
        return ["equal, without parts"]
    return [] if found == expected else [f"parts {found}"]


def _names(names: Sequence[str]) -> list[str]:
    left = [name for name in names if name not in NOTHING]
    missing, more = sorted(set(CLASSES) - set(left)), sorted(set(left) - set(CLASSES))
    return [f"without classes {few(missing)}"] * bool(missing) + [f"with classes {few(more)}"] * bool(more)


def _compare_image(task: str, images: Any, index: int, image: dict[str, Any]) -> str:
    target = images.target(index)
    if task == "classification":
        return "" if images.names[target] == CLASSES[image["objects"][0]["label"]] else "other labels"
    if task == "semantic":
        return _compare_map(target, images.names, image)
    return _compare_objects(target, images.names, image)


def _masks(image: dict[str, Any]) -> NDArray[np.bool_]:
    size = image["height"], image["width"]
    return decode_masks([encode_polygons([item["polygon"]], size) for item in image["objects"]], size)


def _compare_map(target: NDArray[np.uint8], names: Sequence[str], image: dict[str, Any]) -> str:
    expected = np.full(target.shape, "", dtype=object)
    for item, mask in zip(image["objects"], _masks(image), strict=True):
        expected[mask] = CLASSES[item["label"]]
    shown = np.array([*("" if name in NOTHING else name for name in names), *[""] * (256 - len(names))], dtype=object)
    share = float((shown[target] == expected).mean())
    return "" if share == 1 else f"{share:.1%} of the pixels equal"


def _compare_objects(target: Any, names: Sequence[str], image: dict[str, Any]) -> str:
    found = sorted(zip((names[label] for label in target.labels), target.boxes.tolist(), range(99), strict=False))
    rows = [(CLASSES[item["label"]], item["box"], position) for position, item in enumerate(image["objects"])]
    rows.sort()
    if [row[0] for row in found] != [row[0] for row in rows]:
        return f"objects {[row[0] for row in found]} instead of {[row[0] for row in rows]}"
    if not rows:
        return ""
    difference = np.abs(np.array([row[1] for row in found]) - np.array([row[1] for row in rows])).max()
    results = [f"boxes differ by {difference:.2f} pixels"] if difference > 0.01 else []
    if target.masks:
        decoded = decode_masks(target.masks, target.size)
        truth = _masks(image)
        pairs = [(decoded[one[2]], truth[other[2]]) for one, other in zip(found, rows, strict=True)]
        iou = min((one & other).sum() / (one | other).sum() for one, other in pairs)
        results += [f"masks with an IoU of {iou:.2f}"] if iou < 1 else []
    return ", ".join(results)


def table(folder: Path, content: dict[str, Any], problems: dict[str, str]) -> str:
    """Return what differs, by folder and task, as a table in Markdown."""
    rows = ["| library and format | task | opened by twins |", "| --- | --- | --- |"]
    for name, problem in problems.items():
        for task in () if problem else TASKS[name]:
            rows.append(f"| {name} | {task} | {compare(folder / name, task, content)} |")
        if problem:
            rows.append(f"| {name} | | not written: {problem} |")
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", type=Path, required=True, help="Python with pycocotools, supervision and datumaro")
    parser.add_argument("--keep", type=Path, help="folder to leave the written sets in")
    parser.add_argument("--out", type=Path, help="page whose table is replaced")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = args.keep or Path(name) / "sets"
        (folder / "images").mkdir(parents=True)
        content = make_set(folder / "images")
        (folder / "set.json").write_text(json.dumps(content))
        writer = Path(__file__).with_name("format_writers.py")
        subprocess.run([args.python, writer, folder / "set.json", folder], check=True)
        written = json.loads((folder / "written.json").read_text())
        result = table(folder, content, written["problems"])
    print(written["versions"], result, sep="\n")
    if args.out:
        begin, _, _ = args.out.read_text().partition("| library and format |")
        args.out.write_text(f"{begin}{result}\n")


if __name__ == "__main__":
    main()
