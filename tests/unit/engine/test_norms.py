"""Batch norm's statistics: put back after what counts for nothing, and the same on every process."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from twins.engine.norms import average_statistics, copies, restore, running_statistics, synchronise

from .conftest import run_processes

PROCESS = """
import sys
from types import SimpleNamespace

import torch
from torch import nn

from twins.engine.norms import average_statistics, running_statistics

rank, folder = int(sys.argv[1]), sys.argv[2]
torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
network = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 5, 1), nn.BatchNorm2d(5), nn.BatchNorm1d(2).double())
network.append(nn.BatchNorm2d(4, track_running_stats=False))
generator = torch.Generator().manual_seed(rank)
for buffer in network.buffers():
    buffer.copy_(torch.rand(buffer.shape, generator=generator) + rank if buffer.ndim else torch.tensor(7))
weights = [value.detach().clone() for value in network.parameters()]
before = {key: value.clone() for key, value in network.named_buffers()}
average_statistics(running_statistics(network), SimpleNamespace(num_processes=2))
assert all(torch.equal(*pair) for pair in zip(weights, network.parameters(), strict=True))
torch.save((before, dict(network.named_buffers())), f"{folder}/{rank}.pt")
torch.distributed.destroy_process_group()
"""


def processes(number: int, device: str = "cpu"):
    """What the functions ask of accelerate."""
    return SimpleNamespace(num_processes=number, device=torch.device(device))


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1), nn.BatchNorm2d(2))


def same(tensors, others) -> bool:
    return all(torch.equal(*pair) for pair in zip(tensors, others, strict=True))


@pytest.mark.slow
def test_two_processes_end_with_the_mean_of_their_statistics(tmp_path):
    run_processes(PROCESS, [[str(rank), str(tmp_path)] for rank in range(2)])
    (first, after), (second, other) = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert len(after) == 9
    for name, found in after.items():
        assert torch.equal(found, other[name])
        expected = (first[name] + second[name]) / 2
        torch.testing.assert_close(found, expected.to(found.dtype), atol=1e-6, rtol=0)
    assert after["0.num_batches_tracked"] == 7


def test_copies_of_statistics_do_not_follow_the_network():
    model = network().train()
    before = copies(list(model.buffers()))
    model(torch.randn(4, 3, 8, 8))
    wanted = [buffer.clone() for buffer in model.buffers()]
    restore(list(model.buffers()), before)
    assert model[1].num_batches_tracked == 0
    restore(list(model.buffers()), wanted)
    assert model[1].num_batches_tracked == 1
    model(torch.randn(4, 3, 8, 8))
    assert wanted[2] == 1


def test_a_process_alone_needs_neither_synchronising_nor_averaging():
    model = network()
    before = copies(list(model.buffers()))
    assert synchronise(model, processes(1, "cuda")) is None
    average_statistics(running_statistics(model), processes(1))
    assert type(model[1]) is nn.BatchNorm2d
    assert same(before, model.buffers())
    assert synchronise(nn.Linear(2, 2), processes(2)) is None
    average_statistics(running_statistics(nn.Linear(2, 2)), processes(2))  # no group to talk in


def test_batch_norm_sees_all_processes_on_gpus_and_says_where_it_does_not():
    model = network()
    state = {key: value.clone() for key, value in model.state_dict().items()}
    assert "each process's own images" in synchronise(model, processes(2))
    assert type(model[1]) is nn.BatchNorm2d
    assert "all processes" in synchronise(model, processes(2, "cuda"))
    assert type(model[1]) is type(model[4]) is nn.SyncBatchNorm
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    average_statistics(running_statistics(model), processes(2))  # which has nothing left to do, so asks for no group
