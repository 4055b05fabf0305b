from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import pytest

from twins.data.config import LayoutConfig
from twins.data.transforms.config import AugmentConfig, DetectionConfig, SemanticConfig
from twins.engine.config import OptimizerConfig, ScheduleConfig, TrainConfig, merge_resumed, read_config
from twins.errors import ConfigError, NotFoundError
from twins.tasks.inference import InferenceConfig


def test_yaml_round_trips_every_setting() -> None:
    config = TrainConfig(
        data="photos",
        minutes=1.5,
        ema_decay=0.999,
        trackers=("tensorboard",),
        layout=LayoutConfig(images="pictures", train=("a", "b c"), val=("größe.txt",)),
        optimizer=OptimizerConfig(lr=1e-6, layer_decay=None),
        augment=AugmentConfig(scale=(0.3, 0.9), rand_augment=None),
    )
    assert TrainConfig.from_yaml(config.to_yaml()) == config


def test_an_older_file_gets_defaults_for_what_it_lacks() -> None:
    assert TrainConfig.from_yaml("format: 1\ndata: photos\n") == TrainConfig(data="photos")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("epoks: 3", "epochs"),
        ("optimizer: {lrr: 1}", "optimizer.lrr"),
        ("format: 99", "update"),
        ("- a", "list"),
        ("a: [", "YAML"),
        ("batch_size: many", "kind"),
        ("data: 5", "data has a value of the wrong kind, 5; it must be text"),
        ("model: null", "model has a value of the wrong kind"),
        ("detection: 5", "detection has a value of the wrong kind, 5; it must be names with values"),
        ("optimizer: {lr: [1]}", r"optimizer\.lr has .* must be a number"),
        ("optimizer: {betas: [0.9]}", "a list of 2 values"),
        ("schedule: {drop_epochs: [a]}", "must be a list"),
        ("epochs: true", "must be a number"),
        ("workers: 1.5", "must be a whole number"),
        ("masks: {reduce_zero_label: 3}", "true or false or null"),
        ("data: 2024-13-45", "no YAML"),
        ("1: 2\nb: 3", "there is no setting 1"),
    ],
)
def test_a_wrong_file_is_refused_in_one_sentence(text: str, expected: str) -> None:
    with pytest.raises(ConfigError, match=expected) as caught:
        TrainConfig.from_yaml(text)
    assert "\n" not in str(caught.value)


def test_a_truncated_file_is_refused_but_a_file_of_format_1_has_no_end_to_check() -> None:
    config = TrainConfig(data="photos", batch_size=7)
    lines = config.to_yaml().splitlines(keepends=True)
    assert lines[-1] == "complete: true\n"
    for count in range(2, len(lines)):
        with pytest.raises(ConfigError, match="cut short"):
            TrainConfig.from_yaml("".join(lines[:count]))
    older = "".join(lines[:-1]).replace("format: 2", "format: 1")
    assert TrainConfig.from_yaml(older) == config


def test_the_error_of_a_binary_or_missing_file_names_it(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(ConfigError, match=r"config\.yaml is damaged"):
        read_config(tmp_path / "config.yaml")
    with pytest.raises(NotFoundError, match=r"nowhere is no folder; give a run folder"):
        read_config(tmp_path / "nowhere" / "config.yaml")
    with pytest.raises(NotFoundError, match="give a run folder"):
        read_config(tmp_path / ("x" * 300) / "config.yaml")


@pytest.mark.parametrize(
    ("setting", "name"),
    [
        ({"batch_size": 0}, "`batch_size`"),
        ({"epochs": -1.0}, "`epochs`"),
        ({"epochs": math.inf}, "`epochs` must be finite"),
        ({"minutes": 0.0}, "`minutes`"),
        ({"eval_every": math.inf}, "`eval_every`"),
        ({"precision": "fp8"}, "`precision`"),
        ({"ema_decay": 1.0}, "`ema_decay`"),
        ({"freeze": 5}, "`freeze`"),
        ({"batch_size": 10, "accumulate": 3}, "`accumulate`"),
        ({"max_skipped": 1.5}, "`max_skipped`"),
        ({"out": "x" * 300}, "`out`"),
        ({"quiet": True, "verbose": True}, "`quiet` and `verbose`"),
    ],
)
def test_a_value_out_of_range_names_the_setting(setting: dict[str, object], name: str) -> None:
    with pytest.raises(ConfigError, match=name):
        TrainConfig(**setting)  # type: ignore[arg-type]


def test_nested_values_out_of_range_name_the_dotted_setting() -> None:
    with pytest.raises(ConfigError, match=r"`optimizer\.lr` must be above 0, found 0"):
        OptimizerConfig(lr=0)
    with pytest.raises(ConfigError, match=r"`schedule\.warmup_epochs`"):
        ScheduleConfig(warmup_epochs=-1)


@pytest.mark.parametrize("high", [math.inf, math.nan, 101.0])
def test_factors_are_finite_and_at_most_100(high: float) -> None:
    for kind, name in (
        (AugmentConfig, "scale"),
        (AugmentConfig, "ratio"),
        (SemanticConfig, "ratio"),
        (DetectionConfig, "ratio"),
        (DetectionConfig, "jitter"),
    ):
        with pytest.raises(
            ConfigError, match=rf"\.{name}` must be two ascending numbers above 0 and at most 100, found 1"
        ):
            kind(**{name: (1.0, high)})
    with pytest.raises(ConfigError, match="`scales`"):
        InferenceConfig(scales=(high,))
    with pytest.raises(ConfigError, match="anchor_scale"):
        DetectionConfig(anchor_scale=math.inf)


def test_the_learning_rate_scales_with_the_batch_if_lr_batch_is_set() -> None:
    scaled = TrainConfig(batch_size=1024, optimizer=OptimizerConfig(lr=5e-4, lr_batch=512))
    assert scaled.lr == pytest.approx(1e-3)
    assert TrainConfig(batch_size=1024, optimizer=OptimizerConfig(lr=5e-4)).lr == 5e-4


def test_resuming_accepts_machine_settings_and_refuses_others() -> None:
    saved = TrainConfig(data="photos", epochs=50, workers=4)
    merged = merge_resumed(TrainConfig(resume="runs/a", workers=1), saved)
    assert merged == replace(saved, resume="runs/a", workers=1)
    with pytest.raises(ConfigError, match="`epochs`"):
        merge_resumed(TrainConfig(resume="runs/a", epochs=60), saved)
    assert merge_resumed(TrainConfig(resume="runs/a", epochs=50), saved).epochs == 50
    assert merge_resumed(TrainConfig(resume="runs/a", data="moved"), saved).data == "moved"


def test_resuming_takes_the_output_of_the_call_and_a_length_only_to_extend() -> None:
    saved = TrainConfig(data="photos", epochs=50, quiet=True)
    assert merge_resumed(TrainConfig(resume="runs/a", verbose=True), saved).output == "verbose"
    assert merge_resumed(TrainConfig(resume="runs/a"), saved).output == "normal"
    with pytest.raises(ConfigError, match="`minutes`"):
        merge_resumed(TrainConfig(resume="runs/a", minutes=5.0), saved)
    with pytest.raises(ConfigError, match="cannot change `batch_size`"):
        merge_resumed(TrainConfig(resume="runs/a", auto_batch=True), saved)
    assert merge_resumed(TrainConfig(resume="runs/a", minutes=5.0, extend=True), saved).epochs == 50


def test_resuming_moved_data_changes_the_layout_settings_that_are_given() -> None:
    saved = TrainConfig(data="photos", layout=LayoutConfig(images="pictures", train=("/old/train.txt",)))
    requested = TrainConfig(resume="runs/a", data="moved", layout=LayoutConfig(train=("train.txt",)))
    assert merge_resumed(requested, saved).layout == LayoutConfig(images="pictures", train=("train.txt",))
    assert merge_resumed(replace(requested, layout=LayoutConfig()), saved).layout == saved.layout


def test_a_run_of_a_version_without_layout_settings_is_read_and_resumed() -> None:
    lines = TrainConfig(data="photos").to_yaml().splitlines(keepends=True)
    first = lines.index("layout:\n")
    older = "".join(lines[:first] + lines[first + 1 + len(fields(LayoutConfig)) :])
    assert "layout" not in older
    assert TrainConfig.from_yaml(older) == TrainConfig(data="photos")
    assert merge_resumed(TrainConfig(resume="runs/a"), TrainConfig.from_yaml(older)).layout == LayoutConfig()


def test_the_error_of_a_folder_without_a_config_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"config\.yaml"):
        read_config(tmp_path / "config.yaml")


def test_every_setting_has_a_docstring() -> None:
    source = Path(sys.modules[TrainConfig.__module__].__file__ or "").read_text()
    for cls in (TrainConfig, OptimizerConfig, ScheduleConfig):
        body = source.partition(f"class {cls.__name__}")[2].splitlines()
        for field in fields(cls):
            line = next(i for i, text in enumerate(body) if text.startswith(f"    {field.name}:"))
            assert body[line + 1].strip().startswith('"""'), f"{cls.__name__}.{field.name}"


def test_settings_and_recipes_import_no_torch() -> None:
    code = "import twins.engine.config, twins.tasks.recipes, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
