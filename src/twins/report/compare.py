"""The page that compares several runs of one task: curves, metrics, settings, data, and images they disagree on."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from html import escape
from pathlib import Path
from typing import Any

from twins.charts import picture
from twins.drawing import thumbnail
from twins.engine.config import TrainConfig, read_config
from twins.engine.log import read_rows
from twins.engine.measure import is_loss
from twins.engine.trackers import flat_settings
from twins.errors import ConfigError, NotFoundError
from twins.files import atomic_file
from twins.report.disagreement import Search
from twins.report.style import document
from twins.run_folder import BEST, CONFIG, DATA, METRICS, RESULT
from twins.tasks.facts import TaskFacts
from twins.tasks.table import facts_of

LOWER_IS_BETTER = ("ece",)
"""Metrics that are smaller when better, besides losses."""
LOCATIONS = ("out", "resume", "data")
"""Settings that are not compared: they are paths. The data has a table of its own."""
WIDTH, HEIGHT, LEFT, BOTTOM = 460, 230, 56, 26
"""Size of a chart, and the space left of and below its axes."""
COLOURS = {
    "light": ("#1f6feb", "#d9480f", "#2f9e44", "#9c36b5", "#0c8599", "#e67700", "#c2255c", "#5f3dc4"),
    "dark": ("#6ea8fe", "#ff922b", "#51cf66", "#da77f2", "#3bc9db", "#ffd43b", "#f783ac", "#9775fa"),
}
"""Colour of each run's curves; beyond the last one they repeat with dashes."""


@dataclass(frozen=True)
class ComparedRun:
    """A run folder as far as it has got."""

    path: Path
    name: str
    """Name that tells it from the other runs."""
    config: TrainConfig
    rows: list[dict[str, Any]]
    """Rows of `metrics.jsonl`."""
    result: dict[str, Any] | None
    """`eval.json`; `None` before the run has finished."""
    plan: dict[str, Any]
    """`data.json`; empty if there is none."""

    @cached_property
    def metrics(self) -> dict[str, float]:
        """Metrics of the best weights: the final evaluation's, or those of the best evaluation so far."""
        if self.result is not None:
            return {name: value for name, value in self.result["metrics"].items() if value is not None}
        monitor = facts_of(self.config.task).monitor
        best = max(self.curve("eval", monitor), key=lambda point: point[1], default=None)
        row = next((r for r in self.rows if best and r["kind"] == "eval" and r["epoch"] == best[0]), {})
        return {name: value for name, value in row.items() if name not in ("kind", "step", "epoch")}

    @property
    def steps(self) -> int:
        """Optimiser steps done."""
        return int(self.rows[-1]["step"]) if self.rows else 0

    @property
    def images_per_s(self) -> float | None:
        """Training images per second, over all logged steps."""
        return self.steps * self.config.batch_size / self.seconds if self.seconds else None

    @cached_property
    def seconds(self) -> float:
        """Time of the training steps, without evaluations."""
        seconds, before = 0.0, 0
        for row in self.rows:
            if row["kind"] == "train":
                if (speed := row.get("images_per_s", 0.0)) > 0:
                    seconds += (row["step"] - before) * self.config.batch_size / speed
                before = row["step"]
        return seconds

    def curve(self, kind: str, name: str) -> list[tuple[float, float]]:
        """Return a value over epochs, from rows of a kind."""
        rows = [row for row in self.rows if row["kind"] == kind and name in row]
        return [(row["epoch"], row[name]) for row in rows if math.isfinite(row[name])]


def read_runs(paths: Sequence[str]) -> list[ComparedRun]:
    """Read the folders of runs of one task.

    Raises:
        ConfigError: fewer than two runs, one run twice, or different tasks.
        NotFoundError: a folder is no run.
    """
    if len(paths) < 2:
        raise ConfigError(f"a comparison needs two or more run folders, found {len(paths)}")
    folders = [Path(path) for path in paths]
    if twice := [path for path in folders if [p.resolve() for p in folders].count(path.resolve()) > 1]:
        raise ConfigError(f"{twice[0]} is named twice; name each run once")
    short = [folder.resolve().name for folder in folders]
    names = [name if short.count(name) == 1 else str(path) for name, path in zip(short, folders, strict=True)]
    runs = [_read_run(path, name) for path, name in zip(folders, names, strict=True)]
    first = runs[0]
    for run in runs[1:]:
        if run.config.task != first.config.task:
            raise ConfigError(
                f"runs of one task can be compared, found {first.config.task} ({first.path}) and {run.config.task} "
                f"({run.path}); compare those of each task by themselves"
            )
    return runs


def _read_run(path: Path, name: str) -> ComparedRun:
    config = read_config(path / CONFIG)
    if not (path / METRICS).is_file():
        raise NotFoundError(f"{path} has no {METRICS} yet; wait until its training has begun")
    result, plan = _json(path / RESULT, _is_result), _json(path / DATA, _is_plan)
    return ComparedRun(path, name, config, read_rows(path), result or None, plan)


def _json(path: Path, valid: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """Return a JSON file of a run; empty if there is none."""
    if not path.is_file():
        return {}
    try:
        content, reason = json.loads(path.read_text(encoding="utf-8")), "it holds something else"
    except (ValueError, RecursionError) as error:
        content, reason = None, str(error)
    if not isinstance(content, dict) or not valid(content):
        raise ConfigError(f"{path} is damaged ({reason}); copy the run folder again")
    return content


def _is_result(content: dict[str, Any]) -> bool:
    """Return whether the content of `eval.json` has metrics, numbers or null, and hashes."""
    metrics, hashes = content.get("metrics"), content.get("hashes", {})
    tables = isinstance(metrics, dict) and isinstance(hashes, dict)
    return tables and all(value is None or isinstance(value, int | float) for value in metrics.values())


def _is_plan(content: dict[str, Any]) -> bool:
    """Return whether the content of `data.json` has a table for each part."""
    parts = content.get("parts", {})
    return isinstance(parts, dict) and all(isinstance(part, dict) for part in parts.values())


@dataclass(frozen=True)
class MetricRow:
    """A metric of all runs."""

    title: str
    values: list[float | None]
    """One for each run."""
    is_loss: bool
    """Whether it is a loss, and no share in 0..1."""
    lower_is_better: bool
    comparable: bool = True
    """Whether a difference can be better or worse: losses of different heads are sums of different parts."""

    def text(self, index: int) -> str:
        """Return the value of a run: a share as per cent."""
        value = self.values[index]
        if value is None:
            return "–"
        return f"{value:.4f}" if self.is_loss else f"{100 * value:.2f} %"

    def difference(self, index: int) -> tuple[str, str]:
        """Return a run's difference to the first run, as text, and `better`, `worse` or `equal`."""
        first, value = self.values[0], self.values[index]
        if index == 0 or first is None or value is None:
            return "", "equal"
        text = f"{value - first:+.4f}" if self.is_loss else f"{100 * (value - first):+.2f}"
        if float(text) == 0 or not self.comparable:
            return text, "equal"
        return text, "better" if (value < first) == self.lower_is_better else "worse"

    @property
    def best(self) -> set[int]:
        """The runs with the best value; empty if all are equal."""
        values = [value for value in self.values if value is not None]
        best = (min if self.lower_is_better else max)(values, default=None)
        winners = {index for index, value in enumerate(self.values) if value is not None and value == best}
        return winners if self.comparable and len(winners) < len(self.values) else set()


def metric_rows(runs: Sequence[ComparedRun]) -> list[MetricRow]:
    """Return the metrics that any run has: the task's main ones first, losses last."""
    facts = facts_of(runs[0].config.task)
    names = dict.fromkeys(name for run in runs for name in run.metrics)
    same_losses = len({frozenset(filter(is_loss, run.metrics)) for run in runs}) == 1
    ordered = sorted(names, key=lambda name: (is_loss(name), name not in facts.metrics))
    return [
        MetricRow(
            title=_title(name, facts),
            values=[_finite(run.metrics.get(name)) for run in runs],
            is_loss=is_loss(name),
            lower_is_better=is_loss(name) or name in LOWER_IS_BETTER,
            comparable=same_losses or not is_loss(name),
        )
        for name in ordered
    ]


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _title(name: str, facts: TaskFacts) -> str:
    if is_loss(name):
        return f"held-out loss{name.removeprefix('loss').replace('_', ', ', 1).replace('_', ' ')}"
    return facts.metrics.get(name, name.replace("_", " "))


def different_settings(runs: Sequence[ComparedRun]) -> list[tuple[str, list[str]]]:
    """Return the settings that are not the same in all runs, by dotted name, with the value in each run."""
    settings = [{name: str(value) for name, value in flat_settings(run.config).items()} for run in runs]
    names = [name for name in dict.fromkeys(name for values in settings for name in values) if name not in LOCATIONS]
    table = [(name, [values.get(name, "–") for values in settings]) for name in names]
    return [(name, values) for name, values in table if len(set(values)) > 1]


def data_rows(runs: Sequence[ComparedRun]) -> list[tuple[str, list[str]]]:
    """Return the facts about the data of each run."""
    rows = [("data", [run.config.data for run in runs]), ("layout", [str(run.plan.get("layout", "–")) for run in runs])]
    for part in dict.fromkeys(part for run in runs for part in run.plan.get("parts", {})):
        counts = [run.plan.get("parts", {}).get(part, {}).get("images", "–") for run in runs]
        rows.append((f"{part} images", [f"{count:,}" if isinstance(count, int) else count for count in counts]))
    return [*rows, ("held-out images and classes, hash", [(_images_hash(run) or "–")[:12] for run in runs])]


def data_note(runs: Sequence[ComparedRun]) -> str:
    """Return a sentence on whether all runs were measured on the same images."""
    hashes = {_images_hash(run) for run in runs}
    if None in hashes:
        return "A run has not finished, so its metrics are those of its best evaluation so far."
    if len(hashes) > 1:
        return "The runs were measured on different held-out images or classes: their metrics cannot be compared."
    return "All runs were measured on the same held-out images."


def _images_hash(run: ComparedRun) -> str | None:
    return None if run.result is None else run.result.get("hashes", {}).get("images")


def write_comparison(runs: Sequence[ComparedRun], search: Search | None, out: Path) -> None:
    """Write the page.

    Args:
        runs: the runs, of which the first one is the reference.
        search: images on which they disagree; `None` leaves the section out.
        out: the HTML file.
    """
    names = ", ".join(run.name for run in runs)
    sections = [
        f"<h1>{len(runs)} runs <small>{escape(facts_of(runs[0].config.task).title)}</small></h1>",
        _legend(runs),
        _metrics(runs),
        f"<h2>Curves</h2><div class=charts>{''.join(_curves(runs))}</div>",
        _table("Settings that differ", runs, different_settings(runs), "All settings are the same."),
        _table("Data", runs, data_rows(runs), ""),
        _table("Time", runs, _time_rows(runs), ""),
        "" if search is None else _images(runs, search),
    ]
    page = document(names, "".join(sections), head=f"<style>{_style(len(runs))}</style>")
    with atomic_file(out) as beside:
        beside.write_text(page, encoding="utf-8")


def _style(count: int) -> str:
    """Return the colours of the runs in both themes, and the styles that only this page has."""

    def rules(theme: str) -> str:
        colours = COLOURS[theme]
        return "".join(f".run{i}{{--run:{colours[i % len(colours)]}}}" for i in range(count))

    dashed = "".join(f".run{i} .curve{{stroke-dasharray:6 4}}" for i in range(len(COLOURS["light"]), count))
    return (
        f"{rules('light')}@media(prefers-color-scheme:dark){{{rules('dark')}}}{dashed}"
        "[class^=run] .curve{stroke:var(--run);stroke-width:1.8}[class^=run] circle{fill:var(--run)}"
        ".runs{display:flex;flex-wrap:wrap;gap:.3rem 1.2rem;margin:.6rem 0}"
        ".runs i{display:inline-block;width:1.4em;height:.3em;border-radius:2px;background:var(--run);"
        "margin-right:.5em;vertical-align:.25em}.runs span,.numbers th{overflow-wrap:anywhere}"
        ".better{color:var(--good)}.worse{color:var(--bad)}.numbers th{font-weight:500;min-width:6.5rem}"
        "td small{margin-left:.6em}.best{font-weight:600}"
        ".settings td{overflow-wrap:anywhere;white-space:normal;min-width:6rem}"
        ".side{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,220px),1fr));gap:.7rem}"
        ".image{border-bottom:1px solid var(--line);padding-bottom:1rem;margin-bottom:1rem}"
    )


def _legend(runs: Sequence[ComparedRun]) -> str:
    entries = "".join(
        f"<span class=run{index}><i></i>{escape(run.name)}"
        f"{'' if run.result else f' <small>(not finished, step {run.steps})</small>'}</span>"
        for index, run in enumerate(runs)
    )
    return f"<div class=runs>{entries}</div>"


def _metrics(runs: Sequence[ComparedRun]) -> str:
    def cell(row: MetricRow, index: int) -> str:
        difference, kind = row.difference(index)
        best = " class=best" if index in row.best else ""
        return f"<td{best}>{row.text(index)}{f'<small class={kind}>{difference}</small>' if difference else ''}</td>"

    lines = "".join(
        f"<tr><th>{escape(row.title)}</th>{''.join(cell(row, index) for index in range(len(runs)))}</tr>"
        for row in metric_rows(runs)
    )
    return (
        f"<h2>Metrics of the best weights</h2><p>{data_note(runs)} Differences are to {escape(runs[0].name)}, in "
        "points; the best value is bold, and of losses and calibration errors the smallest is the best.</p>"
        f"<div class=scroll><table class=numbers><tr><th></th>{_heads(runs)}</tr>{lines}</table></div>"
    )


def _heads(runs: Sequence[ComparedRun]) -> str:
    return "".join(f"<th>{escape(run.name)}</th>" for run in runs)


def _table(title: str, runs: Sequence[ComparedRun], rows: Sequence[tuple[str, Sequence[str]]], empty: str) -> str:
    """Return a section with a table of texts, one column for each run; cells that differ from the first are bold."""
    if not rows:
        return f"<h2>{title}</h2><p>{empty}</p>"
    lines = "".join(
        f"<tr><th>{escape(name)}</th>"
        + "".join(f"<td{' class=best' if value != values[0] else ''}>{escape(value)}</td>" for value in values)
        + "</tr>"
        for name, values in rows
    )
    table = f'<table class="numbers settings"><tr><th></th>{_heads(runs)}</tr>{lines}</table>'
    return f"<h2>{title}</h2><div class=scroll>{table}</div>"


def _time_rows(runs: Sequence[ComparedRun]) -> list[tuple[str, list[str]]]:
    def each(text: Callable[[ComparedRun], str]) -> list[str]:
        return [text(run) for run in runs]

    return [
        ("training, without evaluations", each(lambda run: _duration(run.seconds))),
        ("steps", each(lambda run: f"{run.steps:,}")),
        ("epochs", each(lambda run: f"{run.rows[-1]['epoch']:.2f}" if run.rows else "–")),
        ("images per second", each(lambda run: f"{run.images_per_s:.1f}" if run.images_per_s else "–")),
        ("device", each(lambda run: run.config.device)),
        ("weights", each(lambda run: f"{(run.path / BEST).stat().st_size / 1e6:.1f} MB" if _has_best(run) else "–")),
    ]


def _has_best(run: ComparedRun) -> bool:
    return (run.path / BEST).is_file()


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _images(runs: Sequence[ComparedRun], search: Search) -> str:
    names = [run.name for run in runs]
    if not search.shared:
        text = "The runs hold out no image in common."
    elif not search.images:
        text = f"The runs agree on all {search.predicted} images that were predicted."
    else:
        text = (
            f"The largest disagreements in {search.predicted} of {search.shared} held-out images that all runs share, "
            "predicted with the best weights."
        )
    blocks = "".join(
        f"<div class=image><p>{escape(Path(item.path).name)}{f', truth: {escape(item.truth)}' if item.truth else ''}, "
        f"disagreement {100 * item.score:.0f} %</p><div class=side>"
        + "".join(picture(thumbnail(image, 360), name) for image, name in zip(item.pictures, names, strict=True))
        + "</div></div>"
        for item in search.images
    )
    return f"<h2>Images on which they disagree</h2><p>{text}</p>{blocks}"


def _curves(runs: Sequence[ComparedRun]) -> list[str]:
    """Return the charts: monitored metric, losses, learning rate, and speed; those without points are left out."""
    facts = facts_of(runs[0].config.task)
    monitor = f"held-out {facts.metrics.get(facts.monitor, facts.monitor)}, %"
    charts = [
        _chart(monitor, runs, [[(x, 100 * y) for x, y in run.curve("eval", facts.monitor)] for run in runs]),
        _chart("held-out loss", runs, [run.curve("eval", "loss") for run in runs]),
        _chart("training loss", runs, [run.curve("train", "loss") for run in runs]),
        _chart("learning rate", runs, [run.curve("train", "lr") for run in runs]),
        _chart("images per second", runs, [run.curve("train", "images_per_s") for run in runs]),
    ]
    return [chart for chart in charts if chart]


def _chart(title: str, runs: Sequence[ComparedRun], curves: Sequence[list[tuple[float, float]]]) -> str:
    """Return an SVG of a curve for each run over epochs; a curve with a single point is a dot."""
    points = [point for curve in curves for point in curve]
    if not points:
        return ""
    last = max(x for x, _ in points) or 1.0
    ticks = round_ticks(min(y for _, y in points), max(y for _, y in points))
    low, high = ticks[0], ticks[-1]

    def position(x: float, y: float) -> tuple[float, float]:
        return LEFT + (WIDTH - LEFT - 12) * x / last, 10 + (HEIGHT - BOTTOM - 20) * (high - y) / (high - low)

    lines = "".join(
        f'<path class="grid" d="M{LEFT} {position(0, tick)[1]:.1f}H{WIDTH - 12}"/>'
        f'<text x="{LEFT - 6}" y="{position(0, tick)[1]:.1f}" dy="4" text-anchor="end">{tick:.6g}</text>'
        for tick in ticks
    )
    drawn = "".join(
        f"<g class=run{index}>{_curve([position(*point) for point in curve])}"
        f"<title>{escape(run.name)}: last {curve[-1][1]:.4g}</title></g>"
        for index, (run, curve) in enumerate(zip(runs, curves, strict=True))
        if curve
    )
    return (
        f'<figure><figcaption>{escape(title)}</figcaption><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(title)}">{lines}{drawn}<text x="{LEFT}" y="{HEIGHT - 6}">0</text>'
        f'<text x="{WIDTH - 12}" y="{HEIGHT - 6}" text-anchor="end">epoch {last:.4g}</text></svg></figure>'
    )


def _curve(points: Sequence[tuple[float, float]]) -> str:
    if len(points) == 1:
        return f'<circle cx="{points[0][0]:.1f}" cy="{points[0][1]:.1f}" r="4"/>'
    return f'<polyline class="curve" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in points)}"/>'


def round_ticks(low: float, high: float) -> list[float]:
    """Return three to six round numbers, evenly spaced, that enclose an interval."""
    span = (high - low) or abs(high) or 1.0
    rough = span / 3
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [number * step for number in range(first, max(last, first + 1) + 1)]
