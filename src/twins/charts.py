"""Charts and pictures as parts of a page: plain SVG that follows its colours, and images inside the HTML."""

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
"""Width and height of what is inside a chart's axes."""


def line_chart(title: str, points: Sequence[Point], *, percent: bool = False, logarithmic: bool = False) -> str:
    """Return an SVG of one curve over steps, its last value written beside the title; of fewer than two points nothing.

    Args:
        title: what the curve shows.
        points: (step, value) in order.
        percent: values are shares in 0..1.
        logarithmic: decades on the vertical axis; values must be above 0.
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


def _chart(title: str, caption: str, inside: str, first: str, last: str) -> str:
    """Return a figure: HTML above, an SVG, and what stands at the ends of its horizontal axis."""
    return (
        f"<figure><figcaption>{caption}</figcaption>"
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">{inside}'
        f'<text x="{WIDTH - 10}" y="{HEIGHT - 6}" text-anchor="end">{last}</text>'
        f'<text x="{LEFT}" y="{HEIGHT - 6}">{first}</text></svg></figure>'
    )


def precision_recall_chart(
    title: str,
    recall: Sequence[float],
    curves: Sequence[tuple[str, Sequence[float], str]],
    behind: Sequence[tuple[str, Sequence[float]]] = (),
) -> str:
    """Return an SVG of precision (up) over recall (across), both from 0 to 1.

    Args:
        title: what was found.
        recall: where the curves are known, ascending.
        curves: of each its name, its precisions, and `solid` or `dashed`.
        behind: curves to show thin behind them, each with its name.
    """

    def line(values: Sequence[float], kind: str, name: str) -> str:
        pairs = zip(recall, values, strict=True)
        points = " ".join(f"{LEFT + ACROSS * x:.1f},{10 + UP * (1 - y):.1f}" for x, y in pairs)
        return f'<polyline class="{kind}" points="{points}"><title>{escape(name)}</title></polyline>'

    ticks = "".join(_tick(10 + UP * (1 - part), f"{part:.0%}") for part in (0.0, 0.5, 1.0))
    lines = "".join(line(values, "curve thin", name) for name, values in behind)
    lines += "".join(line(values, f"curve {kind}", name) for name, values, kind in curves)
    keys = "".join(
        f'<span><svg viewBox="0 0 24 8"><path class="curve {kind}" d="M0 4H24"/></svg>{escape(name)}</span>'
        for name, _, kind in [*curves, *([("each class", (), "thin")] if behind else [])]
    )
    caption = f"{escape(title)}<div class=keys>{keys}</div>"
    return _chart(title, caption, ticks + lines, "0%", "recall 100%")


def bar_chart(bars: Sequence[tuple[str, float, str]]) -> str:
    """Return horizontal bars, the longest of which fills its place.

    Args:
        bars: of each its name, its length (0 or more) and what is written at its end.
    """
    most = max((length for _, length, _ in bars), default=0.0) or 1.0
    rows = "".join(
        f"<span>{escape(name)}</span><i><b style='width:{100 * length / most:.1f}%'></b></i><em>{escape(text)}</em>"
        for name, length, text in bars
    )
    return f"<div class=bars>{rows}</div>"


def score_chart(right: Sequence[int], wrong: Sequence[int], threshold: float) -> str:
    """Return an SVG of how many objects have a score, the right ones below and the wrong ones on top.

    Args:
        right: objects of each of some bins of the same width over the scores 0 to 1.
        wrong: likewise.
        threshold: a score to mark.
    """
    count, most = len(right), max((a + b for a, b in zip(right, wrong, strict=True)), default=0) or 1

    def bar(number: int, low: int, high: int, kind: str) -> str:
        """Return one bar's part from one count to another."""
        top, tall = 10 + UP * (1 - high / most), UP * (high - low) / most
        return (
            f'<rect class="{kind}" x="{LEFT + ACROSS * number / count + 1:.1f}" y="{top:.1f}" '
            f'width="{ACROSS / count - 2:.1f}" height="{tall:.1f}"><title>{high - low}</title></rect>'
        )

    bars = "".join(
        bar(number, 0, a, "right") + bar(number, a, a + b, "wrong")
        for number, (a, b) in enumerate(zip(right, wrong, strict=True))
    )
    ticks = _tick(10 + UP, "0") + _tick(10, str(most))
    mark = f'<path class="mark" d="M{LEFT + ACROSS * threshold:.1f} 10V{10 + UP}"/>'
    title = "Scores of right and of wrong objects"
    keys = "".join(f"<span><u class={kind}></u>{kind}</span>" for kind in ("right", "wrong"))
    return _chart(title, f"{title}<div class=keys>{keys}</div>", ticks + bars + mark, "0", "score 1")


def calibration_chart(bins: Sequence[dict[str, float]]) -> str:
    """Return an SVG of accuracy over confidence; on the diagonal a network is as right as it is sure."""
    side = 240
    dots = "".join(
        f'<circle class="dot" cx="{10 + (side - 20) * b["confidence"]:.1f}" '
        f'cy="{10 + (side - 20) * (1 - b["accuracy"]):.1f}" r="{3 + min(9, b["count"] ** 0.5 / 3):.1f}">'
        f"<title>{b['count']} images: {b['confidence']:.0%} sure, {b['accuracy']:.0%} right</title></circle>"
        for b in bins
    )
    return (
        '<figure class="square"><figcaption>Calibration: how sure (across), how often right (up)</figcaption>'
        f'<svg viewBox="0 0 {side} {side}" role="img" aria-label="calibration">'
        f'<path class="axis" d="M10 {side - 10}H{side - 10}M10 {side - 10}V10"/>'
        f'<path class="axis dashed" d="M10 {side - 10}L{side - 10} 10"/>{dots}</svg></figure>'
    )


def confusion_table(names: Sequence[str], counts: Sequence[Sequence[int]], *, shares: bool = False) -> str:
    """Return the confusion matrix as a table, rows are the truth; large sets list their commonest mistakes instead.

    Args:
        names: class names by class id.
        counts: how often each class (rows) was said to be each class (columns).
        shares: show per cent of the row instead of counts.
    """
    if len(names) > 30:
        return _mistake_table(names, counts)
    head = "".join(f"<th><span>{escape(name)}</span></th>" for name in names)

    def cell(count: int, part: float, kind: str) -> str:
        """Return a cell that is coloured by its part of the row; what rounds to nothing stays empty."""
        text = (f"{100 * part:.0f}" if part >= 0.005 else "") if shares else str(count or "")
        return f'<td class="{kind}" style="--part:{part:.2f}">{text}</td>'

    rows = []
    for truth, row in enumerate(counts):
        total = sum(row) or 1
        cells = "".join(cell(n, n / total, "right" if truth == said else "wrong") for said, n in enumerate(row))
        rows.append(f"<tr><th>{escape(names[truth])}</th>{cells}</tr>")
    return (
        f"<p>Rows are the truth, columns what was said{', in per cent of the truth' if shares else ''}.</p>"
        '<div class="scroll"><table class="confusion">'
        f"<tr><th></th>{head}</tr>{''.join(rows)}</table></div>"
    )


def picture(image: Image.Image, caption: str, *, kind: str = "") -> str:
    """Return a figure with an image inside the page and its caption below."""
    buffer = io.BytesIO()
    kind_of, settings = ("png", {}) if max(image.size) <= 200 else ("webp", {"quality": 85})
    image.save(buffer, kind_of, **settings)
    data = base64.b64encode(buffer.getvalue()).decode()
    return (
        f'<figure class="thumb {kind}"><img alt="{escape(caption)}" src="data:image/{kind_of};base64,{data}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def table(head: Sequence[str], rows: Iterable[Sequence[object]], *, kind: str = "") -> str:
    """Return a table with a line of names above; the text of its cells is escaped."""
    lines = "".join(f"<tr>{''.join(f'<td>{escape(str(cell))}</td>' for cell in row)}</tr>" for row in rows)
    names = "".join(f"<th>{name}</th>" for name in head)
    return f"<table{f' class={kind}' if kind else ''}><tr>{names}</tr>{lines}</table>"


def fact_table(rows: Sequence[tuple[str, object]]) -> str:
    """Return a two-column table."""
    lines = "".join(f"<tr><th>{escape(key)}</th><td>{escape(str(value))}</td></tr>" for key, value in rows)
    return f'<div class="scroll"><table class="facts">{lines}</table></div>'


def share(value: float | None) -> str:
    """Return a share as per cent, or a dash where there is none."""
    return "–" if value is None else f"{100 * value:.1f} %"


def _mistake_table(names: Sequence[str], counts: Sequence[Sequence[int]]) -> str:
    wrong = [
        (count, names[truth], names[said])
        for truth, row in enumerate(counts)
        for said, count in enumerate(row)
        if count and truth != said
    ]
    return table(("truth", "said", "times"), ((truth, said, n) for n, truth, said in sorted(wrong, reverse=True)[:30]))


def _tick(y: float, text: str) -> str:
    label = f'<text x="{LEFT - 6}" y="{y:.1f}" dy="4" text-anchor="end">{text}</text>'
    return f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - 10}"/>{label}'


def _number(value: float, percent: bool) -> str:
    if percent:
        return f"{100 * value:.1f} %"
    return f"{value:.0e}" if 0 < abs(value) < 0.01 else f"{value:.3g}"
