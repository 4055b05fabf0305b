"""A trained network and exported files side by side: the rows, what is compared, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

import twins
from twins.bench.compare import run_bench
from twins.bench.config import BenchConfig, is_saved
from twins.bench.saved import cases_of, read_entries
from twins.cli.main import main
from twins.errors import ConfigError, NotFoundError, WeightsError
from twins.weights.info import ModelInfo

from ..exporting.conftest import export, info_of

NUMBERS = {"images_per_s", "p50_ms", "p90_ms", "p99_ms", "ms_per_image", "ratio", "first_s"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A checkpoint of a nano classifier, and files that are not its exports: they are of a tiny one."""
    folder = tmp_path_factory.mktemp("saved")
    torch.manual_seed(0)
    network = twins.create_model("twins_svt_nano", num_classes=3, names=("a", "b", "c"))
    network.info = replace(network.info, preprocess=replace(network.info.preprocess, size=64))
    twins.save_weights(network, folder / "net.safetensors")
    export(folder / "open.onnx", info_of())
    export(folder / "fixed.pt2", info_of(batch=2, height=64, width=96, weights_sha256="abc"))
    metric = {"name": "top1", "data": "digits", "images": 359, "file": 0.9721, "network": 0.9749, "drop": 0.28}
    sheet = {"weights_sha256": "abc", "precision": "fp32", "metric": metric}
    (folder / "fixed.json").write_text(json.dumps(sheet))
    return folder


def settings(folder, *names, **changed):
    quick = {"rounds": 3, "warmup": 1, "memory": False}
    return BenchConfig(models=tuple(str(folder / name) for name in names), **quick | changed)


def other(task):
    return ModelInfo(task=task, model="twins_svt_nano", num_classes=3, names=("a", "b", "c"))


def test_each_form_and_each_file_has_a_row_with_its_speed_and_its_ratio_to_the_eager_network(folder, tmp_path, capsys):
    file = tmp_path / "rows.json"
    names = [str(folder / name) for name in ("open.onnx", "net.safetensors", "fixed.pt2")]
    flags = ["--rounds", "3", "--warmup", "1", "--no-memory", "--batch", "1", "--json", str(file)]
    assert main(["bench", *flags, *names]) == 0
    result = json.loads(file.read_text())
    eager, fused, openly, fixed = result["rows"]
    assert [row["form"] for row in result["rows"]] == ["eager", "fused", "onnx", "torch"]
    assert [row["batch"] for row in result["rows"]] == [1, 1, 1, 2]
    assert {row["size"] for row in result["rows"]} == {"64x96"}
    assert all(set(row) >= NUMBERS for row in result["rows"])
    assert fixed["ms_per_image"]["median"] == pytest.approx(fixed["p50_ms"] / 2)
    assert fixed["images_per_s"] == pytest.approx(1e3 / fixed["ms_per_image"]["median"])
    assert eager["ratio"] == {"median": 1.0, "low": 1.0, "high": 1.0}
    assert fixed["ratio"]["median"] > 10  # one layer instead of a network
    assert openly["dynamic"] == ["batch", "height", "width"]
    assert openly["file_bytes"] == (folder / "open.onnx").stat().st_size
    assert ("outputs" in eager, fused["outputs"]["failure"]) == (False, None)
    assert "probabilities differs by" in openly["outputs"]["failure"]  # it is no export of this network
    assert fixed["metric"] == {"name": "top1", "data": "digits", "file": 0.9721, "network": 0.9749}
    assert "metric" not in openly
    head, *lines = capsys.readouterr().out.strip().splitlines()
    assert "onnxruntime" in head
    assert {line.count(" | ") for line in lines[1:] if " --- " not in line} == {13}
    assert "DIFFER: probabilities" in lines[-1]
    assert "top1 on digits 97.21 % (network 97.49 %)" in lines[-1]


def test_a_sheet_of_other_weights_is_not_shown(folder, tmp_path):
    path = export(tmp_path / "net.onnx", info_of(weights_sha256="new"))
    path.with_suffix(".json").write_text((folder / "fixed.json").read_text())
    (row,) = run_bench(settings(tmp_path, "net.onnx", size=("64",)))["rows"]
    assert row["ratio"]["median"] == 1.0
    assert "metric" not in row


def test_image_files_to_predictions_are_timed_by_the_predictor_for_network_and_file(folder):
    rows = run_bench(settings(folder, "net.safetensors", "open.onnx", modes=("end-to-end",)))["rows"]
    assert [(row["form"], row["batch"], row["size"]) for row in rows] == [("fused", 1, 64), ("onnx", 1, 64)]
    assert all(row["images_per_s"] > 0 for row in rows)


def test_a_file_that_does_not_take_a_size_says_so_and_the_others_are_measured(folder):
    one, two = run_bench(settings(folder, "open.onnx", "fixed.pt2", size=("64",)))["rows"]
    assert one["images_per_s"] > 0
    assert two["failed"] == "takes 64 x 96 pixels"


@pytest.mark.slow
def test_peak_memory_is_measured_in_a_process_for_each_row(folder):
    rows = run_bench(settings(folder, "net.safetensors", "open.onnx", memory=True, against=("none",)))["rows"]
    assert [row["form"] for row in rows] == ["eager", "onnx"]
    assert all(row["peak_mib"] > 0 for row in rows)


def test_batches_and_sizes_are_those_that_files_fix_or_the_networks_own(folder):
    def shapes(*names, **changed):
        config = settings(folder, *names, **changed)
        return {(case.batch, case.size) for case in cases_of(config, read_entries(config.models, config.forms))}

    assert shapes("net.safetensors") == {(1, 64)}
    assert shapes("open.onnx") == {(1, 224)}
    assert shapes("net.safetensors", "open.onnx", "fixed.pt2") == {(2, "64x96")}
    assert shapes("net.safetensors", batch=(1, 8), size=("96", "32x64")) == {
        (batch, size) for batch in (1, 8) for size in (96, "32x64")
    }


def test_compiled_forms_are_measured_if_they_are_asked_for(folder):
    def forms(**changed):
        return settings(folder, "net.safetensors", **changed).forms

    assert forms() == ("eager", "fused")
    assert forms(compile=True) == ("eager", "fused", "fused, compiled")
    assert forms(against=("none",)) == ("eager",)
    assert forms(against=("twins-compiled",)) == ("eager", "compiled")


@pytest.mark.parametrize(
    ("names", "changed", "message"),
    [
        (
            ("net.safetensors",),
            {"runtime": "openvino"},
            "an exported file runs in its own runtime; leave out `runtime=",
        ),
        (("net.safetensors",), {"task": "semantic"}, "leave out `task="),
        (("net.safetensors",), {"against": ("timm",)}, "`against` of a run takes twins-fused, .* found 'timm'"),
        (("open.onnx",), {"modes": ("training",)}, "are inference and end-to-end, found 'training'"),
        (("open.onnx",), {"budget": 10.0}, "`budget` is for networks by name"),
        (("open.onnx",), {"device": "cuda"}, "measured on the CPU, found `device="),
        (("fixed.pt2",), {"size": ("96",)}, "no file takes images of `size="),
        (("net.safetensors",), {"modes": ("end-to-end",), "size": ("64x96",)}, "classifiers see squares"),
        (("net.safetensors", "."), {}, "one trained network is measured beside its exported files, found"),
    ],
)
def test_settings_that_do_not_fit_are_refused(folder, names, changed, message):
    with pytest.raises(ConfigError, match=message):
        run_bench(settings(folder, *names, **changed))


def test_a_file_of_another_task_or_program_is_refused_with_its_name(folder, tmp_path, capsys):
    path = export(tmp_path / "map.onnx", info_of(network=other("semantic")))
    with pytest.raises(ConfigError, match=r"map\.onnx has the task semantic, .*net\.safetensors has classification"):
        run_bench(BenchConfig(models=(str(folder / "net.safetensors"), str(path))))
    foreign = tmp_path / "foreign.onnx"
    foreign.write_bytes(b"\x08\x0a\x3a\x00")
    with pytest.raises(WeightsError, match=r"foreign\.onnx is an ONNX file of another program"):
        run_bench(BenchConfig(models=(str(foreign),)))
    with pytest.raises(NotFoundError, match="there is no run folder or weight file runs/nowhere"):
        run_bench(BenchConfig(models=("runs/nowhere",)))
    assert main(["bench", str(folder / "net.safetensors"), "--runtime", "onnxruntime"]) == 2
    assert "leave out --runtime onnxruntime" in capsys.readouterr().err


def test_names_are_names_and_paths_are_paths(folder, monkeypatch):
    monkeypatch.chdir(folder)
    assert [is_saved(word) for word in ("twins_svt_small", "all", "224", "timm", "timm/twins_svt_small.in1k")] == [
        False
    ] * 5
    assert all(is_saved(word) for word in ("net.safetensors", "missing.onnx", "runs/nowhere"))
