"""A classifier's part of a report: mistakes, examples, attention, classes, confusion, calibration."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from PIL import Image

from twins.charts import calibration_chart, confusion_table, picture, share, table
from twins.data.formats.digits import Digits
from twins.drawing import grid, thumbnail
from twins.predictions import Prediction
from twins.tasks.contract import Examples, Explain

SHOWN, EXPLAINED = 12, 3


@dataclass(frozen=True)
class _Seen:
    """One held-out image with its prediction."""

    image: Image.Image
    truth: int
    prediction: Prediction

    @property
    def said(self) -> int:
        assert self.prediction.labels is not None
        return int(self.prediction.labels[0])

    @property
    def confidence(self) -> float:
        assert self.prediction.scores is not None
        return float(self.prediction.scores[0])

    @property
    def summary(self) -> str:
        return f"{self.prediction.name(self.said)} {self.confidence:.0%}"


def sections(result: dict[str, Any], examples: Examples, explain: Explain) -> list[str]:
    """Return a classifier's sections."""
    seen = [_Seen(example.image, example.target, example.prediction) for example in examples]
    chosen = seen[:: max(1, len(seen) // EXPLAINED)][:EXPLAINED]
    return [
        _mistakes(seen),
        _examples(seen),
        explain([(s.image, s.prediction.name(s.said)) for s in chosen]),
        _classes(result),
    ]


def _mistakes(seen: list[_Seen]) -> str:
    wrong = sorted((s for s in seen if s.said != s.truth), key=lambda s: -s.confidence)[:SHOWN]
    if not wrong:
        return "<h2>Mistakes</h2><p>None among the held-out images that were looked at.</p>"
    pictures = "".join(
        picture(thumbnail(s.image), f"{s.summary}, is {s.prediction.name(s.truth)}", kind="bad") for s in wrong
    )
    return f"<h2>Most confident mistakes</h2><div class=thumbs>{pictures}</div>"


def _examples(seen: list[_Seen]) -> str:
    chosen = seen[:: max(1, len(seen) // SHOWN)][:SHOWN]
    pictures = "".join(
        picture(thumbnail(s.image), s.summary, kind="good" if s.said == s.truth else "bad") for s in chosen
    )
    return f"<h2>Predictions</h2><div class=thumbs>{pictures}</div>"


def _classes(result: dict[str, Any]) -> str:
    rows = sorted((r for r in result["per_class"] if r["support"]), key=lambda row: row["recall"])
    head = ("class", "images", "found (recall)", "right when said (precision)", "F1")
    lines = [(r["name"], r["support"], *(share(r[key]) for key in ("recall", "precision", "f1"))) for r in rows[:100]]
    names = [row["name"] for row in result["per_class"]]
    return (
        f"<h2>Classes</h2><div class=scroll>{table(head, lines)}</div>"
        f"<h2>Confusion</h2>{confusion_table(names, result['confusion'])}{calibration_chart(result['calibration'])}"
    )


def demo_picture(predict: Callable[[list[Image.Image]], list[Prediction]]) -> Image.Image:
    """Return the first held-out digits with what the network reads in them."""
    digits, count = Digits(train=False), 24
    images = [digits.load(index) for index in range(count)]
    seen = [_Seen(*parts) for parts in zip(images, digits.labels[:count], predict(images), strict=True)]
    captions = [f"{digits.names[s.said]}  {s.confidence:.0%}" for s in seen]
    return grid(images, captions, columns=8, side=96, good=[s.said == s.truth for s in seen])
