"""The roofline: what a step counts, what this machine can do on the spot, and the share of it that is reached.

Operations are two for each multiply-add of matrix products, convolutions and attention. Bytes are what every operator
reads and writes, as if nothing stayed in a cache between two of them: more than must move, and about what does where
maps are larger than the caches.
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

from twins.bench.subjects import DTYPES, Step
from twins.bench.timing import timed
from twins.ops.linear import linear

PRODUCTS = ((1024, 1024, 1024), (2048, 1024, 1024), (3136, 256, 1024))
"""Rows, channels in and channels out of the matrix products that are timed on a CPU."""
LARGE_PRODUCTS = ((8192, 8192, 8192), (16384, 1024, 4096))
"""The same on a GPU."""
BUFFER = 128 << 20
"""Bytes of each of the three tensors that memory is timed with: more than a cache holds."""
SECONDS = 0.2
"""How long each of these is repeated."""


@dataclass(frozen=True)
class Cost:
    """What one call of an operator takes."""

    name: str
    operations: int
    moved: int
    """Bytes read and written."""


@dataclass(frozen=True)
class Ceilings:
    """What a machine can do at best."""

    operations_per_s: float
    bytes_per_s: float

    def times(self, operations: int, moved: int) -> tuple[float, float]:
        """Return the seconds that operations take, and that moving bytes takes, each by itself."""
        return operations / self.operations_per_s, moved / self.bytes_per_s


class Operators(TorchDispatchMode):
    """Notes the cost of every operator that runs inside this block; kernels are the standard ones."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.costs: list[Cost] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Note an operator, or what it is made of."""
        kwargs = kwargs or {}
        formula = _FORMULAS.get(func._overloadpacket)
        if formula is None and func is not torch.ops.prim.device.default:
            with self:
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        result = func(*args, **kwargs)
        operations = formula(*args, **kwargs, out_val=result) if formula else 0
        self.costs.append(Cost(func._overloadpacket.__name__, operations, _moved(func, args, kwargs, result)))
        return result


def count(step: Step) -> list[Cost]:
    """Return the cost of each operator of a step, which is run once."""
    with Operators() as operators:
        step()
    return operators.costs


def ceilings(device: torch.device, precision: str) -> Ceilings:
    """Measure the fastest of some matrix products in a precision, and of a sum and a copy of large tensors."""
    shapes = PRODUCTS if device.type == "cpu" else LARGE_PRODUCTS
    with torch.inference_mode():
        products = [_product_rate(*shape, device, DTYPES[precision]) for shape in shapes]
        return Ceilings(max(products), _memory_rate(device))


def roofline(costs: Sequence[Cost], machine: Ceilings, seconds: float) -> dict[str, Any]:
    """Return what a row says of its roofline, from what a step counts and the seconds that it took.

    Returns:
        what is counted and the ceilings; `attainable_ms`, the longer of the times that the operations and the bytes
        take, which is which (`bound`) and its `share` of the measured time; the same operator by operator, none of
        which overlaps with another; and the operators that take most of that time, with their share of it.
    """
    operations, moved = sum(cost.operations for cost in costs), sum(cost.moved for cost in costs)
    computing, moving = machine.times(operations, moved)
    each = Counter[str]()
    for cost in costs:
        each[cost.name] += max(machine.times(cost.operations, cost.moved))  # type: ignore[assignment]
    attainable, apart = max(computing, moving), float(each.total())
    return {
        "gflop": operations / 1e9,
        "mib": moved / 2**20,
        "peak_gflop_per_s": machine.operations_per_s / 1e9,
        "peak_gb_per_s": machine.bytes_per_s / 1e9,
        "operations_ms": 1e3 * computing,
        "bytes_ms": 1e3 * moving,
        "attainable_ms": 1e3 * attainable,
        "bound": "operations" if computing >= moving else "bytes",
        "share": attainable / seconds,
        "by_operator_ms": 1e3 * apart,
        "by_operator_share": apart / seconds,
        "operators": {name: took / apart for name, took in each.most_common(5)},
    }


def _moved(func: Any, args: Any, kwargs: Any, result: Any) -> int:
    """Return the bytes that an operator reads and writes: none of a view, or of memory that is only asked for."""
    returns = func._schema.returns
    if any(x.alias_info is not None and not x.alias_info.is_write for x in returns) or func._overloadpacket in _FREE:
        return 0
    written = result if returns else args  # lists that are changed in place are not returned
    return sum(map(_bytes, (x for x in tree_leaves((args, kwargs, written)) if isinstance(x, Tensor))))


def _bytes(x: Tensor) -> int:
    return min(x.numel() * x.element_size(), x.untyped_storage().nbytes())  # what is expanded is read once


def _attention(query: Any, key: Any, value: Any, *args: Any, out_val: Any = None, **kwargs: Any) -> int:
    """Return the operations of attention's two products, of queries `(B, h, N, d)` and keys `(B, h, M, d)`."""
    return 2 * query.shape[:-1].numel() * key.shape[-2] * (query.shape[-1] + value.shape[-1])


def _attention_backward(grad: Any, *inputs: Any, **kwargs: Any) -> int:
    """Return the operations of the five products of attention's backward pass, the scores computed again."""
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
"""Operators that touch no values to speak of."""
_FORMULAS: dict[Any, Callable[..., int]] = {
    **flop_registry,
    aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}
"""Operations of the operators that multiply; all others count none."""


def _product_rate(rows: int, inside: int, out: int, device: torch.device, dtype: torch.dtype) -> float:
    """Return the operations a second of the faster of our linear layer and torch's."""
    x, weight = (torch.randn(count, inside, device=device, dtype=dtype) for count in (rows, out))
    best = min(_fastest(lambda call=call: call(x, weight, None), device) for call in (linear, F.linear))  # type: ignore[misc]
    return 2.0 * rows * inside * out / best


def _memory_rate(device: torch.device) -> float:
    """Return the bytes a second of the faster of a sum and a copy; what is fetched to be overwritten is not counted."""
    a, b, c = (torch.ones(BUFFER // 4, device=device) for _ in range(3))
    return max(
        3 * BUFFER / _fastest(lambda: torch.add(a, b, out=c), device), 2 * BUFFER / _fastest(lambda: c.copy_(a), device)
    )


def _fastest(step: Step, device: torch.device) -> float:
    """Return the seconds of the fastest of some calls, at least three."""
    timed(step, device)
    start, times = time.perf_counter(), [timed(step, device) for _ in range(3)]
    while time.perf_counter() - start < SECONDS:
        times.append(timed(step, device))
    return min(times)
