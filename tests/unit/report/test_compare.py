"""`twins compare`: the differences of metrics, settings and data, and the page."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from twins.cli.compare import CompareArgs
from twins.cli.main import main
from twins.engine.config import OptimizerConfig, TrainConfig
from twins.errors import ConfigError, NotFoundError
from twins.predictions import Prediction
from twins.report.compare import data_note, different_settings, metric_rows, read_runs, round_ticks, write_comparison
from twins.report.disagreement import disagreement


def write_run(folder: Path, top1: float, loss: float, *, hash_: str | None = "abc", **settings: Any) -> str:
    folder.mkdir()
    config = replace(TrainConfig(data="digits", model="twins_svt_nano", out=str(folder), batch_size=10), **settings)
    (folder / "config.yaml").write_text(config.to_yaml())
    rows = [{"kind": "train", "step": 5, "epoch": 0.5, "lr": 1e-3, "loss": 2.0, "images_per_s": 100.0}]
    rows += [{"kind": "train", "step": 10, "epoch": 1.0, "lr": 1e-4, "loss": 1.0, "images_per_s": 50.0}]
    rows += [{"kind": "eval", "step": 10, "epoch": 1.0, "top1": top1, "ece": 0.1, "loss": loss}]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if hash_:
        result = {"metrics": {"top1": top1, "ece": 0.1, "loss": loss}, "hashes": {"images": hash_}}
        (folder / "eval.json").write_text(json.dumps(result))
    return str(folder)


def test_a_larger_share_and_a_smaller_loss_are_better(tmp_path):
    runs = read_runs([write_run(tmp_path / "a", 0.5, 1.0), write_run(tmp_path / "b", 0.6, 1.5)])
    top1, ece, loss = metric_rows(runs)
    assert (top1.title, top1.difference(1), top1.best) == ("top-1", ("+10.00", "better"), {1})
    assert (ece.difference(1), ece.best) == (("+0.00", "equal"), set())
    assert (loss.title, loss.text(1), loss.difference(1), loss.best) == (
        "held-out loss",
        "1.5000",
        ("+0.5000", "worse"),
        {0},
    )


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("eval.json", b"[1]"),
        ("eval.json", b'{"x": 1}'),
        ("eval.json", b'{"metrics": {"top1": "x"}}'),
        ("eval.json", b"\xff"),
        ("data.json", b'{"parts": [1]}'),
    ],
)
def test_a_damaged_file_of_a_run_is_named(tmp_path, name, content):
    runs = [write_run(tmp_path / "a", 0.5, 1.0), write_run(tmp_path / "b", 0.6, 1.5)]
    (tmp_path / "b" / name).write_bytes(content)
    with pytest.raises(ConfigError, match=rf"b/{name} is damaged .*copy the run folder again"):
        read_runs(runs)


def test_damaged_rows_are_left_out_of_curves_and_times(tmp_path):
    first, second = (write_run(tmp_path / name, 0.5, 1.0, hash_=None) for name in "ab")
    damaged = ['{"step": 7}', "[1]", "null", '{"kind": "eval", "step": 8}', "{"]
    damaged += ['{"kind": "eval", "step": 8, "epoch": 1, "top1": "x"}', '{"kind": "train", "step": 12, "epoch": 1.2}']
    damaged += ['{"kind": "train", "step": 13, "epoch": 1.3, "loss": null, "images_per_s": null}']
    with (Path(second) / "metrics.jsonl").open("a") as file:
        file.write("\n".join(damaged))
    runs = read_runs([first, second])
    assert runs[0].seconds == runs[1].seconds == pytest.approx(1.5)
    assert runs[0].metrics == runs[1].metrics
    write_comparison(runs, None, tmp_path / "page.html")


def test_losses_of_other_parts_are_neither_better_nor_worse(tmp_path):
    runs = read_runs([write_run(tmp_path / "a", 0.5, 1.0), write_run(tmp_path / "b", 0.6, 1.5)])
    assert runs[1].result is not None
    runs[1].result["metrics"] |= {"loss_boxes": 0.5, "loss_masks": 1.0}
    rows = {row.title: row for row in metric_rows(runs)}
    assert rows["held-out loss"].difference(1) == ("+0.5000", "equal")
    assert rows["held-out loss"].best == rows["held-out loss, boxes"].best == set()
    assert rows["top-1"].difference(1)[1] == "better"


def test_only_settings_that_differ_are_listed_by_dotted_name(tmp_path):
    first = write_run(tmp_path / "a", 0.5, 1.0)
    second = write_run(tmp_path / "b", 0.5, 1.0, optimizer=OptimizerConfig(lr=0.5), size=64)
    names = dict(different_settings(read_runs([first, second])))
    assert names.keys() == {"size", "optimizer.lr"}
    assert names["size"] == ["224", "64"]


def test_the_page_stands_alone_and_names_other_images_and_unfinished_runs(tmp_path):
    first = write_run(tmp_path / "a", 0.5, 1.0)
    runs = read_runs([first, write_run(tmp_path / "b", 0.5, 1.0, hash_="other"), write_run(tmp_path / "<c>", 0.5, 1.0)])
    assert "cannot be compared" in data_note(runs)
    write_comparison(runs, None, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert not re.search(r"https?://|<script src|<link", page)
    assert "<c>" not in page
    assert page.count("<circle") == 6  # one evaluation of three runs, in two charts
    assert page.count('<polyline class="curve"') == 9
    assert ">15 s<" not in page
    assert runs[0].seconds == pytest.approx(5 * 10 / 100 + 5 * 10 / 50)
    unfinished = read_runs([first, write_run(tmp_path / "d", 0.7, 0.5, hash_=None)])
    assert unfinished[1].metrics == {"top1": 0.7, "ece": 0.1, "loss": 0.5}
    assert "not finished" in data_note(unfinished)


def test_what_cannot_be_compared_is_said_in_one_sentence(tmp_path, capsys):
    first = write_run(tmp_path / "a", 0.5, 1.0)
    with pytest.raises(ConfigError, match="two or more"):
        read_runs([first])
    with pytest.raises(ConfigError, match="named twice"):
        read_runs([first, first + "/"])
    with pytest.raises(NotFoundError, match="run folder"):
        read_runs([first, str(tmp_path)])
    with pytest.raises(ConfigError, match="`seconds` must be at least 0, found nan"):
        CompareArgs(runs=(first,), seconds=float("nan"))
    other = write_run(tmp_path / "b", 0.5, 1.0, task="semantic", head="semantic_fpn")
    assert main(["compare", first, other, "--out", str(tmp_path / "x.html")]) == 2
    message = capsys.readouterr().err
    assert "found classification" in message
    assert "semantic" in message
    assert len(message.strip().splitlines()) == 1


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (0.031, 0.0342), (2.0, 2.0), (0.0, 0.0), (-3.0, 1234.5)])
def test_ticks_are_round_and_enclose_the_values(low, high):
    ticks = round_ticks(low, high)
    assert ticks[0] <= low + 1e-9
    assert ticks[-1] >= high - 1e-9
    assert 2 <= len(ticks) <= 6
    assert all(len(f"{tick:.6g}") <= 7 for tick in ticks)


def objects(boxes: list[list[float]], labels: list[int], names: tuple[str, ...] = ("cat", "dog")) -> Prediction:
    array = np.array(boxes, dtype=np.float32).reshape(-1, 4)
    scores = np.ones(len(boxes), dtype=np.float32)
    return Prediction(task="detection", size=(50, 50), names=names, boxes=array, labels=np.array(labels), scores=scores)


def test_disagreement_is_by_name_and_from_0_to_1():
    cat, moved = [0.0, 0.0, 10.0, 10.0], [1.0, 0.0, 11.0, 10.0]
    assert disagreement(objects([cat], [0]), objects([moved], [1], names=("dog", "cat"))) == 0
    assert disagreement(objects([cat], [0]), objects([cat], [1])) == 1
    assert disagreement(objects([cat, [20, 20, 30, 30]], [0, 0]), objects([cat], [0])) == pytest.approx(1 / 3)
    assert disagreement(objects([], []), objects([], [])) == 0
    sure = Prediction(task="classification", size=(9, 9), labels=np.array([0, 1]), scores=np.array([1.0, 0.0]))
    unsure = Prediction(task="classification", size=(9, 9), labels=np.array([1, 0]), scores=np.array([0.6, 0.4]))
    assert disagreement(sure, sure) == 0
    assert disagreement(sure, unsure) == pytest.approx(0.8)
    left, right = (np.array([[0, 1], [1, 1]]), np.array([[1, 0], [0, 1]]))
    first = Prediction(task="semantic", size=(2, 2), names=("sky", "sea"), label_map=left)
    second = Prediction(task="semantic", size=(2, 2), names=("sea", "sky"), label_map=right)
    assert disagreement(first, second) == 0.25
