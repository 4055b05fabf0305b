"""Report sections of detectors: predictions beside the ground truth, worst images, attention, curves, error types."""

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
from twins.metrics.detection_errors import ImageMatches, match_image
from twins.predictions import Prediction
from twins.tasks.contract import Examples, Explain
from twins.tasks.inference import SHOWN

NUM_SHOWN, NUM_EXPLAINED, SIDE, BINS = 4, 2, 560, 20
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
IOU_TITLES = {"mask": "Masks", "box": "Boxes"}
COLUMNS = {
    "mask_ap": "mask AP",
    "mask_ap50": "mask AP50",
    "ap": "box AP",
    "ap50": "box AP50",
    "recall": "recall",
    "precision": "precision",
    "f1": "F1",
    "score": "score threshold",
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
        return f"{right} right, {self.wrong} wrong, {self.missed} missed"


@dataclass
class _Selected:
    """The images that a report shows; the others are not kept in memory."""

    count: int = 0
    """All images of the report."""
    spread: list[_MatchedImage] = field(default_factory=list)
    """Images spread evenly over the data set."""
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
    colours = palette(selected.worst[0].prediction) if selected.worst else ()
    reason = "the score with the best F1 at an IoU of 0.5" if best else "the default, as no object is detected"
    return [
        f"<h2>Predictions</h2><p>Objects with a score of at least {score:.0%}, {reason}.</p>"
        f"{_legend()}{_pairs(selected.spread, colours)}",
        f"<h2>Worst images</h2><p>The images with the most errors, of {selected.count} held-out images.</p>"
        f"{_pairs(selected.worst, colours)}",
        explain([(image.image, image.name) for image in selected.spread[:NUM_EXPLAINED]]),
        f"<h2>Precision and recall</h2><div class=charts>{_curves(result)}{_scores(selected, score)}</div>",
        f"<h2>Errors</h2>{''.join(_errors(title, errors[key]) for key, title in IOU_TITLES.items() if key in errors)}",
        _class_table(result["per_class"], "mask_ap" if main == "mask" else "ap"),
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
        + picture(_draw(x.image, _truth_marks(x.objects, x.prediction, colours)), f"{x.name}, ground truth")
        + picture(_draw(x.image, match_marks(x.prediction, x.objects, x.matches)), x.summary())
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

    A missed object has no label if a detection with an error on it has one.
    """
    pairs = zip(matches.object_indices, matches.outcomes, strict=True)
    labelled = {index for index, outcome in pairs if outcome != "true_positive"}
    missed = [
        replace(item, text="" if index in labelled else f"missed {item.text}", line="dashed")
        for index, (item, matched) in enumerate(zip(_truth_marks(objects, prediction), matches.matched, strict=True))
        if not matched
    ]
    return missed + sorted(_detection_marks(prediction, objects, matches), key=lambda item: item.colour == RIGHT)


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
    """Return a chart of the error types, by the AP50 gained by fixing them."""
    bars = [
        (ERROR_TITLES[name], entry["ap50_gain"], f"+{100 * entry['ap50_gain']:.1f}, {entry['count']:,} times")
        for name, entry in errors["types"].items()
    ]
    return (
        f"<p>{title}: with a score of at least {errors['score']:.0%}, {errors['right']:,} of {errors['objects']:,} "
        f"objects are detected. AP50 is {share(errors['ap50'])}; each bar shows the points that it would gain over all "
        f"scores if only errors of this type were fixed.</p>{bar_chart(bars)}"
    )


def _class_table(per_class: list[dict[str, Any]], key: str) -> str:
    """Return the classes with objects in ascending order of one number, at most 200."""
    rows = sorted((row for row in per_class if row[key] is not None), key=lambda row: row[key])
    columns = [column for column in COLUMNS if rows and column in rows[0]]
    head = ("class", "objects", *(COLUMNS[column] for column in columns))
    lines = [(row["name"], f"{row['objects']:,}", *(share(row[column]) for column in columns)) for row in rows[:200]]
    return f"<h2>Classes</h2><div class=scroll>{table(head, lines, kind='numbers')}</div>"


def _select(examples: Examples, score: float, *, masks: bool) -> _Selected:
    """Match all examples by boxes, or by masks if `masks`, and select images to show, with objects from `score` on."""
    step, selected = max(1, len(examples) // NUM_SHOWN), _Selected()
    for number, example in enumerate(examples):
        objects, prediction = example.target, example.prediction
        _add_scores(selected, prediction, match_image(prediction, objects, masks=masks))
        shown = _above_threshold(prediction, score)
        image = _MatchedImage(example.image, objects, shown, match_image(shown, objects, masks=masks), example.path)
        selected.count += 1
        if number % step == 0 and len(selected.spread) < NUM_SHOWN:
            selected.spread.append(image)
        selected.worst = sorted([*selected.worst, image], key=lambda x: -(x.wrong + x.missed))[:NUM_SHOWN]
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
