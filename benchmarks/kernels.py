"""Kernels beside the portable forms, eager and compiled, and the networks beside timm's, on one GPU.

Command: python benchmarks/kernels.py
Medians of CUDA events; the last table runs the window kernels with other numbers of warps.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import twins
from twins.ops import kernels
from twins.ops.convolutions import positional_convolution
from twins.ops.norms import add_norm
from twins.ops.windows import window_attention

BATCH, REPEATS = 256, 30
STAGES = [(56, 64, 2), (28, 128, 4), (14, 256, 8), (7, 512, 16)]
"""Side, channels and heads of the maps of `twins_svt_small` at 224."""
Call = Callable[[], object]


def milliseconds(calls: Sequence[Call], repeats: int = REPEATS) -> list[float]:
    """Return the median time of each call, measured in turns."""
    for call in calls:
        for _ in range(3):
            call()
    times: list[list[float]] = [[] for _ in calls]
    for _ in range(repeats):
        for call, found in zip(calls, times, strict=True):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            call()
            end.record()
            end.synchronize()
            found.append(start.elapsed_time(end))
    return [statistics.median(found) for found in times]


def both_ways(compute: Callable[..., Tensor], inputs: Sequence[Tensor]) -> tuple[Call, Call]:
    """Return the forward pass alone, and with the backward pass."""
    leaves = [x.requires_grad_() for x in inputs]

    def forward() -> None:
        with torch.no_grad():
            compute(*leaves)

    def step() -> None:
        y = compute(*leaves)
        torch.autograd.grad(y, leaves, torch.ones_like(y))

    return forward, step


def plainly(call: Call) -> Call:
    """Return the same call without kernels."""

    def run() -> None:
        with kernels.portable():
            call()

    return run


def parts(side: int, channels: int, heads: int) -> dict[str, tuple[Callable[..., Tensor], list[Tensor]]]:
    """Return what the kernels of a stage compute, and inputs for it."""

    def some(*shape: int) -> Tensor:
        return torch.randn(shape, device="cuda").bfloat16()

    def attend(qkv: Tensor) -> Tensor:
        return window_attention(qkv, lambda x: x, 7, heads, padding="exact")

    def residual(x: Tensor, branch: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return add_norm(x, branch, weight, bias, 1e-6)[1]

    map_shape = (BATCH, side, side, channels)
    return {
        "window attention": (attend, [some(*map_shape[:3], 3 * channels)]),
        "positions": (positional_convolution, [some(*map_shape), some(channels, 1, 3, 3), some(channels)]),
        "sum and norm": (residual, [some(*map_shape), some(*map_shape), some(channels), some(channels)]),
    }


def kernel_table() -> None:
    print("\n| kernel | map | pass | kernel, ms | portable, ms | portable compiled, ms |")
    print("| --- " * 6 + "|")
    for side, channels, heads in STAGES:
        for name, (compute, inputs) in parts(side, channels, heads).items():
            torch._dynamo.reset()
            fused = both_ways(compute, inputs)
            compiled = both_ways(torch.compile(compute, fullgraph=True), inputs)
            for kind, ours, theirs in zip(("forward", "both"), fused, compiled, strict=True):
                times = milliseconds([ours, plainly(ours), plainly(theirs)])
                cells = " | ".join(f"{time:.3f}" for time in times)
                print(f"| {name} | {side} x {side} x {channels} | {kind} | {cells} |", flush=True)


def network_table() -> None:
    print(f"\n| network | what | ours, images/s | without kernels | timm | batch {BATCH}, bfloat16, compiled |")
    print("| --- " * 6 + "|")
    for name in ("twins_svt_small", "twins_pcpvt_small"):
        for what, build in (("inference", infer), ("training step", learn)):
            times = []
            for source in ("ours", "portable", "timm"):
                torch._dynamo.reset()
                torch.cuda.empty_cache()
                call = build(name, source)
                times += milliseconds([plainly(call) if source == "portable" else call], 20)
            cells = " | ".join(f"{BATCH / time * 1000:.0f}" for time in times)
            print(f"| {name} | {what} | {cells} | |", flush=True)


def make(name: str, source: str) -> nn.Module:
    if source == "timm":
        import timm

        return timm.create_model(name).cuda()
    return twins.create_model(name).cuda()


def infer(name: str, source: str) -> Call:
    network = torch.compile(make(name, source).eval().bfloat16(), mode="max-autotune-no-cudagraphs")
    images = torch.randn(BATCH, 3, 224, 224, device="cuda").bfloat16()

    def run() -> None:
        with torch.inference_mode():
            network(images)

    return run


def learn(name: str, source: str) -> Call:
    network = make(name, source).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, fused=True)
    images = torch.randn(BATCH, 3, 224, 224, device="cuda")
    targets = torch.randint(1000, (BATCH,), device="cuda")
    forward = torch.compile(network)

    def run() -> None:
        with torch.autocast("cuda", torch.bfloat16):
            loss = F.cross_entropy(forward(images), targets)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return run


def warps_table() -> None:
    from twins.ops.kernels import windows

    print("\n| window attention | map | warps | forward, ms | both, ms |")
    print("| --- " * 5 + "|")
    chosen = windows.WARPS
    for side, channels, heads in STAGES:
        compute, inputs = parts(side, channels, heads)["window attention"]
        for warps in (1, 2, 4, 8):
            windows.WARPS = warps
            forward, both = milliseconds(both_ways(compute, inputs))
            default = " (default)" if warps == chosen else ""
            print(f"| | {side} x {side} x {channels} | {warps}{default} | {forward:.3f} | {both:.3f} |", flush=True)
    windows.WARPS = chosen


def main() -> None:
    if not torch.cuda.is_available():
        raise SystemExit("benchmarks/kernels.py measures kernels on an NVIDIA GPU, and this machine has none.")
    if not kernels.serves(torch.zeros(1, device="cuda")):
        raise SystemExit("benchmarks/kernels.py needs an Ampere GPU or a newer one, and Triton able to build for it.")
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, CUDA {torch.version.cuda}")
    kernel_table()
    network_table()
    warps_table()


if __name__ == "__main__":
    main()
