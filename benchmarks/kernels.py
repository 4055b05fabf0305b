"""Speed of our kernels beside PyTorch's operators, and of our networks beside timm's, on one GPU.

Command: python benchmarks/kernels.py
Every network is compiled in a process of its own, all at the same time. Then the processes measure in turns, in several
rounds. Times of kernels are the GPU's own; times of networks are measured with CUDA events around whole calls.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import twins
from twins.backbone.layers import NORM_EPS
from twins.bench.networks import inference_step
from twins.bench.roofline import count_costs, peak_rates, roofline
from twins.ops import dispatch
from twins.ops.attention import attend_to_keys
from twins.ops.convolutions import positional_convolution
from twins.ops.norms import add_norm
from twins.ops.windows import window_attention

BATCH, ROUNDS, REPEATS, COMPILE_LIMIT = 256, 5, 10, 240
"""Images per batch, timed rounds, calls per round, and seconds after which compiling is given up."""
STAGES = [(56, 64, 2), (28, 128, 4), (14, 256, 8), (7, 512, 16)]
"""Side, channels and heads of the stages of `twins_svt_small` at 224."""
SMALL, PYRAMID = "twins_svt_small", "twins_pcpvt_small"
BOTH = ("timm", "twins")
Call = Callable[[], object]


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A network to measure."""

    name: str
    source: str
    """`timm` or `twins`."""
    mode: str = "inference"
    """`inference` in bfloat16, `training` under autocast with AdamW, or `bf16-true`: training all in bfloat16."""
    fused: bool = False
    graphs: bool = False
    """Whether it runs as a CUDA graph, with `mode="reduce-overhead"`."""
    eager: bool = False
    batch: int = BATCH

    @property
    def form(self) -> str:
        """Description in a table, such as `twins, fused, compiled`."""
        parts = [self.source, "fused" * self.fused, "eager" if self.eager else "compiled", "CUDA graphs" * self.graphs]
        return ", ".join(part for part in parts if part)


TRAINING_BATCH = 192
"""Images per training step."""
SUBJECTS = [
    *(Subject(name=name, source="timm") for name in (SMALL, PYRAMID)),
    *(Subject(name=name, source="twins", fused=fused) for name in (SMALL, PYRAMID) for fused in (False, True)),
    *(
        Subject(name=name, source=source, mode="training", batch=TRAINING_BATCH)
        for name in (SMALL, PYRAMID)
        for source in BOTH
    ),
    *(Subject(name=SMALL, source=source, mode="training", graphs=True, batch=TRAINING_BATCH) for source in BOTH),
    Subject(name=SMALL, source="twins", mode="bf16-true", graphs=True, batch=TRAINING_BATCH),
    Subject(name=SMALL, source="timm", eager=True, batch=1),
    Subject(name=SMALL, source="timm", graphs=True, batch=1),
    Subject(name=SMALL, source="twins", fused=True, graphs=True, batch=1),
]


def build(subject: Subject) -> Call:
    """Return a function that runs inference or a whole training step."""
    training = subject.mode != "inference"
    network = _network(subject.name, subject.source).train(training)
    half = subject.mode != "training"
    if half:
        network = network.bfloat16()
    if subject.fused:
        network = network.fuse()
    images = torch.randn(subject.batch, 3, 224, 224, device="cuda", dtype=torch.bfloat16 if half else torch.float32)
    compile_mode = "reduce-overhead" if subject.graphs else "default"
    forward: Any = network if subject.eager else torch.compile(network, mode=compile_mode)
    return _training_step(network, forward, images, autocast=not half) if training else inference_step(forward, images)


def _network(name: str, source: str) -> Any:
    if source == "timm":
        import timm

        return timm.create_model(name).cuda()
    return twins.create_model(name, padding="unmasked").cuda()


def _training_step(network: nn.Module, forward: Any, images: Tensor, *, autocast: bool) -> Call:
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, fused=True)
    targets = torch.randint(1000, (len(images),), device="cuda")

    def step() -> None:
        torch.compiler.cudagraph_mark_step_begin()
        with torch.autocast("cuda", torch.bfloat16, enabled=autocast):
            loss = F.cross_entropy(forward(images).float(), targets)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def milliseconds(call: Call, repeats: int = REPEATS) -> list[float]:
    """Return the times of some calls, measured with CUDA events."""
    times = []
    for _ in range(repeats):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return times


def measure_network(subject: Subject, pipe: Connection) -> None:
    """Compile, send `ready`, and measure on each `measure` message; at the end send the times of all kernels."""
    call = build(subject)
    for _ in range(5):
        call()
    torch.cuda.synchronize()
    pipe.send("ready")
    while pipe.recv() == "measure":
        torch.cuda.reset_peak_memory_stats()
        times = milliseconds(call)
        pipe.send((times, torch.cuda.max_memory_allocated()))
    pipe.send(gpu_times(call))


def gpu_times(call: Call, repeats: int = 5) -> dict[str, float]:
    """Return the milliseconds of each kernel in a call, measured on the GPU."""
    from torch.profiler import ProfilerActivity, profile

    call()
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        for _ in range(repeats):
            call()
        torch.cuda.synchronize()
    events = profiler.key_averages()
    return {event.key: event.device_time_total / repeats / 1000 for event in events if event.device_time_total}


@dataclass(frozen=True, kw_only=True)
class Worker:
    """A process that holds a compiled network."""

    pipe: Connection
    process: Any


def start_workers() -> dict[Subject, Worker]:
    """Compile every network in a process of its own; name and terminate those that take too long."""
    start = time.monotonic()
    context = multiprocessing.get_context("spawn")
    workers = {}
    for subject in SUBJECTS:
        our_end, worker_end = context.Pipe()
        process = context.Process(target=measure_network, args=(subject, worker_end), daemon=True)
        process.start()
        worker_end.close()
        workers[subject] = Worker(pipe=our_end, process=process)
    for subject, worker in list(workers.items()):
        if not _ready(worker.pipe, COMPILE_LIMIT - (time.monotonic() - start)):
            print(f"{subject.name}, {subject.mode}, {subject.form}: not compiled within {COMPILE_LIMIT} s", flush=True)
            worker.process.terminate()
            del workers[subject]
    return workers


def print_networks(workers: dict[Subject, Worker]) -> None:
    """Measure the networks in turns and print the table of their times."""
    times: dict[Subject, list[float]] = {subject: [] for subject in workers}
    memory = {}
    for _ in range(ROUNDS):
        for subject, worker in workers.items():
            worker.pipe.send("measure")
            round_times, memory[subject] = worker.pipe.recv()
            times[subject] += round_times
    print("\n| network | what | batch | how | ms (middle half) | images/s | times timm compiled | peak memory, MiB |")
    print("| --- " * 8 + "|")
    for subject, subject_times in times.items():
        low, middle, high = statistics.quantiles(subject_times)
        peer_mode = "training" if subject.mode == "bf16-true" else subject.mode
        peer = Subject(name=subject.name, source="timm", mode=peer_mode, batch=subject.batch)
        ratio = f"{statistics.median(times[peer]) / middle:.2f}" if times.get(peer) else ""
        peak = "" if subject.graphs else memory[subject] >> 20  # the memory pool of a graph is not counted
        print(
            f"| {subject.name} | {subject.mode} | {subject.batch} | {subject.form} | {middle:.2f} "
            f"({low:.2f}-{high:.2f}) | {subject.batch / middle * 1000:.0f} | {ratio} | {peak} |",
            flush=True,
        )


def print_kernels_of_networks(workers: dict[Subject, Worker]) -> None:
    """Print the slowest kernels of each network with their times, and end the processes."""
    for subject, worker in workers.items():
        worker.pipe.send("kernels")
        kernel_times = worker.pipe.recv()
        total = sum(kernel_times.values())
        print(f"\n{subject.name}, {subject.mode}, batch {subject.batch}, {subject.form}: {total:.2f} ms on the GPU")
        for kernel, ms in sorted(kernel_times.items(), key=lambda item: -item[1])[:12]:
            print(f"- {ms:.3f} ms ({ms / total:.0%}) {kernel[:90]}", flush=True)
        worker.process.join()


def _ready(pipe: Connection, seconds: float) -> bool:
    """Wait for a worker's `ready` message; return whether it came in time."""
    try:
        return pipe.poll(max(0.0, seconds)) and pipe.recv() == "ready"
    except EOFError:
        return False


def parts(side: int, channels: int, heads: int) -> dict[str, tuple[Callable[..., Tensor], list[Tensor]]]:
    """Return the functions that have kernels, each with inputs of a stage's shape."""

    def noise(*shape: int) -> Tensor:
        return torch.randn(shape, device="cuda").bfloat16()

    def attend(qkv: Tensor) -> Tensor:
        return window_attention(qkv[..., :channels], lambda _: qkv, 7, heads, padding="exact")

    def attend_few(q: Tensor, kv: Tensor) -> Tensor:
        return attend_to_keys(q, kv, heads)

    def residual(x: Tensor, branch: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return add_norm(x, branch, weight, bias, NORM_EPS)[1]

    shape = (BATCH, side, side, channels)
    return {
        "window attention": (attend, [noise(*shape[:3], 3 * channels)]),
        "attention to 49 keys": (attend_few, [noise(BATCH, side * side, channels), noise(BATCH, 49, 2 * channels)]),
        "positions": (positional_convolution, [noise(*shape), noise(channels, 1, 3, 3), noise(channels)]),
        "sum and norm": (residual, [noise(*shape), noise(*shape), noise(channels), noise(channels)]),
    }


def passes(compute: Callable[..., Tensor], inputs: Sequence[Tensor]) -> dict[str, Call]:
    """Return functions that run the forward pass alone, and the forward and backward pass."""
    leaves = [x.requires_grad_() for x in inputs]
    output_gradient = torch.randn_like(compute(*leaves))

    def forward() -> None:
        with torch.no_grad():
            compute(*leaves)

    def step() -> None:
        torch.autograd.grad(compute(*leaves), leaves, output_gradient)

    return {"forward": forward, "both": step}


def block_parts(stage: int, side: int, channels: int) -> dict[str, Call]:
    """Return functions that run a local and a global block of a stage, in their inference form."""
    network = twins.create_backbone(SMALL).cuda().bfloat16().fuse()
    x = torch.randn(BATCH, side, side, channels, device="cuda").bfloat16()
    local_block, global_block = network.stages[stage].blocks[:2]
    return {
        "local block, fused": inference_step(local_block, x),
        "global block, fused": inference_step(global_block, x),
    }


def print_kernels() -> None:
    """Print the times of our kernels and of PyTorch's operators for each stage."""
    print("\n| what | map | pass | kernels, ms | PyTorch's operators, ms | times |")
    print("| --- " * 6 + "|")
    for stage, (side, channels, heads) in enumerate(STAGES):
        calls = {
            (name, kind): call
            for name, (compute, inputs) in parts(side, channels, heads).items()
            for kind, call in passes(compute, inputs).items()
        }
        if channels <= 128:
            calls |= {(name, "forward"): call for name, call in block_parts(stage, side, channels).items()}
        for (name, kind), call in calls.items():
            ours = sum(gpu_times(call).values())
            with dispatch.portable():
                theirs = sum(gpu_times(call).values())
            print(
                f"| {name} | {side} x {side} x {channels} | {kind} | {ours:.3f} | {theirs:.3f} | {theirs / ours:.2f} |",
                flush=True,
            )


def print_roofline() -> None:
    """Print the operations and bytes of a forward pass, and the shortest time that this GPU needs for them."""
    device = torch.device("cuda")
    images = torch.randn(BATCH, 3, 224, 224, device=device).bfloat16()
    costs = count_costs(inference_step(_network(SMALL, "twins").bfloat16(), images))
    result = roofline(costs, peak_rates(device, "bf16"), 1.0)
    print(
        f"\n{SMALL}, batch {BATCH}, bf16: {result['gflop']:.0f} GFLOP, {result['mib'] / 1024:.1f} GiB moved "
        f"operator by operator; measured {result['peak_gflop_per_s'] / 1000:.0f} TFLOP/s and "
        f"{result['peak_gb_per_s'] / 1000:.2f} TB/s: "
        f"{result['operations_ms']:.2f} ms for the operations, {result['bytes_ms']:.2f} ms for the bytes, "
        f"{result['by_operator_ms']:.2f} ms one operator after the other"
    )


def main() -> None:
    if not torch.cuda.is_available():
        raise SystemExit("benchmarks/kernels.py measures kernels on an NVIDIA GPU, and this machine has none.")
    if not dispatch.can_use_triton(torch.zeros(1, device="cuda")):
        raise SystemExit("benchmarks/kernels.py needs an Ampere GPU or a newer one, and Triton able to build for it.")
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, CUDA {torch.version.cuda}")
    print_networks(workers := start_workers())
    print_kernels_of_networks(workers)
    print_kernels()
    print_roofline()


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    main()
