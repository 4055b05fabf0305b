"""A result as text: a Markdown table, a line for each roofline, and the variant for a budget."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twins.backbone.config import PUBLISHED
from twins.bench.config import FEATURES, REPORTED_SIZE, BenchConfig
from twins.bench.networks import PEERS, label_of, repeated_peer
from twins.tasks.table import facts_of

Row = dict[str, Any]
Column = tuple[str, Callable[[Row], str]]


def table_head(facts: dict[str, Any], config: BenchConfig, task: str, task_head: str | None) -> str:
    """Return the head of a table: a line with the machine's facts, and the column titles."""
    title = f"{task} with {task_head}" if task_head else task
    lines = [
        f"{title}: {facts['device']}, {facts['threads']} threads, torch {facts['torch']}, "
        f"timm {facts['timm']}, {facts['runtime']}, median of {facts['rounds']} "
        "interleaved rounds.",
        "",
        "| model | mode | precision | batch | size | " + " | ".join(name for name, _ in table_columns(config)) + " |",
        "| --- " * (5 + len(table_columns(config))) + "|",
    ]
    return "\n".join(lines)


def table_row(row: Row, config: BenchConfig) -> str:
    """Return a row of the table."""
    settings = [str(row[name]) for name in ("model", "mode", "precision", "batch", "size")]
    if "failed" in row:
        cells = [row["failed"], *"-" * (len(table_columns(config)) - 1)]
    else:
        cells = [cell(row) for _, cell in table_columns(config)]
    return "| " + " | ".join([*settings, *cells]) + " |"


def saved_head(facts: dict[str, Any], config: BenchConfig, task: str, first: str) -> str:
    """Return the head of a table of a trained network and exported files; ratios refer to `first`."""
    titles = [
        "form",
        "precision",
        "shape",
        "mode",
        "batch",
        "size",
        *(title for title, _ in saved_columns(config, first)),
    ]
    lines = [
        f"{task}: {facts['device']}, {facts['threads']} threads, {facts['runtime']}, median of {facts['rounds']} "
        "interleaved rounds.",
        "",
        f"| network or file | {' | '.join(titles)} |",
        "| --- " * (1 + len(titles)) + "|",
    ]
    return "\n".join(lines)


def saved_row(row: Row, config: BenchConfig, first: str) -> str:
    """Return a row of such a table."""
    shape = "any" if row["dynamic"] is None else f"dynamic {', '.join(row['dynamic'])}" if row["dynamic"] else "fixed"
    cells = [row["source"], row["form"], row["precision"], shape, row["mode"], str(row["batch"]), str(row["size"])]
    columns = saved_columns(config, first)
    if "failed" in row:
        return f"| {' | '.join([*cells, row['failed'], *'-' * (len(columns) - 1)])} |"
    return f"| {' | '.join([*cells, *(cell(row) for _, cell in columns)])} |"


def saved_columns(config: BenchConfig, first: str) -> list[Column]:
    """Return the columns after the settings of a row, each with a function that formats its cell."""
    columns: list[Column] = [
        ("ms per image (middle half)", lambda row: _median_and_range(row["ms_per_image"])),
        ("img/s", _rate),
        (f"times as fast as {first} (middle half)", lambda row: _median_and_range(row["ratio"])),
        ("first call s", lambda row: f"{row['first_s']:.1f}"),
    ]
    if config.percentiles:
        columns.append(("batch p50 / p90 / p99 ms", _percentiles))
    if config.memory:
        columns.append(("peak MiB", _mib))
    return [
        *columns,
        ("file MB", lambda row: f"{row['file_bytes'] / 1e6:.1f}"),
        ("metric in the sheet", lambda row: _sheet_metric(row.get("metric"))),
        ("outputs", lambda row: _outputs(row.get("outputs"))),
    ]


def _sheet_metric(metric: dict[str, Any] | None) -> str:
    if metric is None:
        return "-"
    file, network = (f"{100 * metric[name]:.2f} %" for name in ("file", "network"))
    return f"{metric['name']} on {metric['data']} {file} (network {network})"


def _outputs(outputs: dict[str, Any] | None) -> str:
    """Return how outputs differ from those of the first row, in a few words."""
    if outputs is None:
        return "-"
    parts = [f"{name} {value:.1e}" for name, value in outputs["differences"].items()]
    parts += [f"{100 * value:.4g} % of {name} equal" for name, value in outputs["agreement"].items()]
    return f"{'agree' if outputs['failure'] is None else 'DIFFER'}: {', '.join(parts)}"


def table_columns(config: BenchConfig) -> list[Column]:
    """Return the columns after a row's settings, each with its title and a function that formats its cell."""
    peers = [label_of(name) for name in config.peers]
    labels = ["twins", *peers]
    columns = [(f"{label} img/s", _cell(_rate, label)) for label in labels]
    if config.percentiles:
        columns.append(("twins p50 / p90 / p99 ms", _cell(_percentiles, "twins")))
    for label in peers:
        title = f"ratio to {label} (middle half)" if len(peers) > 1 else "ratio (middle half)"
        columns.append((title, _ratio_to(label)))
    if len(peers) > 1 and repeated_peer(config.peers):
        columns.append(("best to best peer (middle half)", _best))
    if (repeated := repeated_peer(config.peers)) is not None:
        key = f"{label_of(repeated)} against itself"
        columns.append((key, lambda row: _median_and_range(row.get(key))))
    if config.memory:
        columns += [(f"{label} MiB", _cell(_mib, label)) for label in labels]
    if peers:
        columns.append(
            ("outputs differ by", lambda row: "-" if row["difference"] is None else f"{row['difference']:.1e}")
        )
    if config.roofline:
        columns.append(("of the roofline", lambda row: f"{row['roofline']['share']:.0%}" if "roofline" in row else "-"))
    return columns


def roofline_line(row: Row) -> str:
    """Return a line that explains a row's time by its roofline."""
    roof = row["roofline"]
    largest = ", ".join(f"{name} {share:.0%}" for name, share in list(roof["operators"].items())[:3])
    return (
        f"{row['model']}, {row['mode']}, {row['precision']}, batch {row['batch']}, size {row['size']}: "
        f"{roof['gflop']:.2f} GFLOP at {roof['peak_gflop_per_s']:.0f} GFLOP/s take {roof['operations_ms']:.1f} ms, "
        f"{roof['mib']:.0f} MiB at {roof['peak_gb_per_s']:.1f} GB/s take {roof['bytes_ms']:.1f} ms. "
        f"Bound by {roof['bound']}: {roof['attainable_ms']:.1f} ms attainable, {row['twins']['p50_ms']:.1f} ms "
        f"measured, {roof['share']:.0%} reached. Operator by operator: {roof['by_operator_ms']:.1f} ms attainable, "
        f"{roof['by_operator_share']:.0%} reached; the largest shares are {largest}."
    )


def budget_line(rows: list[Row], budget: float) -> str:
    """Return a sentence with the measured published variant that has the highest reported top-1 within a budget.

    The budget limits the 90th percentile of the latency of one image, in milliseconds.
    """
    entries = [
        (PUBLISHED[row["model"]].top1, -row[label]["p90_ms"], row, label)
        for row in rows
        if at_reported_setting(row) and row["model"] in PUBLISHED
        for label in ("twins", *(label_of(name) for name, peer in PEERS.items() if peer.ours))
        if label in row
    ]
    if not entries:
        return "No published variant was measured one image at a time, so the budget has no answer."
    within = [entry for entry in entries if -entry[1] <= budget]
    top1, negative_ms, row, label = max(within or entries, key=lambda entry: entry[:2] if within else (entry[1],))
    form = label.removeprefix("twins").strip()
    name = f"{row['model']} ({', '.join([row['precision'], *([form] if form else [])])})"
    missing = sorted(set(PUBLISHED) - {entry[2]["model"] for entry in entries})
    rest = f" Not measured: {', '.join(missing)}." if missing else ""
    if not within:
        return (
            f"No measured variant keeps to {budget:g} ms an image; the fastest is {name}: {-negative_ms:.1f} ms.{rest}"
        )
    return (
        f"Within {budget:g} ms an image the most accurate measured variant is {name}: {top1} % top-1 as reported "
        f"({PUBLISHED[row['model']].source}), {-negative_ms:.1f} ms or less in nine rounds of ten.{rest}"
    )


def at_reported_setting(row: Row) -> bool:
    """Whether a row has the latency of a classifier for one image at the size of the reported top-1."""
    settings = {"mode": "inference", "batch": 1, "size": REPORTED_SIZE}
    has_top1 = row["task"] != FEATURES and "top1" in facts_of(row["task"]).metrics
    return has_top1 and "failed" not in row and settings.items() <= (row | {"size": str(row["size"])}).items()


def _cell(text: Callable[[Row], str], label: str) -> Callable[[Row], str]:
    """Return a function that formats one network's cell of a row; a dash if the row lacks the network."""
    return lambda row: text(row[label]) if label in row else "-"


def _ratio_to(label: str) -> Callable[[Row], str]:
    return lambda row: _median_and_range(row.get("ratios", {}).get(label))


def _rate(numbers: Row) -> str:
    rate = numbers["images_per_s"]
    return f"{rate:.1f}" if rate >= 1 else f"{rate:.3f}"


def _percentiles(numbers: Row) -> str:
    return " / ".join(f"{numbers[name]:.1f}" for name in ("p50_ms", "p90_ms", "p99_ms"))


def _mib(numbers: Row) -> str:
    return f"{numbers['peak_mib']:.0f}" if "peak_mib" in numbers else "-"


def _best(row: Row) -> str:
    best = row.get("best")
    return f"{_median_and_range(best)} {best['ours']} to {best['peer']}" if best else "-"


def _median_and_range(ratio: dict[str, Any] | None) -> str:
    return f"{ratio['median']:.2f} ({ratio['low']:.2f}-{ratio['high']:.2f})" if ratio else "-"
