"""Timing interleaved subjects, and peak memory in a process of its own."""

from __future__ import annotations

import ctypes
import gc
import json
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from twins.bench.config import BenchConfig
from twins.bench.runtimes import exported_steps, outputs_differ
from twins.bench.subjects import STEPS, Case, Step, images_for, networks
from twins.errors import TrainingError
from twins.predictor import pick_device
from twins.tasks.detection import pyramid


def measure(case: Case, config: BenchConfig) -> dict[str, Any]:
    """Return a row: each subject's throughput and latency, the ratio with its spread, and how far outputs differ."""
    device = pick_device(config.device)
    images = images_for(case, device)
    subjects = networks(case, config.against, device)
    row: dict[str, Any] = dict(vars(case))
    if case.runtime == "torch":
        row["difference"] = _difference(subjects, images)
        if config.compile:
            for network in subjects.values():
                network.compile()  # in place: what a task's loss calls is compiled too
        steps = {label: STEPS[case.mode](network, images) for label, network in subjects.items()}
    else:
        steps = exported_steps(subjects, images, case.runtime, case.precision)
        row["difference"] = outputs_differ(steps["twins"], steps["timm"]) if "timm" in steps else None
    times = interleaved(steps, config.rounds, config.warmup, device)
    row |= {label: _timing(found, case.batch) for label, found in times.items()}
    if config.against == "timm":
        row["ratio"] = ratio(times["timm"], times["twins"])
        row["timm against itself"] = ratio(times["timm"], times["timm again"])
    if config.memory and case.runtime == "torch":
        for label in [label for label in subjects if label != "timm again"]:
            row[label]["peak_mib"] = peak_memory(case, config, label)
    return row


def interleaved(steps: dict[str, Step], rounds: int, warmup: int, device: torch.device) -> dict[str, list[float]]:
    """Time every subject once per round, in turns, the order reversed every other round; seconds."""
    times: dict[str, list[float]] = {label: [] for label in steps}
    for number in range(warmup + rounds):
        order = list(steps) if number % 2 else list(reversed(steps))
        for label in order:
            seconds = _timed(steps[label], device)
            if number >= warmup:
                times[label].append(seconds)
    return times


def peak_memory(case: Case, config: BenchConfig, label: str) -> float:
    """Return the most memory that two steps need beyond the weights, in MiB, in a fresh process.

    On a GPU it is what the allocator handed out; on a CPU the process's peak resident size less what it was
    before the first step, so that the framework itself is not counted.

    Raises:
        TrainingError: the process failed.
    """
    request = json.dumps([vars(case), config.against, config.device, config.threads, config.compile, label])
    done = subprocess.run(
        [sys.executable, "-m", "twins.bench.measure", request], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise TrainingError(f"memory of {label} could not be measured: {done.stderr.strip().splitlines()[-1:]}")
    return float(done.stdout.strip().splitlines()[-1])


def _own_peak(request: str) -> float:
    combination, against, device_name, threads, compiled, label = json.loads(request)
    if threads:
        torch.set_num_threads(threads)
    case, device = Case(**combination), pick_device(device_name)
    network, images = networks(case, against, device)[label], images_for(case, device)
    step = STEPS[case.mode](network, images)
    if compiled:
        network.compile()
        step()  # what the compiler itself needs is not counted
    if device.type == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
    else:
        before = start_peak()
    step()
    step()
    peak = torch.cuda.max_memory_allocated() if device.type == "cuda" else resident("VmHWM")
    return (peak - before) / 2**20


class Made(TorchDispatchMode):
    """Counts the memory of what operators make inside this block, as far as somebody still holds it."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.made: list[tuple[Any, int]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Note what an operator made."""
        result = func(*args, **(kwargs or {}))
        storages = [leaf.untyped_storage() for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        self.made += [(StorageWeakRef(storage), storage.nbytes()) for storage in storages]  # type: ignore[no-untyped-call]
        return result

    def held(self) -> int:
        """Return the bytes that are still held."""
        sizes: dict[int, int] = {reference.cdata: size for reference, size in self.made if not reference.expired()}
        return sum(sizes.values())


def start_peak() -> int:
    """Begin to watch this process's peak memory on Linux; return its resident bytes now."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what setting up has freed would serve the steps unseen
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak of setting up, and of the parent process
    return resident("VmRSS")


def resident(which: str) -> int:
    """Return this process's resident bytes: `VmRSS` now, `VmHWM` at their peak."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(which))
    return int(line.split()[1]) * 1024


def _timed(step: Step, device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def _timing(times: list[float], batch: int) -> dict[str, float]:
    ordered = sorted(times)
    return {
        "images_per_s": batch / median(ordered),
        "p50_ms": 1e3 * median(ordered),
        "p90_ms": 1e3 * ordered[int(0.9 * (len(ordered) - 1))],
    }


def ratio(theirs: list[float], ours: list[float]) -> dict[str, float]:
    """Return the median of each round's ratio of times, and the range of its middle half; above 1 ours is faster."""
    pairs = sorted(a / b for a, b in zip(theirs, ours, strict=True))
    return {"median": median(pairs), "low": pairs[len(pairs) // 4], "high": pairs[(3 * len(pairs)) // 4]}


def _difference(subjects: dict[str, torch.nn.Module], images: torch.Tensor) -> float | None:
    """Return the largest difference of outputs, in units of the peer's root mean square; `None` without a peer."""
    if "timm" not in subjects:
        return None
    with torch.inference_mode():
        ours, theirs = (_outputs(subjects[label].eval(), images) for label in ("twins", "timm"))
    return max(float((a - b).abs().max() / b.square().mean().sqrt()) for a, b in zip(ours, theirs, strict=True))


def _outputs(network: torch.nn.Module, images: torch.Tensor) -> list[torch.Tensor]:
    """Return what a network gives in float64: logits, or all of a dense network's; of two stages what the first says.

    Which regions a first stage passes on may hang on the last bit of two scores, so what the second says of them is
    not compared.
    """
    rpn_head = getattr(network, "rpn_head", None)
    if rpn_head is not None:
        rated = rpn_head(pyramid(network.backbone, network.neck, images, None))  # type: ignore[arg-type]
        return [x.double() for x in (*rated.scores, *rated.deltas)]
    found = network(images)
    return [x.double() for x in (found.values() if isinstance(found, dict) else [found]) if x.is_floating_point()]


if __name__ == "__main__":
    print(_own_peak(sys.argv[1]))
