"""What a run folder holds, by name."""

from __future__ import annotations

import pytest

from twins.errors import NotFoundError
from twins.run_folder import BEST, LAST_WEIGHTS, parts_of, weights_of


def test_a_runs_weights_are_its_best_then_its_newest(tmp_path):
    with pytest.raises(NotFoundError, match=f"holds no {BEST}"):
        weights_of(tmp_path)
    (tmp_path / "last").mkdir()
    for name in (LAST_WEIGHTS, BEST):
        (tmp_path / name).touch()
        assert weights_of(tmp_path) == tmp_path / name
    assert weights_of("twins_svt_small") == "twins_svt_small"


def test_no_result_may_replace_what_the_network_was_written_with(tmp_path):
    parts = dict(parts_of(tmp_path))
    assert parts["the run's best.safetensors"] == tmp_path / "best.safetensors"
    assert "the run's eval.json" not in parts  # which an evaluation writes anew
    assert parts_of("a.pth") == [("the network's weights", "a.pth")]
