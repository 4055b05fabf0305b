"""Memory of living tensors, and a memory limit that makes an allocation fail before the system kills the process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from twins.engine.memory import available, resident


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
