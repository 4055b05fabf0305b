from __future__ import annotations

import io
import json
import math
from pathlib import Path

from rich.console import Console

from twins.engine.config import TrainConfig
from twins.engine.log import Log, read_rows
from twins.engine.progress import Plan, Progress

HALF = Plan(TrainConfig(epochs=2, log_every=100), 50)


def _log(run: Path, *, terminal: bool = False) -> tuple[Log, io.StringIO]:
    screen = io.StringIO()
    return Log(run, console=Console(file=screen, force_terminal=terminal, width=100)), screen


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
    log.start(share_done=0.0)
    log.step(Progress(step=50), HALF, rate=0.1, loss=0.7, images=60, seconds=0.5)
    log.info("class [a] has one image")
    log.close()
    assert screen.getvalue() == "class [a] has one image\n"
    assert "class [a] has one image" in (tmp_path / "log.txt").read_text()


def test_on_a_terminal_the_bar_shows_throughput_and_remaining_time(tmp_path: Path) -> None:
    log, screen = _log(tmp_path, terminal=True)
    log.start(share_done=0.0)
    log.step(Progress(step=50), HALF, rate=0.1, loss=0.7, images=60, seconds=0.5)
    log.close()
    assert "120 images/s" in screen.getvalue()
    assert "0:00" in screen.getvalue() or "-:--" in screen.getvalue()


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
