"""What a network says about one image, in the user's own image coordinates."""

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
    """One image's result. Which fields are set follows from the task; arrays are read-only by convention."""

    task: str
    """`classification`, `semantic`, `detection` or `instance`."""
    size: tuple[int, int]
    """Height and width of the user's image in pixels."""
    names: tuple[str, ...] = ()
    """Class names by class id; empty when the network has none."""
    colours: tuple[tuple[int, int, int], ...] = ()
    """RGB of each class in drawings; empty where they are chosen."""
    labels: NDArray[np.int64] | None = None
    """Class ids: classification `(K,)`, every class, most probable first; detection and instance `(R,)`."""
    scores: NDArray[np.float32] | None = None
    """Probabilities in 0..1 that belong to `labels`, same shape."""
    boxes: NDArray[np.float32] | None = None
    """`(R, 4)` xyxy in pixels, continuous coordinates."""
    masks: NDArray[np.bool_] | None = None
    """`(R, H, W)`."""
    label_map: NDArray[np.integer[Any]] | None = None
    """Class id of each pixel, `(H, W)`, in one byte where there are no more than 256 classes."""

    def name(self, label: int) -> str:
        """Return the name of a class id, or the id itself as text when the network has no names."""
        return self.names[label] if self.names else str(label)

    def to_dict(self, *, top: int | None = None) -> dict[str, Any]:
        """Return plain JSON-ready values.

        `format`, `task` and `size` (height, width) always. Of a classifier `labels`, `names` and `scores`, the most
        probable first; of a detector these and `boxes` (xyxy in pixels), the surest first; of instance segmentation
        also `masks` (COCO's compressed run lengths: `size` and `counts`, text) and `areas` (pixels of each). Of a
        semantic network `areas`, pixels by class name.

        Args:
            top: how many classes or objects to list, best first; all of them by default.
        """
        result: dict[str, Any] = {"format": FORMAT, "task": self.task, "size": list(self.size)}
        if self.labels is not None:
            labels = self.labels[:top].tolist()
            result |= {"labels": labels, "names": [self.name(label) for label in labels]}
        for field in ("scores", "boxes"):
            if (values := getattr(self, field)) is not None:
                result[field] = values[:top].tolist()
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
            image: the image that was predicted.
            steady: keep the picture's size whatever is found, as the frames of a video need it.
        """
        from twins.drawing import draw_prediction  # the package's one upward import: drawing needs matplotlib's fonts

        return draw_prediction(self, image, steady=steady)


def _run_lengths(masks: NDArray[np.bool_]) -> list[dict[str, Any]]:
    """Return masks `(R, H, W)` as COCO's compressed run lengths, in plain text.

    `data/objects.py` encodes masks faster; it lies above this module, which imports nothing of ours.
    """
    from faster_coco_eval import mask as rle

    if not len(masks):
        return []
    encoded = rle.encode(np.asfortranarray(masks.transpose(1, 2, 0), dtype=np.uint8))
    return [{"size": list(one["size"]), "counts": one["counts"].decode("ascii")} for one in encoded]
