"""Copies of the network that learns: the average of its weights (EMA), and the bf16 copy that computes."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from twins.engine.schedule import ema_decay
from twins.tasks.network import TaskNetwork


class EMA:
    """An exponential moving average of a network's weights; `network` is the averaged copy, in eval mode.

    Args:
        network: the network that is trained; it is copied.
        decay: decay per optimiser step, reached after a warm-up: min(decay, (1 + step) / (10 + step)).
    """

    def __init__(self, network: TaskNetwork, decay: float) -> None:
        self.decay = decay
        self.network = copy.deepcopy(network).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, network: TaskNetwork, step: int) -> None:
        """Move the mean towards the weights after optimiser step `step`; what is no float is copied."""
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
    """A bfloat16 copy of a network for the forward and backward pass; updates are made to the network itself.

    An update smaller than bfloat16's resolution, 1/256 of a weight, is not lost: it adds up in the master. Batch norms
    stay in float32, and buffers are the master's own.

    Args:
        master: the network in float32, on its device.
    """

    def __init__(self, master: nn.Module) -> None:
        self.network: Any = copy.deepcopy(master, {id(buffer): buffer for buffer in master.buffers()})
        wide = {id(p) for m in self.network.modules() if hasattr(m, "running_mean") for p in m.parameters()}
        for parameter in self.network.parameters():
            if id(parameter) not in wide:
                parameter.data = parameter.data.bfloat16()
        self._pairs = list(zip(self.network.parameters(), master.parameters(), strict=True))

    @torch.no_grad()
    def read_weights(self) -> None:
        """Take over the master's weights, rounded."""
        torch._foreach_copy_([mine for mine, _ in self._pairs], [value for _, value in self._pairs])

    def hand_over_gradients(self) -> None:
        """Move the gradients to the master, in float32."""
        for mine, master in self._pairs:
            master.grad = None if mine.grad is None else mine.grad.float()
            mine.grad = None
