"""The benchmark: measures every combination of settings and prints a table."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from importlib.metadata import version
from itertools import product
from typing import Any

import torch

from twins.bench.config import FEATURES, BenchConfig
from twins.bench.files import LOADING, image_files
from twins.bench.measure import measure
from twins.bench.networks import Case, check_peer
from twins.bench.saved import cases_of, measure_saved, read_entries
from twins.bench.table import budget_line, roofline_line, saved_head, saved_row, table_head, table_row
from twins.exporting.extra import require
from twins.factory import check_head
from twins.machine import processor
from twins.predictor import pick_device

FORMAT = 2
"""Version of the dictionary that `run_bench` returns; since 2 a row can have `failed` and no numbers."""
Result = dict[str, Any]


def run_bench(
    config: BenchConfig,
    *,
    show: Callable[[str], None] = lambda _: None,
    save: Callable[[Result], None] = lambda _: None,
) -> Result:
    """Measure every combination of models, modes, precisions, batches and sizes.

    Args:
        config: the settings.
        show: called with the head of a Markdown table, with each row as soon as it is measured, and at the end with
            the roofline and budget lines.
        save: called with the result so far after each row.

    Returns:
        `format`, `machine` and `rows`, JSON-ready. A row that ran out of memory has `failed` instead of numbers. For a
        run, a checkpoint or exported files each of them has a row.

    Raises:
        NotFoundError: an unknown model, or a folder without images.
        ConfigError: an unavailable device, an unknown head, or a peer that lacks the model or the mode.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    if config.saved:
        return _bench_saved(config, show, save)
    task_head = None if config.task == FEATURES else check_head(config.task, config.head)
    cases = list(_cases(config, task_head))
    for case, peer in product(cases, config.peers):
        if case.mode not in LOADING:
            check_peer(peer, case)
    result: Result = {"format": FORMAT, "machine": machine_facts(config), "rows": []}
    with ExitStack() as stack:
        from_files = any(case.mode in (*LOADING, "end-to-end") or case.runtime != "torch" for case in cases)
        files = stack.enter_context(image_files(config.images)) if from_files else []
        show(table_head(result["machine"], config, config.task, task_head))
        for case in cases:
            result["rows"].append(row := measure(case, config, files))
            show(table_row(row, config))
            save(result)
    _show_conclusions(result["rows"], config, show)
    return result


def _bench_saved(config: BenchConfig, show: Callable[[str], None], save: Callable[[Result], None]) -> Result:
    """Measure a trained network and exported files side by side; see `run_bench`."""
    entries = read_entries(config.models, config.forms)
    cases = cases_of(config, entries)
    runtimes = ", ".join(dict.fromkeys(entry.runtime for entry in entries))
    result: Result = {"format": FORMAT, "machine": machine_facts(config) | {"runtime": runtimes}, "rows": []}
    task, first = entries[0].info.network.task, entries[0].form
    with image_files(config.images) as files:
        show(saved_head(result["machine"], config, task, first))
        for case in cases:
            for row in measure_saved(case, entries, config, files):
                result["rows"].append(row)
                show(saved_row(row, config, first))
            save(result)
    return result


def _cases(config: BenchConfig, task_head: str | None) -> Iterator[Case]:
    """Yield the combinations; those of the data loader do not depend on model and precision and are yielded once."""
    yielded = set()
    for model, mode, precision, batch, size in product(
        config.names, config.measured_modes, config.precision, config.batches, config.sizes
    ):
        for part in LOADING if mode == "loading" else (mode,):
            without_network = part in LOADING
            case = Case(
                task=config.task,
                head=None if without_network else task_head,
                model="any" if without_network else model,
                mode=part,
                precision="fp32" if without_network else precision,
                batch=batch,
                size=int(size) if size.isdecimal() else size,
                runtime=config.runtime,
            )
            if case not in yielded:
                yielded.add(case)
                yield case


def _show_conclusions(rows: list[dict[str, Any]], config: BenchConfig, show: Callable[[str], None]) -> None:
    roofline_rows = [row for row in rows if "roofline" in row]
    if roofline_rows:
        show("\n" + "\n".join(map(roofline_line, roofline_rows)))
    if config.budget is not None:
        show("\n" + budget_line(rows, config.budget))


def machine_facts(config: BenchConfig) -> dict[str, Any]:
    """Return the device, the versions and the settings that speed depends on."""
    device = pick_device(config.device_name)
    return {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else processor(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "timm": version("timm"),
        "python": platform.python_version(),
        "compiled": config.compile,
        "runtime": runtime_name(config),
        "rounds": config.rounds,
    }


def runtime_name(config: BenchConfig) -> str:
    """Return `eager` or `compiled` for torch, otherwise the runtime's name and version."""
    if config.runtime == "torch":
        return "compiled" if config.compile else "eager"
    require(config.runtime)
    return f"{config.runtime} {version(config.runtime)}"
