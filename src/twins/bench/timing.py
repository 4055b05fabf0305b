"""Interleaved timing, and the statistics of a row."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from math import ceil
from statistics import median
from typing import Any

import torch

from twins.bench.networks import PEERS, Step, label_of, repeated_peer


def interleaved(steps: Mapping[str, Step], rounds: int, warmup: int, device: torch.device) -> dict[str, list[float]]:
    """Run every step once per round, in alternating order, and return the seconds of the timed rounds by label."""
    times: dict[str, list[float]] = {label: [] for label in steps}
    for number in range(warmup + rounds):
        order = list(steps) if number % 2 else list(steps)[::-1]
        for label in order:
            seconds = time_step(steps[label], device)
            if number >= warmup:
                times[label].append(seconds)
    return times


def time_step(step: Step, device: torch.device) -> float:
    """Return the seconds of one call, until the device has finished."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def speed(times: Sequence[float], batch: int) -> dict[str, float]:
    """Return images per second, and the median, 90th and 99th percentile of a batch's latency in ms.

    Percentiles are nearest ranks, so the 99th of fewer than a hundred times is the longest.
    """
    ordered = sorted(times)
    nearest = {share: ordered[ceil(len(ordered) * share / 100) - 1] for share in (90, 99)}
    return {
        "images_per_s": batch / median(ordered),
        "p50_ms": 1e3 * median(ordered),
        "p90_ms": 1e3 * nearest[90],
        "p99_ms": 1e3 * nearest[99],
    }


def comparisons(times: Mapping[str, Sequence[float]], against: Sequence[str]) -> dict[str, Any]:
    """Compare our seconds in each round with the peers'.

    Returns:
        `ratios` by label, `ratio` to timm, the repeated peer's ratio to itself, and `best`: the fastest form of our
        network (`ours`) against the fastest other peer (`peer`).
    """
    peers = {label_of(name): PEERS[name] for name in against}
    result: dict[str, Any] = {}
    if peers:
        result["ratios"] = {label: ratio(times[label], times["twins"]) for label in peers}
    if "timm" in peers:
        result["ratio"] = result["ratios"]["timm"]
    if (repeated := repeated_peer(against)) is not None:
        label = label_of(repeated)
        result[f"{label} against itself"] = ratio(times[label], times[f"{label} again"])
        others = [label for label, peer in peers.items() if not peer.ours]
        ours, theirs = (
            min(labels, key=lambda label: median(times[label]))
            for labels in (["twins", *(label for label in peers if label not in others)], others)
        )
        result["best"] = {"ours": ours, "peer": theirs} | ratio(times[theirs], times[ours])
    return result


def ratio(theirs: Sequence[float], ours: Sequence[float]) -> dict[str, float]:
    """Return median and middle half of their time over ours, round by round; above 1 our network is faster."""
    pairs = sorted(a / b for a, b in zip(theirs, ours, strict=True))
    return {"median": median(pairs), "low": pairs[len(pairs) // 4], "high": pairs[(3 * len(pairs)) // 4]}
