"""The roofline: operations and bytes of a step, this machine's measured peak rates, and the share of the peak reached.

A multiply-add of a matrix product, a convolution or attention counts as two operations. Bytes are the reads and writes
of every operator, as if nothing stayed in a cache between two operators: an upper bound, close to the true number
if the maps are larger than the caches.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from twins.bench.networks import DTYPES, Step
from twins.bench.timing import time_step
from twins.ops.linear import linear

PRODUCTS = ((1024, 1024, 1024), (2048, 1024, 1024), (3136, 256, 1024))
"""Rows, input channels and output channels of the matrix products that are timed on a CPU."""
LARGE_PRODUCTS = ((8192, 8192, 8192), (16384, 1024, 4096))
"""Rows, input channels and output channels of the matrix products that are timed on a GPU."""
BUFFER = 128 << 20
"""Bytes of each of the three tensors that measure memory bandwidth; larger than any cache."""
SECONDS = 0.2
"""Seconds for which each timed operation is repeated."""


@dataclass(frozen=True)
class Cost:
    """Cost of one call of an operator."""

    name: str
    operations: int
    bytes_moved: int
    """Bytes read and written."""


@dataclass(frozen=True)
class PeakRates:
    """Measured peak rates of a machine."""

    operations_per_s: float
    bytes_per_s: float

    def times(self, operations: int, bytes_moved: int) -> tuple[float, float]:
        """Return the seconds that the operations take and the seconds that the bytes take, at these rates."""
        return operations / self.operations_per_s, bytes_moved / self.bytes_per_s


class CostCounter(TorchDispatchMode):
    """Counts the cost of every operator that runs within this context, in its standard form."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.costs: list[Cost] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operator and record its cost, or the costs of the operators that it consists of."""
        kwargs = kwargs or {}
        formula = _FORMULAS.get(func._overloadpacket)
        if formula is None and func is not torch.ops.prim.device.default:
            with self:
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        result = func(*args, **kwargs)
        operations = formula(*args, **kwargs, out_val=result) if formula else 0
        self.costs.append(Cost(func._overloadpacket.__name__, operations, _bytes_moved(func, args, kwargs, result)))
        return result


def count_costs(step: Step) -> list[Cost]:
    """Run a step once and return the cost of each operator."""
    with CostCounter() as counter:
        step()
    return counter.costs


def peak_rates(device: torch.device, precision: str) -> PeakRates:
    """Measure the peak rates: by matrix products in this precision, and by a sum and a copy of large tensors."""
    shapes = PRODUCTS if device.type == "cpu" else LARGE_PRODUCTS
    with torch.inference_mode():
        products = [_product_rate(*shape, device, DTYPES[precision]) for shape in shapes]
        return PeakRates(max(products), _memory_rate(device))


def roofline(costs: Sequence[Cost], machine: PeakRates, seconds: float) -> dict[str, Any]:
    """Return the roofline of a step, for its row of the table, from its costs and its measured time.

    Args:
        costs: cost of each operator.
        machine: the peak rates.
        seconds: measured time of the step.

    Returns:
        the counts and the peak rates. `operations_ms` and `bytes_ms` are the times of all operations and of all bytes
        at these rates; `attainable_ms` is the longer one, `bound` its name, and `share` is `attainable_ms` over the
        measured time. `by_operator_ms` is the sum of the longer time of each operator, as if operators did not overlap,
        and `by_operator_share` is this sum over the measured time. `operators` has the five operators with the largest
        shares of `by_operator_ms`.
    """
    operations, bytes_moved = sum(cost.operations for cost in costs), sum(cost.bytes_moved for cost in costs)
    computing, moving = machine.times(operations, bytes_moved)
    by_operator = Counter[str]()
    for cost in costs:
        by_operator[cost.name] += max(machine.times(cost.operations, cost.bytes_moved))  # type: ignore[assignment]
    attainable, total = max(computing, moving), float(by_operator.total())
    return {
        "gflop": operations / 1e9,
        "mib": bytes_moved / 2**20,
        "peak_gflop_per_s": machine.operations_per_s / 1e9,
        "peak_gb_per_s": machine.bytes_per_s / 1e9,
        "operations_ms": 1e3 * computing,
        "bytes_ms": 1e3 * moving,
        "attainable_ms": 1e3 * attainable,
        "bound": "operations" if computing >= moving else "bytes",
        "share": attainable / seconds,
        "by_operator_ms": 1e3 * total,
        "by_operator_share": total / seconds,
        "operators": {name: operator_seconds / total for name, operator_seconds in by_operator.most_common(5)},
    }


def _bytes_moved(func: Any, args: Any, kwargs: Any, result: Any) -> int:
    """Return the bytes that an operator reads and writes; views and allocations move none."""
    returns = func._schema.returns
    if any(x.alias_info is not None and not x.alias_info.is_write for x in returns) or func._overloadpacket in _FREE:
        return 0
    outputs = result if returns else args  # operators on lists change them in place and return nothing
    return sum(map(_bytes, (x for x in tree_leaves((args, kwargs, outputs)) if isinstance(x, Tensor))))


def _bytes(x: Tensor) -> int:
    return min(x.numel() * x.element_size(), x.untyped_storage().nbytes())  # an expanded tensor is read once


def _attention(query: Any, key: Any, value: Any, *args: Any, out_val: Any = None, **kwargs: Any) -> int:
    """Return the operations of attention's two products for queries `(B, h, N, d)` and keys `(B, h, M, d)`."""
    return 2 * query.shape[:-1].numel() * key.shape[-2] * (query.shape[-1] + value.shape[-1])


def _attention_backward(grad: Any, *inputs: Any, **kwargs: Any) -> int:
    """Return the operations of the five products of attention's backward pass, which recomputes the scores."""
    return _attention(*inputs) * 5 // 2


aten = torch.ops.aten
_FREE = {
    aten.empty,
    aten.empty_like,
    aten.empty_strided,
    aten.new_empty,
    aten.new_empty_strided,
    aten._unsafe_view,
    aten._local_scalar_dense,
}
"""Operators that read and write at most one value."""
_FORMULAS: dict[Any, Callable[..., int]] = {
    **flop_registry,
    aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}
"""Functions that count the operations of an operator; operators without one have zero."""


def _product_rate(rows: int, inputs: int, outputs: int, device: torch.device, dtype: torch.dtype) -> float:
    """Return the operations per second of a matrix product, by our linear layer or torch's, the faster one."""
    x, weight = (torch.randn(count, inputs, device=device, dtype=dtype) for count in (rows, outputs))
    best = min(_fastest(lambda call=call: call(x, weight, None), device) for call in (linear, F.linear))  # type: ignore[misc]
    return 2.0 * rows * inputs * outputs / best


def _memory_rate(device: torch.device) -> float:
    """Return the bytes per second of a sum or a copy, the faster one; cache reads before a write do not count."""
    a, b, c = (torch.ones(BUFFER // 4, device=device) for _ in range(3))
    return max(
        3 * BUFFER / _fastest(lambda: torch.add(a, b, out=c), device), 2 * BUFFER / _fastest(lambda: c.copy_(a), device)
    )


def _fastest(step: Step, device: torch.device) -> float:
    """Repeat a step for `SECONDS`, at least three times, and return the shortest time in seconds."""
    time_step(step, device)
    start, times = time.perf_counter(), [time_step(step, device) for _ in range(3)]
    while time.perf_counter() - start < SECONDS:
        times.append(time_step(step, device))
    return min(times)
