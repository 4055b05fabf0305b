"""A detector's part of a report: right, wrong and missed objects, the worst images, attention, curves, errors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from PIL import Image

from twins.charts import bar_chart, picture, precision_recall_chart, score_chart, share, table
from twins.data.formats.scenes import draw_scene
from twins.data.objects import Objects, decode_masks
from twins.drawing import Mark, Palette, grid, mark, palette, thumbnail
from twins.metrics.detection_errors import Judgement, judge
from twins.predictions import Prediction
from twins.tasks.contract import Examples, Explain
from twins.tasks.inference import SHOWN

PAIRS, EXPLAINED, SIDE, BINS = 4, 2, 560, 20
RIGHT, WRONG, MISSED = (32, 178, 110), (224, 36, 70), (255, 165, 0)
"""Colours of verdicts; each has a line of its own too."""
ERRORS = {
    "class": "another class",
    "localisation": "misplaced",
    "both": "misplaced, another class",
    "duplicate": "found twice",
    "background": "nothing there",
    "missed": "missed",
}
"""What readers call the kinds of error."""
WHAT = {"mask": "Masks", "box": "Boxes"}
COLUMNS = {
    "mask_ap": "mask AP",
    "mask_ap50": "mask AP50",
    "ap": "box AP",
    "ap50": "box AP50",
    "recall": "found (recall)",
    "precision": "right (precision)",
    "f1": "F1",
    "score": "from score",
}
"""Columns of the table of classes, after their names and numbers of objects."""


@dataclass(frozen=True)
class _Seen:
    """One held-out image with its objects, and what was found of them above the score that is shown."""

    image: Image.Image
    objects: Objects
    prediction: Prediction
    judgement: Judgement
    path: str

    @property
    def wrong(self) -> int:
        return sum(kind in ERRORS for kind in self.judgement.kinds)

    @property
    def missed(self) -> int:
        return self.judgement.found.count(False)

    def summary(self) -> str:
        return f"{self.judgement.kinds.count('right')} right, {self.wrong} wrong, {self.missed} missed"


@dataclass
class _Looked:
    """What the images that were looked at have to show; the rest of them is not kept."""

    count: int = 0
    spread: list[_Seen] = field(default_factory=list)
    worst: list[_Seen] = field(default_factory=list)
    scores: dict[bool, list[float]] = field(default_factory=lambda: {True: [], False: []})
    """Of right and of wrong predictions, whatever their score."""


def sections(result: dict[str, Any], examples: Examples, explain: Explain) -> list[str]:
    """Return a detector's sections."""
    kind = "mask" if "mask" in result["errors"] else "box"
    best = result["errors"][kind]["score"]  # 0 where no score finds anything
    score = best or SHOWN.score
    looked = _look(examples, score, masks=kind == "mask")
    colours = palette(looked.worst[0].prediction) if looked.worst else ()
    why = "balances precision and recall best" if best else "is usual, for none finds any object"
    said = f"Objects from a score of {score:.0%}, which {why} at an overlap of 0.5."
    explained = [(seen.image, seen.path.rpartition("/")[2]) for seen in looked.spread[:EXPLAINED]]
    return [
        f"<h2>Predictions</h2><p>{said}</p>{_key()}{_pairs(looked.spread, colours)}",
        f"<h2>Worst images</h2><p>The most errors among {looked.count} held-out images that were looked at.</p>"
        f"{_pairs(looked.worst, colours)}",
        explain(explained),
        f"<h2>Precision and recall</h2><div class=charts>{_curves(result)}{_scores(looked, score)}</div>",
        f"<h2>Errors</h2>{''.join(_errors(kind, result['errors'][kind]) for kind in WHAT if kind in result['errors'])}",
        _classes(result["per_class"], "mask_ap" if kind == "mask" else "ap"),
    ]


def _key() -> str:
    """Return what the lines of verdicts mean."""
    lines = ((RIGHT, "2px solid", "right"), (WRONG, "5px double", "wrong, and how"), (MISSED, "2px dashed", "missed"))
    return (
        "<p class='legend lines'>"
        + "".join(f"<span><i style='border:{line} rgb{colour}'></i>{text}</span>" for colour, line, text in lines)
        + "</p>"
    )


def _pairs(seen: list[_Seen], colours: Palette) -> str:
    """Return for each image a picture of the truth beside one of the verdicts."""
    return "".join(
        "<div class=pair>"
        + picture(_draw(s.image, _true(s.objects, s.prediction, colours)), f"{s.path.rpartition('/')[2]}, the truth")
        + picture(_draw(s.image, verdicts(s.prediction, s.objects, s.judgement)), s.summary())
        + "</div>"
        for s in seen
    )


def _true(objects: Objects, prediction: Prediction, colours: Palette | None = None) -> list[Mark]:
    """Return the true objects in the colours of their classes, or else in that of what is missed."""
    masks = [None] * len(objects) if objects.masks is None else list(decode_masks(objects.masks, objects.size))
    rows = zip(objects.boxes.tolist(), objects.labels.tolist(), objects.crowd.tolist(), masks, strict=True)
    return [
        Mark(
            box=box,
            colour=colours[label] if colours else MISSED,
            text=("crowd of " if crowd else "") + prediction.name(label),
            mask=mask,
        )
        for box, label, crowd, mask in rows
    ]


def verdicts(prediction: Prediction, objects: Objects, judgement: Judgement) -> list[Mark]:
    """Return what was missed (dashed), wrong (double) and right (solid) in an image, from the top down; see `judge`."""
    aimed = {about for about, kind in zip(judgement.about, judgement.kinds, strict=True) if kind != "right"}
    missed = [
        replace(item, text="" if index in aimed else f"missed {item.text}", line="dashed")
        for index, (item, found) in enumerate(zip(_true(objects, prediction), judgement.found, strict=True))
        if not found
    ]
    return missed + sorted(_judged(prediction, objects, judgement), key=lambda item: item.colour == RIGHT)


def _judged(prediction: Prediction, objects: Objects, judgement: Judgement) -> Iterator[Mark]:
    """Yield what was found, right and wrong; what is neither is left out."""
    assert prediction.boxes is not None
    assert prediction.labels is not None
    assert prediction.scores is not None
    for row, (kind, about) in enumerate(zip(judgement.kinds, judgement.about, strict=True)):
        if kind in ("crowd", "unseen"):
            continue
        name, text = prediction.name(int(prediction.labels[row])), ERRORS.get(kind, "")
        if kind == "class" and about is not None:
            text = f"is {prediction.name(int(objects.labels[about]))}"
        yield Mark(
            box=prediction.boxes[row].tolist(),
            colour=RIGHT if kind == "right" else WRONG,
            text=f"{name} {prediction.scores[row]:.0%}" if kind == "right" else f"{name}: {text}",
            mask=None if prediction.masks is None else prediction.masks[row],
            line="solid" if kind == "right" else "double",
        )


def _draw(image: Image.Image, marks: list[Mark]) -> Image.Image:
    """Mark objects on an image that is brought to `SIDE` pixels first where it is larger."""
    scale = SIDE / max(image.size)
    if scale >= 1.0:
        return mark(image, marks)
    small = thumbnail(image, SIDE)

    def shrink(item: Mark) -> Mark:
        mask = None if item.mask is None else np.asarray(Image.fromarray(item.mask).resize(small.size))
        return replace(item, box=[scale * side for side in item.box], mask=mask)

    return mark(small, [shrink(item) for item in marks])


def _curves(result: dict[str, Any]) -> str:
    """Return precision over recall, of masks and of boxes."""
    charts, recall = "", result["curves"]["recall"]
    names = [row["name"] for row in result["per_class"]]
    for kind, title in WHAT.items():
        curves = result["curves"].get(kind, {})
        if not curves.get("iou50"):
            continue
        known = [(name, curve) for name, curve in zip(names, curves["per_class"], strict=True) if curve]
        lines = []
        for at, style in (("50", "solid"), ("75", "dashed")):
            precision = share(result["metrics"].get(f"{kind}_ap{at}"))
            lines.append((f"overlap 0.{at}, AP{at} {precision}", curves[f"iou{at}"], style))
        behind = known if len(known) <= 30 else ()
        charts += precision_recall_chart(f"{title}: precision (up) over recall", recall, lines, behind)
    return charts


def _scores(looked: _Looked, score: float) -> str:
    right, wrong = (
        np.histogram(looked.scores[kind], bins=BINS, range=(0.0, 1.0))[0].tolist() for kind in (True, False)
    )
    return score_chart(right, wrong, score)


def _errors(kind: str, errors: dict[str, Any]) -> str:
    """Return kinds of error by what mending them would give."""
    bars = [
        (ERRORS[name], entry["ap50_gain"], f"+{100 * entry['ap50_gain']:.1f}, {entry['count']:,} times")
        for name, entry in errors["types"].items()
    ]
    return (
        f"<p>{WHAT[kind]}: from a score of {errors['score']:.0%} on, {errors['right']:,} of {errors['objects']:,} "
        f"objects are found. AP50 is {share(errors['ap50'])}; each bar is the points that it would gain, over all "
        f"scores, without errors of a kind.</p>{bar_chart(bars)}"
    )


def _classes(rows: list[dict[str, Any]], leading: str) -> str:
    known = sorted((row for row in rows if row[leading] is not None), key=lambda row: row[leading])
    columns = [key for key in COLUMNS if known and key in known[0]]
    head = ("class", "objects", *(COLUMNS[key] for key in columns))
    lines = [(row["name"], f"{row['objects']:,}", *(share(row[key]) for key in columns)) for row in known[:200]]
    return f"<h2>Classes</h2><div class=scroll>{table(head, lines, kind='numbers')}</div>"


def _look(examples: Examples, score: float, *, masks: bool) -> _Looked:
    """Judge the boxes of predictions, or their masks, and keep what is shown of them: those from a score on."""
    step, looked = max(1, len(examples) // PAIRS), _Looked()
    for place, example in enumerate(examples):
        objects, prediction = example.target, example.prediction
        _add_scores(looked, prediction, judge(prediction, objects, masks=masks))
        shown = _above(prediction, score)
        seen = _Seen(example.image, objects, shown, judge(shown, objects, masks=masks), example.path)
        looked.count += 1
        if place % step == 0 and len(looked.spread) < PAIRS:
            looked.spread.append(seen)
        looked.worst = sorted([*looked.worst, seen], key=lambda s: -(s.wrong + s.missed))[:PAIRS]
    return looked


def _add_scores(looked: _Looked, prediction: Prediction, judgement: Judgement) -> None:
    assert prediction.scores is not None
    for kind, score in zip(judgement.kinds, prediction.scores.tolist(), strict=True):
        if kind == "right" or kind in ERRORS:
            looked.scores[kind == "right"].append(score)


def _above(prediction: Prediction, score: float) -> Prediction:
    """Return the objects from a score on."""
    assert prediction.scores is not None
    kept = prediction.scores.astype(np.float64) >= score
    fields = ("boxes", "labels", "scores", "masks")
    given = {name: value[kept] for name in fields if (value := getattr(prediction, name)) is not None}
    return replace(prediction, **given)


def demo_picture(predict: Callable[[list[Image.Image]], list[Prediction]]) -> Image.Image:
    """Return the first held-out scenes, each beside itself with the objects that the network finds on it."""
    images = [draw_scene(index, train=False).image for index in range(6)]
    shown, captions = [], []
    for image, prediction in zip(images, predict(images), strict=True):
        assert prediction.labels is not None
        shown += [image, prediction.draw(image)]
        captions += ["", f"finds {' '.join(sorted(prediction.name(label) for label in prediction.labels.tolist()))}"]
    return grid(shown, captions, columns=4, side=300)
