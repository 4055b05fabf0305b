"""Batch norm in distributed training, and its running statistics as part of a run's state."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def synchronise_batch_norms(network: nn.Module, accelerator: Accelerator) -> str | None:
    """Synchronise batch norms over the processes, and return a note for the log; `None` if nothing changes.

    PyTorch's synchronised batch norm needs GPUs. On other devices each process normalises by its own images, and
    `average_statistics` keeps the running statistics equal.
    """
    if accelerator.num_processes == 1 or not _batch_norms(network):
        return None
    if accelerator.device.type != "cuda":
        return (
            "batch norm sees each process's own images, because PyTorch synchronises it only on GPUs; running "
            "statistics are averaged over the processes after each step"
        )
    nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
    return "batch norm sees the images of all processes"


def running_statistics(network: nn.Module) -> list[Tensor]:
    """Return the running means and variances of batch norms that are not synchronised."""
    norms = [norm for norm in _batch_norms(network) if not isinstance(norm, nn.SyncBatchNorm)]
    statistics = [value for norm in norms for value in (norm.running_mean, norm.running_var)]
    return [value for value in statistics if value is not None]


def average_statistics(values: Sequence[Tensor], accelerator: Accelerator) -> None:
    """Replace running statistics by their mean over the processes."""
    if accelerator.num_processes == 1 or not values:
        return
    flat = torch.cat([value.flatten() for value in values])
    torch.distributed.all_reduce(flat)
    flat /= accelerator.num_processes
    for value, part in zip(values, torch.split(flat, [value.numel() for value in values]), strict=True):
        value.copy_(part.view_as(value))


def clone_buffers(buffers: Sequence[Tensor]) -> list[Tensor]:
    """Return copies of buffers."""
    return [buffer.clone() for buffer in buffers]


@torch.no_grad()
def restore_buffers(buffers: Sequence[Tensor], before: Sequence[Tensor]) -> None:
    """Restore the values that `clone_buffers` returned."""
    for buffer, value in zip(buffers, before, strict=True):
        buffer.copy_(value)


def _batch_norms(network: nn.Module) -> list[_BatchNorm]:
    return [module for module in network.modules() if isinstance(module, _BatchNorm)]
