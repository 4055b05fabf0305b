"""Report sections of detectors: predictions beside the ground truth, worst images, attention, curves, errors, data."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from math import floor
from typing import Any

import numpy as np
from PIL import Image

from twins.charts import (
    Curve,
    confidence_chart,
    confusion_table,
    picture,
    precision_recall_chart,
    score_chart,
    share,
    table,
)
from twins.data.formats.scenes import draw_scene
from twins.data.objects import Objects, decode_masks
from twins.drawing import Mark, Palette, grid, mark, palette, thumbnail
from twins.errors import number_of
from twins.metrics.detection_errors import ImageMatches, match_image
from twins.predictions import Prediction
from twins.tasks.contract import Examples, Explain
from twins.tasks.detection.training_report import training_sections
from twins.tasks.inference import SHOWN

__all__ = ["demo_picture", "sections", "training_sections"]
NUM_SHOWN, NUM_EXPLAINED, SIDE, BINS = 4, 2, 640, 20
MAX_WRONG = 5
"""Wrong detections that are drawn on an image, the surest; the others are counted."""
RIGHT, WRONG, MISSED = (32, 178, 110), (224, 36, 70), (255, 165, 0)
"""Colours of true positives, false positives and missed objects; each also has its own line style."""
ERROR_TITLES = {
    "class": "another class",
    "localisation": "misplaced",
    "both": "misplaced, another class",
    "duplicate": "found twice",
    "background": "nothing there",
    "missed": "missed",
}
"""Titles of the error types."""
ERROR_MEANINGS = {
    "class": "the position is right (IoU of at least 0.5), the class is not",
    "localisation": "the class is right, the overlap with the object too small (IoU of 0.1 to 0.5)",
    "both": "the overlap is too small, and the class is wrong",
    "duplicate": "another detection has found this object already",
    "background": "there is no object (IoU below 0.1)",
    "missed": "an object that no detection has found",
}
"""Meanings of the error types, in plain words."""
IOU_TITLES = {"mask": "Masks", "box": "Boxes"}
COLUMNS = {
    "mask_ap": "mask AP",
    "mask_ap50": "mask AP50",
    "ap": "box AP",
    "ap50": "box AP50",
    "recall": "recall",
    "precision": "precision",
    "f1": "F1",
    "score": "best score threshold",
}
"""Titles of the columns in the table of classes, after name and number of objects."""


@dataclass(frozen=True)
class _MatchedImage:
    """A held-out image with its objects and the detections above the score threshold."""

    image: Image.Image
    objects: Objects
    prediction: Prediction
    matches: ImageMatches
    path: str

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]

    @property
    def wrong(self) -> int:
        return sum(outcome in ERROR_TITLES for outcome in self.matches.outcomes)

    @property
    def missed(self) -> int:
        return self.matches.matched.count(False)

    def summary(self) -> str:
        right = self.matches.outcomes.count("true_positive")
        surest = f" (the surest {MAX_WRONG} are drawn)" if self.wrong > MAX_WRONG else ""
        return f"{right} right, {self.wrong} wrong{surest}, {self.missed} missed"


@dataclass
class _Selected:
    """The images that a report shows; the others are not kept in memory."""

    count: int = 0
    """All images of the report."""
    spread: list[_MatchedImage] = field(default_factory=list)
    """Images spread evenly over the data set, none of them among the worst."""
    worst: list[_MatchedImage] = field(default_factory=list)
    """Images with the most errors."""
    scores: dict[bool, list[float]] = field(default_factory=lambda: {True: [], False: []})
    """Scores of true (`True`) and false positives (`False`) in all images, with any score."""


def sections(result: dict[str, Any], examples: Examples, explain: Explain) -> list[str]:
    """Return a detector's sections."""
    errors = result["errors"]
    main = "mask" if "mask" in errors else "box"
    best = errors[main]["score"]  # 0 without a true positive
    score = best or SHOWN.score
    selected = _select(examples, score, masks=main == "mask")
    shown = [*selected.worst, *selected.spread]
    colours = palette(shown[0].prediction) if shown else ()
    found = [x for x in (*selected.spread, *selected.worst) if len(x.prediction)]
    return [
        f"<h2>Predictions</h2><p>{_threshold_text(score, best, selected)}</p>"
        f"{_legend()}{_pairs(selected.spread, colours)}",
        f"<h2>Worst images</h2><p>Those with the most errors, of {number_of(selected.count, 'held-out image')}.</p>"
        f"{_pairs(selected.worst, colours)}",
        _explain((found or selected.spread)[:NUM_EXPLAINED], explain),
        f"<h2>Precision and recall</h2>{_suggestion(best)}<div class=charts>{_curves(result)}"
        f"{_confidence(result, score)}{_scores(selected, score)}</div>",
        f"<h2>Errors</h2>{''.join(_errors(title, errors[key]) for key, title in IOU_TITLES.items() if key in errors)}",
        *_confusion(result, score),
        _class_table(result["per_class"], "mask_ap" if main == "mask" else "ap"),
    ]


def _threshold_text(score: float, best: float, selected: _Selected) -> str:
    """Return which objects are shown."""
    reason = "the score with the best F1 at an IoU of 0.5" if best else "the default, as no object is detected"
    highest = max((score for scores in selected.scores.values() for score in scores), default=0.0)
    nothing = f" None has that much: the surest has {highest:.1%}." if highest < score else ""
    return f"Objects with a score of at least {score:.0%}, {reason}.{nothing}"


def _suggestion(best: float) -> str:
    """Return the score threshold to use."""
    if not best:
        return ""
    return (
        f"<p>F1 over all classes is best at a score of {best:.3f}: <code>twins predict RUN IMAGE... --score "
        f"{floor(100 * best) / 100:g}</code>. The table of classes has the best threshold of each.</p>"
    )


def _explain(images: list[_MatchedImage], explain: Explain) -> str:
    """Return the section on what the detector looks at, for the surest object of each image that has one."""
    captions = [(x.image, x.name) for x in images]
    return explain(captions, [x.prediction for x in images], "the score of the surest object")


def _confidence(result: dict[str, Any], score: float) -> str:
    """Return a chart of precision, recall and F1 over the score threshold; empty for results of older versions."""
    if "confidence" not in result:
        return ""
    scores = result["confidence"]["score"]
    curves = [
        Curve(title, [p for p in zip(scores, result["confidence"][name], strict=True) if p[1] is not None], kind)
        for name, title, kind in (("precision", "precision", "c2"), ("recall", "recall", "c1"), ("f1", "F1", "c0"))
    ]
    return confidence_chart("Precision, recall and F1 over the score threshold, all classes", curves, score)


def _confusion(result: dict[str, Any], score: float) -> list[str]:
    """Return the section with the confusion matrix; none for results of older versions."""
    if "confusion" not in result:
        return []
    names = [*(row["name"] for row in result["per_class"]), "background"]
    return [
        f"<h2>Confusion</h2><p>Detections with a score of at least {score:.0%} against the objects, at an IoU of at "
        "least 0.5. The column background has the objects that were missed, the row background the detections where no "
        f"object of any class is, or one that was found already.</p>{confusion_table(names, result['confusion'])}"
    ]


def _legend() -> str:
    """Return the legend of the boxes' lines."""
    lines = (
        (RIGHT, "2px solid", "right"),
        (WRONG, "5px double", "wrong, with the error"),
        (MISSED, "2px dashed", "missed"),
    )
    return (
        "<p class='legend lines'>"
        + "".join(f"<span><i style='border:{line} rgb{colour}'></i>{text}</span>" for colour, line, text in lines)
        + "</p>"
    )


def _pairs(images: list[_MatchedImage], colours: Palette) -> str:
    """Return each image twice, with its ground truth and with its detections and missed objects."""
    return "".join(
        "<div class=pair>"
        + picture(_draw(x.image, _truth_marks(x.objects, x.prediction, colours)), "ground truth", name=x.name)
        + picture(_draw(x.image, match_marks(x.prediction, x.objects, x.matches)), x.summary(), name="detections")
        + "</div>"
        for x in images
    )


def _truth_marks(objects: Objects, prediction: Prediction, colours: Palette | None = None) -> list[Mark]:
    """Return marks of the ground truth in the colours of the classes, or in that of missed objects."""
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


def match_marks(prediction: Prediction, objects: Objects, matches: ImageMatches) -> list[Mark]:
    """Return marks of an image's missed objects (dashed), then false (double) and true positives (solid).

    Of the false positives, only the surest `MAX_WRONG` are marked. A missed object has no label if a detection with an
    error on it has one, and none has a mask, which would hide the wrong ones.
    """
    pairs = zip(matches.object_indices, matches.outcomes, strict=True)
    labelled = {index for index, outcome in pairs if outcome != "true_positive"}
    missed = [
        replace(item, text="" if index in labelled else f"missed {item.text}", line="dashed", mask=None)
        for index, (item, matched) in enumerate(zip(_truth_marks(objects, prediction), matches.matched, strict=True))
        if not matched
    ]
    marks = list(_detection_marks(prediction, objects, matches))  # the surest first
    right, wrong = ([item for item in marks if item.colour == colour] for colour in (RIGHT, WRONG))
    return missed + wrong[:MAX_WRONG] + right


def _detection_marks(prediction: Prediction, objects: Objects, matches: ImageMatches) -> Iterator[Mark]:
    """Yield marks of true and false positives."""
    assert prediction.boxes is not None
    assert prediction.labels is not None
    assert prediction.scores is not None
    for row, (outcome, index) in enumerate(zip(matches.outcomes, matches.object_indices, strict=True)):
        if outcome in ("ignored", "excluded"):
            continue
        name, text = prediction.name(int(prediction.labels[row])), ERROR_TITLES.get(outcome, "")
        if outcome == "class" and index is not None:
            text = f"is {prediction.name(int(objects.labels[index]))}"
        right = outcome == "true_positive"
        yield Mark(
            box=prediction.boxes[row].tolist(),
            colour=RIGHT if right else WRONG,
            text=f"{name} {prediction.scores[row]:.0%}" if right else f"{name}: {text}",
            mask=None if prediction.masks is None else prediction.masks[row],
            line="solid" if right else "double",
        )


def _draw(image: Image.Image, marks: list[Mark]) -> Image.Image:
    """Draw marks on an image whose longer side is first reduced to `SIDE` pixels if it is larger."""
    scale = SIDE / max(image.size)
    if scale >= 1.0:
        return mark(image, marks)
    small = thumbnail(image, SIDE)

    def shrink(item: Mark) -> Mark:
        mask = None if item.mask is None else np.asarray(Image.fromarray(item.mask).resize(small.size))
        return replace(item, box=[scale * side for side in item.box], mask=mask)

    return mark(small, [shrink(item) for item in marks])


def _curves(result: dict[str, Any]) -> str:
    """Return charts of precision over recall, for masks and for boxes."""
    charts, recall = "", result["curves"]["recall"]
    names = [row["name"] for row in result["per_class"]]
    for iou_type, title in IOU_TITLES.items():
        curves = result["curves"].get(iou_type, {})
        if not curves.get("iou50"):
            continue
        class_curves = [(name, curve) for name, curve in zip(names, curves["per_class"], strict=True) if curve]
        lines = []
        for iou, style in (("50", "solid"), ("75", "dashed")):
            precision = share(result["metrics"].get(f"{iou_type}_ap{iou}"))
            lines.append((f"IoU 0.{iou}, AP{iou} {precision}", curves[f"iou{iou}"], style))
        behind = class_curves if len(class_curves) <= 30 else ()
        charts += precision_recall_chart(f"{title}: precision (up) over recall", recall, lines, behind)
    return charts


def _scores(selected: _Selected, score: float) -> str:
    right, wrong = (
        np.histogram(selected.scores[right], bins=BINS, range=(0.0, 1.0))[0].tolist() for right in (True, False)
    )
    return score_chart(right, wrong, score)


def _errors(title: str, errors: dict[str, Any]) -> str:
    """Return a table of the error types, with what they mean and how much AP50 each costs."""
    types = sorted(errors["types"].items(), key=lambda item: (-item[1]["ap50_gain"], -item[1]["count"]))
    rows = [
        (
            f"{ERROR_TITLES[name]}: {ERROR_MEANINGS[name]}",
            f"{entry['count']:,}",
            f"{share(errors['ap50'] + entry['ap50_gain'])} (+{100 * entry['ap50_gain']:.1f})",
        )
        for name, entry in types
    ]
    head = ("error", f"number, score ≥ {errors['score']:.0%}", "AP50 without it")
    return (
        f"<p><b>{title}</b>: with a score of at least {errors['score']:.0%}, {errors['right']:,} of "
        f"{errors['objects']:,} objects are detected. AP50 is {share(errors['ap50'])}; it counts detections with any "
        "score, so that an error which is rare above the threshold can still cost AP50.</p>"
        f"<div class=scroll>{table(head, rows)}</div>"
    )


def _class_table(per_class: list[dict[str, Any]], key: str) -> str:
    """Return the classes with objects in ascending order of one number, at most 200."""
    rows = sorted((row for row in per_class if row[key] is not None), key=lambda row: row[key])
    columns = [column for column in COLUMNS if rows and column in rows[0]]
    head = ("class", "objects", *(COLUMNS[column] for column in columns))
    lines = [(row["name"], f"{row['objects']:,}", *(share(row[column]) for column in columns)) for row in rows[:200]]
    text = "Lowest AP first. Recall, precision and F1 are those at the score threshold with the best F1 of the class."
    return f"<h2>Classes</h2><p>{text}</p><div class=scroll>{table(head, lines, kind='numbers')}</div>"


def _select(examples: Examples, score: float, *, masks: bool) -> _Selected:
    """Match all examples by boxes, or by masks if `masks`, and select images to show, with objects from `score` on."""
    step, selected = max(1, len(examples) // (2 * NUM_SHOWN)), _Selected()
    for number, example in enumerate(examples):
        objects, prediction = example.target, example.prediction
        _add_scores(selected, prediction, match_image(prediction, objects, masks=masks))
        shown = _above_threshold(prediction, score)
        image = _MatchedImage(example.image, objects, shown, match_image(shown, objects, masks=masks), example.path)
        selected.count += 1
        if number % step == 0 and len(selected.spread) < 2 * NUM_SHOWN:
            selected.spread.append(image)
        selected.worst = sorted([*selected.worst, image], key=lambda x: -(x.wrong + x.missed))[:NUM_SHOWN]
    selected.worst = selected.worst[: selected.count // 2]  # of few images, some are left for the predictions
    others = [x for x in selected.spread if not any(x is image for image in selected.worst)]
    selected.spread = others[:: max(1, len(others) // NUM_SHOWN)][:NUM_SHOWN]
    return selected


def _add_scores(selected: _Selected, prediction: Prediction, matches: ImageMatches) -> None:
    assert prediction.scores is not None
    for outcome, score in zip(matches.outcomes, prediction.scores.tolist(), strict=True):
        if outcome == "true_positive" or outcome in ERROR_TITLES:
            selected.scores[outcome == "true_positive"].append(score)


def _above_threshold(prediction: Prediction, score: float) -> Prediction:
    """Return a prediction with only the objects of at least this score."""
    assert prediction.scores is not None
    selected = prediction.scores.astype(np.float64) >= score
    names = ("boxes", "labels", "scores", "masks")
    fields = {name: value[selected] for name in names if (value := getattr(prediction, name)) is not None}
    return replace(prediction, **fields)


def demo_picture(predict: Callable[[list[Image.Image]], list[Prediction]]) -> Image.Image:
    """Return the first held-out scenes, each beside a copy with the predicted objects."""
    images = [draw_scene(index, train=False).image for index in range(6)]
    pictures, captions = [], []
    for image, prediction in zip(images, predict(images), strict=True):
        assert prediction.labels is not None
        pictures += [image, prediction.draw(image)]
        captions += ["", f"finds {' '.join(sorted(prediction.name(label) for label in prediction.labels.tolist()))}"]
    return grid(pictures, captions, columns=4, side=300)
