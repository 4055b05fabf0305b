"""Each kernel under Triton's interpreter against the standard form in float64; run by `test_kernels.py`."""

from __future__ import annotations

import os

os.environ["TRITON_INTERPRET"] = "1"  # before Triton is imported

import functools
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

import twins
from twins.backbone.config import VARIANTS
from twins.ops import dispatch
from twins.ops.attention import attend_to_keys
from twins.ops.convolutions import positional_convolution
from twins.ops.gpu import attention as few_keys
from twins.ops.gpu import blocks, convolutions, norms, windows
from twins.ops.norms import add_norm, norm
from twins.ops.padding import fill_outside
from twins.ops.windows import window_attention

PADDINGS = ["exact", "reference", "unmasked"]
TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 0.03, torch.float16: 0.004}
"""Relative to the largest value: float32 sums in another order, half precision rounds a few times to 8 or 11 bits."""


def use_kernels_for(monkeypatch, accepts):
    """Use kernels for the tensors that `accepts` returns true for."""
    predicate = dispatch.predicate(lambda x: "" if accepts(x) else "not in this test")
    monkeypatch.setattr(dispatch, "can_use_triton", predicate)


@pytest.fixture(autouse=True)
def _kernels_below_float64(monkeypatch):
    torch.manual_seed(0)
    for name, config in VARIANTS.items():
        if name.endswith("_nano"):  # blocks before and after the PEG, with each attention
            monkeypatch.setitem(VARIANTS, name, replace(config, depths=(2, 1, 1, 2)))
    monkeypatch.setattr(convolutions, "_SPLIT", 64)  # small, as the interpreter is slow, yet several partial sums
    monkeypatch.setattr(few_keys, "_SPLIT", 128)
    use_kernels_for(monkeypatch, lambda x: x.dtype != torch.float64)


def assert_agrees_with_float64(compute, inputs: list[torch.Tensor], dtype: torch.dtype = torch.float32) -> None:
    """Compare values and gradients in `dtype`, by kernels, with those in float64, by the standard form."""
    results = []
    for kind in (dtype, torch.float64):
        leaves = [x.to(dtype).to(kind).requires_grad_() for x in inputs]
        y = compute(*leaves)
        weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(kind)
        results.append([y.detach(), *torch.autograd.grad((y * weights).sum(), leaves)])
    for actual, expected in zip(*results, strict=True):
        assert actual.isfinite().all()
        assert actual.dtype == dtype
        assert float((actual.double() - expected).abs().max()) <= TOLERANCE[dtype] * float(expected.abs().max())


def attention(padding: str, sizes: torch.Tensor | None, heads: int, window: int = 7):
    def compute(x, weight, bias):
        project = functools.partial(F.linear, weight=weight, bias=bias)
        return window_attention(x, project, window, heads, padding=padding, sizes=sizes)

    return compute


def inputs(height: int, width: int, channels: int, batch: int = 2) -> list[torch.Tensor]:
    projection = torch.randn(3 * channels, channels) / channels**0.5
    return [torch.randn(batch, height, width, channels), projection, torch.randn(3 * channels)]


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("size", [(7, 7), (14, 5), (10, 11)])
def test_window_attention_at_every_kind_of_border(size, padding):
    assert_agrees_with_float64(attention(padding, None, 2), inputs(*size, 32, batch=1))


@pytest.mark.parametrize("padding", PADDINGS)
def test_window_attention_with_several_true_sizes(padding):
    sizes = torch.tensor([[9, 9], [7, 3], [2, 9]])  # the second and the third leave windows without a key
    x, weight, bias = inputs(9, 9, 32, batch=3)
    assert_agrees_with_float64(attention(padding, sizes, 2), [fill_outside(x, sizes), weight, bias])


@pytest.mark.parametrize(("channels", "heads"), [(16, 1), (24, 3), (48, 2), (64, 1), (96, 3)])
def test_heads_of_every_width(channels, heads):
    assert_agrees_with_float64(attention("unmasked", None, heads), inputs(8, 7, channels, batch=1))


def test_windows_of_another_side():
    assert_agrees_with_float64(attention("exact", None, 2, window=4), inputs(9, 8, 32, batch=1))


@pytest.mark.parametrize(("tokens", "few", "channels", "heads"), [(150, 49, 32, 2), (3, 1, 24, 3), (64, 64, 64, 1)])
@pytest.mark.parametrize("masked", [False, True])
def test_few_keys(masked, tokens, few, channels, heads):
    key_mask = torch.arange(few) < torch.tensor([[few], [few // 2]]) if masked else None  # half of one key is none
    tensors = [torch.randn(2, tokens, channels), torch.randn(2, few, 2 * channels)]
    assert_agrees_with_float64(lambda q, kv: attend_to_keys(q, kv, heads, key_mask), tensors)


@pytest.mark.parametrize(
    ("name", "padding"), [*(("twins_svt_nano", padding) for padding in PADDINGS), ("twins_pcpvt_nano", "unmasked")]
)
def test_blocks_of_the_inference_form(name, padding, monkeypatch):
    network = twins.create_model(name, num_classes=3, padding=padding).eval()
    for module in network.modules():
        if isinstance(module, torch.nn.LayerNorm):
            torch.nn.init.normal_(module.weight, 1, 0.2)
            torch.nn.init.normal_(module.bias, 0, 0.2)
    fused, images = network.half().fuse(), torch.randn(1, 3, 40, 36).half()
    calls = []
    tail = blocks.block_tail
    monkeypatch.setattr(blocks, "block_tail", lambda *args: calls.append(1) or tail(*args))
    with torch.inference_mode():
        actual = fused(images)
        expected = network.double()(images.double())
    assert len(calls) == sum(network.backbone.config.depths[:3])  # the last stage has too many channels
    assert float((actual.double() - expected).abs().max()) < 0.01 * float(expected.abs().max())


def test_blocks_of_the_inference_form_with_sizes_and_with_a_norm_that_stays(monkeypatch):
    network = twins.create_model("twins_svt_nano", num_classes=3).eval()
    network.backbone.stages[0].blocks[0].norm1.weight.data[3] = 0  # no fill value becomes zero after this norm
    images, sizes, calls = torch.randn(2, 3, 40, 36).half(), torch.tensor([[40, 36], [33, 35]]), []
    fused = network.half().fuse()
    within = blocks.normed_window_attention
    monkeypatch.setattr(blocks, "normed_window_attention", lambda *g, **s: calls.append(1) or within(*g, **s))
    network = network.double()
    for arguments, count in [((images,), 2), ((images, sizes), 0)]:
        calls.clear()
        with torch.inference_mode():
            actual, exact = fused(*arguments), network(images.double(), *arguments[1:])
        assert len(calls) == count
        assert float((actual.double() - exact).abs().max()) < 0.01 * float(exact.abs().max())


def test_a_hook_on_a_part_of_a_block_is_called():
    fused = twins.create_backbone("twins_svt_nano").half().fuse()
    fused.set_grad_checkpointing(True)  # has no effect here, and raises no error
    calls = []
    fused.stages[0].blocks[0].block.norm2.register_forward_hook(lambda *args: calls.append(1))
    with torch.inference_mode():
        fused(torch.randn(1, 3, 32, 32).half())
    assert calls == [1]


def test_windows_in_half_precision():
    """In float16, since the interpreter multiplies matrices of bfloat16 as if they were integers."""

    def compute(qkv):
        return window_attention(qkv, lambda x: x, 7, 2, padding="exact")

    assert_agrees_with_float64(compute, [torch.randn(1, 9, 7, 96)], torch.float16)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(2, 5, 9, 48), (1, 1, 1, 16), (1, 9, 16, 16)])
def test_positions(shape, dtype):
    channels = shape[-1]
    tensors = [torch.randn(shape), torch.randn(channels, 1, 3, 3), torch.randn(channels)]
    assert_agrees_with_float64(positional_convolution, tensors, dtype)


def test_positions_without_a_bias_on_a_map_that_is_not_contiguous():
    x, weight = torch.randn(1, 32, 4, 6), torch.randn(32, 1, 3, 3)
    assert_agrees_with_float64(
        lambda x, weight: positional_convolution(x.permute(0, 2, 3, 1), weight, None), [x, weight]
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(2, 3, 5, 32), (300, 24), (3, 320)])
def test_norms_alone_and_of_a_sum(shape, dtype):
    tensors = [torch.randn(shape), torch.randn(shape[-1]), torch.randn(shape[-1])]
    assert_agrees_with_float64(lambda x, weight, bias: norm(x, weight, bias, 1e-6), tensors, dtype)
    summed = [*tensors[:1], torch.randn(shape), *tensors[1:]]
    assert_agrees_with_float64(lambda *args: torch.cat(add_norm(*args, 1e-6)), summed, dtype)


def test_the_norm_of_a_sum_is_that_of_the_rounded_sum():
    x, branch, weight, bias = (torch.randn(shape).bfloat16() for shape in [(40, 32), (40, 32), (32,), (32,)])
    total, normed = add_norm(x, branch, weight, bias, 1e-6)
    torch.testing.assert_close(total, x + branch, rtol=2**-7, atol=0)  # the interpreter rounds differently
    assert torch.equal(normed, norm(total, weight, bias, 1e-6))


def test_under_autocast_a_norm_has_the_dtype_of_the_next_product():
    x, weight, bias = torch.randn(40, 32), torch.randn(32), torch.randn(32)
    expected = F.layer_norm(x, (32,), weight, bias, 1e-6)
    with torch.autocast("cpu", torch.bfloat16):
        total, normed = add_norm(x, x.bfloat16(), weight, bias, 1e-6)
        assert total.dtype == torch.float32
        assert normed.dtype == torch.bfloat16
        torch.testing.assert_close(norm(x, weight, bias, 1e-6), expected.bfloat16(), rtol=2**-7, atol=1e-6)


@pytest.mark.parametrize("padding", ["unmasked"])
def test_a_network_has_the_same_outputs_and_gradients(padding, monkeypatch):
    network = twins.create_model("twins_svt_nano", num_classes=3, padding=padding)
    images, sizes, targets = torch.randn(1, 3, 32, 36), torch.tensor([[32, 33]]), torch.tensor([2])
    results = []
    for enabled in (True, False):
        use_kernels_for(monkeypatch, lambda x, enabled=enabled: enabled)
        network.zero_grad()
        network.losses(images, targets, sizes)["classification"].backward()
        with torch.no_grad():
            results.append([network.eval()(images, sizes), *(p.grad.clone() for p in network.train().parameters())])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


def test_operators_pass_pytorchs_checks_of_registration():
    checks = ("test_schema", "test_autograd_registration")  # the interpreter takes no fake tensors
    qkv, pads = torch.randn(1, 8, 7, 96, requires_grad=True), torch.randn(96, requires_grad=True)
    torch.library.opcheck(windows.window_attention, (qkv, pads, None, 14, 7, 7, 2, 0.25), test_utils=checks)
    torch.library.opcheck(
        windows.window_attention, (qkv, None, torch.tensor([[8, 5]]), 0, 0, 7, 2, 0.25), test_utils=checks
    )
    x, weight = torch.randn(1, 3, 4, 16, requires_grad=True), torch.randn(16, 1, 3, 3, requires_grad=True)
    torch.library.opcheck(convolutions.depthwise_convolution, (x, weight, None, True), test_utils=checks)
    w, b = torch.randn(16, requires_grad=True), torch.randn(16, requires_grad=True)
    torch.library.opcheck(
        few_keys.few_keys_attention, (torch.randn(2, 9, 32), torch.randn(2, 5, 64), None, 2, 0.25), test_utils=checks
    )
    torch.library.opcheck(norms.norm, (x, w, b, 1e-6, torch.float32), test_utils=checks)
    torch.library.opcheck(norms.add_norm, (x, x, w, b, 1e-6, torch.float32), test_utils=checks)
