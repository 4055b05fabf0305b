from __future__ import annotations

import torch
from torch import nn

from twins.engine.copies import EMA
from twins.engine.schedule import ema_decay


class Counter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0, 2.0]))
        self.register_buffer("count", torch.tensor(0))


def test_the_ema_follows_its_formula_and_copies_integer_buffers() -> None:
    network = Counter()
    average = EMA(network, 0.9)
    expected = network.weight.detach().clone()
    for step in range(1, 30):
        with torch.no_grad():
            network.weight += 0.5
            network.count += 1
        average.update(network, step)
        decay = ema_decay(step, 0.9)
        expected = decay * expected + (1 - decay) * network.weight.detach()
    torch.testing.assert_close(average.network.weight.detach(), expected)
    assert average.network.count == 29


def test_the_averaged_network_shares_no_weights_with_the_trained_one() -> None:
    network = Counter()
    average = EMA(network, 0.9)
    with torch.no_grad():
        network.weight += 1.0
    assert average.network.weight.tolist() == [1.0, 2.0]
    assert not average.network.weight.requires_grad
    assert not average.network.training
