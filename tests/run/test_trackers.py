"""Experiment trackers, each with the real package where it is installed: metrics, settings, pictures, and resuming."""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from twins.engine.config import TrainConfig, read_config
from twins.engine.log import read_rows
from twins.engine.trackers import Trackers, flat_settings
from twins.errors import ConfigError, MissingExtraError
from twins.training import train


def needs(name: str) -> pytest.MarkDecorator:
    spec = find_spec(name)
    missing = spec is None or spec.origin is None  # a folder of this name, such as what W&B writes, is no package
    return pytest.mark.skipif(missing, reason=f"{name} is not installed; pip install {name}")


@pytest.fixture
def images(tmp_path) -> Path:
    """Eight images of two classes, of which two are held out."""
    for name, base in (("dark", 40), ("light", 200)):
        (tmp_path / "images" / name).mkdir(parents=True)
        for index in range(4):
            noise = np.random.default_rng(index).integers(0, 40, (40, 40, 3)) + base
            Image.fromarray(noise.astype(np.uint8)).save(tmp_path / "images" / name / f"{index}.png")
    return tmp_path / "images"


@pytest.fixture
def config(tmp_path, images) -> Callable[..., TrainConfig]:
    def build(*trackers: str) -> TrainConfig:
        return TrainConfig(
            data=str(images),
            model="twins_svt_nano",
            weights="none",
            size=32,
            batch_size=2,
            epochs=2,
            log_every=1,
            device="cpu",
            out=str(tmp_path / "run"),
            trackers=trackers,
        )

    return build


@pytest.fixture
def no_network(monkeypatch) -> None:
    """Refuse every connection to another machine from this process."""
    connect = socket.socket.connect

    def refuse(self: socket.socket, address: Any) -> None:
        if self.family != socket.AF_UNIX and address[0] not in ("127.0.0.1", "localhost", "::1"):
            raise AssertionError(f"a connection to {address}")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", refuse)
    for name in ("WANDB_MODE", "WANDB_DIR", "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)


@needs("tensorboard")
def test_tensorboard_gets_every_row_the_settings_and_pictures(config, no_network):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = train(config("tensorboard")).path
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    for row in read_rows(run, "eval"):
        for name in ("top1", "loss"):
            logged = {event.step: event.value for event in events.Scalars(f"eval/{name}")}
            assert logged[row["step"]] == pytest.approx(row[name])
    assert len(events.Scalars("train/loss")) == len(read_rows(run, "train"))
    assert events.Tags()["images"] == ["predictions/0", "predictions/1"]
    (settings,) = (run / "tensorboard").rglob("hparams.yml")
    assert "optimizer.lr:" in settings.read_text()


@needs("wandb")
def test_wandb_writes_offline_into_the_run_folder_and_continues_under_resume(config, no_network):
    run = train(config("wandb")).path
    (folder,) = (run / "wandb").glob("offline-run-*")
    assert list(folder.glob("*.wandb"))
    assert list((folder / "files" / "media" / "images").glob("predictions_*.png"))
    trackers = Trackers(replace(read_config(run / "config.yaml"), resume=str(run)), run)
    trackers.log({"train/loss": 0.5}, step=9)
    trackers.finish()
    ids = {path.name.rpartition("-")[2] for path in (run / "wandb").glob("offline-run-*")}
    assert ids == {folder.name.rpartition("-")[2]}


@needs("mlflow")
def test_mlflow_keeps_its_store_in_the_run_folder_and_continues_under_resume(config, no_network):
    import mlflow

    run = train(config("mlflow")).path
    trackers = Trackers(replace(read_config(run / "config.yaml"), resume=str(run)), run)
    trackers.log({"train/loss": 0.5}, step=9)
    trackers.finish()
    (stored,) = mlflow.search_runs(experiment_names=["twins"], output_format="list")
    assert stored.info.run_name == "run"
    assert stored.data.params["optimizer.lr"] == str(read_config(run / "config.yaml").optimizer.lr)
    assert stored.data.metrics["eval/loss"] == pytest.approx(read_rows(run, "eval")[-1]["loss"])
    assert stored.data.metrics["train/loss"] == 0.5
    assert list((run / "mlflow").rglob("predictions/*.png"))


def test_a_tracker_that_fails_is_noted_and_left_out_so_that_the_run_goes_on(tmp_path):
    class Broken:
        def log(self, values: dict[str, float], step: int) -> None:
            raise RuntimeError("disk full\nmore")

    trackers, notes = Trackers(TrainConfig(), tmp_path), list[str]()
    trackers.note = notes.append
    trackers._trackers = {"wandb": Broken()}
    trackers.log({"loss": 1.0}, step=1)
    trackers.log({"loss": 1.0}, step=2)
    assert notes == ["note: the tracker wandb failed and is left out from here on (disk full)"]


def test_settings_are_flat_values_that_every_tracker_takes():
    settings = flat_settings(TrainConfig(trackers=("wandb",)))
    assert settings["optimizer.lr"] == TrainConfig().optimizer.lr
    assert settings["trackers"] == "('wandb',)"
    assert settings["minutes"] == "None"
    assert {type(value) for value in settings.values()} <= {str, int, float, bool}


def test_unknown_and_missing_trackers_are_said_in_one_sentence(config, monkeypatch):
    with pytest.raises(ConfigError, match="did you mean tensorboard"):
        train(config("tensorbord"))
    monkeypatch.setattr("accelerate.tracking.get_available_trackers", lambda: [])
    with pytest.raises(MissingExtraError, match="pip install wandb"):
        train(config("wandb"))


@needs("tensorboard")
def test_a_tracker_that_does_not_start_is_said_in_one_sentence(config, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "tensorboard").write_text("a file")
    with pytest.raises(ConfigError, match="the tracker tensorboard does not start"):
        Trackers(config("tensorboard"), tmp_path / "run")
