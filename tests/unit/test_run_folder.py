"""Files of a run folder."""

from __future__ import annotations

import pytest

from twins.errors import NotFoundError
from twins.run_folder import BEST, LAST_WEIGHTS, example_files, parts_of, weights_note, weights_of


def test_the_weights_of_a_run_are_its_best_else_its_newest(tmp_path):
    with pytest.raises(NotFoundError, match=f"holds no {BEST}"):
        weights_of(tmp_path)
    (tmp_path / "last").mkdir()
    for name in (LAST_WEIGHTS, BEST):
        (tmp_path / name).touch()
        assert weights_of(tmp_path) == tmp_path / name
    assert weights_of("twins_svt_small") == "twins_svt_small"


def test_no_output_may_replace_a_file_of_the_run(tmp_path):
    parts = dict(parts_of(tmp_path))
    assert parts["the run's best.safetensors"] == tmp_path / "best.safetensors"
    assert "the run's eval.json" not in parts  # an evaluation may replace it
    assert parts_of("a.pth") == [("the network's weights", "a.pth")]


def test_the_note_says_which_weights_of_a_run_are_used(tmp_path):
    (tmp_path / "last").mkdir()
    (tmp_path / LAST_WEIGHTS).touch()
    newest = f"{tmp_path} holds no {BEST} yet; its newest weights are used, {LAST_WEIGHTS}"
    assert weights_note(tmp_path, averaged=False) == newest
    assert weights_note(tmp_path, averaged=True) == f"{newest}, not their average"
    (tmp_path / BEST).touch()
    best = f"the best weights of {tmp_path} are used, {BEST}"
    assert weights_note(tmp_path, averaged=False) == best
    assert weights_note(tmp_path, averaged=True) == f"{best}, an average over training steps"


def test_examples_in_a_linked_folder_are_none_of_the_run(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "01.png").write_bytes(b"private")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "examples").symlink_to(tmp_path / "elsewhere")
    assert example_files(tmp_path / "run") == []
