"""Files are replaced atomically, and outputs never replace inputs."""

from __future__ import annotations

import errno
import hashlib
import json
import os

import pytest

from twins.errors import ConfigError, TrainingError
from twins.files import atomic_file, check_outputs, first_line, sha256, write_json


@pytest.fixture
def existing(tmp_path):
    path = tmp_path / "report.json"
    path.write_text("old")
    return path


def _is_unchanged(path):
    return path.read_text() == "old" and list(path.parent.iterdir()) == [path]


# Writing


def test_the_file_is_replaced_at_the_end_of_the_block(existing):
    with atomic_file(existing) as temporary:
        temporary.write_text("new")
        assert temporary.parent == existing.parent
        assert existing.read_text() == "old"
    assert existing.read_text() == "new"
    assert list(existing.parent.iterdir()) == [existing]
    assert existing.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize(
    ("raised", "error", "expected"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), TrainingError, r"No space left on device.*unchanged"),
        (RuntimeError("write failed\nat line 3"), TrainingError, r"\(write failed\); free space"),
        (KeyboardInterrupt(), KeyboardInterrupt, None),
        (ValueError("a mistake of ours"), ValueError, "a mistake of ours"),
    ],
)
def test_a_failed_write_keeps_the_old_file_and_no_temporary_one(existing, raised, error, expected):
    def fail():
        with atomic_file(existing) as temporary:
            temporary.write_text("half")
            raise raised

    with pytest.raises(error, match=expected):
        fail()
    assert _is_unchanged(existing)


def test_a_failed_replace_keeps_the_old_file(existing, monkeypatch):
    def fail(*paths):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(TrainingError, match=r"report\.json could not be written \(.*Input/output error.*unchanged"):
        write_json(existing, {"format": 1})
    assert _is_unchanged(existing)


def test_a_folder_at_the_path_is_refused(tmp_path):
    (tmp_path / "report.json").mkdir()
    with pytest.raises(TrainingError, match="could not be written"):
        write_json(tmp_path / "report.json", {})


def test_a_missing_folder_raises_config_error(tmp_path):
    with pytest.raises(ConfigError, match=r"there is no folder .*nowhere to write eval\.json in; make it first"):
        write_json(tmp_path / "nowhere" / "eval.json", {})
    assert not list(tmp_path.iterdir())


def test_json_survives_a_round_trip_as_readable_text(tmp_path):
    content = {"format": 1, "names": ["Möwe", "猫"], "metrics": {"top1": 0.5}}
    write_json(tmp_path / "eval.json", content)
    text = (tmp_path / "eval.json").read_text()
    assert json.loads(text) == content
    assert "Möwe" in text
    assert text.endswith("}\n")


def test_sha256_hashes_the_bytes_of_a_file(existing):
    assert sha256(existing) == hashlib.sha256(b"old").hexdigest()


def test_first_line_of_an_error_without_a_message_is_its_class():
    assert first_line(OSError("first\nsecond")) == "first"
    assert first_line(ValueError()) == "ValueError"
    assert len(first_line(ValueError("x" * 1000))) == 160


# Outputs that are refused


def _output_refused(expected, outputs, *arguments, **settings):
    with pytest.raises(ConfigError, match=expected) as caught:
        check_outputs(outputs, *arguments, **settings)
    assert "\n" not in str(caught.value)


def test_an_output_may_not_replace_an_input_or_another_output(tmp_path):
    (tmp_path / "in.json").write_text("[]")
    (tmp_path / "link.json").symlink_to("in.json")
    for path in (tmp_path / "in.json", tmp_path / "x" / ".." / "in.json", tmp_path / "link.json"):
        (tmp_path / "x").mkdir(exist_ok=True)
        _output_refused(r'^`out=".*"` is the results file', {"out": path}, [("the results file", tmp_path / "in.json")])
    _output_refused(r'^`json=".*"` is what `csv` names', {"csv": tmp_path / "s", "json": str(tmp_path / "s")})
    check_outputs({"csv": tmp_path / "s", "json": tmp_path / "t", "coco": None}, [("an image", tmp_path / "u")])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.json", "link.json", "x"]


def test_an_output_may_replace_a_result_but_no_other_file_in_a_data_folder(tmp_path):
    truth, result = tmp_path / "annotations" / "train.json", tmp_path / "eval.json"
    truth.parent.mkdir()
    truth.write_text('{"images": []}')
    result.write_text('{\n "format": 1}')
    _output_refused(r'^`results=".*"` is a file of `data=".*"`', {"results": truth}, data=tmp_path)
    check_outputs({"out": result, "results": tmp_path / "new.json"}, data=tmp_path)


def test_an_output_that_cannot_be_written_or_is_binary_is_refused(tmp_path):
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n\0\0\0")
    os.mkfifo(tmp_path / "pipe")
    for name, expected in (
        ("a.png", "right after `json`"),
        (".", "is a folder"),
        ("nodir/x.json", "there is no folder .*nodir"),
        ("a.png/x.json", "there is no folder"),
        ("pipe", "no ordinary file"),
        ("x" * 300, "cannot be written"),
        ("x" * 250, "cannot be written"),
    ):
        _output_refused(expected, {"json": tmp_path / name})
    _output_refused("`json` names no file", {"json": ""})


def test_numbers_that_are_not_finite_are_null_in_json(tmp_path):
    content = {"loss": float("nan"), "rows": [(1.5, float("inf"))], "name": "NaN"}
    write_json(tmp_path / "a.json", content)
    assert json.loads((tmp_path / "a.json").read_text()) == {"loss": None, "rows": [[1.5, None]], "name": "NaN"}
