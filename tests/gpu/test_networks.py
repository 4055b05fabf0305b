"""Networks on a GPU give the results of the CPU; skipped without a GPU."""

from __future__ import annotations

import pytest
import torch

import twins

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU on this machine")
NANOS = ["twins_pcpvt_nano", "twins_svt_nano"]


def on_cpu_and_gpu(name: str) -> tuple[torch.nn.Module, torch.nn.Module]:
    torch.manual_seed(0)
    on_cpu = twins.create_model(name, num_classes=10).eval()
    on_gpu = twins.create_model(name, num_classes=10).eval()
    on_gpu.load_state_dict(on_cpu.state_dict())
    return on_cpu, on_gpu.cuda()


@pytest.mark.parametrize("name", NANOS)
@pytest.mark.parametrize("size", [(224, 224), (70, 101)])
def test_double_precision_agrees_with_the_cpu(name, size):
    on_cpu, on_gpu = on_cpu_and_gpu(name)
    images, sizes = torch.randn(2, 3, *size, dtype=torch.float64), torch.tensor([list(size), [40, 50]])
    with torch.inference_mode():
        for arguments in ((images,), (images, sizes)):
            actual = on_gpu.double()(*(argument.cuda() for argument in arguments)).cpu()
            torch.testing.assert_close(actual, on_cpu.double()(*arguments), rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", NANOS)
def test_bfloat16_stays_near_float32(name):
    on_cpu, on_gpu = on_cpu_and_gpu(name)
    images = torch.randn(4, 3, 224, 224)
    with torch.inference_mode():
        expected = on_cpu(images)
        actual = on_gpu.bfloat16()(images.cuda().bfloat16()).float().cpu()
    assert float((actual - expected).std()) < 0.05 * float(expected.std())


@pytest.mark.parametrize("name", NANOS)
def test_a_compiled_network_gives_the_same_logits(name):
    _, on_gpu = on_cpu_and_gpu(name)
    images = torch.randn(2, 3, 224, 224, device="cuda")
    with torch.inference_mode():
        compiled = torch.compile(on_gpu, fullgraph=True)(images)
        torch.testing.assert_close(compiled, on_gpu(images), rtol=1e-3, atol=1e-3)


def test_checkpointing_lowers_peak_memory():
    peaks = []
    for enable in (False, True):
        network = twins.create_model("twins_svt_small", num_classes=10).cuda().train()
        network.set_grad_checkpointing(enable)
        images, targets = torch.randn(8, 3, 224, 224, device="cuda"), torch.zeros(8, dtype=torch.int64, device="cuda")
        torch.cuda.reset_peak_memory_stats()
        network.losses(images, targets)["classification"].backward()
        peaks.append(torch.cuda.max_memory_allocated())
    assert peaks[1] < 0.7 * peaks[0]


@pytest.mark.parametrize("size", [(224, 224), (200, 230)])
@pytest.mark.parametrize("padding", ["exact", "reference", "unmasked"])
def test_the_inference_form_gives_the_same_logits(padding, size):
    torch.manual_seed(0)
    network = twins.create_model("twins_svt_nano", num_classes=10, padding=padding).eval().cuda()
    images, sizes = torch.randn(2, 3, *size, device="cuda"), torch.tensor([list(size), [100, 131]], device="cuda")
    with torch.inference_mode():
        for arguments in ((images,), (images, sizes)):
            torch.testing.assert_close(network.fuse()(*arguments), network(*arguments), rtol=1e-3, atol=1e-4)
