"""A running mean of a network's weights."""

from __future__ import annotations

import copy
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from twins.engine.contracts import Task
from twins.engine.schedule import averaging_decay

Network = TypeVar("Network", bound=Task)


class Average(Generic[Network]):
    """An exponential moving average of a network's weights; `network` is the averaged copy, in eval mode.

    Args:
        network: the network that is trained; it is copied.
        decay: decay per optimiser step, reached after a warm-up: min(decay, (1 + step) / (10 + step)).
    """

    def __init__(self, network: Network, decay: float) -> None:
        self.decay = decay
        self.network: Network = copy.deepcopy(network).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Move the mean towards the weights after optimiser step `step`; what is no float is copied."""
        weight = 1.0 - averaging_decay(step, self.decay)
        floats: tuple[list[Tensor], list[Tensor]] = ([], [])
        for mean, value in zip(self.network.state_dict().values(), network.state_dict().values(), strict=True):
            if mean.is_floating_point():
                floats[0].append(mean)
                floats[1].append(value)
            else:
                mean.copy_(value)
        torch._foreach_lerp_(floats[0], floats[1], weight)
