"""Memory and time of a training step of twins_svt_small, with and without gradient checkpointing.

Command: python benchmarks/checkpointing.py
Each case runs in a process of its own; memory is the process's peak resident size less what it was before the step.
"""

from __future__ import annotations

import subprocess
import sys
import time

BATCH = {224: 8, 1024: 1}


def measure(size: int, enable: bool) -> None:
    import torch

    import twins
    from twins.bench.measure import Made, resident, start_peak

    torch.manual_seed(0)
    network = twins.create_model("twins_svt_small").train()
    network.set_grad_checkpointing(enable)
    batch = BATCH[size]
    images, targets = torch.randn(batch, 3, size, size), torch.zeros(batch, dtype=torch.int64)
    before = start_peak()
    start = time.perf_counter()
    with Made() as made:
        loss = network.losses(images, targets)["classification"]
    kept_mib = made.held() / 2**20
    loss.backward()
    seconds = time.perf_counter() - start
    print(f"{kept_mib:.0f} {(resident('VmHWM') - before) / 2**20:.0f} {seconds:.2f}")


def main() -> None:
    print("| size | batch | checkpointing | activations kept, MiB | peak memory beyond the weights, MiB | seconds |")
    print("| --- " * 6 + "|")
    for size, batch in BATCH.items():
        for enable in (False, True):
            command = [sys.executable, __file__, str(size), str(int(enable))]
            kept, peak, seconds = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[
                -3:
            ]
            state = "on" if enable else "off"
            print(f"| {size} | {batch} | {state} | {kept} | {peak} | {seconds} |", flush=True)


if __name__ == "__main__":
    if len(sys.argv) == 3:
        measure(int(sys.argv[1]), bool(int(sys.argv[2])))
    else:
        main()
