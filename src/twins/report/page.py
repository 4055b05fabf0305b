"""A run's report: one self-contained page, readable on a phone, in light and in dark."""

from __future__ import annotations

import json
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import torch
from matplotlib import colormaps
from PIL import Image
from torch import Tensor

from twins.data.dataset import LabelledImages, open_classification
from twins.engine.config import CONFIG, TrainConfig, read_config
from twins.errors import DataError, NotFoundError
from twins.evaluation import Relabelled
from twins.predictions import Prediction
from twins.predictor import Predictor, load
from twins.report.attention import global_map, has_windows, local_map
from twins.report.charts import calibration_chart, confusion_table, facts, line_chart, picture, share
from twins.report.style import STYLE
from twins.weights.files import atomic_file

SHOWN, EXAMINED, EXPLAINED, THUMB = 12, 2000, 3, 160


@dataclass(frozen=True)
class _Seen:
    """One held-out image with its prediction."""

    image: Image.Image
    truth: int
    prediction: Prediction
    path: str

    @property
    def said(self) -> int:
        assert self.prediction.labels is not None
        return int(self.prediction.labels[0])

    @property
    def confidence(self) -> float:
        assert self.prediction.scores is not None
        return float(self.prediction.scores[0])


def write_report(run: str | Path) -> Path:
    """Write `report.html` into a run folder, from its records, its best weights and its held-out images.

    Args:
        run: a run folder with `config.yaml`, `metrics.jsonl`, `eval.json` and `best.safetensors`.

    Returns:
        the page's path.

    Raises:
        NotFoundError: the folder lacks one of these.
        DataError: a file of it is damaged, or the data cannot be used.
    """
    run = Path(run)
    config = read_config(_part(run, CONFIG))
    rows, result = _records(_part(run, "metrics.jsonl")), _json(_part(run, "eval.json"))
    predictor = load(run, device="cpu")
    images = open_classification(config.data, seed=config.seed, val_share=config.val_share).val
    seen = _look(predictor, images)
    sections = [
        _head(config, result),
        _curves(rows),
        _mistakes(seen, predictor.names),
        _examples(seen),
        _explained(predictor, seen),
        _classes(result),
        _details(config, predictor, result),
    ]
    page = "<!doctype html><html lang=en><meta charset=utf-8>"
    page += "<meta name=viewport content='width=device-width,initial-scale=1'>"
    page += f"<title>{escape(config.model)} on {escape(Path(config.data).name)}</title><style>{STYLE}</style>"
    page += f"<main>{''.join(sections)}</main></html>\n"
    with atomic_file(run / "report.html") as beside:
        beside.write_text(page, encoding="utf-8")
    return run / "report.html"


def _head(config: TrainConfig, result: dict[str, Any]) -> str:
    names = {"top1": "top-1", "top5": "top-5", "mean_class_accuracy": "mean class accuracy", "ece": "calibration error"}
    tiles = "".join(
        f"<div class=tile><b>{share(value)}</b><span>{names.get(key, key)}</span></div>"
        for key, value in result["metrics"].items()
    )
    protocol = result["protocol"]
    return (
        f"<h1>{escape(config.model)} <small>on {escape(Path(config.data).name)}</small></h1>"
        f"<div class=tiles>{tiles}</div>"
        f"<p>Measured on {protocol['images']} held-out images at {protocol['size']} pixels, crop {protocol['crop']:g}, "
        f"{protocol['interpolation']}, padding {protocol['padding']}.</p>"
    )


def _curves(rows: list[dict[str, Any]]) -> str:
    train = [row for row in rows if row.get("kind") == "train"]
    evaluated = [row for row in rows if row.get("kind") == "eval"]
    charts = [
        line_chart("loss", [(r["step"], r["loss"]) for r in train]),
        line_chart("held-out top-1", [(r["step"], r["top1"]) for r in evaluated if "top1" in r], percent=True),
        line_chart("learning rate", [(r["step"], r["lr"]) for r in train], logarithmic=True),
        line_chart("images per second", [(r["step"], r["images_per_s"]) for r in train]),
    ]
    return f"<h2>Training</h2><div class=charts>{''.join(charts)}</div>"


def _mistakes(seen: list[_Seen], names: tuple[str, ...]) -> str:
    wrong = sorted((s for s in seen if s.said != s.truth), key=lambda s: -s.confidence)[:SHOWN]
    if not wrong:
        return "<h2>Mistakes</h2><p>None among the held-out images that were looked at.</p>"
    pictures = "".join(
        picture(_thumb(s.image), f"{names[s.said]} {s.confidence:.0%}, is {names[s.truth]}", kind="bad") for s in wrong
    )
    return f"<h2>Most confident mistakes</h2><div class=thumbs>{pictures}</div>"


def _examples(seen: list[_Seen]) -> str:
    chosen = seen[:: max(1, len(seen) // SHOWN)][:SHOWN]
    pictures = "".join(
        picture(
            _thumb(s.image),
            f"{s.prediction.name(s.said)} {s.confidence:.0%}",
            kind="good" if s.said == s.truth else "bad",
        )
        for s in chosen
    )
    return f"<h2>Predictions</h2><div class=thumbs>{pictures}</div>"


def _explained(predictor: Predictor, seen: list[_Seen]) -> str:
    backbone, preprocess = predictor.model.backbone, predictor.model.info.preprocess
    rows = []
    for s in seen[:: max(1, len(seen) // EXPLAINED)][:EXPLAINED]:
        square = preprocess.resize(s.image)
        tensor = preprocess.normalise(square)
        parts = [picture(_enlarged(square), s.prediction.name(s.said))]
        for stage in range(3):
            if has_windows(backbone):
                windows = local_map(backbone, tensor, stage)
                parts.append(picture(_overlay(square, windows), f"windows, stage {stage + 1}"))
            keys = global_map(backbone, tensor, stage)
            if keys.numel() > 1:  # on a small input all tokens share one key
                parts.append(picture(_overlay(square, keys), f"keys, stage {stage + 1}"))
        rows.append(f"<div class=thumbs>{''.join(parts)}</div>")
    return (
        "<h2>Where it looks</h2><p>Brighter is looked at more. <i>Windows</i>: which tokens local attention (LSA) "
        "draws on inside each window. <i>Keys</i>: which cells of the whole map global attention (GSA) draws on.</p>"
        f"{''.join(rows)}"
    )


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


def _details(config: TrainConfig, predictor: Predictor, result: dict[str, Any]) -> str:
    parameters = sum(p.numel() for p in predictor.model.parameters())
    model = [("network", config.model), ("parameters", f"{parameters:,}"), ("classes", len(predictor.names))]
    used = [(k, v) for k, v in result["protocol"].items()] + [("weights SHA-256", result["hashes"]["weights"])]
    command = f"twins train --resume {config.out}" if config.out else ""
    settings = escape(config.to_yaml())
    return (
        f"<h2>Facts</h2>{facts([*model, *used, *result['versions'].items(), ('go on with', command)])}"
        f"<details><summary>All settings of the run</summary><pre>{settings}</pre></details>"
    )


def _look(predictor: Predictor, images: LabelledImages) -> list[_Seen]:
    """Predict the held-out images, at most `EXAMINED` spread over the set; unreadable ones are left out."""
    matched = Relabelled(images, predictor.names, predictor.model.num_classes)
    opened, places = [], []
    for index in range(0, len(matched), max(1, len(matched) // EXAMINED)):
        try:
            opened.append(matched.load(index))
            places.append(index)
        except DataError:
            continue
    found = predictor.predict(opened, batch_size=32)
    return [
        _Seen(image, matched.labels[i], prediction, matched.path(i))
        for image, i, prediction in zip(opened, places, found, strict=True)
    ]


def _overlay(image: Image.Image, values: Tensor) -> Image.Image:
    """Lay a map of any resolution over an image as colour; each cell stays a visible square."""
    values = values.float()
    spread = (values - values.min()) / (values.max() - values.min()).clamp(min=1e-12)
    colours = (torch.from_numpy(colormaps["magma"](spread.numpy()))[..., :3] * 255).byte().numpy()
    heat = Image.fromarray(colours).resize((THUMB, THUMB), Image.Resampling.NEAREST)
    return Image.blend(_enlarged(image).convert("L").convert("RGB"), heat, 0.6)


def _enlarged(image: Image.Image) -> Image.Image:
    smooth = Image.Resampling.NEAREST if image.width < THUMB else Image.Resampling.LANCZOS
    return image.resize((THUMB, THUMB), smooth)


def _thumb(image: Image.Image) -> Image.Image:
    scale = THUMB / max(image.size)
    smooth = Image.Resampling.NEAREST if scale >= 2 else Image.Resampling.LANCZOS
    return image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))), smooth)


def _part(run: Path, name: str) -> Path:
    if not (run / name).is_file():
        raise NotFoundError(f"{run} has no {name}; a report needs the folder of a finished run")
    return run / name


def _records(path: Path) -> list[dict[str, Any]]:
    try:
        return [json.loads(line) for line in path.read_text().splitlines()]
    except ValueError as error:
        raise DataError(f"{path} is damaged ({error}); remove its damaged lines") from error


def _json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise DataError(f"{path} is damaged ({error}); write it again with twins eval --out {path}") from error
