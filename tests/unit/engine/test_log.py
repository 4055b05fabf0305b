from __future__ import annotations

import io
import json
import math
import time
from dataclasses import asdict
from pathlib import Path

import pytest
from rich.console import Console

from twins.engine.config import TrainConfig
from twins.engine.log import Log, Output, read_rows
from twins.engine.progress import Plan, Progress

HALF = Plan(TrainConfig(epochs=2, log_every=100), 50)


def _log(run: Path, *, terminal: bool = False, output: Output = "normal") -> tuple[Log, io.StringIO]:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=terminal, width=100, soft_wrap=True)
    return Log(run, console=console, output=output), screen


def _step(log: Log, progress: Progress, plan: Plan = HALF, **parts: float) -> None:
    losses = {"loss": 0.7} | {f"loss_{name}": value for name, value in parts.items()}
    log.step(progress, plan, rate=0.1, losses=losses, images=60, seconds=0.5)


def test_rows_after_the_resumed_step_and_a_truncated_row_are_dropped(tmp_path: Path) -> None:
    log, _ = _log(tmp_path)
    for step in (10, 20, 30):
        log.write_row("train", step=step, epoch=step / 10, values={"lr": 0.1, "loss": 1.0, "images_per_s": 9.0})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "train", "step": 2')
    assert [row["step"] for row in read_rows(tmp_path)] == [10, 20, 30]
    log.drop_rows_after(20)
    log.write_row("eval", step=25, epoch=2.5, values={"top1": 0.5})
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [10, 20, 25]
    assert rows[-1] == {"kind": "eval", "step": 25, "epoch": 2.5, "top1": 0.5}


def test_damaged_lines_are_dropped(tmp_path: Path) -> None:
    row = b'{"kind": "eval", "step": 10, "epoch": 1.0}\n'
    (tmp_path / "metrics.jsonl").write_bytes(b"\xff\xfe\x81\x00\n" + row + b'{"step": Infinity}\n{"step": 3}\n')
    assert read_rows(tmp_path, "eval") == [{"kind": "eval", "step": 10, "epoch": 1.0}]
    _log(tmp_path)[0].drop_rows_after(10)
    assert (tmp_path / "metrics.jsonl").read_bytes() == row + b'{"step": 3}\n'


def test_without_a_terminal_there_is_no_bar_and_messages_are_kept(tmp_path: Path) -> None:
    log, screen = _log(tmp_path)
    log.start(HALF, Progress())
    _step(log, Progress(step=50))
    log.info("class [a] has one image")
    log.close()
    assert screen.getvalue() == "class [a] has one image\n"
    assert "class [a] has one image" in (tmp_path / "log.txt").read_text()


def test_on_a_terminal_the_bar_shows_loss_throughput_and_remaining_time(tmp_path: Path) -> None:
    log, screen = _log(tmp_path, terminal=True)
    log.start(HALF, Progress())
    _step(log, Progress(step=25))
    _step(log, Progress(step=50))
    log.close()
    assert "50%  loss 0.7  120 images/s  0:00 left" in screen.getvalue()


def test_the_remaining_time_does_not_count_the_first_step_which_is_slow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, _ = _log(tmp_path)
    log.start(HALF, Progress())
    now = time.monotonic()
    for step, seconds in ((1, 100.0), (2, 140.0)):
        monkeypatch.setattr("twins.engine.display.time.monotonic", lambda moment=now + seconds: moment)
        _step(log, Progress(step=step))
    log.close()
    assert "120 images/s  ? left, until ?" in (tmp_path / "log.txt").read_text()
    assert "120 images/s  1:05:20 left" in (tmp_path / "log.txt").read_text()  # 98 steps of 40 seconds


@pytest.mark.parametrize("terminal", [False, True])
def test_a_line_every_few_seconds_has_position_loss_parts_rate_speed_and_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, terminal: bool
) -> None:
    log, screen = _log(tmp_path, terminal=terminal)
    log.start(HALF, Progress())
    _step(log, Progress(step=1), boxes=0.3, classes=0.4)
    now = time.monotonic()
    monkeypatch.setattr("twins.engine.display.time.monotonic", lambda: now + 20.0)
    _step(log, Progress(step=25), boxes=0.3, classes=0.4)
    monkeypatch.setattr("twins.engine.display.time.monotonic", lambda: now + 25.0)
    _step(log, Progress(step=26), boxes=0.3, classes=0.4)
    log.close()
    expected = "epoch   0.50  step     25   25%  loss 0.7 (boxes 0.3, classes 0.4)  rate 0.1  120 images/s  1:0"
    lines = (tmp_path / "log.txt").read_text()
    assert expected in lines
    assert "step     26" not in lines  # ten seconds have not passed
    assert (expected in screen.getvalue()) == (not terminal)


def test_a_training_row_has_the_mean_of_each_part_of_the_loss_also_after_a_resume(tmp_path: Path) -> None:
    log, _ = _log(tmp_path)
    plan = Plan(TrainConfig(epochs=2, log_every=3), 50)
    progress = Progress(step=1)
    _step(log, progress, plan, boxes=0.2)
    progress = Progress(**asdict(progress) | {"step": 2})
    _step(log, progress, plan, boxes=0.4)
    progress.step = 3
    _step(log, progress, plan, boxes=0.9)
    (row,) = read_rows(tmp_path, "train")
    assert row["loss"] == pytest.approx(0.7)
    assert row["loss_boxes"] == pytest.approx(0.5)
    assert (progress.loss_count, progress.loss_parts) == (0, {})


@pytest.mark.parametrize(
    ("output", "shown"),
    [("quiet", {"skipped"}), ("normal", {"skipped", "start"}), ("verbose", {"skipped", "start", "loss"})],
)
def test_the_output_decides_what_is_printed_and_the_log_has_all_messages(
    tmp_path: Path, output: Output, shown: set[str]
) -> None:
    log, screen = _log(tmp_path, output=output)
    log.info("start")
    log.problem("skipped")
    _step(log, Progress(step=100))
    assert {word for word in ("skipped", "start", "loss") if word in screen.getvalue()} == shown
    assert all(word in (tmp_path / "log.txt").read_text() for word in ("start", "skipped"))


def test_messages_before_the_run_folder_is_made_are_written_to_it(tmp_path: Path) -> None:
    log = Log(console=Console(quiet=True))
    log.info("fetching weights")
    log.open(tmp_path)
    log.info("learning")
    assert [line.split()[2] for line in (tmp_path / "log.txt").read_text().splitlines()] == ["fetching", "learning"]


@pytest.mark.parametrize("terminal", [False, True])
def test_a_phase_counts_its_images_and_a_short_one_leaves_no_line(tmp_path: Path, terminal: bool) -> None:
    log, screen = _log(tmp_path, terminal=terminal)
    with log.phase("evaluating", 12) as count:
        count(5)
        count(4)
    assert ("9 of 12 images" in screen.getvalue()) == terminal
    assert not (tmp_path / "log.txt").exists()


def test_a_phase_that_takes_long_is_named_and_counted_in_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("twins.engine.display.PHASE_SECONDS", 0.01)
    monkeypatch.setattr("twins.engine.display.LINE_SECONDS", (0.0, 0.0))
    log, screen = _log(tmp_path)
    with log.phase("evaluating", 12) as count:
        time.sleep(0.2)
        count(5)
    assert screen.getvalue() == "evaluating ...\nevaluating: 5 of 12 images\n"


def test_only_the_main_process_writes(tmp_path: Path) -> None:
    log = Log(tmp_path, active=False)
    log.write_row("train", step=1, epoch=0.1, values={})
    log.info("hello")
    assert not list(tmp_path.iterdir())


def test_a_number_that_is_not_finite_is_null_in_the_file_and_nan_in_the_row(tmp_path: Path) -> None:
    _log(tmp_path)[0].write_row("eval", step=1, epoch=1.0, values={"top1": float("nan")})
    assert json.loads((tmp_path / "metrics.jsonl").read_text())["top1"] is None
    (row,) = read_rows(tmp_path)
    assert math.isnan(row["top1"])
