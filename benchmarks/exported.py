"""Our exports against timm's in the same runtime, and int8 against both.

Command: python benchmarks/exported.py [--models NAME...] [--batch N...] [--runtimes onnxruntime openvino] [--int8]
Both sides hold the same weights and run in turns on the same threads, with their inputs bound; outputs are compared
first. timm's is exported by torch.onnx with attention written out (as timm's own script does) for ONNX Runtime, and
converted from PyTorch by OpenVINO. int8 is NNCF's with the same settings on both sides; what its weights, random here,
lose is measured by benchmarks/int8.py.
"""

from __future__ import annotations

import argparse
from importlib.metadata import version
from statistics import median

import torch

from twins.bench.compare import processor
from twins.bench.runtimes import exported_steps, outputs_differ
from twins.bench.subjects import Case, Step, images_for, networks
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
    """Measure one model at one batch, every side in the same rounds; return lines of the table."""
    images, subjects = images_for(case, CPU), networks(case, ("timm",), CPU)
    steps: dict[str, Step] = {}
    for runtime in args.runtimes:
        found = exported_steps(subjects, images, runtime, "fp32")
        steps |= {f"{label} {runtime} fp32": step for label, step in found.items()}
    if args.int8:
        found = exported_steps(subjects, images, "openvino", "int8")
        steps |= {f"{label} openvino int8": step for label, step in found.items()}
    differences = {pair: outputs_differ(*(steps[label] for label in pair)) for pair in pairs(steps)}
    times = interleaved(steps, args.rounds, 3, CPU)
    peers = [f"timm {runtime} fp32" for runtime in args.runtimes]
    fastest = min(peers, key=lambda label: median(times[label]))
    lines = [line(case, times, *pair, differences[pair]) for pair in pairs(steps)]
    if args.int8:
        ours = "twins openvino int8"
        lines.append(line(case, times, ours, fastest, outputs_differ(steps[ours], steps[fastest])))
    return lines


def pairs(steps: dict[str, Step]) -> list[tuple[str, str]]:
    """Return ours and timm's of each runtime and number format."""
    return [(label, label.replace("twins", "timm")) for label in steps if label.startswith("twins")]


def line(case: Case, times: dict[str, list[float]], ours: str, theirs: str, difference: float) -> str:
    found, noise = (ratio(times[theirs], times[other]) for other in (ours, theirs.replace("timm", "timm again")))
    cells = [
        case.model,
        str(case.batch),
        ours.removeprefix("twins "),
        theirs,
        *(f"{1e3 * median(times[label]):.1f}" for label in (ours, theirs)),
        *(f"{x['median']:.2f} ({x['low']:.2f}-{x['high']:.2f})" for x in (found, noise)),
        f"{difference:.1e}",
    ]
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    main()
