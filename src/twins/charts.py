"""Parts of an HTML page: charts as SVG in the page's colours, tables, and embedded images.

`twins.report.style.SCRIPT` shows the values of a chart under the pointer, and enlarges images.
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from math import ceil, floor, isfinite, log10
from typing import Literal

from PIL import Image

Point = tuple[float, float]
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 460, 230, 56, 14, 10, 40
ACROSS, UP = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
"""Width and height of the area inside a chart's axes."""
MAX_POINTS, MAX_DOTTED, MAX_COLOURED = 500, 30, 10
"""Largest number of points of a curve; of points that each get a dot; of curves with a colour each."""


@dataclass(frozen=True)
class Curve:
    """A curve of a chart."""

    name: str
    points: Sequence[Point]
    """In ascending order of x."""
    kind: str = "c0"
    """CSS classes: a colour `c0` to `c9`, `dashed`, `thin`."""


@dataclass(frozen=True)
class Axis:
    """One axis of a chart with round ticks."""

    ticks: tuple[float, ...]
    """Ascending."""
    percent: bool = False
    """Whether values in 0..1 are shown as per cent."""
    logarithmic: bool = False
    limits: tuple[float, float] | None = None
    """Where the axis begins and ends; `None`: at the first and last tick."""

    @classmethod
    def progress(cls, last: float, *, whole: bool) -> Axis:
        """Return an axis from 0 to the last step, with `whole` numbers as ticks, or to the last epoch."""
        last = max(1.0, last) if whole else last or 1.0
        ticks = [tick for tick in cls.linear([0, last]).ticks if tick <= last and (not whole or tick == round(tick))]
        return cls(tuple(ticks), limits=(0, last))

    @classmethod
    def linear(cls, values: Iterable[float], *, percent: bool = False, count: int = 4) -> Axis:
        """Return an axis over the values, with about `count` round steps."""
        values = list(values)
        low, high = min(values), max(values)
        if low == high:
            low, high = (low - 0.1, high + 0.1) if percent else (low - 0.5 * (abs(low) or 1), high + 0.5 * abs(high))
            low, high = (max(0.0, low), min(1.0, high)) if percent else (low, high)
        step = _round_step((high - low) / count)
        first, last = floor(low / step + 1e-9), ceil(high / step - 1e-9)
        return cls(tuple(round(number * step, 12) for number in range(first, last + 1)), percent)

    @classmethod
    def decades(cls, values: Iterable[float]) -> Axis:
        """Return a logarithmic axis over values above 0, with ticks at 1, 2 and 5 times powers of ten."""
        values = [value for value in values if value > 0] or [1.0]
        first, last = floor(log10(min(values))), ceil(log10(max(values)))
        steps = (1, 2, 5) if last - first <= 2 else (1,)
        every = max(1, (last - first) // 5) if steps == (1,) else 1
        ticks = [step * 10.0**power for power in range(first, last + every, every) for step in steps]
        start = max(number for number, tick in enumerate(ticks) if tick <= min(values) * (1 + 1e-9))
        end = min(number for number, tick in enumerate(ticks) if tick >= max(values) * (1 - 1e-9))
        ticks = ticks[start : end + 1] if end > start else [ticks[start] / 2, ticks[start], ticks[start] * 2]
        return cls(tuple(ticks), logarithmic=True)

    def position(self, value: float) -> float:
        """Return where a value is, from 0 at the beginning of the axis to 1 at its end."""
        low, high = self.limits or (self.ticks[0], self.ticks[-1])
        if self.logarithmic:
            value, low, high = log10(max(value, low)), log10(low), log10(high)
        return min(1.0, max(0.0, (value - low) / (high - low)))

    def label(self, tick: float) -> str:
        """Return a tick's text, with the digits that its step needs."""
        if self.logarithmic:
            return f"{tick:g}"
        scale, unit = (100, "%") if self.percent else (1, "")
        step = (self.ticks[1] - self.ticks[0]) * scale
        digits = next((n for n in range(6) if abs(round(step, n) - step) < 1e-6 * step), 6)
        return f"{tick * scale:,.{digits}f}{unit}"


SHARES = Axis((0.0, 0.25, 0.5, 0.75, 1.0), percent=True)
"""Axis from 0 to 100 %."""


def line_chart(
    title: str,
    points: Sequence[Point],
    *,
    percent: bool = False,
    logarithmic: bool = False,
    best: bool = False,
    from_zero: bool = False,
) -> str:
    """Return an SVG of one curve over steps, with its last value beside the title; one point is a dot.

    Args:
        title: the curve's name.
        points: (step, value) in ascending order; without any, the result is empty.
        percent: show values in 0..1 as per cent.
        logarithmic: use a logarithmic vertical axis; values must be above 0.
        best: mark the first largest value, and show it with its step beside the title.
        from_zero: begin the vertical axis at 0.
    """
    curves = [Curve(title, points)]
    return curve_chart(title, curves, percent=percent, logarithmic=logarithmic, best=best, from_zero=from_zero)


def curve_chart(
    title: str,
    curves: Sequence[Curve],
    *,
    over: Literal["step", "epoch"] = "step",
    percent: bool = False,
    logarithmic: bool = False,
    best: bool = False,
    from_zero: bool = False,
) -> str:
    """Return an SVG of several curves over steps or epochs, with a legend if more than one is given; see `line_chart`.

    Curves without points are left out.
    """
    several = len(curves) > 1
    curves = [Curve(c.name, [p for p in c.points if all(map(isfinite, p))], c.kind) for c in curves]
    curves = [curve for curve in curves if curve.points]
    if not curves:
        return ""
    values = [y for curve in curves for _, y in curve.points]
    values += [0.0] if from_zero else []
    y_axis = Axis.decades(values) if logarithmic else Axis.linear(values, percent=percent)
    x_axis = Axis.progress(max(curve.points[-1][0] for curve in curves), whole=over == "step")
    last = _number(curves[0].points[-1][1], percent)
    caption, marks = escape(title) if several else f"{escape(title)} <b>{last}</b>", ""
    if best:
        step, value = max(curves[0].points, key=lambda point: point[1])
        newest = "" if step == curves[0].points[-1][0] else f"; last {last}"
        caption = f"{escape(title)} <b>{_number(value, percent)}</b> best, step {step:,.0f}{newest}"
        marks = _dot("best", x_axis.position(step), y_axis.position(value))
    return plot(title, caption + (legend(curves) if several else ""), curves, x_axis, y_axis, over, marks)


def plot(
    title: str,
    caption: str,
    curves: Sequence[Curve],
    x_axis: Axis,
    y_axis: Axis,
    x_name: str,
    marks: str = "",
) -> str:
    """Return a figure with axes, curves, and marks as further SVG.

    Args:
        title: the chart's name, for screen readers.
        caption: HTML above the chart.
        curves: drawn in this order.
        x_axis: horizontal axis.
        y_axis: vertical axis.
        x_name: name of the horizontal axis.
        marks: SVG on top of the curves.
    """
    grid = "".join(
        f'<path class="grid" d="M{LEFT} {_y(part):.1f}H{WIDTH - RIGHT}"/>'
        f'<text x="{LEFT - 6}" y="{_y(part):.1f}" dy="4" text-anchor="end">{y_axis.label(tick)}</text>'
        for tick in y_axis.ticks
        for part in [y_axis.position(tick)]
    )
    grid += "".join(
        f'<path class="grid" d="M{_x(part):.1f} {TOP + UP}v4"/>'
        f'<text x="{_x(part):.1f}" y="{TOP + UP + 17}" text-anchor="{"end" if part > 0.95 else "middle"}">'
        f"{x_axis.label(tick)}</text>"
        for tick in x_axis.ticks
        for part in [x_axis.position(tick)]
    )
    grid += f'<text x="{LEFT + ACROSS / 2}" y="{HEIGHT - 6}" text-anchor="middle">{escape(x_name)}</text>'
    lines = "".join(_curve(curve, x_axis, y_axis, x_name) for curve in curves)
    return (
        f"<figure><figcaption>{caption}</figcaption>"
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">'
        f"{grid}{lines}{marks}</svg></figure>"
    )


def legend(curves: Sequence[Curve]) -> str:
    """Return the names of curves beside their lines."""
    entries = "".join(
        f'<span><svg viewBox="0 0 24 8"><path class="curve {curve.kind}" d="M0 4H24"/></svg>{escape(curve.name)}</span>'
        for curve in curves
    )
    return f"<div class=keys>{entries}</div>"


def precision_recall_chart(
    title: str,
    recall: Sequence[float],
    curves: Sequence[tuple[str, Sequence[float], str]],
    background: Sequence[tuple[str, Sequence[float]]] = (),
) -> str:
    """Return an SVG of precision over recall, both from 0 to 1.

    Args:
        title: the chart's name.
        recall: recall of the points of all curves, ascending.
        curves: name, precisions, and `solid` or `dashed` of each curve.
        background: name and precisions of thinner curves behind them; up to ten have a colour each, in the legend.
    """
    coloured = len(background) <= MAX_COLOURED
    behind = [
        Curve(name, list(zip(recall, values, strict=True)), f"thin c{number % 9 + 1}" if coloured else "thin")
        for number, (name, values) in enumerate(background)
    ]
    front = [Curve(name, list(zip(recall, values, strict=True)), f"c0 {kind}") for name, values, kind in curves]
    keys = [*front, *(behind if coloured else [Curve("each class (name under the pointer)", (), "thin")])]
    return plot(title, escape(title) + legend(keys), [*behind, *front], SHARES, SHARES, "recall")


def bar_chart(bars: Sequence[tuple[str, float, str]]) -> str:
    """Return horizontal bars; the longest has the full width.

    Args:
        bars: name, length (0 or more) and text at the end of each bar.
    """
    longest = max((length for _, length, _ in bars), default=0.0) or 1.0
    rows = "".join(
        f"<span>{escape(name)}</span><i><b style='width:{100 * length / longest:.1f}%'></b></i><em>{escape(text)}</em>"
        for name, length, text in bars
    )
    return f"<div class=bars>{rows}</div>"


def score_chart(right: Sequence[int], wrong: Sequence[int], threshold: float) -> str:
    """Return an SVG histogram of the objects' scores, with the wrong objects stacked on the right ones.

    Args:
        right: number of right objects in bins of equal width over the scores 0 to 1.
        wrong: number of wrong objects in the same bins.
        threshold: a score to mark.
    """
    width = 1 / len(right)
    tips = [
        f"score {n * width:.2f} to {(n + 1) * width:.2f}: {a:,} right, {b:,} wrong"
        for n, (a, b) in enumerate(zip(right, wrong, strict=True))
    ]
    bins = [(n * width, (n + 1) * width) for n in range(len(right))]
    title = "Scores of right and of wrong objects"
    keys = "".join(f"<span><u class={kind}></u>{kind}</span>" for kind in ("right", "wrong"))
    stacks = [("right", right), ("wrong", wrong)]
    return histogram(title, f"{title}<div class=keys>{keys}</div>", bins, stacks, tips, SHARES, "score", threshold)


def histogram(
    title: str,
    caption: str,
    bins: Sequence[tuple[float, float]],
    stacks: Sequence[tuple[str, Sequence[int]]],
    tips: Sequence[str],
    x_axis: Axis,
    x_name: str,
    mark: float | None = None,
) -> str:
    """Return an SVG of counts in bins, stacked.

    Args:
        title: the chart's name.
        caption: HTML above the chart.
        bins: start and end of each bin.
        stacks: CSS class and counts of each part of the bars, the lowest first.
        tips: text of each bin under the pointer.
        x_axis: horizontal axis.
        x_name: its name.
        mark: a value to mark with a vertical line.
    """
    totals = [sum(counts) for counts in zip(*(counts for _, counts in stacks), strict=True)]
    y_axis = Axis.linear([0, max(4, *totals)])
    bars = ""
    for index, (start, end) in enumerate(bins):
        left, right, low = _x(x_axis.position(start)), _x(x_axis.position(end)), 0
        for kind, counts in stacks:
            top, bottom = (_y(y_axis.position(value)) for value in (low + counts[index], low))
            low += counts[index]
            bars += f'<rect class="{kind}" x="{left + 1:.1f}" y="{top:.1f}" width="{max(1, right - left - 2):.1f}" '
            bars += f'height="{bottom - top:.1f}"/>'
    middles = [(_x((x_axis.position(a) + x_axis.position(b)) / 2), _y(0)) for a, b in bins]
    bars += _hidden(middles, tips) + ("" if mark is None else _threshold(x_axis.position(mark)))
    return plot(title, caption, (), x_axis, y_axis, x_name, bars)


def confidence_chart(title: str, curves: Sequence[Curve], threshold: float) -> str:
    """Return an SVG of shares over the score threshold, from 0 to 1, with one threshold marked."""
    caption = escape(title) + legend(curves)
    return plot(title, caption, curves, SHARES, SHARES, "score threshold", _threshold(threshold))


def calibration_chart(bins: Sequence[dict[str, float]]) -> str:
    """Return an SVG of accuracy over confidence, each bin a dot; on the diagonal both are equal.

    Args:
        bins: `confidence` and `accuracy` in 0..1, and `count` images, of each bin.
    """
    middles = [(_x(b["confidence"]), _y(b["accuracy"])) for b in bins]
    dots = "".join(_dot("dot", b["confidence"], b["accuracy"], radius=3 + min(9, b["count"] ** 0.5 / 3)) for b in bins)
    tips = [f"{b['count']:,} images: confidence {b['confidence']:.1%}, accuracy {b['accuracy']:.1%}" for b in bins]
    diagonal = f'<path class="axis dashed" d="M{LEFT} {TOP + UP}L{LEFT + ACROSS} {TOP}"/>'
    caption = "Accuracy (up) over confidence (across)"
    return plot("calibration", caption, (), SHARES, SHARES, "confidence", diagonal + dots + _hidden(middles, tips))


def confusion_table(
    names: Sequence[str], counts: Sequence[Sequence[int]], *, shares: bool = False, unit: str = ""
) -> str:
    """Return the confusion matrix as a table with the truth in rows and the predictions in columns.

    With more than 30 classes, a list of the most frequent mistakes is returned instead.

    Args:
        names: class names by class id.
        counts: `counts[truth][prediction]`.
        shares: show per cent of the row instead of counts.
        unit: what is counted, such as `images`, for the text under the pointer.
    """
    if len(names) > 30:
        return _mistake_table(names, counts)
    head = "".join(f"<th><span>{escape(name)}</span></th>" for name in names)

    def cell(truth: int, label: int, total: int) -> str:
        """Return a cell coloured by its part of the row; it is empty where its number would be 0."""
        count = counts[truth][label]
        part = count / total
        text = (f"{100 * part:.0f}" if part >= 0.005 else "") if shares else str(count or "")
        tip = f"{count:,} of {total:,} {unit}, {names[truth]}, predicted as {names[label]}"
        kind = "right" if truth == label else "wrong"
        return f'<td class="{kind}" style="--part:{part:.2f}" title="{escape(tip)}">{text}</td>'

    rows = []
    for truth, row in enumerate(counts):
        cells = "".join(cell(truth, label, sum(row) or 1) for label in range(len(row)))
        rows.append(f"<tr><th>{escape(names[truth])}</th>{cells}</tr>")
    return (
        f"<p>Rows are the truth, columns the predictions{', in per cent of the truth' if shares else ''}.</p>"
        '<div class="scroll"><table class="confusion">'
        f"<tr><th></th>{head}</tr>{''.join(rows)}</table></div>"
    )


def picture(image: Image.Image, caption: str, *, kind: str = "", name: str = "") -> str:
    """Return a figure with an embedded image and its caption below.

    Args:
        image: at the size to which it can be enlarged.
        caption: plain text.
        kind: CSS class.
        name: file name of the image, shown above the caption.
    """
    buffer = io.BytesIO()
    small = max(image.size) <= 200
    image_format, settings = ("png", {}) if small else ("webp", {"quality": 82})
    image.save(buffer, image_format, **settings)
    data = base64.b64encode(buffer.getvalue()).decode()
    text = (f"<span class=name>{escape(name)}</span>" if name else "") + escape(caption)
    alt = escape(" ".join(filter(None, (name, caption))))
    return (
        f'<figure class="thumb {kind}"><img{" class=pixels" if small else ""} tabindex=0 alt="{alt}" '
        f'src="data:image/{image_format};base64,{data}"><figcaption>{text}</figcaption></figure>'
    )


def table(head: Sequence[str], rows: Iterable[Sequence[object]], *, kind: str = "") -> str:
    """Return a table with a head; cells are escaped, the head is HTML, and `kind` is a CSS class."""
    lines = "".join(f"<tr>{''.join(f'<td>{escape(str(cell))}</td>' for cell in row)}</tr>" for row in rows)
    names = "".join(f"<th>{name}</th>" for name in head)
    return f"<table{f' class={kind}' if kind else ''}><tr>{names}</tr>{lines}</table>"


def fact_table(rows: Sequence[tuple[str, object]]) -> str:
    """Return a table of names and values; both are escaped."""
    lines = "".join(f"<tr><th>{escape(key)}</th><td>{_whole_flags(str(value))}</td></tr>" for key, value in rows)
    return f'<div class="scroll"><table class="facts">{lines}</table></div>'


def _whole_flags(text: str) -> str:
    """Return a text as HTML whose flags, such as `--resume`, are not broken at their hyphens."""
    return re.sub(r"(?<!\S)--[\w.-]+", r"<span class=flag>\g<0></span>", escape(text))


def share(value: float | None) -> str:
    """Return a share in 0..1 as per cent, or a dash for `None`."""
    return "–" if value is None else f"{100 * value:.1f}%"


def _mistake_table(names: Sequence[str], counts: Sequence[Sequence[int]]) -> str:
    mistakes = [
        (count, names[truth], names[label])
        for truth, row in enumerate(counts)
        for label, count in enumerate(row)
        if count and truth != label
    ]
    most_frequent = sorted(mistakes, reverse=True)[:30]
    lines = ((truth, label, f"{count:,}") for count, truth, label in most_frequent)
    return f"<div class=scroll>{table(('truth', 'prediction', 'count'), lines)}</div>"


def _curve(curve: Curve, x_axis: Axis, y_axis: Axis, x_name: str) -> str:
    """Return a curve as SVG, with the texts of its points; few points have dots."""
    every = -(-len(curve.points) // MAX_POINTS) or 1
    points = [*curve.points[:-1:every], *curve.points[-1:]]
    positions = [(_x(x_axis.position(x)), _y(y_axis.position(y))) for x, y in points]
    tips = [f"{x_name} {_across(x, x_axis)}: {curve.name} {_number(y, y_axis.percent)}" for x, y in points]
    dots = (
        ""
        if len(points) > MAX_DOTTED
        else "".join(_circle(f"point {curve.kind.split()[0]}", *position, 2.5) for position in positions)
    )
    return (
        f'<polyline class="curve {curve.kind}" points="{_join(positions)}" data-tips="{escape(chr(10).join(tips))}">'
        f"<title>{escape(curve.name)}</title></polyline>{dots}"
    )


def _across(x: float, axis: Axis) -> str:
    """Return a position on the horizontal axis: a share, a step, or an epoch, which need not be whole."""
    return f"{x:.0%}" if axis.percent else f"{x:,.0f}" if x == round(x) else f"{x:,.2f}"


def _hidden(positions: Sequence[Point], tips: Sequence[str]) -> str:
    """Return an invisible line whose points have texts under the pointer."""
    return f'<polyline class="hidden" points="{_join(positions)}" data-tips="{escape(chr(10).join(tips))}"/>'


def _join(positions: Sequence[Point]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in positions)


def _threshold(part: float) -> str:
    return f'<path class="mark" d="M{_x(part):.1f} {TOP}V{TOP + UP}"/>'


def _dot(kind: str, across: float, up: float, *, radius: float = 4.5) -> str:
    return _circle(kind, _x(across), _y(up), radius)


def _circle(kind: str, x: float, y: float, radius: float) -> str:
    return f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}"/>'


def _x(part: float) -> float:
    return LEFT + ACROSS * part


def _y(part: float) -> float:
    return TOP + UP * (1 - part)


def _round_step(step: float) -> float:
    """Return the smallest round number that is at least `step`: 1, 2, 2.5 or 5 times a power of ten."""
    power = 10.0 ** floor(log10(step))
    return next(factor * power for factor in (1, 2, 2.5, 5, 10) if step <= factor * power * (1 + 1e-9))


def _number(value: float, percent: bool) -> str:
    if percent:
        return f"{100 * value:.1f}%"
    return f"{value:.1e}" if 0 < abs(value) < 0.001 else f"{value:,.3g}" if abs(value) < 1000 else f"{value:,.0f}"
