"""A run's report: one self-contained HTML page for small and large screens, in a light and a dark theme."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from html import escape
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from PIL.Image import Image

from twins.charts import Curve, curve_chart, line_chart, picture, share
from twins.data.base import ImageSet, Splits
from twins.engine.config import TrainConfig, read_config
from twins.engine.log import read_rows
from twins.errors import DataError, NotFoundError, number_of
from twins.evaluation import match_classes
from twins.files import atomic_file
from twins.predictor import Predictor, load
from twins.report.attention import attention_section
from twins.report.examples import write_examples
from twins.report.facts import facts_section
from twins.report.style import document
from twins.report.views import training_views
from twins.run_folder import CONFIG, METRICS, REPORT, RESULT
from twins.tasks.contract import Example, TaskSpec, TrainingPart, spec_of
from twins.tasks.facts import TaskFacts
from twins.tasks.inference import SelectionConfig
from twins.tasks.table import facts_of, part_of

RELOAD = "<script>setInterval(()=>document.querySelector('dialog[open]')||location.reload(),10000)</script>"
"""Reloads a page every ten seconds, unless a picture is enlarged; the scroll position is kept."""


def write_report(run: str | Path, *, device: str | torch.device = "auto") -> Path:
    """Write `report.html` into a run folder, from its log, its best weights and its held-out images.

    Some of these images are written beside it; see `write_examples`.

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
    facts, spec, report = facts_of(config.task), spec_of(config.task), part_of(config.task, "report")
    selection = SelectionConfig(**result["protocol"]["selection"]) if facts.selection else None
    predictor = load(run, device=device, selection=selection)
    splits = spec.open(config.source)
    images, _ = match_classes(spec, splits.select(result["protocol"]["split"]), predictor.model)
    examples, explain = _Examples(predictor, images, spec), partial(attention_section, predictor)
    notes: dict[str, str] = getattr(report, "tile_notes", lambda _: {})(result)
    sections = [
        _head(config, facts, rows, result, notes),
        curves_section(rows, facts),
        *report.sections(result, examples, explain),
        *_training(config, predictor, spec, splits),
        facts_section(run, config, predictor.model, result),
    ]
    page = _write(run, config, sections)
    write_examples(run, images)
    return page


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
        curves_section(rows, facts),
        f"<h2>Predictions on held-out images</h2><div class='thumbs wide'>{thumbs}</div>" if thumbs else "",
        "<details><summary>All settings of the run</summary>" + f"<pre>{escape(config.to_yaml())}</pre></details>",
    ]
    return _write(run, config, sections, head=RELOAD if live else "")


def _write(run: Path, config: TrainConfig, sections: Sequence[str], *, head: str = "") -> Path:
    """Write the page of a run in one atomic step."""
    title = f"{config.model} on {Path(config.data).name}"
    with atomic_file(run / REPORT) as beside:
        beside.write_text(document(title, "".join(sections), head=head), encoding="utf-8")
    return run / REPORT


def _state(config: TrainConfig, facts: TaskFacts, rows: Sequence[dict[str, Any]], *, live: bool) -> str:
    """Return the head of an unfinished run's page: its position, and the metrics of the newest evaluation."""
    evaluated = [row for row in rows if row.get("kind") == "eval"]
    newest = evaluated[-1] if evaluated else {}
    tiles = [(title, share(newest[key])) for key, title in facts.metrics.items() if key in newest]
    tiles += [("held-out loss", f"{newest['loss']:.3g}")] if "loss" in newest else []
    measured = "".join(f"<div class=tile><b>{value}</b><span>{title}</span></div>" for title, value in tiles)
    position = f"step {rows[-1]['step']}, epoch {rows[-1]['epoch']:.2f}" if rows else "step 0"
    command = f"<code>twins train --resume {escape(shlex.quote(config.out or ''))}</code>"
    ending = f"The run has stopped at {position}; continue it with {command}."
    when = f"{time.strftime('%Y-%m-%d %H:%M:%S')}, {position}. The run goes on, and this page reloads itself."
    best = max((row[facts.monitor] for row in evaluated if facts.monitor in row), default=None)
    title = facts.metrics.get(facts.monitor, facts.monitor)
    newest_step = f"Newest evaluation, after step {newest.get('step')}; the best {title} so far is {share(best)}."
    return (
        f"<h1>{escape(config.model)} <small>on {escape(Path(config.data).name)}</small></h1>"
        f"<p>{when if live else ending}</p><div class=tiles>{measured}</div>"
        f"<p>{newest_step if newest else 'The held-out images were not evaluated yet.'}</p>"
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


def _head(
    config: TrainConfig, facts: TaskFacts, rows: list[dict[str, Any]], result: dict[str, Any], notes: dict[str, str]
) -> str:
    tiles = "".join(
        f"<div class=tile><b>{share(value)}</b><span>{facts.metrics[key]}</span>"
        f"{f'<small>{escape(notes[key])}</small>' if key in notes else ''}</div>"
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
        f"<p>{_best_weights(rows, facts)}Measured on {number_of(protocol['images'], 'held-out image')} at {size}, "
        f"{protocol['interpolation']}, padding {protocol['padding']}.</p>"
    )


def _best_weights(rows: list[dict[str, Any]], facts: TaskFacts) -> str:
    """Return a sentence that says of which step the measured weights are."""
    measured = _values(rows, "eval", facts.monitor)
    if not measured:
        return ""
    step, _ = max(measured, key=lambda point: point[1])
    last = max(row["step"] for row in rows)
    return f"The best weights, of <b>step {step:,.0f}</b> of {last:,}. "


def curves_section(rows: list[dict[str, Any]], facts: TaskFacts) -> str:
    """Return the section with the curves of a run so far.

    Args:
        rows: of `metrics.jsonl`.
        facts: those of the run's task.
    """
    title = facts.metrics.get(facts.monitor, facts.monitor)
    held_out = _values(rows, "eval", "loss")
    loss = [Curve("training", _values(rows, "train", "loss")), Curve("held-out", held_out, "c1 dashed")]
    charts = [
        curve_chart("loss", loss) if held_out else line_chart("training loss", loss[0].points),
        line_chart(f"held-out {title}", _values(rows, "eval", facts.monitor), percent=True, best=True),
        _parts_chart(rows),
        line_chart("learning rate", _values(rows, "train", "lr"), logarithmic=True),
        line_chart("images per second", _values(rows, "train", "images_per_s"), from_zero=True),
    ]
    content = "".join(charts) or "<p>No step was logged yet.</p>"
    return f"<h2>Training</h2><div class=charts>{content}</div>"


def _parts_chart(rows: list[dict[str, Any]]) -> str:
    """Return a chart of the parts of the loss: solid in training, dashed on held-out images; empty without parts."""
    names = sorted({name for row in rows for name in row if name.startswith("loss_")})
    curves = []
    for number, name in enumerate(names):
        title = name.removeprefix("loss_").replace("_", " ")
        curves.append(Curve(title, _values(rows, "train", name), f"c{number % 10}"))
        curves.append(Curve(f"{title}, held-out", _values(rows, "eval", name), f"c{number % 10} dashed"))
    return curve_chart("parts of the loss", curves)


def _values(rows: list[dict[str, Any]], kind: str, name: str) -> list[tuple[float, float]]:
    """Return (step, value) of the rows of a kind that have a number of this name."""
    return [(row["step"], row[name]) for row in rows if row.get("kind") == kind and row.get(name) is not None]


def _training(config: TrainConfig, predictor: Predictor, spec: TaskSpec, splits: Splits[Any]) -> list[str]:
    """Return the task's sections on the training part, if it has any and the part can be read."""
    sections = getattr(part_of(config.task, "report"), "training_sections", None)
    if sections is None:
        return []
    try:
        views = training_views(config, spec, splits, predictor.model.info)
    except (DataError, NotFoundError) as error:
        return [f"<h2>Training images</h2><p>They cannot be shown: {escape(str(error))}</p>"]
    info = predictor.model.info
    return list(sections(TrainingPart(splits.train, views, info.names, info.colours, info.preprocess)))


def _existing_file(run: Path, name: str) -> Path:
    if not (run / name).is_file():
        raise NotFoundError(f"{run} has no {name}; a report needs the folder of a finished run")
    return run / name


def _read(run: Path, name: str, parse: Callable[[str], Any], advice: str) -> Any:
    try:
        return parse(_existing_file(run, name).read_text())
    except ValueError as error:
        raise DataError(f"{run / name} is damaged ({error}); {advice}") from error
