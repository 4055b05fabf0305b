"""A whole benchmark: every combination, machine facts, a table."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import Any

import torch

from twins.bench.config import FEATURES, BenchConfig
from twins.bench.files import LOADING, image_files
from twins.bench.measure import measure
from twins.bench.subjects import Case, check_peer
from twins.bench.table import budget_line, head, line, roofline_line
from twins.exporting.extra import require
from twins.factory import check_head
from twins.predictor import pick_device

FORMAT = 2
"""Version of the dictionary that `run_bench` returns; since 2 a row can say `failed` and hold no numbers."""
Result = dict[str, Any]


def run_bench(
    config: BenchConfig,
    *,
    tell: Callable[[str], None] = lambda _: None,
    keep: Callable[[Result], None] = lambda _: None,
) -> Result:
    """Measure every combination of models, modes, precisions, batches and sizes.

    Args:
        config: what to measure.
        tell: gets the head of a Markdown table, each row as soon as it is measured, and the conclusions.
        keep: gets the result so far after each row.

    Returns:
        `machine` and `rows`, JSON-ready. A row for which memory was not enough says `failed`.

    Raises:
        NotFoundError: no model is called so, or there are no images in a folder.
        ConfigError: a device that is not there, a head that the task does not have, or a peer that has no such model
            or cannot do what is to be measured.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    task_head = None if config.task == FEATURES else check_head(config.task, config.head)
    cases = list(_cases(config, task_head))
    for case, peer in product(cases, config.peers):
        if case.mode not in LOADING:
            check_peer(peer, case)
    result: Result = {"format": FORMAT, "machine": machine(config), "rows": []}
    with ExitStack() as stack:
        from_files = any(case.mode in (*LOADING, "end-to-end") for case in cases)
        files = stack.enter_context(image_files(config.images)) if from_files else []
        tell(head(result["machine"], config, config.task, task_head))
        for case in cases:
            result["rows"].append(row := measure(case, config, files))
            tell(line(row, config))
            keep(result)
    _conclude(result["rows"], config, tell)
    return result


def _cases(config: BenchConfig, task_head: str | None) -> Iterator[Case]:
    """Yield the combinations; the data loader, which has no network, once for all models and precisions."""
    done = set()
    for model, mode, precision, batch, size in product(
        config.names, config.modes, config.precision, config.batch, config.sizes
    ):
        for step in LOADING if mode == "loading" else (mode,):
            alone = step in LOADING
            case = Case(
                task=config.task,
                head=None if alone else task_head,
                model="any" if alone else model,
                mode=step,
                precision="fp32" if alone else precision,
                batch=batch,
                size=int(size) if size.isdecimal() else size,
                runtime=config.runtime,
            )
            if case not in done:
                done.add(case)
                yield case


def _conclude(rows: list[dict[str, Any]], config: BenchConfig, tell: Callable[[str], None]) -> None:
    counted = [row for row in rows if "roofline" in row]
    if counted:
        tell("\n" + "\n".join(map(roofline_line, counted)))
    if config.budget is not None:
        tell("\n" + budget_line(rows, config.budget))


def machine(config: BenchConfig) -> dict[str, Any]:
    """Return the facts that speed depends on besides the code."""
    device = pick_device(config.place)
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
    """Return the name of the runtime, with its version where it is not torch."""
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
