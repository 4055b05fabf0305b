"""Report sections of classifiers: mistakes, examples, attention, classes, confusion, calibration, training views."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from PIL import Image
from torch import Tensor

from twins.charts import bar_chart, calibration_chart, confusion_table, picture, share, table
from twins.data.formats.digits import Digits
from twins.drawing import grid, thumbnail
from twins.errors import number_of
from twins.predictions import Prediction
from twins.tasks.contract import Example, Examples, Explain, TrainingPart

NUM_SHOWN, NUM_EXPLAINED, SIDE = 12, 3, 320
CALIBRATED = 0.02
"""Calibration error up to which the confidence of a network is called right."""


@dataclass(frozen=True)
class _LabelledImage:
    """A held-out image with its class id and prediction."""

    image: Image.Image
    label: int
    prediction: Prediction
    path: str

    @classmethod
    def of(cls, example: Example) -> _LabelledImage:
        return cls(example.image, example.target, example.prediction, example.path)

    @property
    def name(self) -> str:
        return self.path.replace("\\", "/").rpartition("/")[2]

    @property
    def predicted(self) -> int:
        assert self.prediction.labels is not None
        return int(self.prediction.labels[0])

    @property
    def confidence(self) -> float:
        assert self.prediction.scores is not None
        return float(self.prediction.scores[0])

    @property
    def summary(self) -> str:
        predicted = f"predicted {self.prediction.name(self.predicted)}, {self.confidence:.0%}"
        return predicted if self.predicted == self.label else f"{predicted}; true {self.prediction.name(self.label)}"


def sections(result: dict[str, Any], examples: Examples, explain: Explain) -> list[str]:
    """Return a classifier's sections."""
    images = [_LabelledImage.of(example) for example in examples]
    explained = images[:: max(1, len(images) // NUM_EXPLAINED)][:NUM_EXPLAINED]
    return [
        _mistakes(images),
        _examples(images),
        explain(
            [(x.image, x.name) for x in explained],
            [x.prediction for x in explained],
            "the score of the predicted class",
        ),
        _classes(result),
        _calibration(result),
    ]


def tile_notes(result: dict[str, Any]) -> dict[str, str]:
    """Return what to say below metrics by name: in which direction the confidence is wrong."""
    return {"ece": _direction(result)}


def training_sections(training: TrainingPart) -> list[str]:
    """Return augmented views of training images, and the number of images by class."""
    views = [picture(thumbnail(image, SIDE), _target_text(target, training.names)) for image, target in training.views]
    counts = Counter(training.images.labels).most_common(30)
    bars = [(training.names[label], float(count), f"{count:,}") for label, count in counts]
    return [
        "<h2>Training images</h2><p>Augmented as the network is shown them.</p>"
        f"<div class=thumbs>{''.join(views)}</div>"
        f"<h3>Images by class</h3>{bar_chart(bars)}"
    ]


def _target_text(target: Tensor, names: tuple[str, ...]) -> str:
    """Return the class of a training target, or the classes of a mixed one with their shares."""
    if not target.is_floating_point():
        return names[int(target)]
    shares, labels = target.topk(min(2, len(target)))
    return " + ".join(f"{names[label]} {part:.0%}" for part, label in zip(shares, labels.tolist(), strict=True))


def _mistakes(images: list[_LabelledImage]) -> str:
    mistakes = sorted((x for x in images if x.predicted != x.label), key=lambda x: -x.confidence)
    if not mistakes:
        return f"<h2>Mistakes</h2><p>None in {number_of(len(images), 'held-out image')}.</p>"
    count = f"{len(mistakes):,} of {number_of(len(images), 'held-out image')} are wrong; the surest come first."
    return f"<h2>Most confident mistakes</h2><p>{count}</p>{_pictures(mistakes[:NUM_SHOWN])}"


def _examples(images: list[_LabelledImage]) -> str:
    examples = images[:: max(1, len(images) // NUM_SHOWN)][:NUM_SHOWN]
    return f"<h2>Predictions</h2><p>Held-out images spread over the set.</p>{_pictures(examples)}"


def _pictures(images: list[_LabelledImage]) -> str:
    pictures = [
        picture(thumbnail(x.image, SIDE), x.summary, kind="good" if x.predicted == x.label else "bad", name=x.name)
        for x in images
    ]
    return f"<div class=thumbs>{''.join(pictures)}</div>"


def _classes(result: dict[str, Any]) -> str:
    rows = sorted((r for r in result["per_class"] if r["support"]), key=lambda row: row["recall"])
    head = ("class", "images", "recall", "precision", "F1")
    lines = [(r["name"], r["support"], *(share(r[key]) for key in ("recall", "precision", "f1"))) for r in rows[:100]]
    names = [row["name"] for row in result["per_class"]]
    return (
        "<h2>Classes</h2><p>Lowest recall first. Recall: share of the images of a class that are predicted as it. "
        "Precision: share of the predictions of a class that are right. F1: their harmonic mean.</p>"
        f"<div class=scroll>{table(head, lines, kind='numbers')}</div>"
        f"<h2>Confusion</h2>{confusion_table(names, result['confusion'], unit='images')}"
    )


def _calibration(result: dict[str, Any]) -> str:
    """Return what the confidence of the network is worth."""
    bins = result["calibration"]
    count = sum(b["count"] for b in bins) or 1
    confidence, accuracy = (sum(b["count"] * b[key] for b in bins) / count for key in ("confidence", "accuracy"))
    temperature = result["protocol"].get("temperature", 1.0)
    scaled = f" The scores are scaled with a temperature of {temperature:.3g}." if temperature != 1.0 else ""
    advice = " <code>twins eval RUN --calibrate</code> scales the scores so that they fit." if not scaled else ""
    error = share(result["metrics"].get("ece"))
    return (
        f"<h2>Calibration</h2><p>On average the network is {confidence:.1%} sure, and {accuracy:.1%} of its "
        f"predictions are right: <b>{_direction(result)}</b>. The calibration error (ECE, {error}) is the mean "
        f"difference between confidence and accuracy over {len(bins)} bins of confidence. Dots above the diagonal are "
        f"sure too seldom, dots below it too often.{scaled}"
        f"{'' if _direction(result) == RIGHT else advice}</p><div class=charts>{calibration_chart(bins)}</div>"
    )


RIGHT = "as sure as it should be"


def _direction(result: dict[str, Any]) -> str:
    """Return in which direction the confidence differs from the accuracy."""
    error = result["metrics"].get("ece", 0.0)
    gap = sum(b["count"] * (b["confidence"] - b["accuracy"]) for b in result["calibration"])
    gap /= sum(b["count"] for b in result["calibration"]) or 1
    if error <= CALIBRATED:
        return RIGHT
    if abs(gap) < 0.5 * error:
        return "sure too often in some ranges, too seldom in others"
    return "sure too often (overconfident)" if gap > 0 else "sure too seldom (underconfident)"


def demo_picture(predict: Callable[[list[Image.Image]], list[Prediction]]) -> Image.Image:
    """Return the first held-out digits with the predicted classes."""
    digits, count = Digits(train=False), 24
    images = [digits.load(index) for index in range(count)]
    labels, paths = digits.labels[:count], [digits.path(index) for index in range(count)]
    shown = [_LabelledImage(*parts) for parts in zip(images, labels, predict(images), paths, strict=True)]
    captions = [f"{digits.names[x.predicted]}  {x.confidence:.0%}" for x in shown]
    return grid(images, captions, columns=8, side=96, good=[x.predicted == x.label for x in shown])
