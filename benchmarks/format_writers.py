"""Writes one small data set in many formats, by the formats' own libraries; `format_libraries.py` starts it.

Command: python benchmarks/format_writers.py SET.json FOLDER, in an environment with pycocotools, supervision, datumaro

Each writer fills a folder of its own. `written.json` says, by folder, what went wrong; an empty text is no error. This
file imports nothing of twins, since some of these libraries hold other versions of its packages back.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

Part = list[dict[str, Any]]
"""Images of a part: `name`, `file`, `width`, `height`, `objects` with `label`, `box` (xyxy) and `polygon`."""
DATUMARO = (
    "coco", "coco_instances", "coco_panoptic", "voc", "voc_detection", "voc_segmentation", "yolo", "yolo_ultralytics",
    "cvat", "label_me", "camvid", "cityscapes", "open_images", "datumaro", "kitti_segmentation", "kitti_detection",
    "mvtec_segmentation", "segment_anything", "imagenet", "imagenet_with_subset_dirs", "imagenet_txt",
)  # fmt: skip
"""Names of datumaro's exporters."""
KINDS = (
    dict.fromkeys(("imagenet", "imagenet_with_subset_dirs", "imagenet_txt"), "labels")
    | dict.fromkeys(("coco_panoptic", "camvid", "cityscapes"), "masks")
    | dict.fromkeys(("voc_segmentation", "kitti_segmentation", "mvtec_segmentation"), "masks")
    | dict.fromkeys(("cvat", "label_me"), "polygons")
)
"""What describes an image: `labels`, `masks`, `polygons`, or else polygons with their boxes, `both`."""


def write_supervision(parts: dict[str, Part], classes: list[str], folder: Path) -> dict[str, Callable[[], None]]:
    """Return the writers of supervision, by the name of their folder."""
    import cv2
    import supervision as sv

    def dataset(part: Part) -> Any:
        annotations = {}
        for image in part:
            objects = image["objects"]
            masks = np.zeros((len(objects), image["height"], image["width"]), dtype=np.uint8)
            for mask, item in zip(masks, objects, strict=True):
                cv2.fillPoly(mask, [np.array(item["polygon"]).reshape(-1, 2)], 1)
            annotations[image["file"]] = sv.Detections(
                xyxy=np.array([item["box"] for item in objects], dtype=float).reshape(-1, 4),
                mask=masks.astype(bool) if len(objects) else None,
                class_id=np.array([item["label"] for item in objects], dtype=int),
            )
        return sv.DetectionDataset(classes, [image["file"] for image in part], annotations)

    def coco() -> None:
        for name, part in parts.items():
            root = folder / "supervision coco" / name
            dataset(part).as_coco(str(root), str(root / "_annotations.coco.json"))

    def yolo() -> None:
        root = folder / "supervision yolo"
        for name, part in parts.items():
            paths = [str(root / name / "images"), str(root / name / "labels"), str(root / "data.yaml")]
            dataset(part).as_yolo(*paths)

    def voc() -> None:
        for name, part in parts.items():
            root = str(folder / "supervision voc" / name)
            dataset(part).as_pascal_voc(root, root)

    def folders() -> None:
        for name, part in parts.items():
            labels = {
                image["file"]: sv.Classifications(class_id=np.array([image["objects"][0]["label"]]))
                for image in part
                if image["objects"]
            }
            images = sv.ClassificationDataset(classes, list(labels), labels)
            images.as_folder_structure(str(folder / "supervision class folders" / name))

    return {"coco": coco, "yolo": yolo, "voc": voc, "class folders": folders}


def write_datumaro(parts: dict[str, Part], classes: list[str], folder: Path) -> dict[str, Callable[[], None]]:
    """Return the writers of datumaro, by the name of their folder."""
    import datumaro as dm

    colours = dict(enumerate(((128, 0, 0), (0, 128, 0), (0, 0, 128))))
    categories = {
        dm.AnnotationType.label: dm.LabelCategories.from_iterable(classes),
        dm.AnnotationType.mask: dm.MaskCategories(colours),
    }

    def dataset(kind: str) -> Any:
        items = []
        for name, part in parts.items():
            for image in part:
                objects: list[Any] = []
                for number, item in enumerate(image["objects"], start=1 + 10 * len(items)):
                    left, top, right, bottom = item["box"]
                    common = {"label": item["label"], "group": number, "id": number}
                    if kind == "masks":
                        objects.append(dm.Mask(image=_mask(item, image), **common))
                    if kind == "both":
                        objects.append(dm.Bbox(left, top, right - left, bottom - top, **common))
                    if kind in ("both", "polygons"):
                        objects.append(dm.Polygon([float(x) for x in item["polygon"]], **common))
                labels = [dm.Label(image["objects"][0]["label"])] if image["objects"] else []
                media = dm.Image.from_file(path=image["file"])
                shown = labels if kind == "labels" else objects
                items.append(dm.DatasetItem(image["name"], subset=name, media=media, annotations=shown))
        return dm.Dataset.from_iterable(items, categories=categories)

    def writer(name: str) -> Callable[[], None]:
        root, data = folder / f"datumaro {name}", dataset(KINDS.get(name, "both"))
        return lambda: data.export(str(root), name, save_media=True)

    return {name: writer(name) for name in DATUMARO}


def _mask(item: dict[str, Any], image: dict[str, Any]) -> Any:
    """Return an object's mask as COCO fills its polygon."""
    from pycocotools import mask as coco_mask

    size = image["height"], image["width"]
    return coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects([item["polygon"]], *size))).astype(bool)


def write_pycocotools(parts: dict[str, Part], classes: list[str], folder: Path) -> dict[str, Callable[[], None]]:
    """Return the writer of COCO's JSON with compressed run lengths, which pycocotools reads again."""
    from pycocotools import mask as coco_mask
    from pycocotools.coco import COCO

    def run_lengths() -> None:
        root = folder / "pycocotools run lengths"
        (root / "annotations").mkdir(parents=True)
        for name, part in parts.items():
            images, annotations = [], []
            for number, image in enumerate(part):
                path = root / "images" / name / f"{image['name']}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(Path(image["file"]).read_bytes())
                images.append({"id": number, "file_name": path.name} | {k: image[k] for k in ("width", "height")})
                for item in image["objects"]:
                    encoded = coco_mask.encode(np.asfortranarray(_mask(item, image).astype(np.uint8)))
                    annotations.append(
                        {
                            "id": len(annotations) + 1,
                            "image_id": number,
                            "category_id": item["label"] + 1,
                            "bbox": coco_mask.toBbox(encoded).tolist(),
                            "area": int(coco_mask.area(encoded)),
                            "segmentation": {"size": encoded["size"], "counts": encoded["counts"].decode()},
                            "iscrowd": 0,
                        }
                    )
            categories = [{"id": number, "name": label} for number, label in enumerate(classes, start=1)]
            file = root / "annotations" / f"instances_{name}.json"
            file.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
            COCO(str(file))

    return {"run lengths": run_lengths}


def main() -> None:
    content = json.loads(Path(sys.argv[1]).read_text())
    folder = Path(sys.argv[2])
    problems: dict[str, str] = {}
    libraries = {"supervision": write_supervision, "datumaro": write_datumaro, "pycocotools": write_pycocotools}
    for library, writers in libraries.items():
        for name, write in writers(content["parts"], content["classes"], folder).items():
            try:
                write()
                problems[f"{library} {name}"] = ""
            except Exception as error:
                problems[f"{library} {name}"] = f"{type(error).__name__}: {error}"
    versions = {library: version(library) for library in libraries}
    (folder / "written.json").write_text(json.dumps({"problems": problems, "versions": versions}))


if __name__ == "__main__":
    main()
