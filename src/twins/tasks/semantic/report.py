"""Report sections of semantic networks: predictions, worst images, attention, classes, confusion, training views."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from twins.charts import confusion_table, picture, share, table
from twins.data.formats.masks import IGNORE
from twins.data.formats.scenes import SceneMaps
from twins.drawing import Palette, grid, overlay, palette, thumbnail
from twins.errors import number_of
from twins.predictions import Prediction
from twins.tasks.contract import Example, Examples, Explain, TrainingPart

NUM_SHOWN, NUM_EXPLAINED, SIDE, MAX_NAMED = 4, 2, 480, 3
FOUND = 0.1
"""Share of a class's pixels in an image below which the class is called missed."""
WRONG = (224, 36, 70)
"""Colour of wrong pixels."""


@dataclass(frozen=True)
class _MappedImage:
    """A held-out image with its ground truth, its predicted label map, and the IoU of each class in either."""

    image: Image.Image
    truth: NDArray[np.uint8]
    prediction: Prediction
    ious: dict[int, float]
    path: str

    @classmethod
    def of(cls, example: Example) -> _MappedImage:
        assert example.prediction.label_map is not None
        ious = image_ious(example.target, example.prediction.label_map)
        return cls(example.image, example.target, example.prediction, ious, example.path)

    @property
    def predicted(self) -> NDArray[Any]:
        assert self.prediction.label_map is not None
        return self.prediction.label_map

    @property
    def name(self) -> str:
        return self.path.replace("\\", "/").rpartition("/")[2]

    @property
    def miou(self) -> float:
        """Mean IoU over the classes of the image; 1 if all pixels are ignored."""
        return float(np.mean(list(self.ious.values()))) if self.ious else 1.0

    def summary(self, names: Sequence[str]) -> str:
        """Return mean IoU, and the classes of which less than `FOUND` of the pixels is found."""
        shares = {label: (self.predicted == label)[self.truth == label] for label in self.ious}
        missed = [names[label] for label, found in shares.items() if len(found) and found.mean() < FOUND]
        more = f" and {len(missed) - MAX_NAMED} more" if len(missed) > MAX_NAMED else ""
        text = f"; missed: {', '.join(missed[:MAX_NAMED])}{more}" if missed else ""
        return f"mean IoU {self.miou:.1%}{text}"


def image_ious(truth: NDArray[np.uint8], predicted: NDArray[Any]) -> dict[int, float]:
    """Return the IoU of each class that the ground truth or the prediction of an image has, without ignored pixels."""
    counted = truth != IGNORE
    truth, predicted = truth[counted], predicted[counted]
    result = {}
    for label in np.union1d(truth, predicted).tolist():
        in_truth, in_prediction = truth == label, predicted == label
        result[int(label)] = float((in_truth & in_prediction).sum() / (in_truth | in_prediction).sum())
    return result


def sections(result: dict[str, Any], examples: Examples, explain: Explain) -> list[str]:
    """Return a semantic network's sections."""
    images, colours = list[_MappedImage](), cast(Palette, ())
    for example in examples:
        colours = colours or palette(example.prediction)
        images.append(_MappedImage.of(example))
    ordered = sorted(images, key=lambda x: x.miou)
    worst = ordered[: min(NUM_SHOWN, len(images) // 2)]  # of few images, some are left for the predictions
    others = [x for x in images if not any(x is image for image in worst)]
    spread = others[:: max(1, len(others) // NUM_SHOWN)][:NUM_SHOWN]
    names = tuple(row["name"] for row in result["per_class"])
    legend = _legend(names, colours, [*spread, *worst])
    return [
        "<h2>Predictions</h2><p>Held-out images spread over the set. Mean IoU is over the classes of the image itself. "
        f"A class is missed if less than {FOUND:.0%} of its pixels is found.</p>{legend}"
        f"{_rows(spread, colours, names)}",
        f"<h2>Worst images</h2><p>The lowest mean IoU of {number_of(len(images), 'held-out image')}.</p>"
        f"{_rows(worst, colours, names)}",
        _explain(spread[:NUM_EXPLAINED], explain),
        _classes(result),
    ]


def training_sections(training: TrainingPart) -> list[str]:
    """Return augmented views with their masks."""
    empty = np.zeros((1, 1), dtype=np.uint8)
    prediction = Prediction(task="", size=(1, 1), names=training.names, colours=training.colours, label_map=empty)
    colours = palette(prediction)
    views = [
        (image, overlay(image, np.asarray(target), colours), _names_in(np.asarray(target), training.names))
        for image, target in training.views[:NUM_SHOWN]
    ]
    pictures = "".join(
        picture(thumbnail(image, SIDE), "view") + picture(thumbnail(marked, SIDE), text)
        for image, marked, text in views
    )
    text = "Augmented as the network is shown them, each beside its mask. Pixels without a colour are ignored."
    return [f"<h2>Training images</h2><p>{text}</p><div class=quad>{pictures}</div>"]


def _explain(images: list[_MappedImage], explain: Explain) -> str:
    """Return the section on what the network looks at."""
    source = "the mean score of a predicted class over its pixels (as in Seg-Grad-CAM, arXiv 2002.11434)"
    return explain([(x.image, x.name) for x in images], [x.prediction for x in images], source)


def _rows(images: list[_MappedImage], colours: Palette, names: Sequence[str]) -> str:
    """Return a row for each image: the image, its ground truth, its prediction, and the pixels that differ."""
    return "".join(
        "<div class=quad>"
        + picture(thumbnail(x.image, SIDE), "image", name=x.name)
        + picture(thumbnail(overlay(x.image, x.truth, colours), SIDE), "ground truth")
        + picture(thumbnail(overlay(x.image, x.predicted, colours), SIDE), f"prediction, {x.summary(names)}")
        + picture(thumbnail(_differences(x), SIDE), "wrong pixels in red")
        + "</div>"
        for x in images
    )


def _differences(x: _MappedImage) -> Image.Image:
    """Return the image in grey with its wrong pixels in red; ignored ones keep the image's grey."""
    wrong = (x.predicted != x.truth) & (x.truth != IGNORE)
    pixels = np.asarray(x.image.convert("L").convert("RGB"), dtype=np.float32)
    pixels = np.where(wrong[..., None], 0.25 * pixels + 0.75 * np.array(WRONG), pixels)
    return Image.fromarray(pixels.round().astype(np.uint8))


def _names_in(label_map: NDArray[Any], names: Sequence[str]) -> str:
    """Return the classes of a map, the largest first."""
    labels, pixels = np.unique(label_map[label_map != IGNORE], return_counts=True)
    present = [names[label] for label in labels[np.argsort(-pixels)].tolist()]
    return ", ".join(present[:6]) + (" …" if len(present) > 6 else "") or "ignored pixels only"


def _legend(names: Sequence[str], colours: Palette, images: list[_MappedImage]) -> str:
    """Return the colours of the classes in some images, at most 40."""
    present = sorted({label for x in images for label in x.ious})
    return (
        "<p class=legend>"
        + "".join(
            f"<span><i style='background:rgb{tuple(colours[label])}'></i>{escape(names[label])}</span>"
            for label in present[:40]
        )
        + "</p>"
    )


def _classes(result: dict[str, Any]) -> str:
    rows = sorted((r for r in result["per_class"] if r["iou"] is not None), key=lambda row: row["iou"])
    head = ("class", "pixels", "IoU", "accuracy", "boundary F1")
    shares = ("iou", "accuracy", "boundary_f1")
    lines = [(r["name"], f"{r['pixels']:,}", *(share(r.get(key)) for key in shares)) for r in rows[:200]]
    names = [row["name"] for row in result["per_class"]]
    confusion = confusion_table(names, result["confusion"], shares=True, unit="pixels")
    return (
        "<h2>Classes</h2><p>Lowest IoU first. Accuracy: share of the pixels of a class that are right. Boundary F1: "
        "agreement of the borders.</p>"
        f"<div class=scroll>{table(head, lines, kind='numbers')}</div><h2>Confusion</h2>{confusion}"
    )


def demo_picture(predict: Callable[[list[Image.Image]], list[Prediction]]) -> Image.Image:
    """Return the first held-out scenes, each beside a copy with the predicted classes."""
    scenes, count = SceneMaps(train=False), 6
    images = [scenes.load(index) for index in range(count)]
    shown, captions = [], []
    for image, prediction in zip(images, predict(images), strict=True):
        assert prediction.label_map is not None
        areas = {name: pixels for name, pixels in prediction.to_dict()["areas"].items() if name != "background"}
        digits = sorted(name for name, pixels in areas.items() if pixels >= 40)
        shown += [image, overlay(image, prediction.label_map, palette(prediction))]
        captions += ["", f"finds {' '.join(digits)}"]
    return grid(shown, captions, columns=6, side=150)
