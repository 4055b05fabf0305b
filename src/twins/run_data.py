"""The data of an evaluation: read and split as in the run of the network, and sentences on what may differ."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeVar

from twins.data.base import ImageSet, Splits
from twins.data.config import EMBEDDED, BoxConfig, DataConfig, LayoutConfig, MaskConfig
from twins.engine.config import EvalConfig, TrainConfig, read_config
from twins.errors import number_of
from twins.run_folder import CONFIG, DATA, find_run
from twins.tasks.network import TaskNetwork

Settings = TypeVar("Settings", MaskConfig, BoxConfig, LayoutConfig)


def data_config(model: str | Path | TaskNetwork, data: str, config: EvalConfig) -> DataConfig:
    """Return how the data is read and split: as in the run, for the same validation images, unless `config` differs."""
    run = run_config(model)
    is_same = _is_same_data(data, run.data)
    return DataConfig(
        data=data,
        seed=run.seed if config.seed is None else config.seed,
        val_share=run.val_share if config.val_share is None else config.val_share,
        masks=_merge(config.masks, run.masks),
        boxes=_merge(config.boxes, run.boxes) if is_same else config.boxes,  # other data may count other classes
        layout=_merge(config.layout, run.layout) if is_same else config.layout,
    )


def run_config(model: str | Path | TaskNetwork) -> TrainConfig:
    """Return the settings of the run that a network is of, or the defaults if there is none."""
    run = find_run(model) if isinstance(model, str | Path) else None
    return TrainConfig() if run is None else read_config(run / CONFIG)


def _is_same_data(data: str, other: str) -> bool:
    return data == other or (data not in EMBEDDED and os.path.realpath(data) == os.path.realpath(other))


def _merge(requested: Settings, saved: Settings) -> Settings:
    """Return the saved settings of a run with the requested changes; a setting at its default is no change."""
    default, values = asdict(type(requested)()), asdict(requested)
    return replace(saved, **{name: value for name, value in values.items() if value != default[name]})


def share_notes(
    model: str | Path | TaskNetwork, splits: Splits[Any], images: ImageSet, source: DataConfig
) -> list[str]:
    """Return sentences if a share of an unsplit set is measured, and if the run held out another or may have."""
    notes = _layout_notes(model, source)
    if not splits.share or len(images) == splits.count:
        return notes
    count = f"{len(images)} of {number_of(splits.count, 'image')}"
    notes.append(
        f"{count} are measured, those that a training with `seed={source.seed}` and `val_share={source.val_share:g}` "
        'holds out; `part="all"` measures all of them'
    )
    run = find_run(model) if isinstance(model, str | Path) else None
    return notes if run is None else [*notes, *_other_share_notes(run, splits, source)]


def _other_share_notes(run: Path, splits: Splits[Any], source: DataConfig) -> list[str]:
    """Return a sentence if a run held out other images; a smaller share of one seed is a part of a larger one."""
    saved = read_config(run / CONFIG)
    is_same = _is_same_data(source.data, saved.data)
    if source.seed != saved.seed or source.val_share > saved.val_share or (is_same and source.layout != saved.layout):
        how = f"`seed={saved.seed}`, `val_share={saved.val_share:g}` and its own layout settings"
        return [f"the run held out images by {how}, so on its own data, images that it was trained on are measured"]
    before = _images_before(run) if is_same else None
    if before is None or before == splits.count:
        return []
    return [
        f"the data had {number_of(before, 'image')} when the run began and has {splits.count} now, so others are held "
        "out, and images that it was trained on may be measured"
    ]


def _images_before(run: Path) -> int | None:
    """Return how many images the data had when a run began; `None` if the run does not say."""
    try:
        parts = json.loads((run / DATA).read_text(encoding="utf-8"))["parts"]
        return sum(part["images"] for part in parts.values() if "same_as" not in part)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _layout_notes(model: str | Path | TaskNetwork, source: DataConfig) -> list[str]:
    """Return a sentence if a run's layout settings are not used, because its data may have moved."""
    run = run_config(model)
    if run.layout == LayoutConfig() or source.layout != LayoutConfig() or _is_same_data(source.data, run.data):
        return []
    return [
        f"the layout settings of the run are for {run.data} and are not used here; give them again if {source.data} is "
        "the same data"
    ]
