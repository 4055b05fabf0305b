"""The forms that `twins doctor` reports are the forms that compute."""

from __future__ import annotations

import inspect

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from twins.cli.doctor import examine
from twins.ops import dispatch
from twins.ops.forms import FORMS, SITUATIONS, chosen_forms
from twins.ops.linear import linear
from twins.ops.windows import window_attention


def form(function: str, situation: str) -> str:
    return next(row.form for row in chosen_forms() if (row.function, row.situation) == (function, situation))


def test_every_predicate_of_dispatch_has_a_form():
    named = {name for name in vars(dispatch) if name.startswith(("can_", "should_"))}
    assert named == {form.predicate.__name__ for _, forms in FORMS.values() for form in forms}


def test_every_function_has_a_row_in_every_situation_with_one_sentence():
    rows = chosen_forms()
    assert [(row.function, row.situation) for row in rows] == [(f, s) for s in SITUATIONS for f in FORMS]
    assert all(row.form and row.reason and "\n" not in row.reason for row in rows)


def test_no_definition_of_an_operator_chooses_a_form_by_itself():
    for name in ("attention", "windows", "convolutions", "feedforward", "linear", "norms", "chunks", "recompute"):
        code = inspect.getsource(__import__(f"twins.ops.{name}", fromlist=[name]))
        assert not [word for word in ("is_cuda", "is_compiling", "get_cpu_capability") if word in code], name


def operators(call) -> set[str]:
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        call()
    return {event.key for event in profiler.key_averages()}


@pytest.mark.parametrize("situation", ["eager, no gradient", "eager, gradient"])
def test_linear_computes_in_the_form_that_is_reported(situation):
    x, weight = torch.zeros(1, 56, 56, 64), torch.zeros(256, 64)
    with torch.set_grad_enabled(situation == "eager, gradient"):
        called = operators(lambda: linear(x, weight, None))
    assert ("mkldnn::_linear_pointwise" in called) == (form("linear", situation) == "oneDNN")


@pytest.mark.parametrize("situation", ["eager, no gradient", "eager, gradient"])
def test_window_attention_computes_in_chunks_where_that_is_reported(situation):
    calls = []
    x = torch.zeros(2, 56, 56, 64)
    with torch.set_grad_enabled(situation == "eager, gradient"):
        window_attention(x, lambda part: calls.append(1) or part.repeat(1, 1, 1, 3), 7, 2, padding="exact")
    assert (len(calls) > 1) == (form("window_attention", situation) == "attend, in chunks")


@pytest.mark.parametrize("situation", ["compiled", "exported"])
def test_traced_attention_has_the_form_that_is_reported(situation):
    class Attend(torch.nn.Module):
        def forward(self, x):
            return window_attention(x, lambda part: part.repeat(1, 1, 1, 3), 7, 2, padding="exact")

    targets: list[str] = []

    def record(graph, _):
        targets.extend(str(node.target) for node in graph.graph.nodes)
        return graph

    x = torch.zeros(1, 7, 7, 64)
    with torch.no_grad():
        if situation == "compiled":
            torch.compile(Attend(), backend=record, fullgraph=True)(x)
        else:
            record(torch.export.export(Attend(), (x,)), None)
    products = form("attend", situation) == "two batched products"
    assert any("baddbmm" in name for name in targets) == products
    assert any("scaled_dot_product_attention" in name for name in targets) == (not products)


def test_the_keys_of_the_report_are_stable():
    report = examine()
    assert list(report) == ["format", "versions", "cpu", "gpus", "triton", "onednn", "mkl", "caches", "serving"]
    assert list(report["cpu"]) == [
        *("name", "cores", "threads", "capability", "avx2", "avx512", "amx", "bfloat16", "float16")
    ]
    assert {"python", "os", "torch", "torchvision", "timm", "triton", "numpy", "pillow"} <= set(report["versions"])
    assert set(report["caches"]) == {"inductor", "triton"}
    assert set(report["serving"][0]) == {"function", "situation", "form", "reason"}
