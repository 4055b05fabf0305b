"""Interleaved timing, and a row's statistics of the times."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from math import ceil
from statistics import median
from typing import Any

import torch

from twins.bench.subjects import PEERS, Step, label_of, repeated_peer


def interleaved(steps: Mapping[str, Step], rounds: int, warmup: int, device: torch.device) -> dict[str, list[float]]:
    """Time every subject once per round, in turns, the order reversed every other round; seconds."""
    times: dict[str, list[float]] = {label: [] for label in steps}
    for number in range(warmup + rounds):
        order = list(steps) if number % 2 else list(steps)[::-1]
        for label in order:
            seconds = timed(steps[label], device)
            if number >= warmup:
                times[label].append(seconds)
    return times


def timed(step: Step, device: torch.device) -> float:
    """Return the seconds that a call takes, until its device has done it."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def timing(times: Sequence[float], batch: int) -> dict[str, float]:
    """Return images per second at the median, and the latency of a batch: median, 90th and 99th percentile in ms.

    A percentile is the least time that so many of a hundred do not exceed; of fewer than a hundred times the 99th is
    the longest.
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
    """Compare our seconds of each round with the peers'.

    Returns:
        `ratios` by label, `ratio` to timm, a peer's ratio to itself, and `best`: the faster of ours (`ours`) beside
        the fastest peer (`peer`).
    """
    peers = {label_of(name): PEERS[name] for name in against}
    found: dict[str, Any] = {"ratios": {label: ratio(times[label], times["twins"]) for label in peers}} if peers else {}
    if "timm" in peers:
        found["ratio"] = found["ratios"]["timm"]
    if (twice := repeated_peer(against)) is not None:
        label = label_of(twice)
        found[f"{label} against itself"] = ratio(times[label], times[f"{label} again"])
        others = [label for label, peer in peers.items() if not peer.ours]
        ours, theirs = (
            min(labels, key=lambda label: median(times[label]))
            for labels in (["twins", *(label for label in peers if label not in others)], others)
        )
        found["best"] = {"ours": ours, "peer": theirs} | ratio(times[theirs], times[ours])
    return found


def ratio(theirs: Sequence[float], ours: Sequence[float]) -> dict[str, float]:
    """Return the median of each round's ratio of times, and the range of its middle half; above 1 ours is faster."""
    pairs = sorted(a / b for a, b in zip(theirs, ours, strict=True))
    return {"median": median(pairs), "low": pairs[len(pairs) // 4], "high": pairs[(3 * len(pairs)) // 4]}
