"""Exported files of each format run the same way, and their input is checked."""

from __future__ import annotations

import ctypes
import gc
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

import twins
from twins.errors import ConfigError, InputError
from twins.exporting import sessions
from twins.exporting.formats import read_info
from twins.exporting.sessions import open_session

from .conftest import Tiny, export, info_of


def images_of(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def expected(images, sizes=None):
    with torch.no_grad():
        outputs = Tiny()(torch.from_numpy(images), None if sizes is None else torch.from_numpy(sizes))
    return outputs["probabilities"].numpy()


@pytest.mark.parametrize("shape", [(1, 64, 80, 3), (3, 33, 101, 3)])
def test_each_format_gives_the_outputs_of_the_network_by_name_at_any_size(exported, shape):
    images = images_of(*shape)
    outputs = open_session(exported, threads=1).run(images)
    assert list(outputs) == ["probabilities"]
    np.testing.assert_allclose(outputs["probabilities"], expected(images), rtol=1e-5)
    assert read_info(exported)[1] == info_of()


def test_a_padded_file_gives_each_image_what_it_gets_alone(padded):
    session = open_session(padded, threads=1)
    images, sizes = np.zeros((2, 64, 96, 3), np.uint8), np.array([[64, 40], [33, 96]], np.int32)
    for image, (height, width) in zip(images, sizes, strict=True):
        image[:height, :width] = images_of(height, width, 3, seed=height)
    outputs = session.run(images, sizes)["probabilities"]
    np.testing.assert_allclose(outputs, expected(images, sizes.astype(np.int64)), rtol=1e-5)
    whole = session.run(images)["probabilities"]
    np.testing.assert_allclose(whole, expected(images), rtol=1e-5)


def test_threads_of_a_server_share_a_session(exported):
    session = open_session(exported, threads=1)
    batches = [images_of(1, 64, 64 + i, 3, seed=i) for i in range(12)]
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(session.run, batches * 3))
    for batch, result in zip(batches * 3, results, strict=True):
        np.testing.assert_allclose(result["probabilities"], expected(batch), rtol=1e-5)


@pytest.mark.parametrize(
    ("images", "found"),
    [
        (np.zeros((2, 64, 96, 3), np.float32), r"found float32 \(2, 64, 96, 3\)"),
        (np.zeros((64, 96, 3), np.uint8), r"found uint8 \(64, 96, 3\)"),
        ([[1]], "found a list"),
        (np.zeros((2, 64, 96, 4), np.uint8), r"of shape \(2, 64, W, 3\), H and W at least 32, found \(2, 64, 96, 4\)"),
        (np.zeros((1, 64, 96, 3), np.uint8), r"found \(1, 64"),
        (np.zeros((2, 65, 96, 3), np.uint8), r"found \(2, 65"),
        (np.zeros((2, 64, 31, 3), np.uint8), r"found \(2, 64, 31"),
    ],
)
def test_images_that_a_file_does_not_take_are_refused(padded, images, found):
    with pytest.raises(InputError, match=found):
        open_session(padded).run(images)


@pytest.mark.parametrize(
    ("sizes", "found"),
    [
        (np.array([[64, 97], [64, 96]]), r"from 1 to \(64, 96\), found \[\[64, 97\]"),
        (np.array([[64, 0], [64, 96]]), "from 1 to"),
        (np.array([[64, 96]]), r"found int64 \(1, 2\)"),
        (np.array([[64.0, 96.0], [64.0, 96.0]]), "found float64"),
        ([[64, 96], [64, 96]], "found a list"),
    ],
)
def test_sizes_outside_the_batch_are_refused(padded, sizes, found):
    with pytest.raises(InputError, match=found):
        open_session(padded).run(np.zeros((2, 64, 96, 3), np.uint8), sizes)


def test_sizes_for_a_file_without_them_and_an_empty_batch_are_refused(exported):
    session = open_session(exported)
    with pytest.raises(InputError, match="takes images that fill their batch, found `sizes`"):
        session.run(np.zeros((1, 64, 64, 3), np.uint8), np.array([[64, 64]]))
    with pytest.raises(InputError, match=r"found \(0, 64"):
        session.run(np.zeros((0, 64, 64, 3), np.uint8))


def test_a_runtime_without_memory_raises_python_s_error_for_it(monkeypatch, tmp_path):
    path = export(tmp_path / "net.onnx", info_of())

    def run(*arguments):
        raise Exception("bfc_arena.cc:376 Failed to allocate memory for requested buffer of size 1")

    monkeypatch.setattr("onnxruntime.InferenceSession.run", run)
    with pytest.raises(MemoryError, match="requested buffer"):
        open_session(path).run(np.zeros((1, 64, 64, 3), np.uint8))


def test_settings_that_a_runtime_does_not_have_are_refused(exported):
    for settings, message in (
        ({"threads": 0}, "`threads` must be a whole number from 1, found 0"),
        ({"precision": "fp8"}, "`precision` must be fp32 or bf16, found 'fp8'"),
        ({"device": "tpu"}, "`device` must be cpu or cuda, found 'tpu'"),
    ):
        with pytest.raises(ConfigError, match=message):
            open_session(exported, **settings)
    if exported.suffix != ".xml":
        with pytest.raises(ConfigError, match="`precision` is a setting of OpenVINO"):
            open_session(exported, precision="bf16")


def test_predictions_and_evaluations_of_a_file_run_on_the_cpu_alone(exported):
    message = r'`device="cuda"` is for checkpoints, .* is an exported file, which runs on the CPU; leave it out'
    with pytest.raises(ConfigError, match=message):
        twins.load(exported, device="cuda")
    with pytest.raises(ConfigError, match=message):
        twins.evaluate(exported, "digits", twins.EvalConfig(device="cuda"))


def test_openvino_computes_in_float32_unless_the_file_or_the_caller_says_bf16(tmp_path, monkeypatch):
    used = []
    compile_openvino = sessions.compile_openvino
    monkeypatch.setattr(sessions, "compile_openvino", lambda *a, **k: (used.append(k), compile_openvino(*a, **k))[1])
    path = export(tmp_path / "net.xml", info_of())
    open_session(path)
    open_session(path, precision="bf16")
    open_session(export(path, info_of(precision="bf16")))
    open_session(export(path, info_of(precision="int8")))
    assert [settings["precision"] for settings in used] == ["fp32", "bf16", "bf16", "fp32"]


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux's C library for the stack of signal handlers")
def test_openvino_is_opened_once_so_that_closing_files_leaves_the_stack_of_signal_handlers(tmp_path):
    assert sessions.openvino_core() is sessions.openvino_core()
    path = export(tmp_path / "net.xml", info_of())
    first = open_session(path)
    stack = signal_stack()
    second = open_session(path)
    assert signal_stack() == stack  # each runtime brings a stack with it, and frees it at its end
    del first, second
    gc.collect()
    assert signal_stack() == stack


def signal_stack():
    """Return the address of the stack on which this thread handles signals, and its size."""
    values = (ctypes.c_size_t * 3)()  # ss_sp, ss_flags, ss_size
    assert ctypes.CDLL(None).sigaltstack(None, values) == 0
    return values[0], values[2]
