"""Kernels beside PyTorch's operators, and the networks beside timm's, on one GPU.

Command: python benchmarks/kernels.py
Every network is compiled in a process of its own, all at the same time; then one process after the other measures,
in several rounds. Kernels are given by their own time on the GPU, networks by CUDA events around whole calls.
"""

from __future__ import annotations

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
from twins.bench.roofline import ceilings, count, roofline
from twins.bench.subjects import inference_step
from twins.ops import dispatch
from twins.ops.attention import attend_to_keys
from twins.ops.convolutions import positional_convolution
from twins.ops.norms import add_norm
from twins.ops.windows import window_attention

BATCH, ROUNDS, REPEATS, PATIENCE = 256, 5, 10, 240
"""Images; rounds of measuring, calls in each, and seconds that a process may take to compile."""
STAGES = [(56, 64, 2), (28, 128, 4), (14, 256, 8), (7, 512, 16)]
"""Side, channels and heads of the maps of `twins_svt_small` at 224."""
SMALL, PYRAMID = "twins_svt_small", "twins_pcpvt_small"
BOTH = ("timm", "twins")
Call = Callable[[], object]


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A compiled network at work."""

    name: str
    whose: str
    what: str = "inference"
    """`inference` in bfloat16, `training` under autocast with AdamW, or `bf16-true`: training all in bfloat16."""
    fused: bool = False
    graphs: bool = False
    """Whether it runs as a CUDA graph: `mode="reduce-overhead"`."""
    eager: bool = False
    batch: int = BATCH

    @property
    def how(self) -> str:
        """What it is called in a table."""
        parts = [self.whose, "fused" * self.fused, "eager" if self.eager else "compiled", "CUDA graphs" * self.graphs]
        return ", ".join(part for part in parts if part)


LEARN = 192
"""Images of a training step."""
SUBJECTS = [
    *(Subject(name=name, whose="timm") for name in (SMALL, PYRAMID)),
    *(Subject(name=name, whose="twins", fused=fused) for name in (SMALL, PYRAMID) for fused in (False, True)),
    *(Subject(name=name, whose=whose, what="training", batch=LEARN) for name in (SMALL, PYRAMID) for whose in BOTH),
    *(Subject(name=SMALL, whose=whose, what="training", graphs=True, batch=LEARN) for whose in BOTH),
    Subject(name=SMALL, whose="twins", what="bf16-true", graphs=True, batch=LEARN),
    Subject(name=SMALL, whose="timm", eager=True, batch=1),
    Subject(name=SMALL, whose="timm", graphs=True, batch=1),
    Subject(name=SMALL, whose="twins", fused=True, graphs=True, batch=1),
]


def build(subject: Subject) -> Call:
    """Return a call of a network: inference, or a whole training step."""
    learns = subject.what != "inference"
    network = _network(subject.name, subject.whose).train(learns)
    half = subject.what != "training"
    if half:
        network = network.bfloat16()
    if subject.fused:
        network = network.fuse()
    images = torch.randn(subject.batch, 3, 224, 224, device="cuda", dtype=torch.bfloat16 if half else torch.float32)
    mode = "reduce-overhead" if subject.graphs else "default"
    forward: Any = network if subject.eager else torch.compile(network, mode=mode)
    return _learn(network, forward, images, autocast=not half) if learns else inference_step(forward, images)


def _network(name: str, whose: str) -> Any:
    if whose == "timm":
        import timm

        return timm.create_model(name).cuda()
    return twins.create_model(name, padding="unmasked").cuda()


def _learn(network: nn.Module, forward: Any, images: Tensor, *, autocast: bool) -> Call:
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, fused=True)
    targets = torch.randint(1000, (len(images),), device="cuda")

    def run() -> None:
        torch.compiler.cudagraph_mark_step_begin()
        with torch.autocast("cuda", torch.bfloat16, enabled=autocast):
            loss = F.cross_entropy(forward(images).float(), targets)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return run


def milliseconds(call: Call, repeats: int = REPEATS) -> list[float]:
    """Return the times of some calls by CUDA events."""
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
    """Compile, say so, and measure as often as asked; then say what the GPU did, kernel by kernel."""
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
    """Return the milliseconds that a call takes on the GPU, kernel by kernel."""
    from torch.profiler import ProfilerActivity, profile

    call()
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as watched:
        for _ in range(repeats):
            call()
        torch.cuda.synchronize()
    events = watched.key_averages()
    return {event.key: event.device_time_total / repeats / 1000 for event in events if event.device_time_total}


@dataclass(frozen=True, kw_only=True)
class Worker:
    """A process with a compiled network in it."""

    pipe: Connection
    process: Any


def started() -> dict[Subject, Worker]:
    """Compile every subject in a process of its own; say which did not finish in time, and end it."""
    began = time.monotonic()
    context = multiprocessing.get_context("spawn")
    workers = {}
    for subject in SUBJECTS:
        ours, theirs = context.Pipe()
        process = context.Process(target=measure_network, args=(subject, theirs), daemon=True)
        process.start()
        theirs.close()
        workers[subject] = Worker(pipe=ours, process=process)
    for subject, worker in list(workers.items()):
        if not _ready(worker.pipe, PATIENCE - (time.monotonic() - began)):
            print(f"{subject.name}, {subject.what}, {subject.how}: not compiled within {PATIENCE} s", flush=True)
            worker.process.terminate()
            del workers[subject]
    return workers


def network_table(workers: dict[Subject, Worker]) -> None:
    """Print what each network takes, measured in turns."""
    times: dict[Subject, list[float]] = {subject: [] for subject in workers}
    memory = {}
    for _ in range(ROUNDS):
        for subject, worker in workers.items():
            worker.pipe.send("measure")
            found, memory[subject] = worker.pipe.recv()
            times[subject] += found
    print("\n| network | what | batch | how | ms (middle half) | images/s | times timm compiled | peak memory, MiB |")
    print("| --- " * 8 + "|")
    for subject, found in times.items():
        low, middle, high = statistics.quantiles(found)
        peer = Subject(name=subject.name, whose="timm", what=_plain(subject.what), batch=subject.batch)
        ratio = f"{statistics.median(times[peer]) / middle:.2f}" if times.get(peer) else ""
        peak = "" if subject.graphs else memory[subject] >> 20  # a graph's pool is not counted
        print(
            f"| {subject.name} | {subject.what} | {subject.batch} | {subject.how} | {middle:.2f} ({low:.2f}-{high:.2f})"
            f" | {subject.batch / middle * 1000:.0f} | {ratio} | {peak} |",
            flush=True,
        )


def explain(workers: dict[Subject, Worker]) -> None:
    """Print on what the GPU spends a call of each network, and end the processes."""
    for subject, worker in workers.items():
        worker.pipe.send("explain")
        spent = worker.pipe.recv()
        total = sum(spent.values())
        print(f"\n{subject.name}, {subject.what}, batch {subject.batch}, {subject.how}: {total:.2f} ms on the GPU")
        for kernel, took in sorted(spent.items(), key=lambda item: -item[1])[:12]:
            print(f"- {took:.3f} ms ({took / total:.0%}) {kernel[:90]}", flush=True)
        worker.process.join()


def _plain(what: str) -> str:
    return "training" if what == "bf16-true" else what


def _ready(pipe: Connection, seconds: float) -> bool:
    try:
        return pipe.poll(max(0.0, seconds)) and pipe.recv() == "ready"
    except EOFError:
        return False


def parts(side: int, channels: int, heads: int) -> dict[str, tuple[Callable[..., Tensor], list[Tensor]]]:
    """Return what the kernels of a stage compute, and inputs for it."""

    def some(*shape: int) -> Tensor:
        return torch.randn(shape, device="cuda").bfloat16()

    def attend(qkv: Tensor) -> Tensor:
        return window_attention(qkv[..., :channels], lambda _: qkv, 7, heads, padding="exact")

    def attend_few(q: Tensor, kv: Tensor) -> Tensor:
        return attend_to_keys(q, kv, heads)

    def residual(x: Tensor, branch: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return add_norm(x, branch, weight, bias, NORM_EPS)[1]

    shape = (BATCH, side, side, channels)
    return {
        "window attention": (attend, [some(*shape[:3], 3 * channels)]),
        "attention to 49 keys": (attend_few, [some(BATCH, side * side, channels), some(BATCH, 49, 2 * channels)]),
        "positions": (positional_convolution, [some(*shape), some(channels, 1, 3, 3), some(channels)]),
        "sum and norm": (residual, [some(*shape), some(*shape), some(channels), some(channels)]),
    }


def both_ways(compute: Callable[..., Tensor], inputs: Sequence[Tensor]) -> dict[str, Call]:
    """Return the forward pass alone, and with the backward pass."""
    leaves = [x.requires_grad_() for x in inputs]
    slope = torch.randn_like(compute(*leaves))

    def forward() -> None:
        with torch.no_grad():
            compute(*leaves)

    def step() -> None:
        torch.autograd.grad(compute(*leaves), leaves, slope)

    return {"forward": forward, "both": step}


def block_parts(stage: int, side: int, channels: int) -> dict[str, Call]:
    """Return blocks of a stage in their inference form, local and global."""
    network = twins.create_backbone(SMALL).cuda().bfloat16().fuse()
    x = torch.randn(BATCH, side, side, channels, device="cuda").bfloat16()
    local, wide = network.stages[stage].blocks[:2]
    return {"local block, fused": inference_step(local, x), "global block, fused": inference_step(wide, x)}


def kernel_table() -> None:
    """Print what kernels take beside PyTorch's operators, stage by stage."""
    print("\n| what | map | pass | kernels, ms | PyTorch's operators, ms | times |")
    print("| --- " * 6 + "|")
    for stage, (side, channels, heads) in enumerate(STAGES):
        calls = {
            (name, kind): call
            for name, (compute, inputs) in parts(side, channels, heads).items()
            for kind, call in both_ways(compute, inputs).items()
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


def share_of_roofline() -> None:
    """Print what a forward pass counts, and how long this GPU needs for that at best."""
    device = torch.device("cuda")
    images = torch.randn(BATCH, 3, 224, 224, device=device).bfloat16()
    costs = count(inference_step(_network(SMALL, "twins").bfloat16(), images))
    machine = ceilings(device, "bf16")
    found = roofline(costs, machine, 1.0)
    print(
        f"\n{SMALL}, batch {BATCH}, bf16: {found['gflop']:.0f} GFLOP, {found['mib'] / 1024:.1f} GiB moved operator by "
        f"operator; measured {found['peak_gflop_per_s'] / 1000:.0f} TFLOP/s and "
        f"{found['peak_gb_per_s'] / 1000:.2f} TB/s: "
        f"{found['operations_ms']:.2f} ms for the operations, {found['bytes_ms']:.2f} ms for the bytes, "
        f"{found['by_operator_ms']:.2f} ms one operator after the other"
    )


def main() -> None:
    if not torch.cuda.is_available():
        raise SystemExit("benchmarks/kernels.py measures kernels on an NVIDIA GPU, and this machine has none.")
    if not dispatch.can_use_triton(torch.zeros(1, device="cuda")):
        raise SystemExit("benchmarks/kernels.py needs an Ampere GPU or a newer one, and Triton able to build for it.")
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, CUDA {torch.version.cuda}")
    network_table(workers := started())
    explain(workers)
    kernel_table()
    share_of_roofline()


if __name__ == "__main__":
    main()
