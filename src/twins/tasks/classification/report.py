"""A classifier's part of a report: mistakes, examples, attention, classes, confusion, calibration."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import Any

from PIL import Image

from twins.charts import calibration_chart, confusion_table, picture, share
from twins.data.base import LabelledImages
from twins.errors import DataError, NotFoundError
from twins.evaluation import match_classes
from twins.predictions import Prediction
from twins.predictor import Predictor
from twins.report.pictures import attention_section, thumbnail
from twins.tasks.classification.spec import ClassificationKit

SHOWN, EXAMINED, EXPLAINED = 12, 2000, 3


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


def sections(predictor: Predictor, images: LabelledImages, result: dict[str, Any]) -> list[str]:
    """Return a classifier's sections."""
    seen = _look(predictor, images)
    chosen = seen[:: max(1, len(seen) // EXPLAINED)][:EXPLAINED]
    return [
        _mistakes(seen, predictor.names),
        _examples(seen),
        attention_section(predictor, [(s.image, s.prediction.name(s.said)) for s in chosen]),
        _classes(result),
    ]


def _mistakes(seen: list[_Seen], names: tuple[str, ...]) -> str:
    wrong = sorted((s for s in seen if s.said != s.truth), key=lambda s: -s.confidence)[:SHOWN]
    if not wrong:
        return "<h2>Mistakes</h2><p>None among the held-out images that were looked at.</p>"
    pictures = "".join(
        picture(thumbnail(s.image), f"{names[s.said]} {s.confidence:.0%}, is {names[s.truth]}", kind="bad")
        for s in wrong
    )
    return f"<h2>Most confident mistakes</h2><div class=thumbs>{pictures}</div>"


def _examples(seen: list[_Seen]) -> str:
    chosen = seen[:: max(1, len(seen) // SHOWN)][:SHOWN]
    pictures = "".join(
        picture(
            thumbnail(s.image),
            f"{s.prediction.name(s.said)} {s.confidence:.0%}",
            kind="good" if s.said == s.truth else "bad",
        )
        for s in chosen
    )
    return f"<h2>Predictions</h2><div class=thumbs>{pictures}</div>"


def _classes(result: dict[str, Any]) -> str:
    rows = sorted((r for r in result["per_class"] if r["support"]), key=lambda row: row["recall"])
    lines = "".join(
        f"<tr><td>{escape(r['name'])}</td><td>{r['support']}</td><td>{share(r['recall'])}</td>"
        f"<td>{share(r['precision'])}</td><td>{share(r['f1'])}</td></tr>"
        for r in rows[:100]
    )
    names = [row["name"] for row in result["per_class"]]
    return (
        "<h2>Classes</h2><div class=scroll><table><tr><th>class</th><th>images</th><th>found (recall)</th>"
        f"<th>right when said (precision)</th><th>F1</th></tr>{lines}</table></div>"
        f"<h2>Confusion</h2>{confusion_table(names, result['confusion'])}{calibration_chart(result['calibration'])}"
    )


def _look(predictor: Predictor, images: LabelledImages) -> list[_Seen]:
    """Predict the held-out images, at most `EXAMINED` spread over the set; unreadable ones are left out."""
    matched, _ = match_classes(ClassificationKit(), images, predictor.model)
    opened, truths = [], []
    for index in range(0, len(matched), max(1, len(matched) // EXAMINED)):
        try:
            opened.append(matched.load(index))
            truths.append(matched.target(index))
        except (DataError, NotFoundError):
            continue
    found = predictor.predict(opened, batch_size=32)
    return [_Seen(*parts) for parts in zip(opened, truths, found, strict=True)]
