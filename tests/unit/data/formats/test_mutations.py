"""Damaged and unusual data sets of each format are read or refused, and each of their files is accounted for."""

from __future__ import annotations

import importlib
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from twins.data.formats.source import LAYOUT_FILE, layout_text

BENCHMARKS = Path(__file__).parents[4] / "benchmarks"
COUNT = 12
"""Sets of each format; `benchmarks/mutations.py` draws some thousand."""


@pytest.fixture(scope="module")
def mutations():
    """Return the module that draws the sets."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        yield importlib.import_module("mutations")
    for name in ("mutations", "changes", "small_sets", "tool_sets"):
        sys.modules.pop(name)


def test_every_format_is_opened_or_refused_with_all_its_files_accounted_for(mutations):
    for kind in mutations.FORMATS:
        for draw in mutations.run_draws(kind, 5, range(COUNT)):
            assert draw.outcome != "failed", f"{kind.name}, number {draw.number}: {draw.changes}\n{draw.message}"


def test_valid_sets_are_opened(mutations, tmp_path):
    for kind in mutations.FORMATS:
        folder = tmp_path / kind.name
        kind.build(folder)
        for task in kind.tasks:
            mutations.open_and_check(folder, task, mutations.DataConfig(data=str(folder)))


def paths_by_part(splits):
    return {part: [images.path(index) for index in range(len(images))] for part, images in splits.parts.items()}


def test_the_settings_that_were_recognised_open_the_same_images_again(mutations, tmp_path):
    for kind in mutations.FORMATS:
        folder = tmp_path / kind.name
        kind.build(folder)
        for task in kind.tasks:
            splits = mutations.spec_of(task).open(mutations.DataConfig(data=str(folder)))
            (folder / LAYOUT_FILE).write_text(layout_text(splits.layout), encoding="utf-8")
            again = mutations.spec_of(task).open(mutations.DataConfig(data=str(folder)))
            (folder / LAYOUT_FILE).unlink()
            assert paths_by_part(again) == paths_by_part(splits), f"{kind.name}, {task}"
            assert again.names == splits.names


def test_settings_win_over_the_names_of_parts(mutations, tmp_path):
    for kind in mutations.FORMATS:
        folder = tmp_path / kind.name
        kind.build(folder)
        for task in kind.tasks:
            splits = mutations.spec_of(task).open(mutations.DataConfig(data=str(folder)))
            if not splits.layout.train:
                continue  # an unsplit set
            layout = replace(splits.layout, train=splits.layout.val, val=splits.layout.train)
            swapped = mutations.spec_of(task).open(mutations.DataConfig(data=str(folder), layout=layout))
            paths = paths_by_part(splits)
            assert paths_by_part(swapped) == {"train": paths["val"], "val": paths["train"]}, f"{kind.name}, {task}"


def test_a_draw_depends_on_its_format_seed_and_number_only(mutations):
    kind = mutations.FORMATS[0]
    first, again = ([draw[:3] for draw in mutations.run_draws(kind, 3, numbers)] for numbers in (range(6), range(4, 6)))
    assert first[4:] == again


def test_what_is_lost_or_not_refused_in_one_sentence_fails(mutations, monkeypatch):
    kind = mutations.FORMATS[0]
    assert mutations.run_draws(kind, 0, [0])[0].outcome in ("opened", "refused")
    for error in (ValueError("a"), mutations.TwinsError("two\nlines")):

        def fail(folder, task, config, error=error):
            raise error

        monkeypatch.setattr(mutations, "open_and_check", fail)
        assert mutations.run_draws(kind, 0, [0])[0].outcome == "failed"
