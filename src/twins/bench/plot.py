"""Plots of a result: accuracy over latency, throughput over input size, and throughput over latency."""

from __future__ import annotations

from collections.abc import Callable
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

from twins.backbone.config import PUBLISHED
from twins.bench.config import shape_of
from twins.bench.table import Row, at_reported_setting
from twins.files import atomic_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, SOFT, LINE, BLUE, ORANGE = "#1b1f24", "#5b6570", "#d9dee4", "#1f6feb", "#d9480f"
"""The report's colours; SVT is blue, PCPVT orange."""
SHADES = {"nano": 0.4, "small": 0.55, "base": 0.75, "large": 1.0}
"""Strength of a family's colour by model size."""
_LABEL = {"facecolor": "white", "edgecolor": "none", "pad": 0.8, "alpha": 0.85}
"""Background of a label, so that error bars of other points do not hide it."""
MARKERS = {"nano": "v", "small": "o", "base": "s", "large": "D", "any": "x"}


def write_plot(result: dict[str, Any], path: Path, *, budget: float | None = None) -> None:
    """Plot a result and write the figure in one atomic step.

    Args:
        result: what `run_bench` returns; failed rows are left out.
        path: ends in `.png`, `.svg` or `.pdf`.
        budget: latency to mark, in milliseconds.

    Raises:
        ConfigError: the path's folder does not exist.
        TrainingError: the disk is full or writing fails.
    """
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = [row for row in result["rows"] if "failed" not in row]
    panels = _panels(rows, budget)
    with rc_context({"font.size": 10, "svg.fonttype": "none", "axes.unicode_minus": False}):
        figure = Figure(figsize=(6.2 * max(1, len(panels)), 4.6), layout="constrained", facecolor="white")
        FigureCanvasAgg(figure)
        for axes, panel in zip(figure.subplots(1, max(1, len(panels)), squeeze=False)[0], panels, strict=False):
            _style(axes)
            panel(axes)
        facts = result["machine"]
        about = (
            f"{facts['device']}, {facts['threads']} threads, torch {facts['torch']}, median of {facts['rounds']} rounds"
        )
        figure.supxlabel(about, color=SOFT, fontsize=8)
        with atomic_file(path) as beside:
            figure.savefig(beside, format=path.suffix[1:].lower(), dpi=150)


def _panels(rows: list[Row], budget: float | None) -> list[Callable[[Axes], None]]:
    """Return a drawing function for each panel that has rows."""
    panels: list[Callable[[Axes], None]] = []
    if published := [row for row in rows if at_reported_setting(row) and row["model"] in PUBLISHED]:
        panels.append(lambda axes: _accuracy(axes, published, budget))
    first_mode = next((row["mode"] for row in rows if row["model"] != "any"), None)
    lines = [row for row in rows if row["mode"] == first_mode]
    if len({row["size"] for row in lines}) > 1:
        panels.append(lambda axes: _sizes(axes, lines))
    if len({row["batch"] for row in lines}) > 1 or (rows and not panels):
        panels.append(lambda axes: _batches(axes, lines or rows))
    return panels


def _accuracy(axes: Axes, rows: list[Row], budget: float | None) -> None:
    """Plot reported top-1 over the latency of one image, with the Pareto front as a line."""
    points = sorted(
        ((row["twins"]["p50_ms"], PUBLISHED[row["model"]].top1, row) for row in rows), key=lambda point: point[:2]
    )
    several = len({row["precision"] for row in rows}) > 1
    best = 0.0
    front = [(latency, top1) for latency, top1, _ in points if top1 > best and (best := top1)]
    axes.plot(*zip(*front, strict=True), color=LINE, linewidth=2, zorder=1, drawstyle="steps-post")
    for latency, top1, row in points:
        bar = row["twins"].get("p90_ms", latency) - latency
        colour, marker = _colour(row["model"]), _marker(row["model"])
        axes.errorbar(latency, top1, xerr=[[0], [bar]], color=colour, fmt=marker, elinewidth=1, zorder=2)
        name = f"{_short(row['model'])} {row['precision']}" if several else _short(row["model"])
        settings: dict[str, Any] = {"textcoords": "offset points", "ha": "center", "bbox": _LABEL, "zorder": 3}
        axes.annotate(name, (latency, top1), (0, 8), color=INK, fontsize=9, **settings)
    if budget is not None:
        axes.axvline(budget, color=INK, linestyle="--", linewidth=1)
        axes.annotate(f" {budget:g} ms", (budget, 0.02), xycoords=("data", "axes fraction"), color=INK)
    axes.set_xlim(left=0)
    axes.margins(y=0.15)
    axes.set(xlabel="ms for one image (median; bar: 90th percentile)", ylabel="ImageNet top-1 as reported, %")
    axes.set_title("Which variant for a budget: up and to the left is better", color=INK, fontsize=11, loc="left")


def _sizes(axes: Axes, rows: list[Row]) -> None:
    """Plot images per second over the input's side, with a line for each model, precision and batch."""
    styles = _styles(rows, "batch")
    for name, line in _grouped(rows, "batch"):
        points = sorted((_side(row["size"]), row["twins"]["images_per_s"]) for row in line)
        _line(axes, points, name, line[0], styles[line[0]["batch"]])
    sides = sorted({_side(row["size"]) for row in rows})
    axes.set(xscale="log", yscale="log", xlabel="side of the input, pixels", ylabel="images / s")
    axes.set_xticks(sides, [f"{side:.0f}" for side in sides])
    axes.minorticks_off()
    axes.legend(frameon=False, fontsize=8, labelcolor=INK)
    axes.set_title(f"{_modes(rows)}: how speed falls with size", color=INK, fontsize=11, loc="left")


def _batches(axes: Axes, rows: list[Row]) -> None:
    """Plot images per second over the latency of a batch, with a line for each model, precision and size."""
    styles = _styles(rows, "size")
    for name, line in _grouped(rows, "size"):
        points = [(row["twins"]["p50_ms"], row["twins"]["images_per_s"]) for row in line]
        _line(axes, points, name, line[0], styles[line[0]["size"]])
        for point, row in zip(points, line, strict=True):
            axes.annotate(f"{row['batch']}", point, (3, 4), textcoords="offset points", color=SOFT, fontsize=8)
    axes.set(xscale="log", yscale="log", xlabel="ms for a batch (median; numbers: images in it)", ylabel="images / s")
    axes.legend(frameon=False, fontsize=8, labelcolor=INK)
    axes.set_title(f"{_modes(rows)}: throughput against latency", color=INK, fontsize=11, loc="left")


def _line(axes: Axes, points: list[tuple[float, float]], name: str, row: Row, style: str) -> None:
    """Draw one line; precisions other than fp32 have hollow markers."""
    colour = _colour(row["model"])
    inside = colour if row["precision"] == "fp32" else "white"
    axes.plot(*zip(*points, strict=True), label=name, color=colour, marker=_marker(row["model"]), ls=style, mfc=inside)


def _styles(rows: list[Row], key: str) -> dict[Any, str]:
    """Return a line style for each value of a field."""
    return dict(zip(dict.fromkeys(row[key] for row in rows), cycle(("-", "--", "-.", ":")), strict=False))


def _grouped(rows: list[Row], field: str) -> list[tuple[str, list[Row]]]:
    """Group rows by model, mode, precision and another field; a group's name lists the fields that differ."""
    keys = ["model", *(key for key in ("mode", "precision", field) if len({row[key] for row in rows}) > 1)]
    groups: dict[str, list[Row]] = {}
    for row in rows:
        words = [_short(row["model"]), *(f"{key} {row[key]}" if key == field else row[key] for key in keys[1:])]
        groups.setdefault(", ".join(map(str, words)), []).append(row)
    return list(groups.items())


def _modes(rows: list[Row]) -> str:
    return ", ".join(dict.fromkeys(row["mode"] for row in rows))


def _style(axes: Axes) -> None:
    """Style axes like the report: two thin spines and a pale grid."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(LINE)
    axes.tick_params(colors=SOFT)
    axes.grid(color=LINE, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.xaxis.label.set_color(SOFT)
    axes.yaxis.label.set_color(SOFT)


def _side(size: int | str) -> float:
    """Return the side of the square with the same area, in pixels."""
    height, width = shape_of(size)
    return float((height * width) ** 0.5)


def _short(model: str) -> str:
    """Return a model's name in the paper, such as `SVT-S`."""
    parts = model.split("_")
    return f"{parts[1].upper()}-{parts[2][0].upper() if parts[2] != 'nano' else 'nano'}" if len(parts) == 3 else model


def _colour(model: str) -> tuple[float, ...]:
    from matplotlib.colors import to_rgb

    strength = SHADES.get(model.rpartition("_")[2], 1.0)
    return tuple(1 - strength * (1 - part) for part in to_rgb(ORANGE if "pcpvt" in model else BLUE))


def _marker(model: str) -> str:
    return MARKERS.get(model.rpartition("_")[2], "o")
