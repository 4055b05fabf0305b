from __future__ import annotations

import io
import json
from pathlib import Path

from rich.console import Console

from twins.engine.records import Records, read_rows


def _records(run: Path, *, terminal: bool = False) -> tuple[Records, io.StringIO]:
    screen = io.StringIO()
    return Records(run, console=Console(file=screen, force_terminal=terminal, width=100)), screen


def test_rows_beyond_the_resumed_step_and_a_row_cut_short_are_dropped(tmp_path: Path) -> None:
    records, _ = _records(tmp_path)
    for step in (10, 20, 30):
        records.row("train", step=step, epoch=step / 10, values={"lr": 0.1, "loss": 1.0, "images_per_s": 9.0})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "train", "step": 2')
    assert [row["step"] for row in read_rows(tmp_path)] == [10, 20, 30]
    records.forget_after(20)
    records.row("eval", step=25, epoch=2.5, values={"top1": 0.5})
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [10, 20, 25]
    assert rows[-1] == {"kind": "eval", "step": 25, "epoch": 2.5, "top1": 0.5}


def test_bytes_that_are_no_rows_are_dropped(tmp_path: Path) -> None:
    row = b'{"kind": "eval", "step": 10, "epoch": 1.0}\n'
    (tmp_path / "metrics.jsonl").write_bytes(b"\xff\xfe\x81\x00\n" + row + b'{"step": Infinity}\n{"step": 3}\n')
    assert read_rows(tmp_path, "eval") == [{"kind": "eval", "step": 10, "epoch": 1.0}]
    _records(tmp_path)[0].forget_after(10)
    assert (tmp_path / "metrics.jsonl").read_bytes() == row + b'{"step": 3}\n'


def test_without_a_terminal_there_is_no_bar_and_sentences_are_kept(tmp_path: Path) -> None:
    records, screen = _records(tmp_path)
    records.start(done=0.0)
    records.advance(done=0.5, epoch=1.0, loss=0.7, images_per_s=120.0)
    records.say("class [a] has one image")
    records.close()
    assert screen.getvalue() == "class [a] has one image\n"
    assert "class [a] has one image" in (tmp_path / "log.txt").read_text()


def test_on_a_terminal_the_bar_tells_throughput_and_time_left(tmp_path: Path) -> None:
    records, screen = _records(tmp_path, terminal=True)
    records.start(done=0.0)
    records.advance(done=0.5, epoch=1.0, loss=0.7, images_per_s=120.0)
    records.close()
    assert "120 images/s" in screen.getvalue()
    assert "0:00" in screen.getvalue() or "-:--" in screen.getvalue()


def test_only_the_main_process_writes(tmp_path: Path) -> None:
    records = Records(tmp_path, active=False)
    records.row("train", step=1, epoch=0.1, values={})
    records.say("hello")
    assert not list(tmp_path.iterdir())
