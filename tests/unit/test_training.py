"""`twins.train`: the final evaluation, and a damaged run folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rich.console import Console

import twins.evaluation
import twins.report.page
from twins.data.config import BoxConfig
from twins.engine.config import EvalConfig, TrainConfig
from twins.engine.log import Log
from twins.errors import ConfigError, NotFoundError
from twins.evaluation import EvalResult, _data_config
from twins.run_folder import CONFIG
from twins.training import _data_folder, _measure_and_report, fingerprint, train


def test_the_final_evaluation_and_the_report_use_the_runs_device_and_workers(tmp_path, monkeypatch):
    calls = []

    def evaluate(run, data, config, *, on_images):
        calls.append(config)
        return EvalResult(metrics={"top1": 0.5}, protocol={}, versions={}, hashes={})

    monkeypatch.setattr(twins.evaluation, "evaluate", evaluate)
    monkeypatch.setattr(twins.report.page, "write_report", lambda run, *, device: calls.append(device))
    config = TrainConfig(data="digits", workers=3, max_skipped=0.2, device="mps")
    assert _measure_and_report(tmp_path, config, Log(tmp_path, console=Console(quiet=True)), 359) == {"top1": 0.5}
    assert (calls[0].device, calls[0].workers, calls[0].max_skipped) == ("mps", 3, 0.2)
    assert calls[1] == "mps"


def test_a_length_is_added_only_to_a_run(tmp_path):
    out = tmp_path / "run"
    with pytest.raises(ConfigError, match="`extend` adds a length to a run"):
        train(TrainConfig(data="digits", model="twins_svt_nano", out=str(out), extend=True, minutes=0.1))
    assert not out.exists()


def test_a_run_folder_inside_the_data_is_refused(tmp_path, monkeypatch):
    (tmp_path / "cat").mkdir()
    with pytest.raises(ConfigError, match=r"`out=\".*run\"` is inside the data folder .*, which it would change"):
        train(TrainConfig(data=str(tmp_path), out=str(tmp_path / "run"), model="twins_svt_nano"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"the run's folder .*runs is inside the data folder \.,"):
        train(TrainConfig(data=".", model="twins_svt_nano"))
    assert [path.name for path in tmp_path.iterdir()] == ["cat"]


def test_a_folder_as_weights_must_be_a_run(tmp_path):
    with pytest.raises(NotFoundError, match=r"holds no best\.safetensors; name a run folder"):
        train(TrainConfig(data="digits", weights=str(tmp_path), model="twins_svt_nano"))


@pytest.mark.parametrize("broken", ["missing", "dangling"])
def test_a_run_whose_newest_state_is_missing_is_not_changed(tmp_path, broken):
    (tmp_path / "states" / "000000004").mkdir(parents=True)
    (tmp_path / "config.yaml").write_text(TrainConfig(data="digits").to_yaml())
    if broken == "dangling":
        (tmp_path / "last").symlink_to("states/000000009")
    with pytest.raises(NotFoundError, match="copy the run again with its links"):
        train(TrainConfig(resume=str(tmp_path)))
    assert (tmp_path / "states" / "000000004").is_dir()


@pytest.mark.parametrize("data", ["data", "data/data.yaml", "data/SET.YML"])
def test_the_folder_of_data_that_is_given_by_its_yaml_file_is_the_files(data):
    assert _data_folder(data) == Path("data")


def test_the_fingerprint_of_a_moved_data_set_is_that_of_its_first_folder():
    class Images:
        names = ("a", "b")

        def __init__(self, root):
            self.root = root

        def __len__(self):
            return 3

        def path(self, index):
            return str(self.root / ("0.png", "a/1.png", "b/1.png")[index])

    first, moved = Path("/data"), Path("/elsewhere/pictures")
    assert fingerprint(Images(moved), moved, first) == fingerprint(Images(first), first, first)
    assert fingerprint(Images(moved), moved, moved) != fingerprint(Images(first), first, first)


def test_the_classes_of_a_runs_boxes_are_not_those_of_other_data(tmp_path):
    for name in ("own", "other"):
        (tmp_path / name).mkdir()
    boxes = BoxConfig(classes="coco")
    config = {"data": str(tmp_path / "own"), "task": "detection", "boxes": {"classes": "coco"}}
    (tmp_path / CONFIG).write_text(json.dumps(config))
    assert _data_config(tmp_path, str(tmp_path / "own"), EvalConfig()).boxes == boxes
    assert _data_config(tmp_path, str(tmp_path / "other"), EvalConfig()).boxes == BoxConfig()
    assert _data_config(tmp_path, str(tmp_path / "other"), EvalConfig(boxes=boxes)).boxes == boxes
