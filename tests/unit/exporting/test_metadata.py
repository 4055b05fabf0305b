"""The description of an exported file holds its whole network, and a wrong file gets one clear sentence."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

import twins
from twins.errors import ConfigError, MissingExtraError, NotFoundError, TwinsError, WeightsError
from twins.exporting.extra import require
from twins.exporting.formats import is_exported_file, read_info
from twins.exporting.metadata import FileInfo
from twins.exporting.sessions import open_session
from twins.preprocess import Preprocess
from twins.tasks.inference import SelectionConfig
from twins.weights.info import ModelInfo

from .conftest import export, info_of

DETECTOR = FileInfo(
    network=ModelInfo(
        task="detection",
        model="twins_svt_nano",
        head="retinanet",
        num_classes=2,
        names=("Röte", '"b"'),
        in_chans=4,
        width=64,
        anchor_scale=3.0,
        colours=((1, 2, 3), (4, 5, 6)),
        preprocess=Preprocess(size=320, fit="keep", longest=640).for_channels(4),
    ),
    precision="fp16",
    batch=1,
    height=None,
    width=320,
    padded=True,
    outputs=("boxes", "scores", "labels", "count"),
    selection=SelectionConfig(score=0.3, most=7),
    versions={"twins": "1", "torch": "2"},
    weights_sha256="ab" * 32,
)


@pytest.fixture(scope="module")
def onnx_file(tmp_path_factory):
    return export(tmp_path_factory.mktemp("onnx") / "net.onnx", info_of())


@pytest.fixture(scope="module")
def openvino_file(tmp_path_factory):
    return export(tmp_path_factory.mktemp("openvino") / "net.xml", info_of())


def copied(path, folder):
    """Copy a file, with the weights of an OpenVINO model, into a folder."""
    for source in {path, path.with_suffix(".bin")}:
        if source.exists():
            (folder / source.name).write_bytes(source.read_bytes())
    return folder / path.name


def error_of(path):
    """Return the error of a file as a text, or an empty text if it opens."""
    try:
        open_session(path)
    except TwinsError as error:
        return str(error)
    return ""


def is_sentence(text, path):
    return not text or (str(path.parent) in text and "\n" not in text)


def test_a_description_survives_json_with_its_network():
    text = DETECTOR.to_json()
    assert FileInfo.from_json(text, Path("x")) == DETECTOR
    values = json.loads(text)
    assert values["dynamic"] == ["height"]
    assert values["selection"] == {"score": 0.3, "nms": 0.5, "agnostic": False, "most": 7}
    listed = "format task model head names preprocess padding precision dynamic selection versions weights_sha256"
    assert set(listed.split()) <= set(values)


def test_each_format_keeps_the_description(exported):
    assert read_info(exported)[1] == info_of()
    assert is_exported_file(exported)
    other = exported.with_name("renamed")
    other.write_bytes(exported.read_bytes())
    assert is_exported_file(other), "by content"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"precision": "fp4"}, "precision is 'fp4'"),
        ({"precision": None}, "no field 'precision'"),
        ({"input": {"batch": 0, "height": 1, "width": 1}}, "batch is 0"),
        ({"input": {"batch": 1, "height": 16, "width": 64}}, "height is 16"),
        ({"input": []}, "list indices"),
        ({"padded": 1}, "padded is 1"),
        ({"outputs": []}, r"outputs is \(\)"),
        ({"names": ["a"]}, "there are 1 names for 2 classes"),
        ({"selection": {"score": 2}}, "`score` must be at least 0"),
        ({"selection": {"scores": 2}}, "unexpected keyword argument 'scores'"),
        ({"preprocess": {"size": 3}}, "`size` must be at least 32"),
        ({"anchor_scale": -1}, "anchor_scale is -1"),
        ({"task": None}, "no field 'task'|'task'"),
        ({"task": "flying"}, "no task is called 'flying'"),
        ({"versions": 3}, "no attribute 'items'"),
        ({"format": "1"}, "format is '1'"),
        ({"format": None}, "no field 'format'"),
    ],
)
def test_a_damaged_description_is_named_with_its_file_and_field(change, reason):
    values = json.loads(DETECTOR.to_json()) | change
    for name in [name for name, value in change.items() if value is None]:
        del values[name]
    with pytest.raises(WeightsError, match=rf"^net.onnx: .* is damaged \(.*({reason}).*\); export it again$"):
        FileInfo.from_json(json.dumps(values), Path("net.onnx"))


@pytest.mark.parametrize("text", ["", "[]", "null", "3", '{"format": 1}', "[" * 100_000, "\0"])
def test_a_text_that_is_no_description_is_damaged(text):
    with pytest.raises(WeightsError, match="is damaged"):
        FileInfo.from_json(text, Path("net.onnx"))


def test_a_newer_format_asks_for_an_update():
    text = json.dumps({"format": 2})
    with pytest.raises(WeightsError, match=r"net.onnx has format 2 of exported files, .* reads up to 1; update"):
        FileInfo.from_json(text, Path("net.onnx"))


def test_paths_that_are_no_files_get_a_sentence_each(tmp_path):
    (tmp_path / "empty.onnx").touch()
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "text.onnx").write_text("hello")
    for name, error, message in (
        ("none.onnx", NotFoundError, "there is no exported file"),
        ("x" * 5000, NotFoundError, "there is no exported file"),
        ("", WeightsError, "is a folder; name the"),
        ("empty.onnx", WeightsError, r"is empty \(0 bytes\)"),
        ("notes.txt", WeightsError, "is neither an ONNX file, an OpenVINO model"),
        ("text.onnx", WeightsError, "is neither an ONNX file, an OpenVINO model"),
    ):
        with pytest.raises(error, match=message):
            open_session(tmp_path / name)
    assert not is_exported_file(tmp_path)
    assert not is_exported_file(tmp_path / "notes.txt")
    assert is_exported_file(tmp_path / "none.onnx"), "so that the sentence is about an exported file"


def test_weight_files_are_no_exported_files(tmp_path):
    from safetensors.torch import save_file

    tensors = {f"weight{i}": torch.zeros(i) for i in range(1, 40)}  # headers of many lengths
    for count in range(1, 40):
        save_file(dict(list(tensors.items())[:count]), tmp_path / "net.safetensors")
        assert not is_exported_file(tmp_path / "net.safetensors")
    torch.save(tensors, tmp_path / "net.pth")
    assert not is_exported_file(tmp_path / "net.pth")


@pytest.mark.parametrize("share", [0.02, 0.3, 0.7, 0.99])
def test_a_file_that_is_cut_short_gets_one_sentence(exported, tmp_path, share):
    path = copied(exported, tmp_path)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(
        WeightsError, match=r"net\.\w+ is (damaged or cut short|of another|neither|an ONNX file of)"
    ) as e:
        open_session(path)
    assert "\n" not in str(e.value)


def test_files_of_other_programs_are_told_from_ours(onnx_file, openvino_file, tmp_path):
    onnx = require("onnx")
    model = onnx.load(onnx_file)
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "net.onnx")
    text = openvino_file.read_text()
    (tmp_path / "net.xml").write_text(text.replace("<twins ", "<other "))
    torch.export.save(torch.export.export(torch.nn.Identity(), (torch.zeros(2),)), tmp_path / "net.pt2")
    for name in ("net.onnx", "net.xml", "net.pt2"):
        with pytest.raises(WeightsError, match=r"of another program, .* key twins; make one .* with twins export"):
            open_session(tmp_path / name)


def test_a_newer_file_asks_for_an_update(onnx_file, tmp_path):
    path = copied(onnx_file, tmp_path)
    onnx = require("onnx")
    model = onnx.load(path)
    model.metadata_props[0].value = json.dumps({"format": 7})
    onnx.save(model, path)
    with pytest.raises(WeightsError, match="has format 7 of exported files"):
        open_session(path)


def test_a_description_that_does_not_fit_the_graph_is_refused(tmp_path):
    path = export(tmp_path / "net.onnx", info_of(outputs=("boxes",)))
    with pytest.raises(WeightsError, match="has other inputs or outputs than its description says"):
        open_session(path)


@pytest.mark.parametrize(
    ("claimed", "message"),
    [
        (
            info_of(height=96, width=96),
            r"net.onnx cannot be run on images of shape \(1, 96, 96, 3\) \(.*invalid dimensions",
        ),
        (
            info_of(
                height=64,
                width=64,
                network=replace(DETECTOR.network, in_chans=3, num_classes=3, names=(), preprocess=Preprocess()),
            ),
            r"net.onnx has no output 'count', which .* detection",
        ),
        (
            info_of(height=64, width=64, network=replace(info_of().network, num_classes=2, names=("a", "b"))),
            "net.onnx returns 3 probabilities, but names 2 classes",
        ),
    ],
)
def test_a_description_of_another_network_is_one_sentence_when_the_file_predicts(tmp_path, claimed, message):
    onnx = require("onnx")
    path = export(tmp_path / "net.onnx", info_of(height=64, width=64))
    model = onnx.load(path)
    model.metadata_props[0].value = claimed.to_json()
    onnx.save(model, path)
    with pytest.raises(WeightsError, match=message):
        twins.load(path).predict(Image.new("RGB", (64, 64)))


def test_a_file_of_a_whole_network_has_no_maps_and_is_not_exported_again(onnx_file, tmp_path):
    predictor = twins.load(onnx_file)
    with pytest.raises(ConfigError, match=r"net.onnx does not return the maps of its backbone; use a file of"):
        predictor.embed(Image.new("RGB", (64, 64)), maps=True)
    with pytest.raises(ConfigError, match=r"`model` is the exported file .*net.onnx; give the run"):
        twins.export(predictor.model, tmp_path / "again.onnx")
    with pytest.raises(ConfigError, match="the network has no weights, as that of an exported file"):
        twins.save_weights(predictor.model, tmp_path / "net.safetensors")
    assert not list(tmp_path.iterdir())


def test_a_file_whose_scores_are_not_finite_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules[export.__module__].AREAS, False, "area = Constant <value_ints = [0, 0, 0]> ()")
    path = export(tmp_path / "net.onnx", info_of())
    with pytest.raises(WeightsError, match=r"net.onnx returns scores that are not finite: .* too large for fp32"):
        twins.load(path).predict(Image.new("RGB", (64, 64)))


def test_weights_of_an_openvino_model_that_are_missing_or_of_another_length_are_named(openvino_file, tmp_path):
    path = copied(openvino_file, tmp_path)
    weights = path.with_suffix(".bin")
    with pytest.raises(WeightsError, match=r"net.bin is neither .*; it holds the weights of net.xml, name that"):
        open_session(weights)
    content = weights.read_bytes()
    for changed in (content[:-4], content + b"1234"):
        weights.write_bytes(changed)
        with pytest.raises(WeightsError, match=rf"net.bin is cut short .* it has {len(changed):,} bytes"):
            open_session(path)
    weights.write_bytes(content)
    path.write_text(path.read_text().replace('version="opset1"', 'version="opset99"'))
    with pytest.raises(WeightsError, match=r"net.xml cannot be opened \(.*opset99"):
        open_session(path)
    weights.unlink()
    with pytest.raises(NotFoundError, match=r"net.xml needs its weights net.bin in the same folder"):
        open_session(path)


@pytest.mark.parametrize(("suffix", "package"), [(".onnx", "onnxruntime"), (".xml", "openvino")])
def test_a_missing_runtime_is_answered_with_the_pip_command(onnx_file, openvino_file, monkeypatch, suffix, package):
    monkeypatch.setitem(sys.modules, package, None)
    path = onnx_file if suffix == ".onnx" else openvino_file
    with pytest.raises(MissingExtraError, match=rf"exports need {package}; pip install"):
        open_session(path)


def test_damage_anywhere_gives_a_session_or_one_sentence_never_another_error(exported, tmp_path):
    content = exported.read_bytes()
    for seed in range(12):
        damaged = bytearray(content)
        start = seed * len(content) // 12
        damaged[start : start + 8] = bytes(255 - byte for byte in content[start : start + 8])
        path = copied(exported, tmp_path)
        path.write_bytes(damaged)
        assert is_sentence(error_of(path), path)


def test_a_file_is_told_and_described_without_torch_and_runtimes(onnx_file):
    code = (
        "import sys; from twins.exporting.formats import is_exported_file, read_info; "
        f"print(is_exported_file({str(onnx_file)!r}), read_info({str(onnx_file)!r})[0]); "
        "print(sorted({'torch', 'onnx', 'onnxruntime', 'openvino', 'numpy'} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out == "True onnx\n[]\n"


def test_precisions_of_a_file_are_those_of_the_command():
    with pytest.raises(ValueError, match="precision is 'fp8'"):
        replace(DETECTOR, precision="fp8")
