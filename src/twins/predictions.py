"""`Prediction`: the result of a network for one image, in the coordinates of the user's image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import Image

FORMAT = 1
"""Version of the dictionary that `Prediction.to_dict` writes."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Prediction:
    """Result for one image. The task decides which fields are set; arrays are read-only by convention."""

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

    def name(self, label: int) -> str:
        """Return the name of a class id, or the id as text if the network has no names."""
        return self.names[label] if self.names else str(label)

    def to_dict(self, *, top: int | None = None) -> dict[str, Any]:
        """Return JSON-ready values.

        All tasks: `format`, `task` and `size` (height, width). Classification: `labels`, `names` and `scores`, highest
        score first. Detection: also `boxes` (xyxy in pixels), and in a tracked video `tracks` (numbers from 1; null
        without a track). Instance segmentation: also `masks` (COCO's compressed
        run lengths: `size`, and `counts` as text) and `areas` (pixels of each mask). Semantic segmentation: `areas`
        (pixels by class name).

        Args:
            top: number of classes or objects to list, highest score first; `None`: all.
        """
        result: dict[str, Any] = {"format": FORMAT, "task": self.task, "size": list(self.size)}
        if self.labels is not None:
            labels = self.labels[:top].tolist()
            result |= {"labels": labels, "names": [self.name(label) for label in labels]}
        for field in ("scores", "boxes"):
            if (values := getattr(self, field)) is not None:
                result[field] = values[:top].tolist()
        if self.tracks is not None:
            result["tracks"] = [None if track < 0 else track for track in self.tracks[:top].tolist()]
        if self.masks is not None:
            result["areas"] = self.masks[:top].sum(axis=(1, 2)).tolist()
            result["masks"] = _run_lengths(self.masks[:top])
        if self.label_map is not None:
            labels, pixels = np.unique(self.label_map, return_counts=True)
            result["areas"] = {
                self.name(label): count for label, count in zip(labels.tolist(), pixels.tolist(), strict=True)
            }
        return result

    def draw(self, image: Image.Image, *, steady: bool = False) -> Image.Image:
        """Return a copy of `image` (RGB, of this prediction's size) with the result drawn on it.

        Args:
            image: the image of this prediction.
            steady: make the size of the picture independent of the prediction, as for frames of a video.
        """
        from twins.drawing import draw_prediction  # the package's one upward import: drawing needs matplotlib's fonts

        return draw_prediction(self, image, steady=steady)


def _run_lengths(masks: NDArray[np.bool_]) -> list[dict[str, Any]]:
    """Return masks `(R, H, W)` as COCO's compressed run lengths, as text.

    `data/objects.py` encodes masks faster, but this module is on a lower line and may not import it.
    """
    from faster_coco_eval import mask as rle

    if not len(masks):
        return []
    encoded = rle.encode(np.asfortranarray(masks.transpose(1, 2, 0), dtype=np.uint8))
    return [{"size": list(mask["size"]), "counts": mask["counts"].decode("ascii")} for mask in encoded]
