"""Peak memory in a process of its own, memory of living tensors, and a limit that makes an allocation fail in time."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from twins.engine.memory import available, is_out_of_memory_message, resident
from twins.errors import TrainingError


def peak_in_process(module: str, request: Any, label: str) -> float | None:
    """Return the peak memory in MiB that a module prints when it is run with a request as JSON.

    `None` means that memory ran out.

    Args:
        module: name of a module of this package.
        request: JSON-ready values.
        label: what is measured, for messages.

    Raises:
        TrainingError: the process failed.
    """
    command = [sys.executable, "-m", module, json.dumps(request)]
    child = subprocess.run(command, capture_output=True, text=True, check=False)
    if child.returncode == -9 or (child.returncode and is_out_of_memory_message(child.stderr)):  # -9: killed by Linux
        return None
    if child.returncode:
        raise TrainingError(f"memory of {label} could not be measured: {child.stderr.strip().splitlines()[-1:]}")
    return float(child.stdout.strip().splitlines()[-1])


@contextmanager
def memory_limit(device: torch.device) -> Iterator[None]:
    """Within this context, make allocations beyond the free memory fail.

    Without the limit Linux would kill the process. On other systems and devices nothing changes.
    """
    free = available() if device.type == "cpu" else None
    if free is None:
        yield
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limit = resident("VmData") + free
    finite = [value for value in (soft, hard, limit) if value != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_DATA, (min(finite), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


class LiveTensors(TorchDispatchMode):
    """Counts the memory of tensors that operators create within this context and that are still alive."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._storages: list[tuple[Any, int]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operator and record its results."""
        result = func(*args, **(kwargs or {}))
        storages = [leaf.untyped_storage() for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        self._storages += [(StorageWeakRef(storage), storage.nbytes()) for storage in storages]  # type: ignore[no-untyped-call]
        return result

    def bytes(self) -> int:
        """Return the bytes of the tensors that are alive now."""
        sizes: dict[int, int] = {reference.cdata: size for reference, size in self._storages if not reference.expired()}
        return sum(sizes.values())
