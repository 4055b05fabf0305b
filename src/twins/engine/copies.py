"""Copies of the trained network: the EMA of its weights, and the bf16 copy that computes with fp32 master weights."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from twins.engine.schedule import ema_decay
from twins.tasks.network import TaskNetwork


class EMA:
    """Exponential moving average of a network's weights; `network` is the averaged copy, in eval mode.

    Args:
        network: the trained network; it is copied.
        decay: decay per optimiser step, reached after a warm-up: min(decay, (1 + step) / (10 + step)).
    """

    def __init__(self, network: TaskNetwork, decay: float) -> None:
        self.decay = decay
        self.network = copy.deepcopy(network).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, network: TaskNetwork, step: int) -> None:
        """Update the average after optimiser step `step`; integer buffers are copied."""
        weight = 1.0 - ema_decay(step, self.decay)
        floats: tuple[list[Tensor], list[Tensor]] = ([], [])
        for mean, value in zip(self.network.state_dict().values(), network.state_dict().values(), strict=True):
            if mean.is_floating_point():
                floats[0].append(mean)
                floats[1].append(value)
            else:
                mean.copy_(value)
        torch._foreach_lerp_(floats[0], floats[1], weight)


class Bf16Copy:
    """A bfloat16 copy of a network for the forward and backward pass; the optimiser updates the fp32 master weights.

    Updates smaller than bfloat16's resolution, 1/256 of a weight, accumulate in the master weights. Batch norms stay in
    float32, and the copy shares the master's buffers.

    Args:
        master: the network with the fp32 master weights, on its device.
    """

    def __init__(self, master: nn.Module) -> None:
        self.network: Any = copy.deepcopy(master, {id(buffer): buffer for buffer in master.buffers()})
        float32_parameters = {
            id(p) for m in self.network.modules() if hasattr(m, "running_mean") for p in m.parameters()
        }
        for parameter in self.network.parameters():
            if id(parameter) not in float32_parameters:
                parameter.data = parameter.data.bfloat16()
        self._pairs = list(zip(self.network.parameters(), master.parameters(), strict=True))

    @torch.no_grad()
    def copy_master_weights(self) -> None:
        """Copy the master weights, rounded to bfloat16."""
        torch._foreach_copy_([copied for copied, _ in self._pairs], [value for _, value in self._pairs])

    def move_gradients_to_master(self) -> None:
        """Move the gradients to the master weights, in float32."""
        for copied, master in self._pairs:
            master.grad = None if copied.grad is None else copied.grad.float()
            copied.grad = None
