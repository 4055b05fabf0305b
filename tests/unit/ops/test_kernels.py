"""Kernels: the same numbers as the portable forms, code that a GPU takes, and a way back where Triton is missing."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from twins.ops import kernels

HERE = Path(__file__).parent


def run(script: str) -> str:
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout


def test_every_kernel_computes_what_its_portable_form_does():
    pytest.importorskip("triton", reason="Triton is not installed here")
    command = [sys.executable, "-m", "pytest", "-n0", "-p", "no:cacheprovider", str(HERE / "interpreted_kernels.py")]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "TRITON_INTERPRET": "1"})
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]


FORWARD = """
import sys
{before}
import torch, twins
network = twins.create_model("twins_svt_nano", num_classes=3)
network.losses(torch.randn(1, 3, 32, 32), torch.tensor([0]))["classification"].backward()
print({after})
"""


def test_a_processor_loads_neither_triton_nor_kernels():
    loaded = run(FORWARD.format(before="", after="*sys.modules")).split()
    assert "twins.ops.kernels" in loaded
    assert not [name for name in loaded if name.partition(".")[0] == "triton" or name.startswith("twins.ops.kernels.")]


def test_without_triton_the_portable_forms_serve():
    done = run(FORWARD.format(before="sys.modules['triton'] = None", after="twins.ops.kernels._FOUND"))
    assert done.split() == ["False"]


def test_where_kernels_cannot_be_built_one_warning_says_why(monkeypatch):
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: (9, 0))
    monkeypatch.setitem(sys.modules, "twins.ops.kernels.positions", None)
    kernels._ready.cache_clear()
    with pytest.warns(UserWarning, match="Triton cannot build kernels here, so PyTorch's own operators are used: "):
        assert not kernels._ready(0)
    assert not kernels._ready(0)  # remembered, without a second warning
    kernels._ready.cache_clear()


@pytest.mark.skipif(not kernels._FOUND, reason="Triton is not installed here")
def test_only_tensors_on_a_gpu_in_a_type_of_its_are_served(monkeypatch):
    from torch._subclasses import FakeTensorMode

    monkeypatch.setattr(kernels, "_ready", lambda index: True)
    assert not kernels.serves(torch.zeros(1))
    with FakeTensorMode():
        fake = torch.zeros(1, device="cuda")
    assert not kernels.serves(fake)  # watched: not a plain tensor


COMPILE = """
import importlib, json, sys
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

types, kernels = json.loads(sys.argv[1])
for module, name, constants in kernels:
    kernel = getattr(importlib.import_module("twins.ops.kernels." + module), name)
    signature = {name: "constexpr" if name in constants else types.get(name, "i32") for name in kernel.arg_names}
    built = triton.compile(ASTSource(kernel, signature, constants), target=GPUTarget("cuda", 90, 32))
    print(len(built.asm["cubin"]), built.metadata.shared, flush=True)
"""
MAPS = ["qkv", "pads", "out", "dy", "dqkv", "x", "weight", "bias"]
MAPS += ["q", "kv", "dq", "blank", "mixed", "w0", "b0", "w1", "b1", "w2", "b2"]
MAPS += ["branch", "total", "normed", "dtotal", "dnormed", "dx"]
TYPES = {"limits": "*i64", "mask": "*i1", "dpads": "*fp32", "shares": "*fp32"}
WINDOW = {"HEADS": 2, "WIDTH": 32, "LANES": 32, "WINDOW": 7, "TOKENS": 64, "GROUP": 2, "SCALE": 0.2}
HEADS = {"HEADS": 2, "WIDTH": 32, "LANES": 32, "TOKENS": 64, "KEYS": 64, "SCALE": 0.2}
BLOCK = {"HEADS": 4, "WIDTH": 32, "HEAD": 32, "LANES": 128, "WINDOW": 7, "TOKENS": 64, "EPS": 1e-6}
TAIL = {"CHANNELS": 128, "HIDDEN": 512, "LANES": 128, "TOKENS": 64, "STEP": 64, "EPS": 1e-6}
TILES = {"CHANNELS": 64, "TOKENS": 32, "LANES": 64}
ROWS = {"CHANNELS": 64, "ROWS": 32, "LANES": 64, "EPS": 1e-6}
KERNELS = [
    ("windows", "_forward", WINDOW),
    ("windows", "_backward", WINDOW),
    ("keys", "_forward", HEADS),
    ("keys", "_backward", {**HEADS, "SHARE": 512}),
    ("blocks", "_within_windows", BLOCK),
    ("blocks", "_tail", TAIL),
    ("positions", "_forward", {**TILES, "RESIDUAL": True}),
    ("positions", "_weight_gradient", {**TILES, "SHARE": 1024}),
    ("norms", "_forward", ROWS),
    ("norms", "_backward", {**ROWS, "SHARE": 256}),
]


def test_compiled_code_gives_kernels_no_number_in_float64():
    """What is no constant is a tensor or an integer."""
    pytest.importorskip("triton", reason="Triton is not installed here")
    integers = ("rows", "columns", "height", "width", "tokens", "keys")
    for module, name, constants in KERNELS:
        kernel = getattr(importlib.import_module(f"twins.ops.kernels.{module}"), name)
        assert set(kernel.arg_names) <= {*constants, *MAPS, *TYPES, *integers}


def test_kernels_compile_for_a_hopper_gpu_where_there_is_none(tmp_path):
    pytest.importorskip("triton", reason="Triton is not installed here")
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path)
    given = json.dumps([{**dict.fromkeys(MAPS, "*bf16"), **TYPES}, KERNELS])
    done = subprocess.run([sys.executable, "-c", COMPILE, given], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]
    built = [tuple(map(int, line.split())) for line in done.stdout.splitlines()]
    assert len(built) == len(KERNELS)
    for code, shared in built:
        assert code > 1000
        assert shared <= 227 * 1024  # bytes that a block may have
