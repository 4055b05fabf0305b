"""Report sections of classifiers: mistakes, examples, attention, classes, confusion, calibration."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from PIL import Image

from twins.charts import calibration_chart, confusion_table, picture, share, table
from twins.data.formats.digits import Digits
from twins.drawing import grid, thumbnail
from twins.errors import number_of
from twins.predictions import Prediction
from twins.tasks.contract import Examples, Explain

NUM_SHOWN, NUM_EXPLAINED = 12, 3


@dataclass(frozen=True)
class _LabelledImage:
    """A held-out image with its class id and prediction."""

    image: Image.Image
    label: int
    prediction: Prediction

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
        return f"{self.prediction.name(self.predicted)} {self.confidence:.0%}"


def sections(result: dict[str, Any], examples: Examples, explain: Explain) -> list[str]:
    """Return a classifier's sections."""
    images = [_LabelledImage(example.image, example.target, example.prediction) for example in examples]
    explained = images[:: max(1, len(images) // NUM_EXPLAINED)][:NUM_EXPLAINED]
    return [
        _mistakes(images),
        _examples(images),
        explain([(x.image, x.prediction.name(x.predicted)) for x in explained]),
        _classes(result),
    ]


def _mistakes(images: list[_LabelledImage]) -> str:
    mistakes = sorted((x for x in images if x.predicted != x.label), key=lambda x: -x.confidence)[:NUM_SHOWN]
    if not mistakes:
        return f"<h2>Mistakes</h2><p>None in {number_of(len(images), 'held-out image')}.</p>"
    pictures = "".join(
        picture(thumbnail(x.image), f"{x.summary}, is {x.prediction.name(x.label)}", kind="bad") for x in mistakes
    )
    return f"<h2>Most confident mistakes</h2><div class=thumbs>{pictures}</div>"


def _examples(images: list[_LabelledImage]) -> str:
    examples = images[:: max(1, len(images) // NUM_SHOWN)][:NUM_SHOWN]
    pictures = "".join(
        picture(thumbnail(x.image), x.summary, kind="good" if x.predicted == x.label else "bad") for x in examples
    )
    return f"<h2>Predictions</h2><div class=thumbs>{pictures}</div>"


def _classes(result: dict[str, Any]) -> str:
    rows = sorted((r for r in result["per_class"] if r["support"]), key=lambda row: row["recall"])
    head = ("class", "images", "recall", "precision", "F1")
    lines = [(r["name"], r["support"], *(share(r[key]) for key in ("recall", "precision", "f1"))) for r in rows[:100]]
    names = [row["name"] for row in result["per_class"]]
    return (
        f"<h2>Classes</h2><div class=scroll>{table(head, lines)}</div>"
        f"<h2>Confusion</h2>{confusion_table(names, result['confusion'])}{calibration_chart(result['calibration'])}"
    )


def demo_picture(predict: Callable[[list[Image.Image]], list[Prediction]]) -> Image.Image:
    """Return the first held-out digits with the predicted classes."""
    digits, count = Digits(train=False), 24
    images = [digits.load(index) for index in range(count)]
    shown = [_LabelledImage(*parts) for parts in zip(images, digits.labels[:count], predict(images), strict=True)]
    captions = [f"{digits.names[x.predicted]}  {x.confidence:.0%}" for x in shown]
    return grid(images, captions, columns=8, side=96, good=[x.predicted == x.label for x in shown])
