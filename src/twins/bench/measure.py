"""Measures one row of a benchmark; peak memory is measured in a process of its own."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from twins.bench.config import BenchConfig
from twins.bench.files import LOADING, end_to_end_step, loading_step, pixels_at
from twins.bench.memory import memory_limit, peak_in_process
from twins.bench.networks import STEPS, Case, Step, build_networks, images_for, is_compiled, relative_difference
from twins.bench.roofline import count_costs, peak_rates, roofline
from twins.bench.runtimes import exported_steps, output_difference
from twins.bench.timing import comparisons, interleaved, speed
from twins.engine.memory import free_memory, is_out_of_memory_message, peak_of
from twins.predictor import pick_device
from twins.tasks.detection.network import pyramid
from twins.tasks.table import TASKS, Row, register


def measure(case: Case, config: BenchConfig, files: Sequence[Path] = ()) -> dict[str, Any]:
    """Return the row of a case, with `failed` if memory ran out. `files` are images, where the case needs them."""
    device = pick_device(config.device_name)
    try:
        with memory_limit(device):
            if case.mode in LOADING:
                return _measure_loading(case, config, files)
            return _measure_networks(case, config, files, device)
    except Exception as error:  # runtimes have classes of their own
        if not is_out_of_memory_message(f"{type(error).__name__}: {error}"):
            raise
    free_memory()
    return vars(case) | {"failed": "out of memory"}


def _measure_loading(case: Case, config: BenchConfig, files: Sequence[Path]) -> dict[str, Any]:
    """Return the row of the data loader alone, on one thread like each of its worker processes."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _row(case, config, {"twins": loading_step(case, files)}, torch.device("cpu"), peers=())
    finally:
        torch.set_num_threads(threads)


def _measure_networks(case: Case, config: BenchConfig, files: Sequence[Path], device: torch.device) -> dict[str, Any]:
    """Return the row of our network and its peers: speed, ratios, difference of outputs, roofline and peak memory."""
    networks = build_networks(case, config.peers, device)
    if case.runtime != "torch":
        pixels = pixels_at(case.size, files, batch=case.batch)
        steps = exported_steps(networks, pixels, case.runtime, case.precision)
        difference = output_difference(steps["twins"], steps["timm"]) if "timm" in steps else None
        return _row(case, config, steps, device, peers=config.peers, difference=difference)
    images = images_for(case, device)
    difference = _difference(networks, images)
    with_roofline = config.roofline and case.mode in STEPS
    costs = count_costs(STEPS[case.mode](networks["twins"], images)) if with_roofline else []
    steps = {
        label: _step(network, case, images, files, compile=is_compiled(label, config.peers, config.compile))
        for label, network in networks.items()
    }
    row = _row(case, config, steps, device, peers=config.peers, difference=difference)
    if with_roofline:
        row["roofline"] = roofline(costs, peak_rates(device, case.precision), row["twins"]["p50_ms"] / 1e3)
    if config.memory:
        labels = [label for label in steps if not label.endswith(" again")]
        del steps, networks
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
    """Time the steps and return a row with the settings, the speed by label, and the comparisons."""
    times = interleaved(steps, config.rounds, config.warmup, device)
    speeds = {label: speed(seconds, case.batch) for label, seconds in times.items()}
    return vars(case) | {"difference": difference} | speeds | comparisons(times, peers)


def _step(network: torch.nn.Module, case: Case, images: torch.Tensor, files: Sequence[Path], *, compile: bool) -> Step:
    if case.mode == "end-to-end":
        return end_to_end_step(network, case, files, images.device, compile=compile)
    if compile:
        network.compile()  # in place, so that `losses` runs the compiled network too
    return STEPS[case.mode](network, images)


def peak_memory(case: Case, config: BenchConfig, label: str, files: Sequence[Path] = ()) -> float | None:
    """Return the peak memory of two steps beyond the weights, in MiB, measured in a new process.

    On a GPU it is the memory handed out by the allocator. On a CPU it is the growth of the process's resident size
    since before the first step, without the framework itself. `None` means that memory ran out.

    Raises:
        TrainingError: the process failed.
    """
    compile = is_compiled(label, config.peers, config.compile)
    paths = [str(file) for file in files]
    request = [
        vars(case),
        config.peers,
        config.device_name,
        config.threads,
        compile,
        label,
        paths,
        TASKS.get(case.task),
    ]
    return peak_in_process("twins.bench.measure", request, label)


def _measure_peak(request: str) -> float:
    """Return the peak memory in MiB of a request of `peak_memory`; runs in the new process."""
    settings, against, device_name, threads, compile, label, files, task_row = json.loads(request)
    if task_row:
        register(Row(*task_row))
    if threads:
        torch.set_num_threads(threads)
    case, device = Case(**settings), pick_device(device_name)
    network = build_networks(case, against, device)[label]
    step = _step(network, case, images_for(case, device), files, compile=compile)
    if compile or label == "twins fused" or case.mode == "end-to-end":
        step()  # so that memory for compiling or for packing weights is not counted
    return peak_of(step, device)


def _difference(networks: dict[str, torch.nn.Module], images: torch.Tensor) -> float | None:
    """Return the largest difference of outputs, in units of a peer's root mean square; `None` without a peer."""
    peers = [label for label in networks if label != "twins" and not label.endswith(" again")]
    if not peers:
        return None
    with torch.inference_mode():
        ours, *others = (_outputs(networks[label].eval(), images) for label in ("twins", *peers))
    return max(relative_difference(a, b) for theirs in others for a, b in zip(ours, theirs, strict=True))


def _outputs(network: torch.nn.Module, images: torch.Tensor) -> list[torch.Tensor]:
    """Return a network's floating-point outputs in float64; for a two-stage detector those of its first stage.

    The second stage is not compared, because the last bit of two scores can decide which proposals it gets.
    """
    rpn_head = getattr(network, "rpn_head", None)
    if rpn_head is not None:
        proposals = rpn_head(pyramid(network.backbone, network.neck, images, None))  # type: ignore[arg-type]
        return [x.double() for x in (*proposals.scores, *proposals.deltas)]
    outputs = network(images)
    if isinstance(outputs, torch.Tensor):
        return [outputs.double()]
    tensors = outputs.values() if isinstance(outputs, dict) else outputs
    return [x.double() for x in tensors if x.is_floating_point()]


if __name__ == "__main__":
    print(_measure_peak(sys.argv[1]))
