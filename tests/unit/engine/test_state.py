from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from twins.engine import state as states
from twins.engine.progress import Progress
from twins.engine.state import State, load_state, save_state
from twins.errors import NotFoundError, TrainingError, WeightsError


def _state(step: int) -> State:
    optimizer = {"state": {0: {"exp_avg": torch.full((3,), float(step))}}, "param_groups": [{"lr": 0.1, "params": [0]}]}
    progress = Progress(step=step, best=0.5, skipped={"train": {"a.jpg": "cut short"}, "val": {}})
    weights = {"weight": torch.full((3,), float(step))}
    return State(weights=weights, progress=progress, optimizer=optimizer, average=weights, fingerprint="data")


def test_a_loaded_state_equals_the_saved_one(tmp_path: Path) -> None:
    save_state(tmp_path, _state(7), None)
    loaded = load_state(tmp_path)
    assert loaded.progress == _state(7).progress
    assert loaded.fingerprint == "data"
    assert torch.equal(loaded.weights["weight"], torch.full((3,), 7.0))
    assert torch.equal(loaded.optimizer["state"][0]["exp_avg"], torch.full((3,), 7.0))


def test_a_new_state_replaces_the_old_one(tmp_path: Path) -> None:
    for step in (1, 2, 2, 2):
        save_state(tmp_path, _state(step), None)
    assert load_state(tmp_path).progress.step == 2
    assert len(list((tmp_path / "states").iterdir())) == 1
    assert (tmp_path / "last" / "model.safetensors").is_file()


@pytest.mark.parametrize("dies_in", ["torch.save", "os.rename", "os.replace", "_switch_link", "_remove_others"])
def test_a_process_that_dies_while_saving_leaves_a_whole_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dies_in: str
) -> None:
    save_state(tmp_path, _state(1), None)

    def die(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt  # like a kill: no `except` of ours cleans up

    owner, _, name = dies_in.rpartition(".")
    with monkeypatch.context() as patch:
        patch.setattr({"torch": torch, "os": os, "": states}[owner], name, die)
        with pytest.raises(KeyboardInterrupt):
            save_state(tmp_path, _state(2), None)
    assert load_state(tmp_path).progress.step in (1, 2)
    save_state(tmp_path, _state(3), None)
    assert load_state(tmp_path).progress.step == 3


def test_a_full_disk_raises_one_sentence_and_the_previous_state_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_state(tmp_path, _state(1), None)

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(TrainingError, match="No space left") as caught:
        save_state(tmp_path, _state(2), None)
    assert "\n" not in str(caught.value)
    assert "`resume=" in str(caught.value)
    assert load_state(tmp_path).progress.step == 1
    assert [entry.name for entry in (tmp_path / "states").iterdir()] == ["000000001"]


def test_a_run_without_a_state_and_a_damaged_state_raise_clear_errors(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no saved state"):
        load_state(tmp_path)
    save_state(tmp_path, _state(1), None)
    (tmp_path / "last" / "state.pt").write_bytes(b"nonsense")
    with pytest.raises(TrainingError, match="damaged"):
        load_state(tmp_path)


@pytest.mark.parametrize(
    ("part", "named"), [("weights", "model.safetensors"), ("average", "the average in .*state.pt")]
)
def test_a_state_that_is_not_finite_is_refused(tmp_path: Path, part: str, named: str) -> None:
    state = _state(7)
    setattr(state, part, {"weight": torch.tensor([1.0, float("nan"), 2.0])})
    save_state(tmp_path, state, None)
    with pytest.raises(WeightsError, match=rf"{named} holds weights that are not finite, first weight \(1 of 3 values"):
        load_state(tmp_path)
