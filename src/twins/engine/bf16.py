"""A bf16 copy of a network that computes, with fp32 master weights that are updated."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn


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
