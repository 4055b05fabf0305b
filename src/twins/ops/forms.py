"""The form of each operator that computes on this machine, and the reason, by the predicates of `dispatch`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from twins.ops import dispatch
from twins.ops.private_torch import as_if_compiled

SITUATIONS = ("eager, no gradient", "eager, gradient", "compiled", "exported", "CUDA", "CUDA, compiled")


class Row(NamedTuple):
    """The form that computes a function in a situation."""

    function: str
    situation: str
    form: str
    reason: str


class Form(NamedTuple):
    """A faster form of a function."""

    name: str
    predicate: dispatch.Predicate[...]
    arguments: Callable[[ExampleTensors], tuple[Any, ...]]
    """Arguments of the predicate, chosen from the example tensors."""


class ExampleTensors:
    """Tensors as in the first stage of a network at 224 x 224: float32 on a CPU, bfloat16 on a GPU."""

    def __init__(self, device: str) -> None:
        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, device=device, dtype=torch.float32 if device == "cpu" else torch.bfloat16)

        self.x, self.taps = zeros(1, 56, 56, 64), zeros(64, 1, 3, 3)
        self.w1, self.b1, self.w2, self.b2 = zeros(256, 64), zeros(256), zeros(64, 256), zeros(64)
        self.q, self.kv = zeros(1, 3136, 64), zeros(1, 49, 128)
        self.windows, self.keys = zeros(64, 2, 49, 32), zeros(1, 2, 49, 32)


_ONEDNN = (dispatch.should_use_onednn, lambda t: (t.x, t.w1))
FORMS: dict[str, tuple[str, list[Form]]] = {
    "linear": ("F.linear", [Form("oneDNN", *_ONEDNN)]),
    "linear, packed": (
        "F.linear",
        [
            Form("twins::packed_linear", dispatch.should_use_packed_operators, lambda t: (t.x, t.w1)),
            Form("oneDNN, weights packed once", *_ONEDNN),
        ],
    ),
    "linear_gelu": (
        "F.linear, F.gelu",
        [
            Form("oneDNN with GELU inside", *_ONEDNN),
            Form("F.linear, polynomial GELU", dispatch.should_use_polynomial_gelu, lambda t: (t.x,)),
        ],
    ),
    "feed_forward": (
        "two linear layers",
        [Form("chunks", dispatch.should_chunk_feed_forward, lambda t: (t.x, t.w1, t.b1, t.w2, t.b2))],
    ),
    "attend": (
        "F.scaled_dot_product_attention",
        [Form("two batched products", dispatch.should_attend_by_products, lambda t: (t.windows, t.windows))],
    ),
    "attend_to_keys": ("attend", [Form("kernel", dispatch.can_use_keys_kernel, lambda t: (t.q, t.kv, 2, 0.0))]),
    "global attention, and add": (
        "attend_to_keys",
        [Form("folded projections", dispatch.should_fold_heads, lambda t: (t.x, t.keys))],
    ),
    "window_attention": (
        "attend, in one call",
        [
            Form("kernel", dispatch.can_use_window_kernel, lambda t: (t.x, 7, 2, 0.0)),
            Form("attend, in chunks", dispatch.should_chunk, lambda t: (t.x,)),
        ],
    ),
    "convolution, 3x3": ("F.conv2d", [Form("kernel", dispatch.can_use_convolution_kernel, lambda t: (t.x, t.taps))]),
    "norm, add_norm": ("F.layer_norm", [Form("kernel", dispatch.should_use_norm_kernel, lambda t: (t.x,))]),
    "block, inference form": (
        "its parts",
        [Form("two kernels", dispatch.should_use_block_kernels, lambda t: (t.x, t.w1))],
    ),
    "windows of a block": ("its parts", [Form("one tile", dispatch.can_hold_in_tile, lambda t: (49, 64, 2))]),
    "kernels for GPUs": ("none", [Form("Triton", dispatch.can_use_triton, lambda t: (t.x,))]),
    "bfloat16": ("bfloat16", [Form("float32", dispatch.should_compute_in_float32, lambda t: (t.x.bfloat16(),))]),
    "float16": ("float16", [Form("float32", dispatch.should_compute_in_float32, lambda t: (t.x.half(),))]),
    "maps of dense networks": ("channels-last", [Form("planar", dispatch.should_be_planar, lambda t: (t.x,))]),
    "residual add": ("a new tensor", [Form("in place", dispatch.can_overwrite, lambda t: ())]),
    "norm, GELU": (
        "kept as autograd does",
        [Form("recomputed", dispatch.can_recompute, lambda t: (t.b1.clone().requires_grad_(torch.is_grad_enabled()),))],
    ),
}
"""Standard form of each function, and its faster forms in the order in which they are tried."""


def chosen_forms() -> list[Row]:
    """Return one row for each situation and function."""
    return [row for situation in SITUATIONS for row in forms_in(situation)]


def forms_in(situation: str) -> Iterator[Row]:
    """Yield the row of each function in one of `SITUATIONS`."""
    gpu = situation.startswith("CUDA")
    if gpu and not torch.cuda.is_available():
        reason = _sentence(dispatch.objection_to_kernels())
        yield from (Row(function, situation, "none", reason) for function in FORMS)
        return
    tensors = ExampleTensors("cuda" if gpu else "cpu")
    with _in_situation(situation):
        for function, (standard, forms) in FORMS.items():
            objections = [form.predicate.objection(*form.arguments(tensors)) for form in forms]
            chosen = next((form for form, objection in zip(forms, objections, strict=True) if not objection), None)
            if chosen is None:
                yield Row(function, situation, standard, _sentence("; ".join(dict.fromkeys(objections))))
            else:
                yield Row(function, situation, chosen.name, _sentence((chosen.predicate.__doc__ or "").splitlines()[0]))


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:].rstrip('.')}."


@contextlib.contextmanager
def _in_situation(situation: str) -> Iterator[None]:
    """Run the code of this block as in a situation: with or without gradients, as if compiled or exported."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.set_grad_enabled(situation == "eager, gradient"))
        if situation == "exported" or situation.endswith("compiled"):
            stack.enter_context(as_if_compiled(exporting=situation == "exported"))
        yield
