"""A result as text: a Markdown table, a line for each roofline, and the answer to a budget."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twins.backbone.config import PUBLISHED
from twins.bench.config import FEATURES, REPORTED_AT, BenchConfig
from twins.bench.subjects import PEERS, label_of, repeated_peer
from twins.tasks.table import facts_of

Row = dict[str, Any]
Column = tuple[str, Callable[[Row], str]]


def head(facts: dict[str, Any], config: BenchConfig, task: str, task_head: str | None) -> str:
    """Return the head of a table: a line about the measurement, and the names of the columns."""
    what = f"{task} with {task_head}" if task_head else task
    lines = [
        f"{what}: {facts['device']}, {facts['threads']} threads, torch {facts['torch']}, "
        f"timm {facts['timm']}, {facts['runtime']}, median of {facts['rounds']} "
        "interleaved rounds.",
        "",
        "| model | mode | precision | batch | size | " + " | ".join(name for name, _ in columns(config)) + " |",
        "| --- " * (5 + len(columns(config))) + "|",
    ]
    return "\n".join(lines)


def line(row: Row, config: BenchConfig) -> str:
    """Return a row of the table."""
    about = [str(row[name]) for name in ("model", "mode", "precision", "batch", "size")]
    if "failed" in row:
        cells = [row["failed"], *"-" * (len(columns(config)) - 1)]
    else:
        cells = [cell(row) for _, cell in columns(config)]
    return "| " + " | ".join([*about, *cells]) + " |"


def columns(config: BenchConfig) -> list[Column]:
    """Return the columns that follow a row's own settings: those that the configuration asks for."""
    peers = [label_of(name) for name in config.peers]
    subjects = ["twins", *peers]
    found = [(f"{label} img/s", _reader(_rate, label)) for label in subjects]
    if config.percentiles:
        found.append(("twins p50 / p90 / p99 ms", _reader(_percentiles, "twins")))
    for label in peers:
        title = f"ratio to {label} (middle half)" if len(peers) > 1 else "ratio (middle half)"
        found.append((title, _ratio_to(label)))
    if len(peers) > 1 and repeated_peer(config.peers):
        found.append(("best to best peer (middle half)", _best))
    if (twice := repeated_peer(config.peers)) is not None:
        key = f"{label_of(twice)} against itself"
        found.append((key, lambda row: _spread(row.get(key))))
    if config.memory:
        found += [(f"{label} MiB", _reader(_mib, label)) for label in subjects]
    if peers:
        found.append(
            ("outputs differ by", lambda row: "-" if row["difference"] is None else f"{row['difference']:.1e}")
        )
    if config.roofline:
        found.append(("of the roofline", lambda row: f"{row['roofline']['share']:.0%}" if "roofline" in row else "-"))
    return found


def roofline_line(row: Row) -> str:
    """Return a sentence that explains a row's time."""
    found = row["roofline"]
    most = ", ".join(f"{name} {share:.0%}" for name, share in list(found["operators"].items())[:3])
    return (
        f"{row['model']}, {row['mode']}, {row['precision']}, batch {row['batch']}, size {row['size']}: "
        f"{found['gflop']:.2f} GFLOP at {found['peak_gflop_per_s']:.0f} GFLOP/s take {found['operations_ms']:.1f} ms, "
        f"{found['mib']:.0f} MiB at {found['peak_gb_per_s']:.1f} GB/s {found['bytes_ms']:.1f} ms; of {found['bound']} "
        f"{found['attainable_ms']:.1f} ms are attainable, {row['twins']['p50_ms']:.1f} measured: {found['share']:.0%}. "
        f"Operator by operator {found['by_operator_ms']:.1f} ms, {found['by_operator_share']:.0%}; most is {most}."
    )


def budget_line(rows: list[Row], budget: float) -> str:
    """Return which published variant measured has the highest reported top-1 within a budget.

    The budget is milliseconds of one image, as a 90th percentile.
    """
    known = [
        (PUBLISHED[row["model"]].top1, -row[label]["p90_ms"], row, label)
        for row in rows
        if answers(row) and row["model"] in PUBLISHED
        for label in ("twins", *(label_of(name) for name, peer in PEERS.items() if peer.ours))
        if label in row
    ]
    if not known:
        return "No published variant was measured one image at a time, so the budget has no answer."
    fits = [entry for entry in known if -entry[1] <= budget]
    top1, took, row, label = max(fits or known, key=lambda entry: entry[:2] if fits else (entry[1],))
    form = label.removeprefix("twins").strip()
    name = f"{row['model']} ({', '.join([row['precision'], *([form] if form else [])])})"
    missing = sorted(set(PUBLISHED) - {entry[2]["model"] for entry in known})
    rest = f" Not measured: {', '.join(missing)}." if missing else ""
    if not fits:
        return f"No measured variant keeps to {budget:g} ms an image; the fastest is {name}: {-took:.1f} ms.{rest}"
    return (
        f"Within {budget:g} ms an image the most accurate measured variant is {name}: {top1} % top-1 as reported "
        f"({PUBLISHED[row['model']].source}), {-took:.1f} ms or less in nine rounds of ten.{rest}"
    )


def answers(row: Row) -> bool:
    """Whether a row tells how long a classifier takes for one image at the size that accuracy is reported at."""
    wanted = {"mode": "inference", "batch": 1, "size": REPORTED_AT}
    reported = row["task"] != FEATURES and "top1" in facts_of(row["task"]).metrics
    return reported and "failed" not in row and wanted.items() <= (row | {"size": str(row["size"])}).items()


def _reader(show: Callable[[Row], str], label: str) -> Callable[[Row], str]:
    """Return a cell of one subject; a row that has not measured it shows a dash."""
    return lambda row: show(row[label]) if label in row else "-"


def _ratio_to(label: str) -> Callable[[Row], str]:
    return lambda row: _spread(row.get("ratios", {}).get(label))


def _rate(subject: Row) -> str:
    rate = subject["images_per_s"]
    return f"{rate:.1f}" if rate >= 1 else f"{rate:.3f}"


def _percentiles(subject: Row) -> str:
    return " / ".join(f"{subject[name]:.1f}" for name in ("p50_ms", "p90_ms", "p99_ms"))


def _mib(subject: Row) -> str:
    return f"{subject['peak_mib']:.0f}" if "peak_mib" in subject else "-"


def _best(row: Row) -> str:
    best = row.get("best")
    return f"{_spread(best)} {best['ours']} to {best['peer']}" if best else "-"


def _spread(ratio: dict[str, Any] | None) -> str:
    return f"{ratio['median']:.2f} ({ratio['low']:.2f}-{ratio['high']:.2f})" if ratio else "-"
