"""What `twins doctor` says of this machine is what runs on it."""

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


def test_every_predicate_of_dispatch_is_asked():
    named = {name for name in vars(dispatch) if name.startswith(("can_", "should_"))}
    assert named == {form.predicate.__name__ for _, forms in FORMS.values() for form in forms}


def test_every_function_has_a_row_in_every_situation_with_one_sentence():
    rows = chosen_forms()
    assert [(row.function, row.situation) for row in rows] == [(f, s) for s in SITUATIONS for f in FORMS]
    assert all(row.form and row.reason and "\n" not in row.reason for row in rows)


def test_no_other_file_of_the_package_asks_for_a_device_or_a_compiler_to_choose_a_form():
    for name in ("attention", "windows", "convolutions", "feedforward", "linear", "norms", "chunks", "recompute"):
        code = inspect.getsource(__import__(f"twins.ops.{name}", fromlist=[name]))
        assert not [word for word in ("is_cuda", "is_compiling", "get_cpu_capability") if word in code], name


def operators(call) -> set[str]:
    with profile(activities=[ProfilerActivity.CPU]) as watched:
        call()
    return {event.key for event in watched.key_averages()}


@pytest.mark.parametrize("situation", ["eager, no gradient", "eager, gradient"])
def test_the_product_that_runs_is_the_one_that_is_said(situation):
    x, weight = torch.zeros(1, 56, 56, 64), torch.zeros(256, 64)
    with torch.set_grad_enabled(situation == "eager, gradient"):
        found = operators(lambda: linear(x, weight, None))
    assert ("mkldnn::_linear_pointwise" in found) == (form("linear", situation) == "oneDNN")


@pytest.mark.parametrize("situation", ["eager, no gradient", "eager, gradient"])
def test_windows_are_taken_in_chunks_where_that_is_said(situation):
    taken = []
    x = torch.zeros(2, 56, 56, 64)
    with torch.set_grad_enabled(situation == "eager, gradient"):
        window_attention(x, lambda part: taken.append(1) or part.repeat(1, 1, 1, 3), 7, 2, padding="exact")
    assert (len(taken) > 1) == (form("window_attention", situation) == "attend, in chunks")


@pytest.mark.parametrize("situation", ["compiled", "exported"])
def test_the_attention_that_is_traced_is_the_one_that_is_said(situation):
    class Attend(torch.nn.Module):
        def forward(self, x):
            return window_attention(x, lambda part: part.repeat(1, 1, 1, 3), 7, 2, padding="exact")

    found: list[str] = []

    def record(graph, _):
        found.extend(str(node.target) for node in graph.graph.nodes)
        return graph

    x = torch.zeros(1, 7, 7, 64)
    with torch.no_grad():
        if situation == "compiled":
            torch.compile(Attend(), backend=record, fullgraph=True)(x)
        else:
            record(torch.export.export(Attend(), (x,)), None)
    products = form("attend", situation) == "two batched products"
    assert any("baddbmm" in name for name in found) == products
    assert any("scaled_dot_product_attention" in name for name in found) == (not products)


def test_the_keys_of_the_report_are_stable():
    found = examine()
    assert list(found) == ["format", "versions", "cpu", "gpus", "triton", "onednn", "mkl", "caches", "serving"]
    assert list(found["cpu"]) == [
        *("name", "cores", "threads", "capability", "avx2", "avx512", "amx", "bfloat16", "float16")
    ]
    assert {"python", "os", "torch", "torchvision", "timm", "triton", "numpy", "pillow"} <= set(found["versions"])
    assert set(found["caches"]) == {"inductor", "triton"}
    assert set(found["serving"][0]) == {"function", "situation", "form", "reason"}
