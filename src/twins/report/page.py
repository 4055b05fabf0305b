"""A run's report: one self-contained HTML page for small and large screens, in a light and a dark theme."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from html import escape
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from PIL.Image import Image

from twins.charts import fact_table, line_chart, picture, share
from twins.data.base import ImageSet
from twins.engine.config import TrainConfig, read_config
from twins.engine.log import read_rows
from twins.errors import DataError, NotFoundError
from twins.evaluation import match_classes
from twins.files import atomic_file
from twins.predictor import Predictor, load
from twins.report.attention import attention_section
from twins.report.style import STYLE
from twins.run_folder import CONFIG, METRICS, REPORT, RESULT
from twins.tasks.contract import Example, TaskSpec, spec_of
from twins.tasks.facts import TaskFacts
from twins.tasks.inference import SelectionConfig
from twins.tasks.table import facts_of, part_of

RELOAD = "<script>setInterval(()=>document.querySelector('dialog[open]')||location.reload(),10000)</script>"
"""Reloads a page every ten seconds, unless a picture is enlarged; the scroll position is kept."""


def write_report(run: str | Path, *, device: str | torch.device = "auto") -> Path:
    """Write `report.html` into a run folder, from its log, its best weights and its held-out images.

    Args:
        run: a run folder with `config.yaml`, `metrics.jsonl`, `eval.json` and `best.safetensors`.
        device: device for predictions: `auto`, `cpu`, `cuda` or `mps`, or a torch device.

    Returns:
        the path of the page.

    Raises:
        NotFoundError: the folder lacks one of these files.
        DataError: one of these files is damaged, or the data cannot be used.
    """
    run = Path(run)
    config = read_config(_existing_file(run, CONFIG))
    rows = _read(run, METRICS, lambda text: list(map(json.loads, text.splitlines())), "remove its damaged lines")
    result = _read(run, RESULT, json.loads, f"write it again with twins eval --out {run / RESULT}")
    facts, spec = facts_of(config.task), spec_of(config.task)
    selection = SelectionConfig(**result["protocol"]["selection"]) if facts.selection else None
    predictor = load(run, device=device, selection=selection)
    images, _ = match_classes(spec, spec.open(config.source).select(result["protocol"]["split"]), predictor.model)
    examples, explain = _Examples(predictor, images, spec), partial(attention_section, predictor)
    sections = [
        _head(config, facts, result),
        _curves(rows, facts),
        *part_of(config.task, "report").sections(result, examples, explain),
        _details(config, predictor, result),
    ]
    return _write(run, config, sections)


def write_live_report(run: str | Path, pictures: Sequence[tuple[Image, str]] = (), *, live: bool) -> Path:
    """Write `report.html` of a run that is not finished: curves, the newest metrics and the settings.

    Args:
        run: a run folder with `config.yaml` and `metrics.jsonl`.
        pictures: drawn predictions of the newest evaluation, with captions.
        live: whether the run goes on; the page then reloads itself.

    Returns:
        the path of the page.

    Raises:
        NotFoundError, ConfigError: the folder lacks one of these files, or it is damaged.
    """
    run = Path(run)
    config, rows = read_config(_existing_file(run, CONFIG)), read_rows(run)
    facts = facts_of(config.task)
    thumbs = "".join(picture(image, caption) for image, caption in pictures)
    sections = [
        _state(config, facts, rows, live=live),
        _curves(rows, facts),
        f"<h2>Predictions on held-out images</h2><div class=pair>{thumbs}</div>" if thumbs else "",
        "<details><summary>All settings of the run</summary>" + f"<pre>{escape(config.to_yaml())}</pre></details>",
    ]
    return _write(run, config, sections, head=RELOAD if live else "")


def _write(run: Path, config: TrainConfig, sections: Sequence[str], *, head: str = "") -> Path:
    """Write the page of a run in one atomic step."""
    page = "<!doctype html><html lang=en><meta charset=utf-8>"
    page += "<meta name=viewport content='width=device-width,initial-scale=1'>"
    page += f"<title>{escape(config.model)} on {escape(Path(config.data).name)}</title><style>{STYLE}</style>{head}"
    page += f"<main>{''.join(sections)}</main></html>\n"
    with atomic_file(run / REPORT) as beside:
        beside.write_text(page, encoding="utf-8")
    return run / REPORT


def _state(config: TrainConfig, facts: TaskFacts, rows: Sequence[dict[str, Any]], *, live: bool) -> str:
    """Return the head of an unfinished run's page: its position, and the metrics of the newest evaluation."""
    evaluated = [row for row in rows if row.get("kind") == "eval"]
    newest = evaluated[-1] if evaluated else {}
    tiles = [(title, share(newest[key])) for key, title in facts.metrics.items() if key in newest]
    tiles += [("held-out loss", f"{newest['loss']:.3g}")] if "loss" in newest else []
    measured = "".join(f"<div class=tile><b>{value}</b><span>{title}</span></div>" for title, value in tiles)
    position = f"step {rows[-1]['step']}, epoch {rows[-1]['epoch']:.2f}" if rows else "step 0"
    ending = f"The run has stopped at {position}; continue it with twins train --resume {config.out}."
    when = f"{time.strftime('%Y-%m-%d %H:%M:%S')}, {position}. The run goes on, and this page reloads itself."
    best = max((row[facts.monitor] for row in evaluated if facts.monitor in row), default=None)
    title = facts.metrics.get(facts.monitor, facts.monitor)
    return (
        f"<h1>{escape(config.model)} <small>on {escape(Path(config.data).name)}</small></h1>"
        f"<p>{escape(when if live else ending)}</p><div class=tiles>{measured}</div>"
        f"<p>Newest evaluation, after step {newest.get('step', 0)}; the best {title} so far is {share(best)}.</p>"
    )


class _Examples:
    """Examples of the held-out images, with the network's class ids; see `twins.tasks.contract.Examples`."""

    def __init__(self, predictor: Predictor, images: ImageSet, spec: TaskSpec) -> None:
        self.predictor, self.images, self.spec = predictor, images, spec
        self.indices = range(0, len(images), max(1, -(-len(images) // spec.max_report_images)))
        self.batch = 32 if facts_of(predictor.model.task).one_shape else 1

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Iterator[Example]:
        samples = self._samples()
        while chunk := list(islice(samples, self.batch)):
            predictions = self.predictor.predict([image for image, *_ in chunk], batch_size=self.batch)
            for (image, target, path), prediction in zip(chunk, predictions, strict=True):
                yield Example(image, target, prediction, path)

    def _samples(self) -> Iterator[tuple[Image, Any, str]]:
        for index in self.indices:
            try:
                image, target = self.images.load(index), self.images.target(index)
                self.spec.check_pair(image, target)
            except (DataError, NotFoundError):  # the evaluation has skipped it too
                continue
            yield image, target, self.images.path(index)


def _head(config: TrainConfig, facts: TaskFacts, result: dict[str, Any]) -> str:
    tiles = "".join(
        f"<div class=tile><b>{share(value)}</b><span>{facts.metrics[key]}</span></div>"
        for key, value in result["metrics"].items()
        if key in facts.metrics
    )
    protocol = result["protocol"]
    head = f", {escape(protocol['head'].replace('_', ' '))}" if "head" in protocol else ""
    size = f"{protocol['size']} pixels"
    if protocol["fit"] == "crop":
        size += f", crop {protocol['crop']:g}"
    elif protocol["fit"] == "keep":
        size = f"their own size (network input: shorter side {size})"
    return (
        f"<h1>{escape(config.model)}{head} <small>on {escape(Path(config.data).name)}</small></h1>"
        f"<div class=tiles>{tiles}</div>"
        f"<p>Measured on {protocol['images']} held-out images at {size}, {protocol['interpolation']}, padding "
        f"{protocol['padding']}.</p>"
    )


def _curves(rows: list[dict[str, Any]], facts: TaskFacts) -> str:
    train = [row for row in rows if row.get("kind") == "train"]
    evaluated = [row for row in rows if row.get("kind") == "eval"]
    held_out = [(r["step"], r[facts.monitor]) for r in evaluated if facts.monitor in r]
    charts = [
        line_chart("loss", [(r["step"], r["loss"]) for r in train]),
        line_chart(f"held-out {facts.metrics.get(facts.monitor, facts.monitor)}", held_out, percent=True),
        line_chart("learning rate", [(r["step"], r["lr"]) for r in train], logarithmic=True),
        line_chart("images per second", [(r["step"], r["images_per_s"]) for r in train]),
    ]
    content = "".join(charts) or "<p>Too few steps were logged to draw curves.</p>"
    return f"<h2>Training</h2><div class=charts>{content}</div>"


def _details(config: TrainConfig, predictor: Predictor, result: dict[str, Any]) -> str:
    parameters = sum(p.numel() for p in predictor.model.parameters())
    model = [("network", config.model), ("parameters", f"{parameters:,}"), ("classes", len(predictor.names))]
    protocol = [(key, _one_line(value)) for key, value in result["protocol"].items()]
    protocol.append(("weights SHA-256", result["hashes"]["weights"]))
    command = f"twins train --resume {config.out}" if config.out else ""
    settings = escape(config.to_yaml())
    return (
        f"<h2>Facts</h2>{fact_table([*model, *protocol, *result['versions'].items(), ('resume with', command)])}"
        f"<details><summary>All settings of the run</summary><pre>{settings}</pre></details>"
    )


def _one_line(value: object) -> object:
    """Return a group of settings as one line; other values are returned unchanged."""
    if not isinstance(value, dict):
        return value
    switches = {True: "on", False: "off"}
    return ", ".join(f"{key} {switches[x] if isinstance(x, bool) else x}" for key, x in value.items())


def _existing_file(run: Path, name: str) -> Path:
    if not (run / name).is_file():
        raise NotFoundError(f"{run} has no {name}; a report needs the folder of a finished run")
    return run / name


def _read(run: Path, name: str, parse: Callable[[str], Any], advice: str) -> Any:
    try:
        return parse(_existing_file(run, name).read_text())
    except ValueError as error:
        raise DataError(f"{run / name} is damaged ({error}); {advice}") from error
