"""The assembly of a run."""

from __future__ import annotations

import torch

import twins.evaluation
import twins.report.page
from twins.engine.config import TrainConfig
from twins.training import _measure_and_report


def test_the_final_evaluation_and_the_report_use_the_runs_device_and_workers(tmp_path, monkeypatch):
    calls = []

    def evaluate(*arguments, **settings):
        calls.append(settings)
        return {"metrics": {"top1": 0.5}}

    monkeypatch.setattr(twins.evaluation, "evaluate", evaluate)
    monkeypatch.setattr(twins.report.page, "write_report", lambda run, **settings: calls.append(settings))
    config = TrainConfig(data="digits", workers=3, max_skipped=0.2)
    assert _measure_and_report(tmp_path, config, torch.device("meta")) == {"top1": 0.5}
    assert [call["device"] for call in calls] == [torch.device("meta")] * 2
    assert (calls[0]["workers"], calls[0]["max_skipped"]) == (3, 0.2)
