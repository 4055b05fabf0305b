"""Reading weight files runs no code and refuses damaged ones in one sentence; writing is atomic."""

from __future__ import annotations

import argparse
import contextlib
import errno
import json
import os
import pickle
import re
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from twins.errors import NotFoundError, TrainingError, WeightsError
from twins.weights import files
from twins.weights.files import read_tensors, write_tensors
from twins.weights.info import ModelInfo

TENSORS = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(2, dtype=torch.float16)}


class Malicious:
    """Creates a file when it is unpickled."""

    def __init__(self, path, call=os.system):
        self.path, self.call = path, call

    def __reduce__(self):
        return (self.call, (f"touch {self.path}",)) if self.call is os.system else (self.call, (str(self.path), "w"))


def _assert_equal(loaded, expected=TENSORS):
    assert loaded.keys() == expected.keys()
    assert all(torch.equal(loaded[key], expected[key]) and loaded[key].dtype == expected[key].dtype for key in expected)


def _refusal(path):
    with pytest.raises(WeightsError) as caught:
        read_tensors(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    assert len(message) < 500 + len(str(path))
    return message


@pytest.fixture(params=[".safetensors", ".pth"])
def saved_path(request, tmp_path):
    path = tmp_path / f"whole{request.param}"
    write_tensors(path, TENSORS)
    return path


# Files that would run code


@pytest.mark.parametrize("call", [os.system, open])
@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("ending", [".pth", ".bin", ".safetensors"])
def test_a_malicious_pickle_is_not_run(ending, old, call, tmp_path):
    path, side_effect = tmp_path / f"evil{ending}", tmp_path / "side_effect"
    torch.save({"model": TENSORS, "x": Malicious(side_effect, call)}, path, _use_new_zipfile_serialization=not old)
    assert "could run code" in _refusal(path)
    assert not side_effect.exists()


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_a_malicious_plain_pickle_is_not_run(protocol, tmp_path):
    path, side_effect = tmp_path / "evil.pth", tmp_path / "side_effect"
    path.write_bytes(pickle.dumps(Malicious(side_effect), protocol))
    _refusal(path)
    assert not side_effect.exists()


def test_the_refusal_names_the_dangerous_call_and_what_to_do(tmp_path):
    torch.save({"x": Malicious(tmp_path / "side_effect")}, tmp_path / "evil.pth")
    message = _refusal(tmp_path / "evil.pth")
    assert "it names posix.system" in message
    assert ".safetensors" in message


# Damaged files


@pytest.mark.parametrize("share", [0.02, 0.3, 0.9, 0.999])
def test_a_truncated_file_is_refused(saved_path, share):
    content = saved_path.read_bytes()
    saved_path.write_bytes(content[: int(share * len(content))])
    assert "again" in _refusal(saved_path)


@pytest.mark.parametrize("old", [False, True])
def test_a_file_truncated_at_any_length_raises_weights_error(old, tmp_path):
    path = tmp_path / "cut.pth"
    torch.save(TENSORS, path, _use_new_zipfile_serialization=not old)
    content = path.read_bytes()
    for length in range(0, len(content) - 1, 37):
        path.write_bytes(content[:length])
        _refusal(path)


def test_flipped_bytes_raise_weights_error_or_are_read(saved_path):
    content = bytearray(saved_path.read_bytes())
    for position in range(0, len(content), 29):
        damaged = content.copy()
        damaged[position] ^= 0xFF
        saved_path.write_bytes(damaged)
        with contextlib.suppress(WeightsError):
            read_tensors(saved_path)


def test_an_empty_file_is_refused(tmp_path):
    for name in ("empty.pth", "empty.safetensors"):
        (tmp_path / name).touch()
        assert "0 bytes" in _refusal(tmp_path / name)


def test_a_folder_and_a_missing_file_are_refused(tmp_path):
    assert "is a folder" in _refusal(tmp_path)
    with pytest.raises(NotFoundError, match=r"no weight file .*missing\.pth"):
        read_tensors(tmp_path / "missing.pth")


@pytest.mark.parametrize("name", ["net.onnx", "net.xml", "net.pt2"])
def test_an_exported_file_is_not_called_damaged_weights(tmp_path, name):
    (tmp_path / name).write_bytes(b"\x08\x0a<net>")
    if name == "net.pt2":
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            archive.writestr("net/archive_format", "pt2")
    assert re.search(r"ending of an exported file, .*; name the run", _refusal(tmp_path / name))
    (tmp_path / "net.bin").write_bytes(b"\0" * 100)
    if name == "net.xml":
        assert "holds the weights of the exported file net.xml" in _refusal(tmp_path / "net.bin")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="the superuser may read everything")
def test_a_file_without_permission_is_refused(saved_path):
    saved_path.chmod(0)
    assert "Permission" in _refusal(saved_path)


@pytest.mark.parametrize("ending", [".pth", ".safetensors"])
@pytest.mark.parametrize(
    "content",
    [
        b"<!DOCTYPE html><html><body>Not found</body></html>",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n",
        b'{"error": "not found"}',
        b"hello\n",
        b"\x89PNG\r\n\x1a\n" + bytes(64),
        bytes(1000),
        b"\xff" * 1000,
    ],
    ids=["html", "pointer", "json", "text", "png", "zeros", "ones"],
)
def test_a_file_that_is_no_weight_file_is_refused(content, ending, tmp_path):
    path = tmp_path / f"file{ending}"
    path.write_bytes(content)
    assert "again" in _refusal(path)


def test_a_zip_without_weights_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "photos.pth", "w") as archive:
        archive.writestr("photo.txt", "hello")
    _refusal(tmp_path / "photos.pth")


@pytest.mark.parametrize(
    "content", [{}, {"epoch": 3}, [1, 2], torch.ones(3), {"model": {}}, {1: torch.ones(1)}, "text"]
)
def test_a_file_without_named_tensors_is_refused(content, tmp_path):
    torch.save(content, tmp_path / "other.pth")
    assert "holds no named tensors" in _refusal(tmp_path / "other.pth")


@pytest.mark.parametrize(
    "text",
    [
        "not json",
        "[]",
        "null",
        "{}",
        '{"format": 1}',
        '{"format": "x"}',
        '{"format": null}',
        '{"format": 1, "preprocess": {"size": 1}, "names": [], "task": "classification", "model": "m"}',
        '{"format": 1, "preprocess": {}, "names": 3, "task": "classification", "model": "m"}',
        '{"format": 1, "preprocess": [], "names": [], "task": "classification", "model": "m"}',
        '{"format": 1, "preprocess": {"mean": 3}, "names": [], "task": "classification", "model": "m"}',
        '{"format": 1, "preprocess": {"std": ["a", "b", "c"]}, "names": [], "task": "classification", "model": "m"}',
        '{"format": 1, "preprocess": {}, "names": []}',
        '{"format": 1, "preprocess": {}, "names": [], "task": "classification", "model": "m", "num_classes": "x"}',
        '{"format": 1, "preprocess": {}, "names": [], "task": "classification", "model": "m", "in_chans": 0}',
        '{"format": 1, "preprocess": {}, "names": [], "task": "semantic", "model": "m", "width": -64}',
        '{"format": 1, "preprocess": {}, "names": [], "task": "semantic", "model": "m", "width": "64"}',
        '{"format": 1, "preprocess": {}, "names": [], "task": "detection", "model": "m", "anchor_scale": -1}',
        '{"format": 1, "preprocess": {}, "names": [], "task": "detection", "model": "m", "anchor_scale": Infinity}',
    ],
)
def test_a_damaged_description_is_refused(text, tmp_path):
    save_file(TENSORS, tmp_path / "model.safetensors", {"twins": text})
    assert "description of its network is damaged" in _refusal(tmp_path / "model.safetensors")


def test_a_description_of_a_newer_format_is_refused(tmp_path):
    save_file(TENSORS, tmp_path / "model.safetensors", {"twins": json.dumps({"format": 99})})
    assert "format 99, this twins reads up to 1; update" in _refusal(tmp_path / "model.safetensors")


# Content of published files


def test_the_references_checkpoint_is_unwrapped(tmp_path):
    network = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(network.parameters())
    network(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    content = {
        "model": TENSORS,
        "optimizer": optimizer.state_dict(),
        "lr_scheduler": {"t_initial": 300},
        "epoch": 299,
        "model_ema": TENSORS,
        "scaler": {"scale": 65536.0},
        "args": argparse.Namespace(lr=5e-4, model="alt_gvt_small", clip_grad=None, betas=(0.9, 0.999)),
    }
    torch.save(content, tmp_path / "checkpoint.pth")
    _assert_equal(read_tensors(tmp_path / "checkpoint.pth").tensors)


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.int32, np.int64, np.uint8, np.bool_])
def test_numpy_scalars_and_arrays_are_read(kind, tmp_path):
    content = {"state_dict": TENSORS, "meta": {"score": kind(1), "history": np.ones(3, kind)}}
    torch.save(content, tmp_path / "mm.pth")
    _assert_equal(read_tensors(tmp_path / "mm.pth").tensors)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "model.", "_orig_mod.module."])
def test_prefixes_of_wrappers_are_removed(prefix, tmp_path):
    torch.save({"state_dict": {prefix + key: value for key, value in TENSORS.items()}}, tmp_path / "wrapped.pth")
    _assert_equal(read_tensors(tmp_path / "wrapped.pth").tensors)


def test_a_prefix_that_only_some_names_have_is_kept(tmp_path):
    state = {"module.a": torch.ones(1), "b": torch.ones(1)}
    torch.save(state, tmp_path / "mixed.pth")
    _assert_equal(read_tensors(tmp_path / "mixed.pth").tensors, state)


def test_parameters_and_old_files_are_read(tmp_path):
    state = {key: torch.nn.Parameter(value) for key, value in TENSORS.items()}
    torch.save(state, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    _assert_equal(read_tensors(tmp_path / "old.pth").tensors)


def test_the_format_is_detected_from_the_content_not_the_ending(tmp_path):
    write_tensors(tmp_path / "a.safetensors", TENSORS)
    (tmp_path / "a.safetensors").rename(tmp_path / "a.pth")
    _assert_equal(read_tensors(tmp_path / "a.pth").tensors)


# Writing


def test_tensors_and_description_survive_a_round_trip(tmp_path):
    info = ModelInfo(task="classification", model="twins_svt_nano", num_classes=2, names=("ä", "b"))
    write_tensors(tmp_path / "a.safetensors", TENSORS, info)
    loaded = read_tensors(tmp_path / "a.safetensors")
    assert loaded.info == info
    _assert_equal(loaded.tensors)


@pytest.mark.parametrize("ending", [".safetensors", ".pth"])
def test_views_tied_and_transposed_tensors_are_written(ending, tmp_path):
    base = torch.arange(12.0).reshape(3, 4)
    state = {"q": base[:1], "kv": base[1:], "t": base.t(), "again": base, "once more": base}
    write_tensors(tmp_path / f"a{ending}", state)
    _assert_equal(read_tensors(tmp_path / f"a{ending}").tensors, state)


def test_writing_leaves_no_temporary_file(saved_path):
    write_tensors(saved_path, TENSORS)
    assert list(saved_path.parent.iterdir()) == [saved_path]


@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, "No space left on device"), RuntimeError("write failed\nat line 3"), KeyboardInterrupt()],
)
def test_a_failed_write_keeps_the_old_file(saved_path, error, monkeypatch):
    def fail(tensors, path, *others):
        path.write_bytes(b"half")
        raise error

    before = saved_path.read_bytes()
    monkeypatch.setattr(files, "save_file", fail)
    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises((TrainingError, KeyboardInterrupt)) as caught:
        write_tensors(saved_path, {"b": torch.zeros(2)})
    assert saved_path.read_bytes() == before
    assert list(saved_path.parent.iterdir()) == [saved_path]
    if isinstance(error, OSError):
        assert "No space left on device" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_with_less_than_one_class_is_refused(tmp_path):
    import twins

    model = twins.create_model("twins_svt_nano", task="detection", num_classes=1)
    state = model.state_dict()
    key = next(key for key in state if key.endswith("retina_cls.weight"))
    torch.save(state | {key: state[key][:7]}, tmp_path / "few.pth")
    with pytest.raises(WeightsError, match=r"few\.pth holds a retinanet"):
        twins.load(tmp_path / "few.pth", device="cpu")
