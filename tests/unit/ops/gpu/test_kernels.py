"""Kernels give the results of the standard forms and compile for GPUs; without Triton the standard forms compute."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from twins.ops import dispatch

HERE = Path(__file__).parent


def run(script: str) -> str:
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout


@pytest.mark.slow
def test_every_kernel_gives_the_result_of_its_standard_form():
    pytest.importorskip("triton", reason="Triton is not installed here")
    command = [sys.executable, "-m", "pytest", "-n0", "-p", "no:cacheprovider", str(HERE / "interpreted_kernels.py")]
    process = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "TRITON_INTERPRET": "1"})
    assert process.returncode == 0, process.stdout[-8000:] + process.stderr[-2000:]


FORWARD = """
import sys
{before}
import torch, twins
network = twins.create_model("twins_svt_nano", num_classes=3)
network.losses(torch.randn(1, 3, 32, 32), torch.tensor([0]))["classification"].backward()
print({after})
"""


@pytest.mark.slow
def test_on_a_cpu_neither_triton_nor_kernels_are_loaded():
    loaded = run(FORWARD.format(before="", after="*sys.modules")).split()
    assert "twins.ops.dispatch" in loaded
    assert not [name for name in loaded if name.partition(".")[0] == "triton" or name.startswith("twins.ops.gpu")]


@pytest.mark.slow
def test_without_triton_the_standard_forms_compute():
    printed = run(FORWARD.format(before="sys.modules['triton'] = None", after="twins.ops.dispatch.HAS_TRITON"))
    assert printed.split() == ["False"]


def test_where_kernels_cannot_be_built_one_warning_gives_the_reason(monkeypatch):
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: (9, 0))
    monkeypatch.setitem(sys.modules, "twins.ops.gpu.convolutions", None)
    dispatch.objection_to_building.cache_clear()
    with pytest.warns(UserWarning, match="Triton cannot build kernels here, so PyTorch's own operators are used: "):
        assert dispatch.objection_to_building(0)
    assert dispatch.objection_to_building(0)  # cached, without a second warning
    dispatch.objection_to_building.cache_clear()


@pytest.mark.skipif(not dispatch.HAS_TRITON, reason="Triton is not installed here")
def test_kernels_take_only_plain_tensors_on_a_gpu(monkeypatch):
    from torch._subclasses import FakeTensorMode

    monkeypatch.setattr(dispatch, "objection_to_building", lambda index: "")
    assert not dispatch.can_use_triton(torch.zeros(1))
    with FakeTensorMode():
        fake = torch.zeros(1, device="cuda")
    assert not dispatch.can_use_triton(fake)  # a subclass


COMPILE = """
import importlib, json, sys
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

types, kernels = json.loads(sys.argv[1])
for architecture, module, name, kind, constants in kernels:
    kernel = getattr(importlib.import_module("twins.ops.gpu." + module), name)
    options = {key: constants.pop(key) for key in ("num_warps", "num_stages") if key in constants}
    signature = {name: "constexpr" if name in constants else types.get(name, "i32") for name in kernel.arg_names}
    signature = {name: kind if value == "map" else value for name, value in signature.items()}
    target = GPUTarget("cuda", architecture, 32)
    built = triton.compile(ASTSource(kernel, signature, constants), target=target, options=options)
    print(len(built.asm["cubin"]), built.metadata.shared, flush=True)
"""
MAPS = ["qkv", "pads", "out", "dy", "dqkv", "x", "weight", "bias", "q", "kv", "dq", "fill", "attended"]
MAPS += ["w0", "b0", "w1", "b1", "w2", "b2", "branch", "total", "normed", "dtotal", "dnormed", "dx"]
TYPES = {"limits": "*i64", "mask": "*i1", "dpads": "*fp32", "partials": "*fp32"}


def launched(dtype: torch.dtype = torch.bfloat16, width: int = 32) -> list[tuple[str, str, str, dict[str, Any]]]:
    """Return module, name, type and constants of every kernel, as launched for maps of 64 channels."""
    from twins.ops.gpu import attention, blocks, convolutions, norms, windows

    heads, kind = 64 // width, "*bf16" if dtype == torch.bfloat16 else "*fp32"
    window = windows._constants(torch.zeros(1, 7, 7, 192, dtype=dtype), 7, heads) | {"SCALE": 0.2}
    few = attention._constants(torch.zeros(1, 49, 64, dtype=dtype), torch.zeros(1, 49, 128, dtype=dtype), heads)
    few |= {"SCALE": 0.2}
    tiles = {"CHANNELS": 64, "TOKENS": convolutions._TOKENS, "BLOCK_C": 64}
    norm_rows = norms._constants(64) | {"EPS": 1e-6}
    block = {"HEADS": heads, "WIDTH": width, "BLOCK_D": width, "BLOCK_C": 64, "WINDOW": 7, "TOKENS": 64, "EPS": 1e-6}
    kernels = [
        ("windows", "_forward", window),
        ("windows", "_backward", window),
        ("attention", "_forward", few),
        ("attention", "_backward", {**few, "SPLIT": attention._SPLIT}),
        ("blocks", "_window_attention", {**block, **blocks._ATTENTION}),
        *(
            ("blocks", "_tail", {"CHANNELS": size, "HIDDEN": 512, "BLOCK_C": size, "EPS": 1e-6, **settings})
            for size, settings in blocks._TAIL.items()
        ),
        ("convolutions", "_forward", {**tiles, "RESIDUAL": True}),
        (
            "convolutions",
            "_weight_gradient",
            {**tiles, "TOKENS": convolutions._TOKENS // 2, "SPLIT": convolutions._SPLIT},
        ),
        ("norms", "_forward", norm_rows),
        ("norms", "_backward", {**norm_rows, "SPLIT": norms._SPLIT}),
    ]
    return [(module, name, kind, constants) for module, name, constants in kernels]


def test_kernels_take_no_float_arguments_which_compiled_code_would_pass_in_float64():
    """Every argument that is neither a tensor nor an integer is a constant."""
    pytest.importorskip("triton", reason="Triton is not installed here")
    integers = ("rows", "columns", "height", "width", "tokens", "keys")
    for module, name, _, constants in launched():
        kernel = getattr(importlib.import_module(f"twins.ops.gpu.{module}"), name)
        constant_names = {parameter.name for parameter in kernel.params if parameter.is_constexpr}
        assert constant_names == set(constants) - {"num_warps", "num_stages"}
        assert set(kernel.arg_names) - constant_names <= {*MAPS, *TYPES, *integers}


@pytest.fixture(scope="module")
def shared_memory(tmp_path_factory):
    """Compile every kernel for a Hopper GPU and the largest for a consumer's; return the bytes that each shares."""
    pytest.importorskip("triton", reason="Triton is not installed here")
    largest = [launched(torch.float32)[1], launched(torch.float32, width=64)[3]]
    kernels = [(90, *kernel) for kernel in launched()] + [(86, *kernel) for kernel in largest]
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path_factory.mktemp("cache"))
    argument = json.dumps([dict.fromkeys(MAPS, "map") | TYPES, kernels])
    process = subprocess.run([sys.executable, "-c", COMPILE, argument], capture_output=True, text=True, env=environment)
    assert process.returncode == 0, process.stdout + process.stderr[-4000:]
    built = [tuple(map(int, line.split())) for line in process.stdout.splitlines()]
    assert len(built) == len(kernels)
    assert all(code > 1000 for code, _ in built)
    return {
        target: [shared for kernel, (_, shared) in zip(kernels, built, strict=True) if kernel[0] == target]
        for target in (90, 86)
    }


@pytest.mark.slow
def test_kernels_compile_for_a_hopper_gpu_where_there_is_none(shared_memory):
    assert max(shared_memory[90]) <= 227 << 10  # of a block


@pytest.mark.slow
def test_the_largest_kernels_fit_a_consumers_gpu(shared_memory):
    assert max(shared_memory[86]) <= 99 << 10
