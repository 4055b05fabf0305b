"""The processes of a run: accelerate's door to devices, precision and ranks, and how ranks agree."""

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
from twins.errors import ConfigError, MissingExtraError, TwinsError, nearest

Result = TypeVar("Result")


_UNFOUNDED = (
    "`broadcast_buffers` is deprecated",  # its successor is not among the settings that accelerate passes on
    r"Grad strides do not match[^=]+= \[\d+, 1, ",  # of a depthwise weight's only channel, so no byte is moved
)
"""torch's warnings that say nothing of a run of several processes."""


@contextmanager
def silence_warnings() -> Iterator[None]:
    """Silence the warnings about distributed training that nobody can act on."""
    with warnings.catch_warnings():
        for pattern in _UNFOUNDED:
            warnings.filterwarnings("ignore", message=pattern)
        yield


def build_accelerator(config: TrainConfig) -> Accelerator:
    """Return accelerate's view of this process: alone, or one of `torchrun`'s.

    Args:
        config: device, precision and trackers.

    Raises:
        ConfigError: a device that is not there, or a precision that it has not.
        MissingExtraError: a tracker that is not installed.
    """
    _check_device(config)
    _check_trackers(config.trackers)
    AcceleratorState._reset_state(reset_partial_state=not torch.distributed.is_initialized())  # an earlier run's
    accelerator = Accelerator(
        cpu=config.device == "cpu",
        mixed_precision={"fp32": "no", "bf16-true": "no"}.get(config.precision, config.precision),
        log_with=list(config.trackers) or None,
        kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)],  # `engine.norms` keeps them alike
    )
    if config.device not in ("auto", accelerator.device.type):
        raise ConfigError(
            f'`device="{config.device}"` was asked for, this machine computes on {accelerator.device.type}'
        )
    return accelerator


def _check_device(config: TrainConfig) -> None:
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if config.device in there and not there[config.device]:
        raise ConfigError(f'`device="{config.device}"` was asked for, but torch finds none here; use `device="cpu"`')
    gpu = config.device != "cpu" and any(there.values())
    if config.precision == "fp16" and not gpu:
        raise ConfigError('`precision="fp16"` needs a GPU, found only the CPU; use bf16 or fp32')


def _check_trackers(names: tuple[str, ...]) -> None:
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

    available = {str(tracker) for tracker in get_available_trackers()}
    for name in names:
        if name not in LOGGER_TYPE_TO_CLASS:
            known = sorted(map(str, LOGGER_TYPE_TO_CLASS))
            raise ConfigError(f"`trackers` names {name!r}, which accelerate does not have{nearest(name, known)}")
        if name not in available:
            raise MissingExtraError(f"the tracker {name} is not installed; pip install {name}")


def run_on_main(accelerator: Accelerator, action: Callable[[], Result]) -> Result:
    """Run `action` in the main process alone and give its result to all; an error of it is raised by all.

    Raises:
        TwinsError: what the action raised, of the same class.
    """
    if accelerator.num_processes == 1:
        return action()
    parcel: list[Any] = [None]
    if accelerator.is_main_process:
        try:
            parcel = [(None, action())]
        except TwinsError as error:
            parcel = [(error, None)]
    torch.distributed.broadcast_object_list(parcel, src=0)
    failure, result = parcel[0]
    if failure is not None:
        raise failure
    return result


def gather(accelerator: Accelerator, value: Result) -> list[Result]:
    """Return every process's value, by rank."""
    if accelerator.num_processes == 1:
        return [value]
    values: list[Any] = [None] * accelerator.num_processes
    torch.distributed.all_gather_object(values, value)
    return values


def sum_over_processes(accelerator: Accelerator, values: list[float]) -> list[float]:
    """Return the sum over processes of each number."""
    if accelerator.num_processes == 1:
        return values
    kind = torch.float32 if accelerator.device.type == "mps" else torch.float64
    numbers = torch.tensor(values, dtype=kind, device=accelerator.device)
    torch.distributed.all_reduce(numbers)
    return numbers.tolist()
