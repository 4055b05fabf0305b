"""A whole benchmark: every combination, machine facts, a table."""

from __future__ import annotations

import platform
from collections.abc import Callable
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import Any

import torch

from twins.backbone.config import resolve_name
from twins.bench.config import BenchConfig
from twins.bench.measure import measure
from twins.bench.subjects import Case
from twins.export.extra import require
from twins.factory import check_head
from twins.predictor import pick_device

FORMAT = 1
"""Version of the dictionary that `run_bench` returns."""
DEFAULT = ("twins_svt_small", "twins_pcpvt_small")


def run_bench(config: BenchConfig, *, tell: Callable[[str], None] = lambda _: None) -> dict[str, Any]:
    """Measure every combination of models, modes, precisions, batches and sizes.

    Args:
        config: what to measure.
        tell: gets the head of a Markdown table, and then each row as soon as it is measured.

    Returns:
        `machine` and `rows`, JSON-ready.

    Raises:
        NotFoundError: no model is called so.
        ConfigError: a device that is not there, a head that the task does not have, or a model that the peer does not
            have.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    head = check_head(config.task, config.head)
    names = [resolve_name(name) for name in config.models or DEFAULT]
    cases = [
        Case(
            task=config.task,
            head=head,
            model=model,
            mode=mode,
            precision=precision,
            batch=batch,
            size=_plain(size),
            runtime=config.runtime,
        )
        for model, mode, precision, batch, size in product(
            names, config.modes, config.precision, config.batch, config.sizes
        )
    ]
    facts, rows = machine(config), []
    tell(_head(facts, cases[0].task, cases[0].head))
    for case in cases:
        rows.append(measure(case, config))
        tell(_line(rows[-1]))
    return {"format": FORMAT, "machine": facts, "rows": rows}


def _plain(size: str) -> int | str:
    return int(size) if str(size).isdecimal() else size


def machine(config: BenchConfig) -> dict[str, Any]:
    """Return what speed depends on besides the code."""
    device = pick_device(config.device)
    return {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else processor(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "timm": version("timm"),
        "python": platform.python_version(),
        "compiled": config.compile,
        "runtime": runtime_of(config),
        "rounds": config.rounds,
    }


def runtime_of(config: BenchConfig) -> str:
    """Return what runs the networks, with the version of what is not torch."""
    if config.runtime == "torch":
        return "compiled" if config.compile else "eager"
    require(config.runtime)
    return f"{config.runtime} {version(config.runtime)}"


def processor() -> str:
    """Return the processor's name."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor()
    )


def _head(facts: dict[str, Any], task: str, head: str | None) -> str:
    what = f"{task} with {head}" if head else task
    lines = [
        f"{what}: {facts['device']}, {facts['threads']} threads, torch {facts['torch']}, "
        f"timm {facts['timm']}, {facts['runtime']}, median of {facts['rounds']} "
        "interleaved rounds.",
        "",
        "| model | mode | precision | batch | size | twins img/s | timm img/s | ratio (middle half) "
        "| timm against itself | twins MiB | timm MiB | outputs differ by |",
        "| --- " * 12 + "|",
    ]
    return "\n".join(lines)


def _line(row: dict[str, Any]) -> str:
    peer = row.get("timm", {})
    cells = [
        row["model"],
        row["mode"],
        row["precision"],
        row["batch"],
        row["size"],
        f"{row['twins']['images_per_s']:.1f}",
        f"{peer['images_per_s']:.1f}" if peer else "-",
        _spread(row.get("ratio")),
        _spread(row.get("timm against itself")),
        _mib(row["twins"]),
        _mib(peer),
        "-" if row["difference"] is None else f"{row['difference']:.1e}",
    ]
    return "| " + " | ".join(map(str, cells)) + " |"


def _spread(ratio: dict[str, float] | None) -> str:
    return f"{ratio['median']:.2f} ({ratio['low']:.2f}-{ratio['high']:.2f})" if ratio else "-"


def _mib(subject: dict[str, float]) -> str:
    return f"{subject['peak_mib']:.0f}" if "peak_mib" in subject else "-"
