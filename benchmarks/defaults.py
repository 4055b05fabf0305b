"""How well the default recipes learn: 0.1.0's, today's, the best of a sweep of 12, and a timm or torchvision peer.

Commands: python benchmarks/defaults.py calibrate
          python benchmarks/defaults.py run --sets bccd --budgets 3 --entries new old sweep peer --seeds 0 --threads 1
          python benchmarks/defaults.py table
`calibrate` measures the seconds per step of each configuration on an idle machine with two threads, and keeps them in
docs/results/defaults-times.json. `run` turns minutes into that number of optimiser steps, so that its results do not
depend on the machine, its load, `--threads` or `--processes`. Only `new` is the command that a user types, with
`--minutes` and two threads: such runs come first, one after another, and want an idle machine. `run` appends a row per
run to docs/results/defaults.jsonl, and goes on with what is missing. `table` writes docs/results/defaults.md up to the
heading "Tried by hand". The options set the order: sets, then budgets, starts, seeds, entries.
The score is that of the last weights on the held-out images, by our own metrics, for every entry.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import yaml
from defaults_settings import CLASSIFIERS, SETS, SWEEPS, DataSet, Settings, alike, merge, old, peer, sweep

from twins.engine.config import TrainConfig, read_config
from twins.engine.log import read_rows
from twins.errors import number_of
from twins.machine import processor
from twins.tasks.contract import spec_of
from twins.tasks.table import facts_of

RESULTS, PAGE = Path("docs/results/defaults.jsonl"), Path("docs/results/defaults.md")
TIMES = Path("docs/results/defaults-times.json")
BY_HAND = "## Tried by hand"
"""Heading of the page from which on it is written by hand; `table` writes what is above."""
STARTS, BUDGETS = ("scratch", "classifier"), (3.0, 10.0, 30.0)
SWEPT = tuple(f"sweep{number:02d}" for number in range(1, 13))
PEERS = {"peer": "sgd", "peer_adamw": "adamw"}
"""Optimiser of each peer: the usual settings, and AdamW, which often suits a short training better."""
ENTRIES = ("old", "new", *SWEPT, *PEERS)
WARM, TIMED, SECONDS = 3, 8, 10.0
"""Steps before the timed ones, the fewest timed steps, and the least seconds that they take together."""
CORES = 2
"""Threads of the budget."""
HERE = [sys.executable, str(Path(__file__).resolve())]


@dataclass(frozen=True)
class Cell:
    """A run of the benchmark."""

    set: str
    task: str
    start: str
    minutes: float
    entry: str
    seed: int

    @property
    def data(self) -> DataSet:
        """The data set."""
        return next(data for data in SETS if (data.name, data.task) == (self.set, self.task))

    @property
    def timing(self) -> str:
        """Key of the calibration: what changes the time of a step."""
        entry = "peer" if self.entry in PEERS else self.entry
        if entry in SWEPT:  # the first of its size, batch and augmentation
            entry = SWEPT[alike(self.task, SWEPT.index(entry))]
        parts = [self.set, self.task, entry]
        parts += [self.start] if self.entry == "old" else []
        return " ".join(parts)


class Bench:
    """Folders of the benchmark, and what it has measured.

    Args:
        root: folder of the data sets.
        cache: folder for classifiers and run folders.
    """

    def __init__(self, root: Path, cache: Path) -> None:
        self.root, self.cache = root.resolve(), cache.resolve()
        self.cache.mkdir(parents=True, exist_ok=True)

    def source(self, data: DataSet) -> str:
        """Return the folder or the name of a data set."""
        return str(self.root / data.folder) if data.folder else data.name

    def timings(self) -> dict[str, dict[str, Any]]:
        """Return the calibrations by key: `seconds` per step, and the `processor`."""
        return json.loads(TIMES.read_text()) if TIMES.exists() else {}

    def classifier(self, cell: Cell) -> Path | None:
        """Return the file of the classifier that a cell starts from, which is trained if there is none yet."""
        if cell.start == "scratch":
            return None
        name, folder = cell.data.classifier, self.cache / "classifiers"
        backbone = {"semantic": "detection"}.get(cell.task, cell.task)  # both have MobileNetV3
        theirs, ours = folder / f"{name}-{backbone}.pt", folder / name / "best.safetensors"
        file = theirs if cell.entry in PEERS else ours
        if not file.exists():
            print(f"training the classifier {file}", flush=True)
            command = ["peer", backbone, str(file)] if cell.entry in PEERS else ["ours", str(file.parent)]
            folder.mkdir(exist_ok=True)
            self.call(["classifier", name, *command], CORES, folder / f"{name}-{command[0]}.log", 7200)
        return file

    def call(self, arguments: Sequence[str], threads: int, log: Path, limit: float) -> None:
        """Run a command of this file in its own process, with its output in a log."""
        log.parent.mkdir(parents=True, exist_ok=True)
        environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
        command = [*HERE, *arguments, "--root", str(self.root), "--cache", str(self.cache)]
        with (
            log.open("w") as file,
            subprocess.Popen(command, env=environment, stdout=file, stderr=file, start_new_session=True) as process,
        ):
            try:
                code = process.wait(limit)
            except BaseException:  # the command's own processes too, which would disturb the next run
                os.killpg(process.pid, signal.SIGKILL)
                raise
        if code:
            raise subprocess.CalledProcessError(code, command)

    def config(self, cell: Cell) -> TrainConfig:
        """Return the settings of a cell other than `new`, without its length."""
        data = cell.data
        if cell.entry == "old":
            settings = old(data, cell.start)
        elif cell.entry in PEERS:
            settings = peer(data, PEERS[cell.entry])
        else:
            settings = sweep(data, SWEPT.index(cell.entry))
        return build(merge(settings, {"data": self.source(data)}))


def build(settings: Settings) -> TrainConfig:
    """Return settings as a configuration."""
    return TrainConfig.from_yaml(yaml.safe_dump({"format": 1, **settings}))


def calibrate(bench: Bench, cell: Cell) -> None:
    """Measure a cell's seconds per step, and keep them, or what was measured before if that was faster."""
    name = cell.timing.replace(" ", "-")
    result, log = bench.cache / "calibration" / f"{name}.json", bench.cache / "calibration" / f"{name}.log"
    bench.classifier(cell)
    if cell.entry in PEERS:
        bench.call(["time", json.dumps(asdict(cell)), str(result)], CORES, log, 3600)
        seconds = json.loads(result.read_text())
    else:
        seconds = _time_ours(bench, cell, log)
    timings, measured = bench.timings(), {"seconds": round(seconds, 4), "processor": processor()}
    fastest = min(measured, timings.get(cell.timing, measured), key=lambda timing: timing["seconds"])
    TIMES.write_text(json.dumps(timings | {cell.timing: fastest}, indent=1) + "\n")
    print(f"{cell.timing}: {seconds:.3f} s a step, at best {fastest['seconds']:.3f}", flush=True)


def _time_ours(bench: Bench, cell: Cell, log: Path) -> float:
    """Train for some steps, and return the median seconds of a step without the first ones."""
    folder = log.with_suffix("")
    if folder.exists():
        shutil.rmtree(folder)
    log.parent.mkdir(parents=True, exist_ok=True)
    length: dict[str, Any] = {"minutes": 30.0, "out": str(folder), "log_every": 1}
    config = replace(bench.config(cell), weights=str(bench.classifier(cell) or "none"), **length)
    images = min(config.batch_size, len(spec_of(config.task).open(config.source).train))
    file = log.with_suffix(".yaml")
    file.write_text(config.to_yaml())
    environment = os.environ | {"OMP_NUM_THREADS": str(CORES)}
    with log.open("w") as output:
        command = [*HERE, "ours", str(file)]
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
        deadline = time.monotonic() + 3600
        while process.poll() is None and time.monotonic() < deadline and not _timed(_step_seconds(folder, images)):
            time.sleep(0.2)
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            process.wait(600)
    return statistics.median(_step_seconds(folder, images))


def _timed(seconds: Sequence[float]) -> bool:
    """Return whether steps are enough for a median."""
    return len(seconds) >= TIMED and sum(seconds) >= SECONDS


def _step_seconds(folder: Path, images: int) -> list[float]:
    """Return the seconds of each step of a run so far, without the first ones."""
    rows = read_rows(folder, "train") if (folder / "metrics.jsonl").exists() else []
    return [images / row["images_per_s"] for row in rows[WARM:]]


def run_cell(bench: Bench, cell: Cell, threads: int, limit: float) -> None:
    """Train and measure a cell in its own process, and append its row; a failure is a row with `error`."""
    name = "-".join(str(value) for value in asdict(cell).values())
    result, log = bench.cache / "runs" / f"{name}.json", bench.cache / "runs" / f"{name}.log"
    result.unlink(missing_ok=True)
    started = time.monotonic()
    try:
        bench.call(["one", json.dumps(asdict(cell)), str(result)], threads, log, 60 * (cell.minutes * limit + 15))
        values = json.loads(result.read_text())
    except (subprocess.SubprocessError, OSError, ValueError) as error:
        lines = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
        values = {"error": f"{type(error).__name__}: {lines[-1] if lines else error}"[:300]}
    values |= {"run_seconds": round(time.monotonic() - started), "processor": processor(), "threads": threads}
    with RESULTS.open("a") as file:
        file.write(json.dumps(asdict(cell) | values) + "\n")
    print(f"{name}: {values.get('score', values.get('error'))}", flush=True)


def one(bench: Bench, cell: Cell, result: Path) -> None:
    """Train and measure a cell here."""
    folder = result.with_suffix("")
    if folder.exists():
        shutil.rmtree(folder)
    if cell.entry == "new":
        metrics, steps, config = train_new(bench, cell, folder)
    else:
        config, steps = bench.config(cell), max(1, int(60 * cell.minutes / bench.timings()[cell.timing]["seconds"]))
        schedule = replace(config.schedule, warmup_steps=None)
        length: dict[str, Any] = {"steps": steps, "minutes": None, "max_steps": None, "schedule": schedule}
        config = replace(config, seed=cell.seed, workers=0, log_every=50, **length)
        peer = cell.entry in PEERS
        metrics = train_peer(bench, cell, config) if peer else train_ours(bench, cell, config, folder)
    values: dict[str, Any] = {"score": round(metrics[facts_of(cell.task).monitor], 5), "steps": steps}
    values["settings"] = {"size": config.size, "batch_size": config.batch_size, "lr": config.lr}
    values["metrics"] = {name: round(value, 4) for name, value in metrics.items()}
    result.write_text(json.dumps(values))


def train_new(bench: Bench, cell: Cell, folder: Path) -> tuple[dict[str, float], int, TrainConfig]:
    """Run the command that a user types; return metrics and number of its last step, and the settings it chose."""
    command = [sys.executable, "-m", "twins", "train", "--data", bench.source(cell.data), "--task", cell.task]
    command += ["--model", "twins_svt_nano", "--weights", str(bench.classifier(cell) or "none")]
    command += ["--minutes", f"{cell.minutes:g}", "--seed", str(cell.seed), "--out", str(folder)]
    subprocess.run(command, check=True)
    return last_metrics(folder), read_rows(folder, "eval")[-1]["step"], read_config(folder / "config.yaml")


def last_metrics(folder: Path) -> dict[str, float]:
    """Return the metrics of a run's last evaluation, which is that of its last weights."""
    row = read_rows(folder, "eval")[-1]
    return {name: value for name, value in row.items() if name not in ("kind", "step", "epoch")}


def train_ours(bench: Bench, cell: Cell, config: TrainConfig, folder: Path) -> dict[str, float]:
    """Train one of our entries, evaluated only at its end; return its metrics."""
    import twins

    settings: dict[str, Any] = {"out": str(folder), "weights": str(bench.classifier(cell) or "none"), "patience": None}
    twins.train(replace(config, eval_every=1e6, **settings))
    return last_metrics(folder)


def train_peer(bench: Bench, cell: Cell, config: TrainConfig) -> dict[str, float]:
    """Train a peer; return the metrics of its last weights."""
    training = _peer(bench, cell, config)
    assert config.steps
    training.run(config.steps)
    return training.score()


def _peer(bench: Bench, cell: Cell, config: TrainConfig) -> Any:
    import torch
    from defaults_peers import Training
    from defaults_peers import build as build_peer

    torch.manual_seed(config.seed)
    classes = len(spec_of(cell.task).open(config.source).train.names)
    return Training(config, PEERS[cell.entry], build_peer(cell.task, classes, bench.classifier(cell)))


def time_peer(bench: Bench, cell: Cell, result: Path) -> None:
    """Measure a peer's seconds per step."""
    scratch = replace(cell, start="scratch")
    training: Any = _peer(bench, scratch, replace(bench.config(cell), steps=10_000))
    seconds: list[float] = []
    while not _timed(seconds):
        seconds += training.run(WARM + TIMED)[WARM:]
    result.write_text(json.dumps(statistics.median(seconds)))


def train_classifier(bench: Bench, name: str, kind: str, arguments: list[str]) -> None:
    """Train one of our classifiers into a folder, or a peer's into a file."""
    data = next(data for data in SETS if (data.name, data.task) == (name, "classification"))
    settings = merge(old(data, "scratch"), {"data": bench.source(data), "weights": "none", "workers": 0})
    config = replace(build(settings), steps=CLASSIFIERS[name])
    if kind == "ours":
        import twins

        twins.train(replace(config, out=arguments[0]))
    else:
        from defaults_peers import save_classifier

        save_classifier(config, arguments[0], Path(arguments[1]))


def cells(args: argparse.Namespace) -> Iterator[Cell]:
    """Yield the chosen cells in the order of the options."""
    names = [name for entry in args.entries for name in (SWEPT if entry == "sweep" else (entry,))]
    names = [name for entry in names for name in (PEERS if entry == "peers" else (entry,))]
    for name in args.sets:
        chosen = [data for data in SETS if data.name == name and (not args.tasks or data.task in args.tasks)]
        for data, minutes, start, seed, entry in product(chosen, args.budgets, args.starts, args.seeds, names):
            yield Cell(data.name, data.task, start, minutes, entry, seed)


def read_results() -> dict[Cell, dict[str, Any]]:
    """Return the newest row of each cell."""
    rows = [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []
    return {Cell(**{name: row[name] for name in Cell.__dataclass_fields__}): row for row in rows}


def run_all(bench: Bench, args: argparse.Namespace) -> None:
    """Run the chosen cells that have no row yet."""
    results = read_results()
    missing = [c for c in cells(args) if c not in results or (args.retry and "error" in results[c])]
    for cell in missing:  # one after another, on an idle machine
        if cell.entry != "new" and cell.timing not in bench.timings():
            raise SystemExit(f"there is no calibration of {cell.timing}; run calibrate with the same options first")
        bench.classifier(cell)
    for cell in missing:
        if cell.entry == "new":
            run_cell(bench, cell, CORES, args.limit)
    with ThreadPoolExecutor(args.processes) as pool:
        others = [cell for cell in missing if cell.entry != "new"]
        list(pool.map(lambda cell: run_cell(bench, cell, args.threads, args.limit), others))


def calibrate_all(bench: Bench, args: argparse.Namespace) -> None:
    """Calibrate the chosen cells that are not calibrated yet; `--retry` repeats the others."""
    done = set() if args.retry else set(bench.timings())
    for cell in cells(args):
        if cell.entry != "new" and cell.timing not in done:
            done.add(cell.timing)
            try:
                calibrate(bench, cell)
            except (subprocess.SubprocessError, OSError, ValueError, IndexError, KeyError) as error:
                print(f"{cell.timing} failed: {error!r}; see {bench.cache / 'calibration'}", flush=True)


INTRO = """# How well the defaults learn
What `twins train` reaches with no settings except data, task, model, weights and minutes (`new`), beside the settings
of 0.1.0's default recipes, on today's networks (`old`), the best of a sweep of 12 settings per task (`best`), and the
better of a peer's usual settings and the same with AdamW (`peer`). `twins_svt_nano` learns from random weights
(scratch) or from a classifier of ours (classifier: the sign_digits classifier, the digits classifier for scenes and
sign_digits); the peer from random weights, or from a classifier of its own backbone that learned on the same set with
the same number of steps.

Commands: `python benchmarks/defaults.py calibrate`, then `run`, then `table`, from the root of the repository. The
settings of all entries are data in `benchmarks/defaults_settings.py`.

- A budget is wall-clock minutes on two cores. `new` is the command that a user types, `twins train --data DATA --task
  TASK --model twins_svt_nano --weights none --minutes N`, on an idle machine: it pays for evaluations and for choosing
  its settings. For all others, `calibrate` measures seconds per step (two threads, idle machine; the median of at
  least {timed} steps and {least:g} s after {warm} steps, the fastest of some repeats). A run takes the number of
  steps that fit into the budget, without any evaluation, so its score does not depend on the machine's load.
- The score is the task's monitored metric, in per cent, of the last weights on the held-out images, by the package's
  own metrics for every entry. Settings of `best` are chosen on the same images, which favours it; rules of the default
  recipe were changed after looking at these rows (see below), which favours `new`. `seeds` counts the runs behind
  each number; two seeds of bccd once differed by 14 points (see below). nuts18 holds out 2 images, so its scores are
  coarse.
- All runs, with three seeds, would take some 600 hours: nine data sets and tasks, two starts, 3, 10 and 30 minutes, and
  16 entries each. What was run instead: 3 minutes from random weights, `new` for all nine, with the other entries that
  the table shows; 3 minutes from a classifier, `new` for all nine, for two detectors beside the entry that was best
  from random weights; 10 minutes from random weights, detectors only, `new` beside two entries that were good at 3
  minutes. Most numbers are of one seed (see `seeds`). No run had 30 minutes.
- Rows without any run are left out; a dash is a cell that was not run. `best` names the entry, and says how many of the
  12 were run if some are missing.

| task | peer |
| --- | --- |
{peers}
"""


def page(results: dict[Cell, dict[str, Any]]) -> str:
    """Return the page: a row per data set, start and budget, then averages, failures and machines."""
    from defaults_peers import NAMES

    rows = [_row(group, results) for group in _groups(results)]
    head = ["data", "task", "start", "minutes", "seeds", "old", "new", "best", "new / best", "peer", "new - peer"]
    shown = [row["cells"] for row in rows if set(row["cells"][5:]) != {"-"}]
    lines = [head, ["---"] * len(head), *shown]
    peers = "\n".join(f"| {task} | {name} |" for task, name in NAMES.items())
    text = INTRO.format(timed=TIMED, least=SECONDS, warm=WARM, peers=peers)
    text += "\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n\n" + _averages(rows)
    failed = [f"- {' '.join(map(str, asdict(c).values()))}: {r['error']}" for c, r in results.items() if "error" in r]
    text += "\nFailed runs:\n\n" + "\n".join(failed) + "\n" if failed else ""
    machines = sorted({f"{row['processor']}, {number_of(row['threads'], 'thread')} a run" for row in results.values()})
    return text + f"\n{len(results)} runs; {'; '.join(machines)}\n"


def _groups(results: dict[Cell, dict[str, Any]]) -> list[tuple[str, str, str, float]]:
    """Return set, task, start and budget of each row, in the order of `SETS`; planned ones without a run included."""
    planned = [(data.name, data.task, start, m) for data in SETS for start in STARTS for m in BUDGETS]
    return [*planned, *sorted({(c.set, c.task, c.start, c.minutes) for c in results} - set(planned))]


def _row(group: tuple[str, str, str, float], results: dict[Cell, dict[str, Any]]) -> dict[str, Any]:
    """Return a row's cells and its numbers; each entry is the mean over its seeds."""
    found: dict[str, dict[int, float]] = {}
    for cell, row in results.items():
        if (cell.set, cell.task, cell.start, cell.minutes) == group and "score" in row:
            found.setdefault(cell.entry, {})[cell.seed] = row["score"]
    means = {entry: statistics.fmean(scores.values()) for entry, scores in found.items()}
    best = max(SWEPT, key=lambda entry: means.get(entry, -1.0))
    peers = max(PEERS, key=lambda entry: means.get(entry, -1.0))
    old, new, top, other = (means.get(entry) for entry in ("old", "new", best, peers))
    swept = sum(entry in means for entry in SWEPT)
    note = f" ({best}{'' if swept == len(SWEPT) else f', {swept} of 12 run'})" if swept else ""
    ratio = new / top if new is not None and top else None
    lead = new - other if new is not None and other is not None else None
    seeds = "/".join(str(len(found.get(entry, {}))) for entry in ("old", "new", best, peers))
    numbers = [_percent(old), _percent(new), _percent(top) + note, _percent(ratio)]
    numbers += [_percent(other) + (f" ({PEERS[peers]})" if other is not None else ""), _percent(lead)]
    name, task, start, minutes = group
    cells = [name, task, start, f"{minutes:g}", seeds, *numbers]
    return {"cells": cells, "minutes": minutes, "old": old, "new": new, "ratio": ratio, "lead": lead, "swept": swept}


def _averages(rows: Sequence[dict[str, Any]]) -> str:
    """Return the averages over the cells in which both numbers of a comparison were measured."""
    ratios = [row["ratio"] for row in rows if row["ratio"] is not None]
    leads = [row["lead"] for row in rows if row["lead"] is not None]
    gains = [row["new"] - row["old"] for row in rows if row["new"] is not None and row["old"] is not None]
    lines = []
    if gains:
        lines.append(f"- new - old: {100 * statistics.fmean(gains):+.1f} points on average of {len(gains)} cells")
    if ratios:
        whole = sum(row["swept"] == len(SWEPT) for row in rows if row["ratio"] is not None)
        below = sum(ratio < 0.9 for ratio in ratios)
        lines.append(
            f"- new / best: {100 * statistics.fmean(ratios):.1f} % on average of {len(ratios)} cells, "
            f"lowest {100 * min(ratios):.1f} %, below 90 % in {below}; all 12 were run in {whole} of them"
        )
    if leads:
        lines.append(f"- new is better than the peer in {sum(lead > 0 for lead in leads)} of {len(leads)} cells")
    missing = sum(row["new"] is None for row in rows)
    return "\n".join([*lines, f"- new was not run in {missing} of {len(rows)} cells"]) + "\n"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = ("calibrate", "run", "table", "one", "ours", "time", "classifier")
    parser.add_argument("command", choices=commands, help="the last four are for the benchmark itself")
    parser.add_argument("arguments", nargs="*")
    parser.add_argument("--sets", nargs="+", default=list(dict.fromkeys(data.name for data in SETS)))
    parser.add_argument("--tasks", nargs="+", choices=tuple(SWEEPS), help="unset: all of each set")
    parser.add_argument("--starts", nargs="+", choices=STARTS, default=STARTS)
    parser.add_argument("--budgets", nargs="+", type=float, default=BUDGETS, help="minutes on two cores")
    parser.add_argument("--entries", nargs="+", choices=(*ENTRIES, "sweep", "peers"), default=ENTRIES)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--threads", type=int, default=1, help="threads of a run other than new")
    parser.add_argument("--processes", type=int, default=1, help="runs at a time, other than new")
    parser.add_argument("--limit", type=float, default=6.0, help="time limit of a run as a multiple of its budget")
    parser.add_argument("--retry", action="store_true", help="repeat failed runs, or calibrations: the fastest counts")
    parser.add_argument("--root", type=Path, default=Path("../shared/data"), help="folder of the data sets")
    parser.add_argument("--cache", type=Path, default=Path("runs/defaults"))
    args = parser.parse_args()
    if args.command == "table":
        by_hand = PAGE.read_text().partition(BY_HAND)[2]
        PAGE.write_text(f"{page(read_results())}\n{BY_HAND}{by_hand}")
        return
    bench = Bench(args.root, args.cache)
    match args.command, args.arguments:
        case "calibrate", _:
            calibrate_all(bench, args)
        case "run", _:
            run_all(bench, args)
        case "one", [cell, result]:
            one(bench, Cell(**json.loads(cell)), Path(result))
        case "time", [cell, result]:
            time_peer(bench, Cell(**json.loads(cell)), Path(result))
        case "ours", [file]:
            import twins

            twins.train(TrainConfig.from_yaml(Path(file).read_text()))
        case "classifier", [name, kind, *rest]:
            train_classifier(bench, name, kind, rest)


if __name__ == "__main__":
    main()
