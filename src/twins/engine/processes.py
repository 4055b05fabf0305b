"""The processes of a run: device, precision and ranks through accelerate, and exchange between ranks."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs

from twins.engine.config import TrainConfig
from twins.engine.trackers import check_trackers
from twins.errors import ConfigError, TwinsError

Result = TypeVar("Result")


_HARMLESS_WARNINGS = (
    "`broadcast_buffers` is deprecated",  # accelerate does not pass on the setting that replaces it
    r"Grad strides do not match[^=]+= \[\d+, 1, ",  # strides of a depthwise weight's single channel: nothing is moved
)
"""torch's warnings in distributed training that need no action."""


@contextmanager
def silence_warnings() -> Iterator[None]:
    """Silence harmless warnings about distributed training."""
    with warnings.catch_warnings():
        for pattern in _HARMLESS_WARNINGS:
            warnings.filterwarnings("ignore", message=pattern)
        yield


def build_accelerator(config: TrainConfig) -> Accelerator:
    """Return the `Accelerator` of this process: a single process, or one of those that `torchrun` started.

    Args:
        config: device, precision and trackers.

    Raises:
        ConfigError: the device is not available, or does not support the precision.
        MissingExtraError: a tracker is not installed.
    """
    _check_device(config)
    check_trackers(config.trackers)
    AcceleratorState._reset_state(reset_partial_state=not torch.distributed.is_initialized())  # left by an earlier run
    accelerator = Accelerator(
        cpu=config.device == "cpu",
        mixed_precision={"fp32": "no", "bf16-true": "no"}.get(config.precision, config.precision),
        kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)],  # `engine.norms` keeps them equal
    )
    if config.device not in ("auto", accelerator.device.type):
        raise ConfigError(
            f'`device="{config.device}"` was asked for, this machine computes on {accelerator.device.type}'
        )
    return accelerator


def _check_device(config: TrainConfig) -> None:
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if config.device in available and not available[config.device]:
        raise ConfigError(f'`device="{config.device}"` was asked for, but torch finds none here; use `device="cpu"`')
    gpu = config.device != "cpu" and any(available.values())
    if config.precision == "fp16" and not gpu:
        raise ConfigError('`precision="fp16"` needs a GPU, found only the CPU; use bf16 or fp32')


def run_on_main(accelerator: Accelerator, action: Callable[[], Result]) -> Result:
    """Run `action` on the main process only, and return its result on all; an error is raised on all.

    Raises:
        TwinsError: the error of the action, of the same class.
    """
    if accelerator.num_processes == 1:
        return action()
    outcome: list[Any] = [None]
    if accelerator.is_main_process:
        try:
            outcome = [(None, action())]
        except TwinsError as error:
            outcome = [(error, None)]
    torch.distributed.broadcast_object_list(outcome, src=0)
    failure, result = outcome[0]
    if failure is not None:
        raise failure
    return result


def gather(accelerator: Accelerator, value: Result) -> list[Result]:
    """Return the values of all processes, ordered by rank."""
    if accelerator.num_processes == 1:
        return [value]
    values: list[Any] = [None] * accelerator.num_processes
    torch.distributed.all_gather_object(values, value)
    return values


def sum_over_processes(accelerator: Accelerator, values: list[float]) -> list[float]:
    """Return the sum of each number over the processes."""
    if accelerator.num_processes == 1:
        return values
    dtype = torch.float32 if accelerator.device.type == "mps" else torch.float64
    numbers = torch.tensor(values, dtype=dtype, device=accelerator.device)
    torch.distributed.all_reduce(numbers)
    return numbers.tolist()
