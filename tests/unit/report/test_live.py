"""The page of a run that lives: it reloads itself, takes a limited share of the time, and ends with the run."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from twins.engine.config import TrainConfig
from twins.engine.log import Log
from twins.engine.measure import Samples
from twins.predictions import Prediction
from twins.report import live
from twins.report.live import MAX_SHARE, Follower, follow


@pytest.fixture
def run(tmp_path):
    config = replace(TrainConfig(data="digits", model="twins_svt_nano"), out=str(tmp_path))
    (tmp_path / "config.yaml").write_text(config.to_yaml())
    rows = [{"kind": "train", "step": 1, "epoch": 0.5, "lr": 1e-3, "loss": 2.0, "images_per_s": 9.0}]
    rows += [{"kind": "eval", "step": step, "epoch": step, "top1": step / 10, "loss": None} for step in (1, 3)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def evaluated(seconds: float) -> Any:
    return SimpleNamespace(step=3, clock=lambda: seconds)


def test_the_page_reloads_itself_until_the_run_stops(run):
    with follow(run, [], Log(run)) as follower:  # type: ignore[arg-type]
        follower(evaluated(10.0), Samples())
        page = (run / "report.html").read_text()
        assert "location.reload()" in page
        assert "30.0 %" in page  # the newest evaluation
        assert "http" not in page
    page = (run / "report.html").read_text()
    assert "location.reload()" not in page
    assert f"twins train --resume {run}" in page


def test_the_page_of_a_finished_run_waits_for_the_final_report(run):
    with follow(run, [], Log(run)) as follower:  # type: ignore[arg-type]
        follower(evaluated(10.0), Samples())
        follower.finished = True
    assert "location.reload()" in (run / "report.html").read_text()


def test_a_run_that_fails_leaves_a_page_that_does_not_reload(run):
    def fail() -> None:
        with follow(run, [], Log(run)) as follower:  # type: ignore[arg-type]
            follower(evaluated(10.0), Samples())
            raise ValueError

    with pytest.raises(ValueError):
        fail()
    assert "location.reload()" not in (run / "report.html").read_text()


def test_objects_of_low_scores_are_not_drawn():
    scores = np.array([0.9, 0.31, 0.3, 0.06], dtype=np.float32)
    labels, masks = np.arange(4), np.zeros((4, 9, 9), dtype=bool)
    settings: Any = {"labels": labels, "scores": scores, "boxes": np.ones((4, 4), dtype=np.float32), "masks": masks}
    shown = live._shown(Prediction(task="instance", size=(9, 9), **settings))
    assert [len(getattr(shown, name)) for name in settings] == [2, 2, 2, 2]


def test_pages_are_left_out_that_would_take_more_than_their_share_of_the_time(run, monkeypatch):
    pages: list[bool] = []
    monkeypatch.setattr(live, "write_live_report", lambda *_, live: pages.append(live))
    follower = Follower(run, [], Log(run))  # type: ignore[arg-type]
    follower(evaluated(1.0), Samples())
    follower._spent, follower._costs = 1.0, {"pictures": 1.0, "page": 1.0}
    follower(evaluated(1.0), Samples())
    assert pages == [True]
    follower(evaluated(3.1 / MAX_SHARE), Samples())
    assert pages == [True, True]
