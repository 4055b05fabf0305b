"""Memory and time of a training step of twins_svt_small with activation checkpointing, beside timm's.

Command: python benchmarks/checkpointing.py
Each case runs in a process of its own. Memory is the growth of the process's peak resident size during the step.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time

CASES = ((224, 8), (1024, 1))
SETTINGS: dict[str, dict[str, bool] | None] = {
    "timm": None,
    "off": {"enable": False},
    "selective": {"selective": True},
    "on": {"enable": True},
}
"""Arguments of `set_grad_checkpointing` by the name in the table; `None` is timm's network."""


def measure(size: int, batch: int, name: str) -> None:
    """Print a case's kept activations and peak memory in MiB, and its seconds; runs in a process of its own."""
    import torch
    import torch.nn.functional as F

    import twins
    from twins.bench.memory import LiveTensors
    from twins.bench.networks import timm_network
    from twins.engine.memory import resident, start_peak

    torch.manual_seed(0)
    network = twins.create_model("twins_svt_small").train()
    settings = SETTINGS[name]
    network = timm_network(network, "twins_svt_small").train() if settings is None else network
    if settings is not None:
        network.set_grad_checkpointing(**settings)
    images, targets = torch.randn(batch, 3, size, size), torch.zeros(batch, dtype=torch.int64)
    before = start_peak()
    start = time.perf_counter()
    with LiveTensors() as live:
        loss = F.cross_entropy(network(images), targets)
    activations_mib = live.bytes() / 2**20
    loss.backward()
    seconds = time.perf_counter() - start
    print(f"{activations_mib:.0f} {(resident('VmHWM') - before) / 2**20:.0f} {seconds:.2f}")


def main() -> None:
    print("| size | batch | checkpointing | activations kept, MiB | peak memory beyond the weights, MiB | seconds |")
    print("| --- " * 6 + "|")
    for size, batch in CASES:
        for name in SETTINGS:
            command = [sys.executable, __file__, str(size), str(batch), name]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            activations, peak, seconds = done.stdout.split()[-3:]
            print(f"| {size} | {batch} | {name} | {activations} | {peak} | {seconds} |", flush=True)


if __name__ == "__main__":
    if len(sys.argv) == 4:
        measure(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
    else:
        argparse.ArgumentParser(description=__doc__).parse_args()
        main()
