"""Training with a bf16 copy of the network and fp32 master weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import twins
from twins.engine.copies import Bf16Copy
from twins.engine.state import load_state
from twins.weights.files import read_tensors

from .conftest import ToyTask, run_processes

PROCESS = """
import sys, torch
from torch import nn
from twins.engine.copies import Bf16Copy

rank, world, folder = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet-{world}", rank=rank, world_size=world)
torch.manual_seed(0)
master, images = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 1)), torch.randn(8, 8)
copy = Bf16Copy(master)
wrapped = nn.parallel.DistributedDataParallel(copy.network)
optimizer = torch.optim.AdamW(master.parameters(), lr=1e-2, fused=True)
for _ in range(3):
    wrapped(images.chunk(world)[rank].bfloat16()).float().square().mean().backward()
    copy.move_gradients_to_master()
    optimizer.step()
    copy.copy_master_weights()
torch.save(master.state_dict(), f"{folder}/{world}-{rank}.pt")
"""


def test_updates_too_small_for_bfloat16_accumulate_in_the_master_weights() -> None:
    """A hundred updates of 1e-4 from 1; the next smaller bfloat16 number is 1 - 1/256."""
    master = nn.Linear(1, 1, bias=False)
    nn.init.ones_(master.weight)
    copy, plain = Bf16Copy(master), nn.Linear(1, 1, bias=False, dtype=torch.bfloat16)
    nn.init.ones_(plain.weight)
    master_optimizer, plain_optimizer = (torch.optim.SGD(network.parameters(), lr=1e-4) for network in (master, plain))
    for _ in range(100):
        for network, optimizer in ((copy.network, master_optimizer), (plain, plain_optimizer)):
            network(torch.ones(1, 1, dtype=torch.bfloat16)).sum().backward()
            if network is copy.network:
                copy.move_gradients_to_master()
            optimizer.step()
            optimizer.zero_grad()
        copy.copy_master_weights()
    assert plain.weight.item() == 1.0
    torch.testing.assert_close(master.weight.item(), 0.99, atol=1e-5, rtol=0)
    assert copy.network.weight.item() == torch.tensor(0.99).bfloat16().item()


def test_the_copy_computes_in_bfloat16_and_shares_running_statistics() -> None:
    master = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    network = Bf16Copy(master).network
    assert network[0].weight.dtype == torch.bfloat16
    assert network[1].weight.dtype == torch.float32
    network.train()(torch.randn(2, 3, 4, 4, dtype=torch.bfloat16)).sum().backward()
    assert master[1].num_batches_tracked == 1
    assert master[1].running_mean.any()
    assert master[0].weight.grad is None


def test_gradients_of_the_copy_are_close_to_those_of_float32() -> None:
    torch.manual_seed(0)
    master = twins.create_model("twins_svt_nano", num_classes=3).eval()
    copy, images = Bf16Copy(master), torch.randn(2, 3, 64, 64)
    master(images)[:, 0].sum().backward()
    expected = {name: parameter.grad for name, parameter in master.named_parameters()}
    copy.network(images.bfloat16())[:, 0].sum().backward()
    copy.move_gradients_to_master()
    for name, parameter in master.named_parameters():
        assert parameter.grad.dtype == torch.float32
        assert torch.dist(parameter.grad, expected[name]) <= 0.1 * expected[name].norm() + 1e-3, name


def test_a_run_updates_saves_and_averages_float32_weights(toy: Any, tmp_path: Path) -> None:
    task = ToyTask()
    before = {name: value.clone() for name, value in task.state_dict().items()}
    _, outcome = toy(task=task, precision="bf16-true", ema_decay=0.9)
    assert outcome.metrics["top1"] > 0.8
    state = load_state(tmp_path)
    saved = read_tensors(tmp_path / "last" / "model.safetensors").tensors
    for values in (state.weights, state.average, saved, read_tensors(tmp_path / "best.safetensors").tensors):
        for name, value in values.items():
            assert value.dtype == torch.float32
            assert not torch.equal(value, before[name])
            assert not torch.equal(value, value.bfloat16().float())
    assert all(torch.equal(saved[name], value) for name, value in task.state_dict().items())
    moments = [value for entry in state.optimizer["state"].values() for value in entry.values()]
    assert all(value.dtype == torch.float32 for value in moments)


@pytest.mark.slow
def test_two_processes_update_the_weights_as_a_single_one_does(tmp_path: Path) -> None:
    shares = [("0", "1"), ("0", "2"), ("1", "2")]
    run_processes(PROCESS, [[*share, str(tmp_path)] for share in shares])
    single, first, second = (torch.load(tmp_path / f"{world}-{rank}.pt") for rank, world in shares)
    for name, value in single.items():
        assert torch.equal(first[name], second[name])
        torch.testing.assert_close(first[name], value, atol=2e-3, rtol=0)  # of steps of 0.03
