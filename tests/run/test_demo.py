"""`twins demo` as a whole, with a few steps; `benchmarks/demos.py` measures how well the demos learn."""

from __future__ import annotations

from dataclasses import replace

import pytest
from PIL import Image

from twins.cli import demo
from twins.data.formats.scenes import COUNTS
from twins.tasks.recipes import starting_point
from twins.tasks.table import TASKS, facts_of


@pytest.mark.slow
@pytest.mark.usefixtures("few_digits")
@pytest.mark.parametrize("task", TASKS)
def test_demo_trains_evaluates_draws_and_prints_the_path_of_the_report(tmp_path, monkeypatch, capsys, task):
    def few(recipe):
        return replace(starting_point(recipe), minutes=None, steps=2, eval_every=1.0)

    monkeypatch.setattr(demo, "starting_point", few)
    monkeypatch.setitem(COUNTS, False, 2)  # a hundred masks on each of 200 scenes take minutes
    out = tmp_path / "run"
    assert demo.run(["--task", task, "--out", str(out), "--device", "cpu"]) == 0
    lines = capsys.readouterr().out.splitlines()
    facts = facts_of(task)
    end = next(index for index, line in enumerate(lines) if line.startswith("held-out"))
    assert f"held-out {facts.metrics[facts.demo.metric]}:" in lines[end]
    drawn, report, *commands = lines[end + 1 :]
    assert drawn == f"predictions drawn: {out / 'predictions.png'}"
    assert report == f"report: {out / 'report.html'}"
    assert commands[:2] == [f"next: twins eval {out}", f"      twins predict {out} IMAGE..."]
    assert min(Image.open(out / "predictions.png").size) > 300
    assert (out / "report.html").is_file()
    assert (tmp_path / "run-digits" / "best.safetensors").is_file() == (task in ("detection", "instance"))
