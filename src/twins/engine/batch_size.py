"""How many images of a step fit in memory: found on a GPU by trying, estimated on a CPU from one measured pass."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from twins.data.loading.batch import to_device
from twins.engine.memory import available, free_memory, is_out_of_memory, peak_of
from twins.engine.norms import clone_buffers, restore_buffers
from twins.engine.optim import train_mode
from twins.engine.processes import gather
from twins.errors import number_of
from twins.tasks.choices import Choice
from twins.tasks.network import TaskNetwork

MARGIN = 0.9
"""Share of what fits that is used: augmentation and other processes vary."""
CPU_SHARE = 0.5
"""Share of the free memory that a step may take on a CPU."""
MEASURED_IMAGES = 2
"""Images of the measured pass on a CPU."""
STATES = 3
"""Copies of the weights that training keeps: AdamW's two moments and an EMA."""
EPOCH_STEPS = 10
"""Least steps of an epoch; a batch that leaves fewer learns badly."""


def fitting_batch(
    run_pass: Callable[[int], Any], *, recipe: int, accumulate: int, train_count: int, accelerator: Accelerator
) -> Choice:
    """Return the batch size, over all processes and passes, that fits in memory.

    Args:
        run_pass: runs a forward and a backward pass of this process with a number of images.
        recipe: batch size of the settings; on a CPU the largest choice.
        accumulate: passes per step.
        train_count: number of training images.
        accelerator: device and processes.
    """
    unit = accelerator.num_processes * accumulate
    most = max(1, train_count // (EPOCH_STEPS * unit))
    if accelerator.device.type == "cuda":
        images, reason = _by_trying(run_pass, most)
    else:
        images, reason = _by_estimate(run_pass, max(1, recipe // unit), accelerator.device)
    images, reason = min(gather(accelerator, (images, reason)))
    return Choice(setting="batch_size", value=images * unit, reason=reason)


def trial_pass(
    network: TaskNetwork, batch_of: Callable[[int], tuple[Tensor, Any, Tensor | None]], accelerator: Accelerator
) -> Callable[[int], None]:
    """Return a function that runs a forward and a backward pass, and leaves the network as it was.

    Args:
        network: moved to the accelerator's device.
        batch_of: returns images, targets and sizes of a batch with a number of images.
        accelerator: device and precision.
    """
    network.to(accelerator.device)
    train_mode(network)
    buffers, parameters = list(network.buffers()), [p for p in network.parameters() if p.requires_grad]
    before = clone_buffers(buffers)

    def run_pass(images: int) -> None:
        """Run forward and backward with the memory of an optimizer's states, and leave the network as it was."""
        states = [torch.empty_like(parameter) for parameter in parameters for _ in range(STATES)]
        batch = to_device(batch_of(images), accelerator.device)
        try:
            with accelerator.autocast():
                losses = network.losses(*batch)
            torch.autograd.backward(torch.stack(list(losses.values())).sum())
        finally:
            network.zero_grad()
            restore_buffers(buffers, before)
            del states

    return run_pass


def _by_trying(run_pass: Callable[[int], Any], most: int) -> tuple[int, str]:
    """Double the images of a pass until memory runs out, then search between the last two numbers."""
    low, high = 0, 2  # batch norm needs two
    while high <= most and _fits(run_pass, high):
        low, high = high, 2 * high
    if high > most and (low == most or _fits(run_pass, most)):
        return most, f"all that {number_of(EPOCH_STEPS, 'step')} in an epoch leave; more would fit in memory"
    high = min(high, most)
    while high - low > max(1, low // 16):
        middle = (low + high) // 2
        low, high = (middle, high) if _fits(run_pass, middle) else (low, middle)
    return max(1, int(MARGIN * low)), f"{number_of(low, 'image')} fit in a pass; a tenth of the memory stays free"


def _fits(run_pass: Callable[[int], Any], images: int) -> bool:
    free_memory()
    try:
        run_pass(images)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        return False
    return True


def _by_estimate(run_pass: Callable[[int], Any], most: int, device: torch.device) -> tuple[int, str]:
    """Divide half of the free memory by what an image of a measured pass takes; at most the recipe's number."""
    free = available() if device.type == "cpu" and sys.platform == "linux" else None
    if free is None or not os.access("/proc/self/clear_refs", os.W_OK):
        return most, "that of the recipe; memory cannot be measured here"
    run_pass(MEASURED_IMAGES)  # the first pass also takes what is kept
    needed = max(1.0, peak_of(lambda: run_pass(MEASURED_IMAGES), device)) / MEASURED_IMAGES  # MiB
    fitting = int(CPU_SHARE * free / 2**20 / needed)
    memory = f"an image takes about {needed:,.0f} MiB of the {free / 2**20:,.0f} MiB that are free"
    if fitting >= most:
        return most, f"that of the recipe, which fits: {memory}"
    return max(1, fitting), f"what half of the free memory holds: {memory}"
