"""Running statistics of batch norm: restored after a discarded pass, and equal on every process."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from twins.engine.norms import (
    average_statistics,
    clone_buffers,
    restore_buffers,
    running_statistics,
    synchronise_batch_norms,
)

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
    """The attributes of an `Accelerator` that the functions read."""
    return SimpleNamespace(num_processes=number, device=torch.device(device))


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1), nn.BatchNorm2d(2))


def all_equal(tensors, others) -> bool:
    return all(torch.equal(*pair) for pair in zip(tensors, others, strict=True))


@pytest.mark.slow
def test_two_processes_end_with_the_mean_of_their_statistics(tmp_path):
    run_processes(PROCESS, [[str(rank), str(tmp_path)] for rank in range(2)])
    (first, after), (second, other) = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert len(after) == 9
    for name, value in after.items():
        assert torch.equal(value, other[name])
        expected = (first[name] + second[name]) / 2
        torch.testing.assert_close(value, expected.to(value.dtype), atol=1e-6, rtol=0)
    assert after["0.num_batches_tracked"] == 7


def test_copies_of_statistics_do_not_follow_the_network():
    model = network().train()
    before = clone_buffers(list(model.buffers()))
    model(torch.randn(4, 3, 8, 8))
    after = [buffer.clone() for buffer in model.buffers()]
    restore_buffers(list(model.buffers()), before)
    assert model[1].num_batches_tracked == 0
    restore_buffers(list(model.buffers()), after)
    assert model[1].num_batches_tracked == 1
    model(torch.randn(4, 3, 8, 8))
    assert after[2] == 1


def test_a_single_process_neither_synchronises_nor_averages():
    model = network()
    before = clone_buffers(list(model.buffers()))
    assert synchronise_batch_norms(model, processes(1, "cuda")) is None
    average_statistics(running_statistics(model), processes(1))
    assert type(model[1]) is nn.BatchNorm2d
    assert all_equal(before, model.buffers())
    assert synchronise_batch_norms(nn.Linear(2, 2), processes(2)) is None
    average_statistics(running_statistics(nn.Linear(2, 2)), processes(2))  # without a process group


def test_batch_norm_is_synchronised_on_gpus_and_a_note_says_so_elsewhere():
    model = network()
    state = {key: value.clone() for key, value in model.state_dict().items()}
    assert "each process's own images" in synchronise_batch_norms(model, processes(2))
    assert type(model[1]) is nn.BatchNorm2d
    assert "all processes" in synchronise_batch_norms(model, processes(2, "cuda"))
    assert type(model[1]) is type(model[4]) is nn.SyncBatchNorm
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    average_statistics(running_statistics(model), processes(2))  # needs no process group: SyncBatchNorm is left out
