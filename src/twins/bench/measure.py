"""A row of a benchmark, and peak memory in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from twins.bench.config import BenchConfig
from twins.bench.files import LOADING, end_to_end_step, loading_step
from twins.bench.memory import peak_of, within_memory
from twins.bench.roofline import ceilings, count, roofline
from twins.bench.runtimes import exported_steps, outputs_differ
from twins.bench.subjects import STEPS, Case, Step, compiled, distance, images_for, networks
from twins.bench.timing import comparisons, interleaved, timing
from twins.engine.memory import free_memory, is_out_of_memory_message
from twins.errors import TrainingError
from twins.predictor import pick_device
from twins.tasks.detection.network import pyramid
from twins.tasks.table import TASKS, Row, register


def measure(case: Case, config: BenchConfig, files: Sequence[Path] = ()) -> dict[str, Any]:
    """Return a row; it says `failed` where memory was not enough. `files` are for the modes that begin at images."""
    device = pick_device(config.place)
    try:
        with within_memory(device):
            return _load(case, config, files) if case.mode in LOADING else _compare(case, config, files, device)
    except Exception as error:  # runtimes have classes of their own
        if not is_out_of_memory_message(f"{type(error).__name__}: {error}"):
            raise
    free_memory()
    return vars(case) | {"failed": "out of memory"}


def _load(case: Case, config: BenchConfig, files: Sequence[Path]) -> dict[str, Any]:
    """Return a row of the data loader alone, on one core, as each of its processes has one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _row(case, config, {"twins": loading_step(case, files)}, torch.device("cpu"), peers=())
    finally:
        torch.set_num_threads(threads)


def _compare(case: Case, config: BenchConfig, files: Sequence[Path], device: torch.device) -> dict[str, Any]:
    """Return each subject's throughput and latency, the ratios with their spread, and how far outputs differ."""
    images = images_for(case, device)
    subjects = networks(case, config.peers, device)
    if case.runtime != "torch":
        steps = exported_steps(subjects, images, case.runtime, case.precision)
        difference = outputs_differ(steps["twins"], steps["timm"]) if "timm" in steps else None
        return _row(case, config, steps, device, peers=config.peers, difference=difference)
    difference = _difference(subjects, images)
    counted = config.roofline and case.mode in STEPS
    costs = count(STEPS[case.mode](subjects["twins"], images)) if counted else []
    steps = {
        label: _step(network, case, images, files, compile=compiled(label, config.peers, config.compile))
        for label, network in subjects.items()
    }
    row = _row(case, config, steps, device, peers=config.peers, difference=difference)
    if counted:
        row["roofline"] = roofline(costs, ceilings(device, case.precision), row["twins"]["p50_ms"] / 1e3)
    if config.memory:
        labels = [label for label in steps if not label.endswith(" again")]
        del steps, subjects
        for label in labels:
            if (peak := peak_memory(case, config, label, files)) is not None:
                row[label]["peak_mib"] = peak
    return row


def _row(
    case: Case,
    config: BenchConfig,
    steps: dict[str, Step],
    device: torch.device,
    *,
    peers: Sequence[str],
    difference: float | None = None,
) -> dict[str, Any]:
    """Time the subjects and return what a row says of their times."""
    times = interleaved(steps, config.rounds, config.warmup, device)
    timings = {label: timing(seconds, case.batch) for label, seconds in times.items()}
    return vars(case) | {"difference": difference} | timings | comparisons(times, peers)


def _step(network: torch.nn.Module, case: Case, images: torch.Tensor, files: Sequence[Path], *, compile: bool) -> Step:
    if case.mode == "end-to-end":
        return end_to_end_step(network, case, files, images.device, compile=compile)
    if compile:
        network.compile()  # in place: what a task's loss calls is compiled too
    return STEPS[case.mode](network, images)


def peak_memory(case: Case, config: BenchConfig, label: str, files: Sequence[Path] = ()) -> float | None:
    """Return the most memory that two steps need beyond the weights, in MiB, in a fresh process.

    On a GPU it is what the allocator handed out; on a CPU the process's peak resident size less what it was
    before the first step, so that the framework itself is not counted. `None` is more than there is.

    Raises:
        TrainingError: the process failed.
    """
    compiling = compiled(label, config.peers, config.compile)
    paths = [str(file) for file in files]
    request = json.dumps(
        [vars(case), config.peers, config.place, config.threads, compiling, label, paths, TASKS.get(case.task)]
    )
    done = subprocess.run(
        [sys.executable, "-m", "twins.bench.measure", request], capture_output=True, text=True, check=False
    )
    if done.returncode == -9 or (done.returncode and is_out_of_memory_message(done.stderr)):  # -9: the system ended it
        return None
    if done.returncode:
        raise TrainingError(f"memory of {label} could not be measured: {done.stderr.strip().splitlines()[-1:]}")
    return float(done.stdout.strip().splitlines()[-1])


def _own_peak(request: str) -> float:
    combination, against, device_name, threads, compiling, label, files, row = json.loads(request)
    if row:
        register(Row(*row))
    if threads:
        torch.set_num_threads(threads)
    case, device = Case(**combination), pick_device(device_name)
    network = networks(case, against, device)[label]
    step = _step(network, case, images_for(case, device), files, compile=compiling)
    if compiling or label == "twins fused" or case.mode == "end-to-end":
        step()  # what the compiler itself needs, or laying weights out, is not counted
    return peak_of(step, device)


def _difference(subjects: dict[str, torch.nn.Module], images: torch.Tensor) -> float | None:
    """Return the largest difference of outputs, in units of a peer's root mean square; `None` without a peer."""
    peers = [label for label in subjects if label != "twins" and not label.endswith(" again")]
    if not peers:
        return None
    with torch.inference_mode():
        ours, *others = (_outputs(subjects[label].eval(), images) for label in ("twins", *peers))
    return max(distance(a, b) for theirs in others for a, b in zip(ours, theirs, strict=True))


def _outputs(network: torch.nn.Module, images: torch.Tensor) -> list[torch.Tensor]:
    """Return a network's outputs in float64: logits, or all maps and tensors; of two stages the first one's.

    Which regions a first stage passes on may depend on the last bit of two scores, so the second stage is not
    compared.
    """
    rpn_head = getattr(network, "rpn_head", None)
    if rpn_head is not None:
        rated = rpn_head(pyramid(network.backbone, network.neck, images, None))  # type: ignore[arg-type]
        return [x.double() for x in (*rated.scores, *rated.deltas)]
    found = network(images)
    tensors = found.values() if isinstance(found, dict) else [found] if isinstance(found, torch.Tensor) else found
    return [x.double() for x in tensors if x.is_floating_point()]


if __name__ == "__main__":
    print(_own_peak(sys.argv[1]))
