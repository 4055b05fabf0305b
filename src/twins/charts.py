"""Parts of an HTML page: charts as SVG in the page's colours, tables, and embedded images."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from html import escape
from math import log10

from PIL import Image

Point = tuple[float, float]
WIDTH, HEIGHT, LEFT, BOTTOM = 460, 220, 52, 26
ACROSS, UP = WIDTH - LEFT - 10, HEIGHT - BOTTOM - 10
"""Width and height of the area inside a chart's axes."""


def line_chart(title: str, points: Sequence[Point], *, percent: bool = False, logarithmic: bool = False) -> str:
    """Return an SVG of one curve over steps, with its last value beside the title.

    Fewer than two points give an empty string.

    Args:
        title: the curve's name.
        points: (step, value) in ascending order.
        percent: show values in 0..1 as per cent.
        logarithmic: use a logarithmic vertical axis; values must be above 0.
    """
    if len(points) < 2:
        return ""
    values = [log10(max(y, 1e-12)) if logarithmic else y for _, y in points]
    low, high = min(values), max(values)
    margin = 0.05 * (high - low) or 0.5
    low, high = low - margin, high + margin
    last = points[-1][0] or 1

    def height(y: float) -> float:
        return 10 + UP * (high - y) / (high - low)

    path = " ".join(f"{LEFT + ACROSS * x / last:.1f},{height(y):.1f}" for (x, _), y in zip(points, values, strict=True))
    ticks = [low + (high - low) * part for part in (0.08, 0.5, 0.92)]
    lines = "".join(_tick(height(tick), _number(10**tick if logarithmic else tick, percent)) for tick in ticks)
    caption = f"{escape(title)} <b>{_number(points[-1][1], percent)}</b>"
    return _chart(title, caption, f'{lines}<polyline class="curve" points="{path}"/>', "0", f"step {int(last)}")


def _chart(title: str, caption: str, content: str, first: str, last: str) -> str:
    """Return a figure: an HTML caption, an SVG, and labels at both ends of its horizontal axis."""
    return (
        f"<figure><figcaption>{caption}</figcaption>"
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">{content}'
        f'<text x="{WIDTH - 10}" y="{HEIGHT - 6}" text-anchor="end">{last}</text>'
        f'<text x="{LEFT}" y="{HEIGHT - 6}">{first}</text></svg></figure>'
    )


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
        background: name and precisions of thin curves behind them.
    """

    def line(values: Sequence[float], kind: str, name: str) -> str:
        pairs = zip(recall, values, strict=True)
        points = " ".join(f"{LEFT + ACROSS * x:.1f},{10 + UP * (1 - y):.1f}" for x, y in pairs)
        return f'<polyline class="{kind}" points="{points}"><title>{escape(name)}</title></polyline>'

    ticks = "".join(_tick(10 + UP * (1 - part), f"{part:.0%}") for part in (0.0, 0.5, 1.0))
    lines = "".join(line(values, "curve thin", name) for name, values in background)
    lines += "".join(line(values, f"curve {kind}", name) for name, values, kind in curves)
    legend = "".join(
        f'<span><svg viewBox="0 0 24 8"><path class="curve {kind}" d="M0 4H24"/></svg>{escape(name)}</span>'
        for name, _, kind in [*curves, *([("each class", (), "thin")] if background else [])]
    )
    caption = f"{escape(title)}<div class=keys>{legend}</div>"
    return _chart(title, caption, ticks + lines, "0%", "recall 100%")


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
    bin_count, highest = len(right), max((a + b for a, b in zip(right, wrong, strict=True)), default=0) or 1

    def bar(index: int, low: int, high: int, kind: str) -> str:
        """Return the part of a bin's bar between two counts."""
        top, height = 10 + UP * (1 - high / highest), UP * (high - low) / highest
        return (
            f'<rect class="{kind}" x="{LEFT + ACROSS * index / bin_count + 1:.1f}" y="{top:.1f}" '
            f'width="{ACROSS / bin_count - 2:.1f}" height="{height:.1f}"><title>{high - low}</title></rect>'
        )

    bars = "".join(
        bar(index, 0, a, "right") + bar(index, a, a + b, "wrong")
        for index, (a, b) in enumerate(zip(right, wrong, strict=True))
    )
    ticks = _tick(10 + UP, "0") + _tick(10, str(highest))
    mark = f'<path class="mark" d="M{LEFT + ACROSS * threshold:.1f} 10V{10 + UP}"/>'
    title = "Scores of right and of wrong objects"
    legend = "".join(f"<span><u class={kind}></u>{kind}</span>" for kind in ("right", "wrong"))
    return _chart(title, f"{title}<div class=keys>{legend}</div>", ticks + bars + mark, "0", "score 1")


def calibration_chart(bins: Sequence[dict[str, float]]) -> str:
    """Return an SVG of accuracy over confidence, each bin a dot; on the diagonal both are equal.

    Args:
        bins: `confidence` and `accuracy` in 0..1, and `count` images, of each bin.
    """
    side = 240
    dots = "".join(
        f'<circle class="dot" cx="{10 + (side - 20) * b["confidence"]:.1f}" '
        f'cy="{10 + (side - 20) * (1 - b["accuracy"]):.1f}" r="{3 + min(9, b["count"] ** 0.5 / 3):.1f}">'
        f"<title>{b['count']} images: confidence {b['confidence']:.0%}, accuracy {b['accuracy']:.0%}</title></circle>"
        for b in bins
    )
    return (
        '<figure class="square"><figcaption>Calibration: accuracy (up) over confidence (across)</figcaption>'
        f'<svg viewBox="0 0 {side} {side}" role="img" aria-label="calibration">'
        f'<path class="axis" d="M10 {side - 10}H{side - 10}M10 {side - 10}V10"/>'
        f'<path class="axis dashed" d="M10 {side - 10}L{side - 10} 10"/>{dots}</svg></figure>'
    )


def confusion_table(names: Sequence[str], counts: Sequence[Sequence[int]], *, shares: bool = False) -> str:
    """Return the confusion matrix as a table with the truth in rows and the predictions in columns.

    With more than 30 classes, a list of the most frequent mistakes is returned instead.

    Args:
        names: class names by class id.
        counts: `counts[truth][prediction]`.
        shares: show per cent of the row instead of counts.
    """
    if len(names) > 30:
        return _mistake_table(names, counts)
    head = "".join(f"<th><span>{escape(name)}</span></th>" for name in names)

    def cell(count: int, part: float, kind: str) -> str:
        """Return a cell coloured by its part of the row; it is empty where its number would be 0."""
        text = (f"{100 * part:.0f}" if part >= 0.005 else "") if shares else str(count or "")
        return f'<td class="{kind}" style="--part:{part:.2f}">{text}</td>'

    rows = []
    for truth, row in enumerate(counts):
        total = sum(row) or 1
        cells = "".join(cell(n, n / total, "right" if truth == label else "wrong") for label, n in enumerate(row))
        rows.append(f"<tr><th>{escape(names[truth])}</th>{cells}</tr>")
    return (
        f"<p>Rows are the truth, columns the predictions{', in per cent of the truth' if shares else ''}.</p>"
        '<div class="scroll"><table class="confusion">'
        f"<tr><th></th>{head}</tr>{''.join(rows)}</table></div>"
    )


def picture(image: Image.Image, caption: str, *, kind: str = "") -> str:
    """Return a figure with an embedded image and its caption below; `kind` is a CSS class."""
    buffer = io.BytesIO()
    image_format, settings = ("png", {}) if max(image.size) <= 200 else ("webp", {"quality": 85})
    image.save(buffer, image_format, **settings)
    data = base64.b64encode(buffer.getvalue()).decode()
    return (
        f'<figure class="thumb {kind}"><img alt="{escape(caption)}" src="data:image/{image_format};base64,{data}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def table(head: Sequence[str], rows: Iterable[Sequence[object]], *, kind: str = "") -> str:
    """Return a table with a head; cells are escaped, the head is HTML, and `kind` is a CSS class."""
    lines = "".join(f"<tr>{''.join(f'<td>{escape(str(cell))}</td>' for cell in row)}</tr>" for row in rows)
    names = "".join(f"<th>{name}</th>" for name in head)
    return f"<table{f' class={kind}' if kind else ''}><tr>{names}</tr>{lines}</table>"


def fact_table(rows: Sequence[tuple[str, object]]) -> str:
    """Return a table of names and values; both are escaped."""
    lines = "".join(f"<tr><th>{escape(key)}</th><td>{escape(str(value))}</td></tr>" for key, value in rows)
    return f'<div class="scroll"><table class="facts">{lines}</table></div>'


def share(value: float | None) -> str:
    """Return a share in 0..1 as per cent, or a dash for `None`."""
    return "–" if value is None else f"{100 * value:.1f} %"


def _mistake_table(names: Sequence[str], counts: Sequence[Sequence[int]]) -> str:
    mistakes = [
        (count, names[truth], names[label])
        for truth, row in enumerate(counts)
        for label, count in enumerate(row)
        if count and truth != label
    ]
    most_frequent = sorted(mistakes, reverse=True)[:30]
    return table(("truth", "prediction", "count"), ((truth, label, count) for count, truth, label in most_frequent))


def _tick(y: float, text: str) -> str:
    label = f'<text x="{LEFT - 6}" y="{y:.1f}" dy="4" text-anchor="end">{text}</text>'
    return f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - 10}"/>{label}'


def _number(value: float, percent: bool) -> str:
    if percent:
        return f"{100 * value:.1f} %"
    return f"{value:.0e}" if 0 < abs(value) < 0.01 else f"{value:.3g}"
