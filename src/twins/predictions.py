"""`Prediction`: the result of a network for one image, in the coordinates of the user's image."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from twins.errors import ConfigError, InputError, MissingExtraError, TwinsError, check_type, few, number_of
from twins.files import atomic_file, path_of

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from pandas import DataFrame
    from PIL import Image

    from twins.drawing import DrawConfig

FORMAT = 1
"""Version of the dictionary that `Prediction.to_dict` writes."""
CORNERS = ("x1", "y1", "x2", "y2")
"""Columns of a box in tables: left, top, right and bottom in pixels."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Item:
    """One entry of a prediction: an object, a ranked class, or a class of a semantic map."""

    label: int
    """Class id."""
    name: str
    """Class name, or the class id as text if the network has no names."""
    score: float | None = None
    """Score in 0..1; `None` for a class of a semantic map."""
    box: tuple[float, float, float, float] | None = None
    """Box of an object, xyxy in pixels."""
    mask: NDArray[np.bool_] | None = field(default=None, repr=False)
    """Mask `(H, W)` of an object, or of a class in a semantic map."""

    @property
    def area(self) -> int | None:
        """Number of pixels of the mask; `None` without one."""
        return None if self.mask is None else int(self.mask.sum())


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Prediction:
    """Result for one image. The task decides which fields are set; arrays are read-only by convention.

    It has a length and can be iterated: over the objects of a detector and the ranked classes of a classifier, highest
    score first, and over the classes in a semantic map, largest area first; each is an `Item`. Two predictions are
    equal if their results are, whatever their path, image and time.
    """

    task: str
    """`classification`, `semantic`, `detection` or `instance`."""
    size: tuple[int, int]
    """Height and width of the user's image in pixels."""
    names: tuple[str, ...] = ()
    """Class names by class id; empty if the network has none."""
    colours: tuple[tuple[int, int, int], ...] = ()
    """RGB colour of each class in drawings; empty: chosen automatically."""
    labels: NDArray[np.int64] | None = None
    """Class ids, highest score first: classification `(K,)`, all classes; detection and instance `(R,)`."""
    scores: NDArray[np.float32] | None = None
    """Scores of `labels` in 0..1, same shape."""
    boxes: NDArray[np.float32] | None = None
    """`(R, 4)` xyxy in pixels, continuous coordinates."""
    masks: NDArray[np.bool_] | None = None
    """`(R, H, W)`."""
    tracks: NDArray[np.int64] | None = None
    """`(R,)`, in a tracked video: the number of each object's track, from 1, or -1 without one."""
    label_map: NDArray[np.integer[Any]] | None = None
    """Class id of each pixel, `(H, W)`; uint8 for up to 256 classes."""
    path: str | None = field(default=None, compare=False)
    """Path of the image, if the predictor was given one."""
    milliseconds: float | None = field(default=None, compare=False)
    """Time of the prediction: an equal share of its batch's resizing, network and decoding, without reading the file.
    `None` if it was not measured."""
    image: Any = field(default=None, compare=False)
    """The image as the predictor was given it, by reference, for drawings; `None` if it was given a path."""

    def __len__(self) -> int:
        """Return the number of objects, of ranked classes, or of classes in the semantic map."""
        if self.label_map is not None:
            return len(self._areas()[0])
        return 0 if self.labels is None else len(self.labels)

    def __iter__(self) -> Iterator[Item]:
        """Yield the objects, the ranked classes, or the classes of the semantic map; see the class."""
        if self.label_map is not None:
            for label in self._areas()[0].tolist():
                yield Item(label=label, name=self.name(label), mask=self.label_map == label)
            return
        for row, label in enumerate([] if self.labels is None else self.labels.tolist()):
            yield Item(
                label=label,
                name=self.name(label),
                score=None if self.scores is None else float(self.scores[row]),
                box=None if self.boxes is None else tuple(self.boxes[row].tolist()),
                mask=None if self.masks is None else self.masks[row],
            )

    def __eq__(self, other: object) -> bool:
        """Return whether another prediction has the same results."""
        if type(other) is not type(self):
            return NotImplemented
        names = [entry.name for entry in fields(self) if entry.compare]
        return all(_equal(getattr(self, name), getattr(other, name)) for name in names)

    def __hash__(self) -> int:
        labels = () if self.labels is None else self.labels.tolist()
        pixels = 0 if self.label_map is None else int(self.label_map.sum())
        return hash((self.task, *self.size, *labels, pixels))

    def __repr__(self) -> str:
        height, width = self.size
        source = f"{self.path!r}, " if self.path else ""
        return f"{type(self).__name__}({self.task}, {source}{width} x {height} pixels: {self._summary()})"

    def _summary(self) -> str:
        """Return the first three entries in words, and for a detector the number of objects."""
        if self.label_map is not None:
            labels, pixels = self._areas()
            shares = (pixels / self.label_map.size).tolist()
        else:
            labels, scores = (np.zeros(0) if x is None else x for x in (self.labels, self.scores))
            shares = scores.tolist()
        count = "" if self.boxes is None else number_of(len(labels), "object") + (": " if len(labels) else "")
        pairs = zip(labels[:4].tolist(), shares[:4], strict=False)
        return count + few([f"{self.name(int(label))} {share:.1%}" for label, share in pairs], limit=3)

    def _areas(self) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return the classes of the semantic map and their pixels, largest first."""
        labels, pixels = np.unique(np.zeros(0) if self.label_map is None else self.label_map, return_counts=True)
        order = np.argsort(-pixels, kind="stable")
        return labels[order], pixels[order]

    def name(self, label: int) -> str:
        """Return the name of a class id, or the id as text if the network has no names."""
        return self.names[label] if self.names else str(label)

    def to_dict(
        self, *, top: int | None = None, masks: Literal["rle", "polygon", "none"] | None = None
    ) -> dict[str, Any]:
        """Return JSON-ready values.

        All tasks: `format`, `task` and `size` (height, width). Classification: `labels`, `names` and `scores`, highest
        score first. Detection: also `boxes` (xyxy in pixels), and in a tracked video `tracks` (numbers from 1; null
        without a track). Instance segmentation: also `masks` and `areas` (pixels of each mask). Semantic segmentation:
        `areas`, and on request `masks`, by class name. Masks are COCO's compressed run lengths: `size`, and `counts` as
        text; or polygons, `[x1, y1, x2, y2, ...]` in pixels for each outline, those of holes too (even-odd rule).

        Args:
            top: number of classes or objects to list, highest score first; `None`: all.
            masks: `rle` or `polygon`: the mask of each object, or of each class in a semantic map; `none`: only
                `areas`; `None`: the masks of objects, as `rle`.

        Raises:
            ConfigError: `top` is no whole number from 0, or `masks` is another word.
        """
        check_type(top, int | None, "top", "a whole number, or None for all")
        if top is not None and top < 0:
            raise ConfigError(f"`top` must be at least 0, found {top}")
        if masks not in ("rle", "polygon", "none", None):
            raise ConfigError(f"`masks` must be rle, polygon or none, found {masks!r}")
        encode = polygons_of if masks == "polygon" else _run_lengths
        result: dict[str, Any] = {"format": FORMAT, "task": self.task, "size": list(self.size)}
        if self.labels is not None:
            labels = self.labels[:top].tolist()
            result |= {"labels": labels, "names": [self.name(label) for label in labels]}
        for key in ("scores", "boxes"):
            if (values := getattr(self, key)) is not None:
                result[key] = values[:top].tolist()
        if self.tracks is not None:
            result["tracks"] = [None if track < 0 else track for track in self.tracks[:top].tolist()]
        if self.masks is not None:
            result["areas"] = self.masks[:top].sum(axis=(1, 2)).tolist()
            if masks != "none":
                result["masks"] = [encode(mask) for mask in self.masks[:top]]
        if self.label_map is not None:
            labels, pixels = (values.tolist() for values in np.unique(self.label_map, return_counts=True))
            result["areas"] = {self.name(label): count for label, count in zip(labels, pixels, strict=True)}
            if masks in ("rle", "polygon"):
                result["masks"] = {self.name(label): encode(self.label_map == label) for label in labels}
        return result

    def to_coco(self, image_id: int, *, category_ids: Sequence[int | None] | None = None) -> list[dict[str, Any]]:
        """Return a detector's objects as entries of a COCO results file; see `twins.metrics.coco_results`.

        Args:
            image_id: id of the image in your annotations.
            category_ids: category id of each class in your annotations; objects of a class with `None` are left out.
                Without it COCO's own ids if the classes are COCO's 80, otherwise the class ids, from 0.

        Raises:
            InputError: the prediction has no boxes.
        """
        from twins.metrics.coco_results import coco_results  # an upward import

        if self.boxes is None:
            raise InputError(f"COCO results need boxes, found a prediction of {self.task} without")
        return coco_results(self, image_id=image_id, category_ids=category_ids)

    def to_pandas(self) -> DataFrame:
        """Return a table with a row for each entry: `path`, `label`, `name`, and what the task has of `score`, `x1`,
        `y1`, `x2`, `y2` (pixels) and `area` (pixels).

        Raises:
            MissingExtraError: pandas is not installed.
        """
        try:
            import pandas as pd
        except ImportError as error:
            raise MissingExtraError("tables need pandas; pip install pandas") from error

        labels, areas = (self.labels, None) if self.label_map is None else self._areas()
        if self.masks is not None:
            areas = self.masks.sum(axis=(1, 2))
        names = [self.name(label) for label in ([] if labels is None else labels.tolist())]
        columns: dict[str, Any] = {"path": self.path, "label": labels, "name": names, "score": self.scores}
        columns |= {} if self.boxes is None else dict(zip(CORNERS, self.boxes.T, strict=True))
        columns["area"] = areas
        return pd.DataFrame({name: values for name, values in columns.items() if values is not None})

    def draw(
        self, image: Image.Image | None = None, config: DrawConfig | None = None, *, steady: bool = False
    ) -> Image.Image:
        """Return a copy of the image with the result drawn on it, RGB.

        Args:
            image: the image of this prediction; `None`: the one that the predictor was given, or that `path` names.
            config: what to draw and how; `None`: `DrawConfig()`.
            steady: make the size of the picture independent of the prediction, as for frames of a video.

        Raises:
            InputError: no image is known, or it has another size than this prediction.
            NotFoundError, DataError: the file at `path` is gone or damaged.
        """
        from twins.drawing import draw_prediction, picture_of  # an upward import: drawing needs matplotlib's fonts

        return draw_prediction(self, picture_of(self, image), config, steady=steady)

    def save(self, path: str | Path, image: Image.Image | None = None, config: DrawConfig | None = None) -> None:
        """Write the drawing to a file, whose ending decides the format, such as `.png` or `.jpg`; see `draw`.

        Raises:
            ConfigError: the ending is of no image format, there is no such folder, or `path` is the image itself, or no
                path.
            TrainingError: the disk is full or not writable.
        """
        from PIL import Image

        check_type(path, str | Path, "path", "the path of the file to write")
        path = path_of(path, "drawing")
        Image.init()
        if (kind := Image.registered_extensions().get(path.suffix.lower())) not in Image.SAVE:
            raise ConfigError(f"{path} has no ending of an image format that can be written; use .png or .jpg")
        if self.path and os.path.exists(path) and os.path.samefile(path, self.path):
            raise ConfigError(f"{path} is the image of this prediction, which would be lost; name another file")
        picture = self.draw(image, config)
        with atomic_file(path) as temporary:
            picture.save(temporary, format=kind, quality=95)

    def show(self, image: Image.Image | None = None, config: DrawConfig | None = None) -> None:
        """Show the drawing in the system's viewer of images; in a notebook, the prediction itself is shown as one."""
        self.draw(image, config).show()

    def _repr_png_(self) -> bytes | None:
        """Return the drawing as PNG, which notebooks show; `None` if no image is known."""
        try:
            picture = self.draw()
        except TwinsError:
            return None
        picture.save(buffer := io.BytesIO(), format="PNG")
        return buffer.getvalue()


def _equal(first: Any, second: Any) -> bool:
    if isinstance(first, np.ndarray) or isinstance(second, np.ndarray):
        return first is not None and second is not None and np.array_equal(first, second)
    return bool(first == second)


def _run_lengths(mask: NDArray[np.bool_]) -> dict[str, Any]:
    """Return a mask `(H, W)` as COCO's compressed run lengths, as text.

    `data/objects.py` encodes masks faster, but this module is on a lower line and may not import it.
    """
    from faster_coco_eval import mask as rle

    encoded = rle.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": list(encoded["size"]), "counts": encoded["counts"].decode("ascii")}


def polygons_of(mask: NDArray[np.bool_]) -> list[list[float]]:
    """Return the outlines of a mask `(H, W)` as polygons `[x1, y1, x2, y2, ...]` in pixels.

    Outlines pass through the middle of the edges between pixels of the mask and others, so that they cut corners by
    half a pixel. Those of holes are polygons too: a point is inside if it is inside an odd number of them.
    """
    from contourpy import contour_generator

    height, width = mask.shape
    values = np.zeros((height + 2, width + 2), dtype=np.float32)
    values[1:-1, 1:-1] = mask
    outlines = contour_generator(x=np.arange(-0.5, width + 1), y=np.arange(-0.5, height + 1), z=values).lines(0.5)
    return [_corners(np.asarray(line)[:-1]).ravel().tolist() for line in outlines]


def _corners(points: NDArray[Any]) -> NDArray[Any]:
    """Return a closed polygon `(N, 2)` without the points on its straight lines."""
    before, after = points - np.roll(points, 1, axis=0), np.roll(points, -1, axis=0) - points
    return points[before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]]
