"""Speed of our exports beside timm's in the same runtime, in float32 and int8.

Command: python benchmarks/exported.py [--models NAME...] [--batch N...] [--runtimes onnxruntime openvino] [--int8]
Both networks have the same weights and run in turns on the same threads, with their inputs bound in advance. Their
outputs are compared first. timm's network is exported to ONNX by torch.onnx with unfused attention, as in timm's own
script, and converted from PyTorch by OpenVINO. int8 is NNCF's, with the same settings for both. Weights are random
here; benchmarks/int8.py measures the accuracy of int8.
"""

from __future__ import annotations

import argparse
from importlib.metadata import version
from statistics import median

import torch

from twins.bench.compare import processor
from twins.bench.files import image_files, pixels_at
from twins.bench.networks import Case, Step, build_networks
from twins.bench.runtimes import exported_steps, output_difference
from twins.bench.timing import interleaved, ratio

CPU = torch.device("cpu")
HEAD = (
    "| model | batch | ours | against | ours ms | theirs ms | ratio (middle half) | timm against itself | outputs "
    "differ by |"
)


def main() -> None:
    args = parse()
    print(
        f"{processor()}, {torch.get_num_threads()} threads, onnxruntime {version('onnxruntime')}, openvino "
        f"{version('openvino')}, nncf {version('nncf')}, timm {version('timm')}, torch {torch.__version__}, median of "
        f"{args.rounds} interleaved rounds.\n\n{HEAD}\n" + "| --- " * 9 + "|"
    )
    for model in args.models:
        for batch in args.batch:
            case = Case(
                task="classification", head=None, model=model, mode="inference", precision="fp32", batch=batch, size=224
            )
            for line in rows(case, args):
                print(line, flush=True)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["twins_svt_small", "twins_pcpvt_small"])
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--runtimes", nargs="+", default=["onnxruntime", "openvino"])
    parser.add_argument("--int8", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--rounds", type=int, default=15)
    return parser.parse_args()


def rows(case: Case, args: argparse.Namespace) -> list[str]:
    """Measure all exports of one model at one batch size in the same rounds; return lines of the table."""
    networks = build_networks(case, ("timm",), CPU)
    with image_files(None) as files:
        pixels = pixels_at(case.size, files, batch=case.batch)
    steps: dict[str, Step] = {}
    for runtime in args.runtimes:
        exports = exported_steps(networks, pixels, runtime, "fp32")
        steps |= {f"{label} {runtime} fp32": step for label, step in exports.items()}
    if args.int8:
        exports = exported_steps(networks, pixels, "openvino", "int8")
        steps |= {f"{label} openvino int8": step for label, step in exports.items()}
    differences = {pair: output_difference(*(steps[label] for label in pair)) for pair in pairs(steps)}
    times = interleaved(steps, args.rounds, 3, CPU)
    peers = [f"timm {runtime} fp32" for runtime in args.runtimes]
    fastest = min(peers, key=lambda label: median(times[label]))
    lines = [line(case, times, *pair, differences[pair]) for pair in pairs(steps)]
    if args.int8:
        ours = "twins openvino int8"
        lines.append(line(case, times, ours, fastest, output_difference(steps[ours], steps[fastest])))
    return lines


def pairs(steps: dict[str, Step]) -> list[tuple[str, str]]:
    """Return the labels of our and of timm's step for each runtime and number format."""
    return [(label, label.replace("twins", "timm")) for label in steps if label.startswith("twins")]


def line(case: Case, times: dict[str, list[float]], ours: str, theirs: str, difference: float) -> str:
    """Return a line of the table: our and their time, their ratio, the noise, and the difference of outputs."""
    speedup, noise = (ratio(times[theirs], times[other]) for other in (ours, theirs.replace("timm", "timm again")))
    cells = [
        case.model,
        str(case.batch),
        ours.removeprefix("twins "),
        theirs,
        *(f"{1e3 * median(times[label]):.1f}" for label in (ours, theirs)),
        *(f"{x['median']:.2f} ({x['low']:.2f}-{x['high']:.2f})" for x in (speedup, noise)),
        f"{difference:.1e}",
    ]
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    main()
