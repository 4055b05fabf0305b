"""Small valid data sets as labelling tools and other toolboxes write them, which `mutations.py` changes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from small_sets import HEIGHT, OBJECTS, PARTS, WIDTH, Format, save_image, save_mask, save_text

POINTS = [[2.0, 1.0], [8.0, 1.0], [8.0, 7.0], [2.0, 7.0]]
"""Polygon of each object."""


def build_labelme(root: Path) -> None:
    """Write LabelMe's JSON files beside the images."""
    for part, names in PARTS.items():
        for name in names:
            save_image(root / part / f"{name}.png")
            shapes: list[dict[str, Any]] = [
                {"label": label, "points": POINTS, "group_id": None, "shape_type": "polygon", "flags": {}}
                for label in ("cat", "dog")
            ]
            size = {"imageHeight": HEIGHT, "imageWidth": WIDTH}
            content = {"version": "5.5.0", "flags": {}, "shapes": shapes, "imagePath": f"{name}.png", **size}
            save_text(root / part / f"{name}.json", json.dumps({**content, "imageData": None}))


def build_cvat(root: Path) -> None:
    """Write CVAT's XML for images, without parts."""
    points = ";".join(f"{x},{y}" for x, y in POINTS)
    rows = []
    for number, name in enumerate((*PARTS["train"], *PARTS["val"])):
        save_image(root / "images" / f"{name}.png")
        shapes = "\n".join(f'<polygon label="{label}" occluded="0" points="{points}"/>' for label in ("cat", "dog"))
        rows.append(f'<image id="{number}" name="{name}.png" width="{WIDTH}" height="{HEIGHT}">\n{shapes}\n</image>')
    labels = "".join(f"<label><name>{name}</name></label>" for name in ("cat", "dog"))
    meta = f"<version>1.1</version>\n<meta><task><labels>{labels}</labels></task></meta>"
    save_text(root / "annotations.xml", "\n".join(("<annotations>", meta, *rows, "</annotations>")))


def build_label_studio(root: Path) -> None:
    """Write Label Studio's JSON, without parts."""
    tasks: list[dict[str, Any]] = []
    for number, name in enumerate((*PARTS["train"], *PARTS["val"]), start=1):
        save_image(root / "images" / f"{name}.png")
        value = {"x": 10, "y": 10, "width": 50, "height": 60, "rotation": 0, "rectanglelabels": ["cat"]}
        size = {"original_width": WIDTH, "original_height": HEIGHT, "image_rotation": 0}
        result = {"id": "a", "type": "rectanglelabels", "from_name": "l", "to_name": "i", **size, "value": value}
        other = {**result, "id": "b", "value": {**value, "rectanglelabels": ["dog"]}}
        data = {"image": f"/data/upload/1/{name}.png"}
        tasks.append({"id": number, "data": data, "annotations": [{"id": number, "result": [result, other]}]})
    save_text(root / "export.json", json.dumps(tasks))


def build_via(root: Path) -> None:
    """Write VIA's JSON in each part's folder."""
    for part, names in PARTS.items():
        content = {}
        for name in names:
            save_image(root / part / f"{name}.png")
            shape = {"name": "polygon", "all_points_x": [p[0] for p in POINTS], "all_points_y": [p[1] for p in POINTS]}
            regions = [{"shape_attributes": shape, "region_attributes": {"label": label}} for label in ("cat", "dog")]
            size = (root / part / f"{name}.png").stat().st_size
            content[f"{name}.png{size}"] = {"filename": f"{name}.png", "size": size, "regions": regions}
        save_text(root / part / "via_region_data.json", json.dumps(content))


def build_class_csv(root: Path) -> None:
    """Write images with a table of paths and labels for each part."""
    for part, names in PARTS.items():
        rows = ["path,label"]
        for label in ("cat", "dog"):
            for name in names:
                save_image(root / "images" / f"{label} {name}.png")
                rows.append(f"images/{label} {name}.png,{label}")
        save_text(root / f"{part}.csv", "\n".join(rows) + "\n")


def build_box_csv(root: Path) -> None:
    """Write images with a table of boxes."""
    rows = ["filename,width,height,class,xmin,ymin,xmax,ymax"]
    for name in (*PARTS["train"], *PARTS["val"]):
        save_image(root / "images" / f"{name}.png")
        rows += [f"{name}.png,{WIDTH},{HEIGHT},{label},2,1,8,7" for label in ("cat", "dog")]
    save_text(root / "annotations.csv", "\n".join(rows) + "\n")


def build_darknet(root: Path) -> None:
    """Write darknet's `obj.data` as CVAT does."""
    for part, names in PARTS.items():
        folder = root / f"obj_{part}_data"
        for name in names:
            save_image(folder / f"{name}.png")
            save_text(folder / f"{name}.txt", "0 0.5 0.5 0.4 0.4\n1 0.25 0.3 0.3 0.25\n")
        save_text(root / f"{part}.txt", "".join(f"data/{folder.name}/{name}.png\n" for name in names))
    save_text(root / "obj.names", "cat\ndog\n")
    settings = "classes = 2\ntrain = data/train.txt\nvalid = data/val.txt\nnames = data/obj.names\nbackup = backup/\n"
    save_text(root / "obj.data", settings)


def build_camvid(root: Path) -> None:
    """Write CamVid's folders, lists and colours."""
    for part, names in PARTS.items():
        for name in names:
            save_image(root / part / f"{name}.png")
            save_mask(root / f"{part}annot" / f"{name}.png")
        save_text(root / f"{part}.txt", "".join(f"{part}/{name}.png {part}annot/{name}.png\n" for name in names))


def build_suffixes(root: Path) -> None:
    """Write masks beside their images, with an ending."""
    for part, names in PARTS.items():
        for name in names:
            save_image(root / part / f"{name}.jpg")
            save_mask(root / part / f"{name}_mask.png")


TOOL_FORMATS = (
    Format("LabelMe", OBJECTS, build_labelme),
    Format("CVAT XML", OBJECTS, build_cvat),
    Format("Label Studio", ("detection",), build_label_studio),
    Format("VIA", OBJECTS, build_via),
    Format("class CSV", ("classification",), build_class_csv),
    Format("box CSV", ("detection",), build_box_csv),
    Format("darknet", ("detection",), build_darknet),
    Format("CamVid", ("semantic",), build_camvid),
    Format("masks by ending", ("semantic",), build_suffixes),
)
