"""Kernels on a GPU give the results of the standard forms: alone, compiled, in CUDA graphs and in networks."""

from __future__ import annotations

import contextlib
import functools

import pytest
import torch
import torch.nn.functional as F

import twins
from twins.ops import dispatch
from twins.ops.attention import attend, attend_to_keys
from twins.ops.convolutions import positional_convolution
from twins.ops.norms import add_norm, norm
from twins.ops.padding import fill_outside
from twins.ops.windows import window_attention

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU on this machine")
TOLERANCE = {torch.float32: 5e-5, torch.bfloat16: 0.04}
"""Relative to the largest value, against float64."""


@pytest.fixture(autouse=True)
def _with_kernels():
    torch.manual_seed(0)
    torch._dynamo.reset()
    if not dispatch.can_use_triton(torch.zeros(1, device="cuda")):
        pytest.skip("Triton builds no kernels for this GPU on this machine")


def attend_within_windows(padding, sizes, x, weight, bias):
    """Return window attention over a map `(B, H, W, 64)`, with zeros as fill value."""
    project = functools.partial(F.linear, weight=weight, bias=bias)
    x = x if sizes is None else fill_outside(x, sizes)
    return window_attention(x, project, 7, 2, padding=padding, sizes=sizes)


SIZES = torch.tensor([[10, 16], [7, 3], [2, 10]], device="cuda" if torch.cuda.is_available() else "cpu")
KEY_MASK = torch.arange(49, device=SIZES.device) < torch.tensor([[49], [11], [0]], device=SIZES.device)
PADDINGS = ["exact", "reference", "unmasked"]
ATTENTIONS = {
    f"{padding}-{height}x{width}-{'sizes' if sizes is not None else 'full'}": (
        functools.partial(attend_within_windows, padding, sizes),
        [(3, height, width, 64), (192, 64), (192,)],
    )
    for padding in PADDINGS
    for height, width, sizes in [(10, 16, SIZES), (10, 16, None), (14, 5, None), (7, 7, None), (1, 1, None)]
}
CASES = {
    **ATTENTIONS,
    "few keys": (functools.partial(attend_to_keys, heads=2), [(3, 700, 64), (3, 49, 128)]),
    "few keys, masked": (functools.partial(attend_to_keys, heads=3, key_mask=KEY_MASK), [(3, 70, 72), (3, 49, 144)]),
    "positions": (positional_convolution, [(3, 20, 19, 80), (80, 1, 3, 3), (80,)]),
    "positions of one token": (positional_convolution, [(1, 1, 1, 64), (64, 1, 3, 3), (64,)]),
    "norm": (functools.partial(norm, eps=1e-6), [(3, 30, 320), (320,), (320,)]),
    "sum": (lambda *x: torch.cat(add_norm(*x, 1e-6)), [(3, 30, 64), (3, 30, 64), (64,), (64,)]),
}


def _for_float64(portable):
    def compute(q, *args, **settings):
        assert q.dtype == torch.float64, "a kernel should compute this call"
        return portable(q, *args, **settings)

    return compute


def random_tensor(shape):
    """Return random values; weights `(C_out, C)` are scaled so that a linear layer keeps the variance."""
    return torch.randn(shape, device="cuda") * (shape[-1] ** -0.5 if len(shape) == 2 else 1)


def value_and_gradients(compute, leaves):
    y = compute(*leaves)
    weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).cuda().to(y.dtype)
    return [y.detach(), *torch.autograd.grad((y * weights).sum(), leaves)]


@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("mode", [None, "default", "reduce-overhead"])
def test_values_and_gradients_are_those_of_float64(case, dtype, mode, monkeypatch):
    compute, shapes = CASES[case]
    if mode is None:
        monkeypatch.setattr("twins.ops.windows.attend", _for_float64(attend))
        monkeypatch.setattr("twins.ops.attention.attend", _for_float64(attend))
    if mode and case not in ("exact-10x16-full", "unmasked-10x16-sizes", "few keys", "positions", "sum"):
        pytest.skip("compiled for one case of each kind")
    leaves = [random_tensor(shape).to(dtype).requires_grad_() for shape in shapes]
    expected = value_and_gradients(compute, [x.detach().double().requires_grad_() for x in leaves])
    compiled = torch.compile(lambda *x: compute(*x), fullgraph=True, mode=mode) if mode else compute
    for _ in range(3 if mode else 1):  # a CUDA graph is recorded at the second call and replayed at the third
        actual = [x.clone() for x in value_and_gradients(compiled, leaves)]
    for one, other in zip(actual, expected, strict=True):
        assert one.isfinite().all()
        assert float((one.double() - other).abs().max()) <= TOLERANCE[dtype] * float(other.abs().max()) + 1e-6


def test_operators_pass_pytorchs_own_checks():
    from twins.ops.gpu import attention, blocks, convolutions, norms, windows

    def leaf(*shape):
        return torch.randn(shape, device="cuda", requires_grad=True)

    torch.library.opcheck(windows.window_attention, (leaf(1, 8, 7, 96), leaf(96), None, 14, 7, 7, 2, 0.25))
    limits = torch.tensor([[8, 5]], device="cuda")
    torch.library.opcheck(windows.window_attention, (leaf(1, 8, 7, 96), None, limits, 0, 0, 7, 2, 0.25))
    torch.library.opcheck(attention.few_keys_attention, (leaf(2, 9, 64), leaf(2, 5, 128), None, 2, 0.25))
    half = [leaf(*shape).detach().bfloat16() for shape in [(1, 8, 7, 64), (192, 64), (192,), (64,)]]
    torch.library.opcheck(blocks.normed_window_attention, (*half, 14, 7, 7, 2, 1e-6))
    layers = [leaf(*shape).detach().bfloat16() for shape in [(64, 64), (64,), (128, 64), (128,), (64, 128), (64,)]]
    torch.library.opcheck(blocks.block_tail, (half[0], half[0], *layers, 1e-6))
    torch.library.opcheck(convolutions.depthwise_convolution, (leaf(1, 3, 4, 16), leaf(16, 1, 3, 3), None, True))
    torch.library.opcheck(norms.norm, (leaf(5, 16), leaf(16), leaf(16), 1e-6, torch.float32))
    torch.library.opcheck(norms.add_norm, (leaf(5, 16), leaf(5, 16), leaf(16), leaf(16), 1e-6, torch.float32))


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("padding", PADDINGS)
def test_networks_have_the_same_outputs_and_gradients(padding, compiled):
    network = twins.create_model("twins_svt_nano", num_classes=3, padding=padding).cuda()
    images, sizes = torch.randn(2, 3, 70, 101, device="cuda"), torch.tensor([[70, 101], [33, 45]], device="cuda")
    targets = torch.tensor([0, 2], device="cuda")
    results = []
    for context in (contextlib.nullcontext(), dispatch.portable()):
        with context:
            torch._dynamo.reset()
            call = torch.compile(network, fullgraph=True) if compiled else network
            network.zero_grad()
            F.cross_entropy(call(images, sizes), targets).backward()
            with torch.no_grad():
                results.append([call(images, sizes), *(p.grad.clone() for p in network.parameters())])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-2, atol=1e-4)


BLOCKS = {"twins_svt_small": (2, 4), "twins_svt_base": (1, 2), "twins_pcpvt_small": (0, 7)}
"""Numbers of blocks with a kernel for window attention, and with a kernel for the part after attention."""


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("size", [(224, 224), (200, 230)])
@pytest.mark.parametrize("name", list(BLOCKS))
def test_the_inference_form_uses_kernels_for_blocks_and_is_as_exact_as_the_network(name, size, compiled, monkeypatch):
    from twins.ops.gpu import blocks

    network = twins.create_model(name, num_classes=30).cuda().bfloat16().eval()
    images, kernel_calls = torch.randn(2, 3, *size, device="cuda").bfloat16(), []
    fused = network.fuse()
    if not compiled:
        for part in ("normed_window_attention", "block_tail"):
            monkeypatch.setattr(blocks, part, _recording(kernel_calls, part, getattr(blocks, part)))
    with torch.inference_mode():
        plain = network(images).double()
        actual = (torch.compile(fused, fullgraph=True) if compiled else fused)(images).double()
        expected = network.double()(images.double())
    if not compiled:
        assert (kernel_calls.count("normed_window_attention"), kernel_calls.count("block_tail")) == BLOCKS[name]
    assert float((actual - expected).norm()) < 1.5 * float((plain - expected).norm())


def _recording(calls, name, compute):
    def call(*args, **settings):
        calls.append(name)
        return compute(*args, **settings)

    return call


def test_a_cuda_graph_of_a_network_replays():
    network = twins.create_model("twins_svt_nano", num_classes=3).cuda().bfloat16().eval()
    images = torch.randn(2, 3, 64, 64, device="cuda", dtype=torch.bfloat16)
    with torch.inference_mode():
        for _ in range(3):
            network(images)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            result = network(images)
        images.copy_(torch.randn_like(images))
        graph.replay()
        torch.testing.assert_close(result, network(images))


def test_a_map_with_more_elements_than_32_bits_count():
    if torch.cuda.mem_get_info()[0] < 14 << 30:
        pytest.skip("this needs 14 GB of GPU memory")
    qkv = torch.randn(1, 7, 7, 96, device="cuda").bfloat16()
    batch = qkv.expand(460_000, -1, -1, -1).contiguous()  # 2.16e9 numbers
    from twins.ops.gpu.windows import window_attention as fused

    y = fused(batch, None, None, 7, 7, 7, 1, 0.25)
    assert torch.equal(y[-1], fused(qkv, None, None, 7, 7, 7, 1, 0.25)[0])
