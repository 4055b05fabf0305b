"""An exponential moving average (EMA) of a network's weights."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

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
