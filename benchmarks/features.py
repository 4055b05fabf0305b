"""A backbone's four maps at a detector's size, beside timm's: time in turns, and peak memory of each by itself.

Command: python benchmarks/features.py [--models twins_svt_small twins_pcpvt_small] [--size 800x1333] [--rounds 7]
             [--compile]
Ours, its inference form, and timm's backbone, with `--compile` also under torch.compile, hold the same weights and
compute the same function (`unmasked` padding, no norms at the ends of stages). Outputs are compared first. Memory is
what two passes take beyond what the process held before them, each in a process of its own; what compiling and packing
weights take is not counted.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from statistics import median

import torch
from torch import Tensor, nn

from twins.bench.compare import processor
from twins.bench.config import shape_of
from twins.bench.measure import resident, start_peak
from twins.bench.subjects import TimmBackbone, inference_step
from twins.bench.timing import interleaved, ratio
from twins.factory import create_backbone

HEAD = "| model | size | subject | ms | timm's time over it (middle half) | MiB | differs by |"
OURS = ("twins", "twins fused")


def main() -> None:
    args = parse()
    if args.memory_of:
        print(peak(args.models[0], args.size, args.memory_of))
        return
    print(
        f"{processor()}, {torch.get_num_threads()} threads, torch {torch.__version__}, median of {args.rounds} rounds."
    )
    print(f"\n{HEAD}\n" + "| --- " * 7 + "|")
    for model in args.models:
        measure(model, args.size, args.rounds, compiling=args.compile)


def measure(model: str, size: str, rounds: int, *, compiling: bool) -> None:
    """Print a row for each subject."""
    labels = [*OURS, "timm", "timm again", *(["timm compiled"] if compiling else [])]
    images = images_of(size)
    networks = {label: network_of(model, label) for label in labels}
    with torch.inference_mode():
        expected = networks["timm"](images)
        apart = {label: difference(networks[label](images), expected) for label in labels}
    steps = {label: inference_step(network, images) for label, network in networks.items()}
    times = interleaved(steps, rounds, 1, torch.device("cpu"))
    for label in labels:
        command = [sys.executable, __file__, "--models", model, "--size", size, "--memory-of", label]
        memory = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip().splitlines()[-1]
        found = ratio(times["timm"], times[label])
        cells = [
            model,
            size,
            label,
            f"{1e3 * median(times[label]):.0f}",
            f"{found['median']:.2f} ({found['low']:.2f}-{found['high']:.2f})",
            memory,
            f"{apart[label]:.1e}",
        ]
        print("| " + " | ".join(cells) + " |", flush=True)


def network_of(model: str, label: str) -> nn.Module:
    """Return a subject, always with the same weights."""
    torch.manual_seed(0)
    ours = create_backbone(model, padding="unmasked", stage_norms=False).eval()
    if label in OURS:
        return ours.fuse() if label == "twins fused" else ours
    network = TimmBackbone(model, ours).eval()
    if label == "timm compiled":
        network.compile()
    return network


def images_of(size: str) -> Tensor:
    return torch.randn(1, 3, *shape_of(size), generator=torch.Generator().manual_seed(0))


def difference(found: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> float:
    """Return the largest difference of two backbones' maps, in units of the second's root mean square."""
    return max(float((a - b).abs().max() / b.square().mean().sqrt()) for a, b in zip(found, expected, strict=True))


def peak(model: str, size: str, label: str) -> int:
    """Return the MiB that two passes of a subject take."""
    step = inference_step(network_of(model, label), images_of(size))
    if label in ("twins fused", "timm compiled"):
        step()
    before = start_peak()
    step()
    step()
    return round((resident("VmHWM") - before) / 2**20)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["twins_svt_small", "twins_pcpvt_small"])
    parser.add_argument("--size", default="800x1333")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--compile", action="store_true", help="also timm's backbone under torch.compile")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
