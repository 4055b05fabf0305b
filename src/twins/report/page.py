"""A run's report: one self-contained page, readable on a phone, in light and in dark."""

from __future__ import annotations

import json
from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import Any

import torch

from twins.charts import facts, line_chart, share
from twins.engine.config import TrainConfig, read_config
from twins.errors import DataError, NotFoundError
from twins.files import atomic_file
from twins.predictor import Predictor, load
from twins.report.style import STYLE
from twins.run_folder import CONFIG, METRICS, REPORT, RESULT
from twins.tasks.classification import report as classification
from twins.tasks.detection import report as detection
from twins.tasks.semantic import report as semantic
from twins.tasks.table import kit_of

Sections = Callable[[Predictor, Any, dict[str, Any]], list[str]]
"""A task's own part of the page, from its predictor, its held-out images and its result."""
SECTIONS: dict[str, Sections] = {
    "classification": classification.sections,
    "semantic": semantic.sections,
    "detection": detection.sections,
    "instance": detection.sections,
}
KINDS = {"box_ap": "box AP", "mask_ap": "mask AP"}
SIZES = {"": "", "50": "50", "75": "75", "_small": ", small", "_medium": ", medium", "_large": ", large"}
TITLES = {
    "top1": "top-1",
    "top5": "top-5",
    "mean_class_accuracy": "mean class accuracy",
    "ece": "calibration error",
    "miou": "mean IoU",
    "pixel_accuracy": "pixel accuracy",
    "boundary_f1": "boundary F1",
    **{kind + size: name + addition for kind, name in KINDS.items() for size, addition in SIZES.items()},
}
"""What readers know metrics by; others are in `eval.json` alone."""


def write_report(run: str | Path, *, device: str | torch.device = "auto") -> Path:
    """Write `report.html` into a run folder, from its log, its best weights and its held-out images.

    Args:
        run: a run folder with `config.yaml`, `metrics.jsonl`, `eval.json` and `best.safetensors`.
        device: what predicts: `auto`, `cpu`, `cuda` or `mps`, or a torch device.

    Returns:
        the page's path.

    Raises:
        NotFoundError: the folder lacks one of these.
        DataError: a file of it is damaged, or the data cannot be used.
    """
    run = Path(run)
    config = read_config(_part(run, CONFIG))
    rows, result = _rows(_part(run, METRICS)), _json(_part(run, RESULT))
    predictor = load(run, device=device)
    kit = kit_of(config.task)
    sections = [
        _head(config, result),
        _curves(rows, kit.leading),
        *SECTIONS[config.task](predictor, kit.open(config.source).val, result),
        _details(config, predictor, result),
    ]
    page = "<!doctype html><html lang=en><meta charset=utf-8>"
    page += "<meta name=viewport content='width=device-width,initial-scale=1'>"
    page += f"<title>{escape(config.model)} on {escape(Path(config.data).name)}</title><style>{STYLE}</style>"
    page += f"<main>{''.join(sections)}</main></html>\n"
    with atomic_file(run / REPORT) as beside:
        beside.write_text(page, encoding="utf-8")
    return run / REPORT


def _head(config: TrainConfig, result: dict[str, Any]) -> str:
    tiles = "".join(
        f"<div class=tile><b>{share(value)}</b><span>{TITLES[key]}</span></div>"
        for key, value in result["metrics"].items()
        if key in TITLES
    )
    protocol = result["protocol"]
    head = f", {escape(protocol['head'].replace('_', ' '))}" if "head" in protocol else ""
    size = f"{protocol['size']} pixels"
    if protocol["fit"] == "crop":
        size += f", crop {protocol['crop']:g}"
    elif protocol["fit"] == "keep":
        size = f"their own size, seen with a shorter side of {size}"
    return (
        f"<h1>{escape(config.model)}{head} <small>on {escape(Path(config.data).name)}</small></h1>"
        f"<div class=tiles>{tiles}</div>"
        f"<p>Measured on {protocol['images']} held-out images at {size}, {protocol['interpolation']}, padding "
        f"{protocol['padding']}.</p>"
    )


def _curves(rows: list[dict[str, Any]], leading: str) -> str:
    train = [row for row in rows if row.get("kind") == "train"]
    evaluated = [row for row in rows if row.get("kind") == "eval"]
    held_out = [(r["step"], r[leading]) for r in evaluated if leading in r]
    charts = [
        line_chart("loss", [(r["step"], r["loss"]) for r in train]),
        line_chart(f"held-out {TITLES.get(leading, leading)}", held_out, percent=True),
        line_chart("learning rate", [(r["step"], r["lr"]) for r in train], logarithmic=True),
        line_chart("images per second", [(r["step"], r["images_per_s"]) for r in train]),
    ]
    drawn = "".join(charts) or "<p>Too few steps were recorded to draw curves.</p>"
    return f"<h2>Training</h2><div class=charts>{drawn}</div>"


def _details(config: TrainConfig, predictor: Predictor, result: dict[str, Any]) -> str:
    parameters = sum(p.numel() for p in predictor.model.parameters())
    model = [("network", config.model), ("parameters", f"{parameters:,}"), ("classes", len(predictor.names))]
    used = [(k, _plain(v)) for k, v in result["protocol"].items()] + [("weights SHA-256", result["hashes"]["weights"])]
    command = f"twins train --resume {config.out}" if config.out else ""
    settings = escape(config.to_yaml())
    return (
        f"<h2>Facts</h2>{facts([*model, *used, *result['versions'].items(), ('go on with', command)])}"
        f"<details><summary>All settings of the run</summary><pre>{settings}</pre></details>"
    )


def _plain(value: object) -> object:
    """Return a group of settings as one line, anything else as it is."""
    if not isinstance(value, dict):
        return value
    return ", ".join(f"{key} {'on' if one is True else 'off' if one is False else one}" for key, one in value.items())


def _part(run: Path, name: str) -> Path:
    if not (run / name).is_file():
        raise NotFoundError(f"{run} has no {name}; a report needs the folder of a finished run")
    return run / name


def _rows(path: Path) -> list[dict[str, Any]]:
    try:
        return [json.loads(line) for line in path.read_text().splitlines()]
    except ValueError as error:
        raise DataError(f"{path} is damaged ({error}); remove its damaged lines") from error


def _json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise DataError(f"{path} is damaged ({error}); write it again with twins eval --out {path}") from error
