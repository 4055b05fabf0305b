"""Speed, memory and size of exported files, beside timm's exports and beside PyTorch.

Commands: python benchmarks/exported.py timm --model twins_svt_small --batch 1 8 [--int8]
          python benchmarks/exported.py files --model twins_svt_small --size 224 --batch 1 8
          python benchmarks/exported.py files --task detection --head retinanet --size 800x1333 --shapes fixed
          python benchmarks/exported.py files --task instance --size 800x1333 --shapes fixed --formats onnx
          python benchmarks/exported.py files --task semantic --head upernet --size 512
          python benchmarks/exported.py files --source RUN --size 128
          python benchmarks/exported.py matrix [--heads retinanet upernet] [--formats onnx] [--shapes padded]
`timm` compares classifiers with timm's exports in the same runtime. Both networks have the same weights and run in
turns on the same threads, on the same photographs: our file takes pixels and normalises them, timm's takes normalised
images. Outputs are compared first. timm's network is exported to ONNX by torch.onnx with unfused attention, as in
timm's own script, and converted from PyTorch by OpenVINO. int8 is NNCF's, with the same settings for both.

`files` exports a network of any task with `twins export`, which verifies each file, with fixed and with dynamic shape,
and measures the files beside the eager network with `twins bench`. Lines below its table have the size of each file
beside its weights, and the time of dynamic files beside fixed ones. Weights are random, so that detectors find no
objects, unless a trained network is given as `--source`; `--score` lets more objects pass.

`matrix` exports each head of each task in each format, for one size, for open ones and for padded batches of open ones.
Each export is verified in the file's own runtime; the table has the largest difference of each output, the size of the
file and the seconds of the export with its verification.

With `--out FILE` each row is also appended to a file of JSON lines.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import version
from itertools import product
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import torch

import twins
from twins.bench.compare import machine_facts, run_bench
from twins.bench.config import BenchConfig, shape_of
from twins.bench.files import image_files, pixels_at
from twins.bench.networks import Case, Step, build_networks
from twins.bench.runtimes import exported_steps, output_difference
from twins.bench.timing import interleaved, ratio
from twins.errors import TwinsError
from twins.exporting.formats import ENDINGS, Format
from twins.files import first_line
from twins.machine import processor
from twins.tasks.network import TaskNetwork
from twins.tasks.table import TASKS, facts_of

CPU = torch.device("cpu")
SHAPES: dict[str, dict[str, Any]] = {
    "fixed": {"batch": 2},
    "open": {"size": "dynamic", "batch": "dynamic"},
    "padded": {"size": "dynamic", "batch": "dynamic", "padded": True},
}
"""Settings of each shape of `matrix`."""
SUFFIXES = {name: ending for ending, name in ENDINGS.items()}
CELL = ("objects", "equal results", "largest differences", "MB", "seconds")
"""What `matrix` says about a cell."""
HEAD = (
    "| model | batch | ours | against | ours ms | theirs ms | ratio (middle half) | timm against itself | outputs "
    "differ by |"
)


def main() -> None:
    args = parse()
    if args.threads:
        torch.set_num_threads(args.threads)
    args.compare(args)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    timm, files = commands.add_parser("timm"), commands.add_parser("files")
    matrix = commands.add_parser("matrix")
    matrix.add_argument("--model", default="twins_svt_nano")
    matrix.add_argument(
        "--size", type=int, default=96, help="side of fixed images, at least 32, and of what is verified"
    )
    matrix.add_argument("--heads", nargs="+", help="heads of any task; the classifier is `none`")
    matrix.add_argument("--formats", nargs="+", default=list(SUFFIXES), choices=list(SUFFIXES))
    matrix.add_argument("--shapes", nargs="+", default=list(SHAPES), choices=list(SHAPES))
    matrix.add_argument("--threads", type=int)
    matrix.add_argument("--out", help="file of JSON lines to append rows to")
    matrix.set_defaults(compare=export_matrix)
    for command in (timm, files):
        command.add_argument("--model", default="twins_svt_small")
        command.add_argument("--batch", nargs="+", type=int, default=[1])
        command.add_argument("--rounds", type=int, default=15)
        command.add_argument("--threads", type=int)
        command.add_argument("--out", help="file of JSON lines to append rows to")
    timm.add_argument("--runtimes", nargs="+", default=["onnxruntime", "openvino"])
    timm.add_argument("--int8", action="store_true")
    timm.set_defaults(compare=compare_with_timm)
    files.add_argument("--source", help="run folder or checkpoint; without it, random weights")
    files.add_argument("--task", default="classification")
    files.add_argument("--head")
    files.add_argument("--size", default="224", help="a side, or height and width as in 800x1333")
    files.add_argument("--formats", nargs="+", default=["onnx", "openvino", "torch"], choices=list(SUFFIXES))
    files.add_argument("--shapes", nargs="+", default=["fixed", "dynamic"], choices=["fixed", "dynamic"])
    files.add_argument("--score", type=float)
    files.set_defaults(compare=compare_files)
    return parser.parse_args()


def save(args: argparse.Namespace, row: dict[str, Any]) -> None:
    """Append a row to the file of JSON lines."""
    if args.out:
        with Path(args.out).open("a") as file:
            file.write(json.dumps(row) + "\n")


def compare_with_timm(args: argparse.Namespace) -> None:
    print(
        f"{processor()}, {torch.get_num_threads()} threads, onnxruntime {version('onnxruntime')}, openvino "
        f"{version('openvino')}, nncf {version('nncf')}, timm {version('timm')}, torch {torch.__version__}, median of "
        f"{args.rounds} interleaved rounds.\n\n{HEAD}\n" + "| --- " * 9 + "|"
    )
    facts = machine_facts(BenchConfig(device="cpu", rounds=args.rounds))
    for batch in args.batch:
        settings = {"task": "classification", "head": None, "model": args.model, "mode": "inference"}
        case = Case(**settings, precision="fp32", batch=batch, size=224)
        for row in rows(case, args):
            print(line(row), flush=True)
            save(args, row | {"machine": facts})


def rows(case: Case, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure all exports of one model at one batch size in the same rounds."""
    networks = build_networks(case, ("timm",), CPU)
    with image_files(None) as files:
        pixels = pixels_at(case.size, files, batch=case.batch)
    kinds = [(runtime, "fp32") for runtime in args.runtimes] + ([("openvino", "int8")] if args.int8 else [])
    steps: dict[str, Step] = {}
    for runtime, precision in kinds:
        exports = exported_steps(networks, pixels, runtime, precision)
        steps |= {f"{label} {runtime} {precision}": step for label, step in exports.items()}
    pairs = [(label, label.replace("twins", "timm")) for label in steps if label.startswith("twins")]
    times = interleaved(steps, args.rounds, 3, CPU)
    if args.int8:
        fastest = min((other for _, other in pairs if "fp32" in other), key=lambda label: median(times[label]))
        pairs.append(("twins openvino int8", fastest))
    return [row_of(case, times, ours, theirs, output_difference(steps[ours], steps[theirs])) for ours, theirs in pairs]


def row_of(case: Case, times: dict[str, list[float]], ours: str, theirs: str, difference: float) -> dict[str, Any]:
    """Return a row: our and their time, their ratio, the noise, and the difference of outputs."""
    return {
        "model": case.model,
        "batch": case.batch,
        "ours": ours.removeprefix("twins "),
        "against": theirs,
        "ours_ms": 1e3 * median(times[ours]),
        "theirs_ms": 1e3 * median(times[theirs]),
        "ratio": ratio(times[theirs], times[ours]),
        "noise": ratio(times[theirs], times[theirs.replace("timm", "timm again")]),
        "difference": difference,
    }


def line(row: dict[str, Any]) -> str:
    """Return a line of the table."""
    cells = [row["model"], str(row["batch"]), row["ours"], row["against"]]
    cells += [f"{row[name]:.1f}" for name in ("ours_ms", "theirs_ms")]
    cells += [f"{x['median']:.2f} ({x['low']:.2f}-{x['high']:.2f})" for x in (row["ratio"], row["noise"])]
    return f"| {' | '.join([*cells, format(row['difference'], '.1e')])} |"


def compare_files(args: argparse.Namespace) -> None:
    for batch in args.batch:
        with tempfile.TemporaryDirectory() as folder:
            source = args.source or random_network(args, Path(folder))
            files = list(export_files(args, source, batch, Path(folder)))
            config = BenchConfig(
                models=(str(source), *map(str, files)),
                batch=(batch,),
                size=(args.size,),
                rounds=args.rounds,
                threads=args.threads,
            )
            result = run_bench(config, show=lambda text: print(text, flush=True))
            sheets = {str(file): json.loads(file.with_suffix(".json").read_text()) for file in files}
        measured = {row["source"]: row for row in result["rows"] if row["source"] in sheets and "failed" not in row}
        for row in result["rows"]:
            sizes = {name: sheets[row["source"]][name] for name in ("weights_bytes",) if row["source"] in sheets}
            save(args, row | sizes | {"source": Path(row["source"]).name, "machine": result["machine"]})
        print()
        for name, row in measured.items():
            print(summary(name, row, measured, sheets[name]))


def random_network(args: argparse.Namespace, folder: Path) -> Path:
    """Return a checkpoint of a network with random weights."""
    torch.manual_seed(0)
    path = folder / "network.safetensors"
    twins.save_weights(twins.create_model(args.model, task=args.task, head=args.head), path)
    return path


def export_files(args: argparse.Namespace, source: str | Path, batch: int, folder: Path) -> Iterator[Path]:
    """Yield the files that could be exported; print the reason for the others."""
    for kind in args.formats:
        for shape in args.shapes:
            size: Any = shape_of(args.size) if shape == "fixed" else ("dynamic",)
            path = folder / f"{kind}-{shape}{SUFFIXES[kind]}"
            config = twins.ExportConfig(
                format=kind, size=size, batch=batch if shape == "fixed" else "dynamic", score=args.score
            )
            try:
                twins.export(source, path, config)
                yield path
            except TwinsError as error:
                print(f"{path.name}: {error}", flush=True)


def export_matrix(args: argparse.Namespace) -> None:
    columns = ("task", "head", "format", "shape", *CELL)
    print(f"| {' | '.join(columns)} |\n{'| --- ' * len(columns)}|")
    for task in TASKS:
        for head in facts_of(task).heads:
            if args.heads and (head or "none") not in args.heads:
                continue
            network = scored_network(args.model, task, head, args.size)
            for kind, shape in product(args.formats, args.shapes):
                row = {"task": task, "head": head, "format": kind, "shape": shape}
                row |= export_cell(network, kind, {"size": args.size} | SHAPES[shape])
                print(f"| {' | '.join(str(value) for value in row.values())} |", flush=True)
                save(args, row)


def scored_network(model: str, task: str, head: str | None, size: int) -> TaskNetwork:
    """Return a network for images around a size, with random weights from which detectors find many objects."""
    torch.manual_seed(0)
    network = twins.create_model(model, task=task, head=head, num_classes=4, names=list("abcd"))
    preprocess = network.info.preprocess
    longest: dict[str, Any] = {"longest": 2 * size} if preprocess.fit == "keep" else {}
    network.info = replace(network.info, preprocess=replace(preprocess, size=size, **longest))
    for name, values in network.named_parameters():
        if facts_of(task).selection and not name.startswith("backbone."):
            spread = 1.4 / values[0].numel() ** 0.5 if values.ndim > 1 else 0.1
            torch.nn.init.normal_(values, std=0.3 * spread if "_reg." in name and "conv" not in name else spread)
    return network.eval()


def export_cell(network: TaskNetwork, kind: Format, settings: dict[str, Any]) -> dict[str, Any]:
    """Return what an export gives: objects, differences, size and time, or why it failed."""
    start = perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"network{SUFFIXES[kind]}"
        try:
            result = twins.export(network, path, twins.ExportConfig(format=kind, **settings))
        except Exception as error:  # a failure is a row, whatever it is
            return dict.fromkeys(CELL, "") | {"largest differences": f"failed: {first_line(error)}"}
    verified = result.verification
    differences = ", ".join(f"{name} {value:.1e}" for name, value in verified.differences.items())
    agreement = ", ".join(f"{name} {100 * share:.5g} %" for name, share in verified.agreement.items())
    size, seconds = f"{result.sheet['file_bytes'] / 1e6:.1f}", f"{perf_counter() - start:.0f}"
    return dict(zip(CELL, (verified.objects or "", agreement, differences, size, seconds), strict=True))


def summary(name: str, row: dict[str, Any], measured: dict[str, dict[str, Any]], sheet: dict[str, Any]) -> str:
    """Return a line on a file: its size beside its weights, and if it is dynamic its time beside that of the fixed."""
    share = sheet["file_bytes"] / sheet["weights_bytes"]
    text = f"- {Path(name).name}: {share:.3f} times the size of its weights"
    fixed = measured.get(name.replace("dynamic", "fixed"))
    if fixed is None or fixed is row:
        return text
    times = row["ms_per_image"]["median"] / fixed["ms_per_image"]["median"]
    return f"{text}, {times:.2f} times the time of the fixed file"


if __name__ == "__main__":
    main()
