"""Exports send nothing: OpenVINO, NNCF and ONNX Runtime report what they do unless they are silenced."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from twins.errors import MissingExtraError
from twins.exporting.extra import require

from .conftest import export, info_of

PROGRAM = """
import os, sys, threading
import torch  # which asks for the paths of libraries by another process
import numpy as np

events = []

def hook(event, arguments):
    if event.startswith(("socket.", "subprocess.", "os.fork", "os.posix_spawn", "os.exec", "urllib.")):
        events.append((event, arguments))
        raise RuntimeError(f"no {event} in this test")

def files():
    # also those that native code opened
    links = [f"/proc/self/fd/{number}" for number in range(1000)]
    return [os.readlink(link) for link in links if os.path.islink(link)]

sys.addaudithook(hook)
SILENCE
import openvino, nncf
model = openvino.convert_model(sys.argv[1])
quantised = nncf.quantize(model, nncf.Dataset([np.zeros((1, 64, 80, 3), np.uint8)]), subset_size=1)
compiled = openvino.Core().compile_model(quantised, "CPU")
assert compiled(np.zeros((1, 64, 80, 3), np.uint8))["probabilities"].shape == (1, 3)
import onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1])
session.run(None, {"images": np.zeros((1, 64, 80, 3), np.uint8)})
print("events", [event for event, _ in events])
print("threads", [thread.name for thread in threading.enumerate()])
print("sockets", [link for link in files() if link.startswith("socket:")])
"""
SILENCE = "from twins.exporting.extra import require\nfor name in ('openvino', 'nncf', 'onnxruntime'): require(name)"


def run(path, home, silence):
    silencing = ("CI", "NNCF", "PYTEST", "ORT_")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(silencing)}
    return subprocess.run(
        [sys.executable, "-c", PROGRAM.replace("SILENCE", silence), path],
        env=environment | {"HOME": str(home)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout


@pytest.mark.slow
def test_import_conversion_quantisation_and_compilation_open_no_socket_and_write_nothing_into_the_home(tmp_path):
    model = export(tmp_path / "net.onnx", info_of(batch=1, height=64, width=80))
    home = tmp_path / "home"
    home.mkdir()
    out = run(model, home, SILENCE)
    assert "events []" in out
    assert "threads ['MainThread']" in out
    assert "sockets []" in out
    assert list(home.iterdir()) == []


def test_a_missing_package_is_answered_with_the_pip_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "nncf", None)
    with pytest.raises(MissingExtraError, match=r"exports need nncf; pip install 'twins-vision\[export\]'"):
        require("nncf")
