"""Files of a run folder."""

from __future__ import annotations

import pytest

from twins.errors import NotFoundError
from twins.run_folder import BEST, LAST_WEIGHTS, parts_of, weights_of


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
