"""The experiment trackers of a run, through accelerate: metrics, settings and sample pictures.

By default nothing leaves the machine: TensorBoard, W&B and MLflow write into the run folder. A user's own environment
variables, such as `WANDB_MODE=online` or `MLFLOW_TRACKING_URI`, take precedence.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from twins.engine.config import TrainConfig
from twins.errors import ConfigError, MissingExtraError, nearest
from twins.files import first_line

PROJECT = "twins"
"""W&B's project and MLflow's experiment."""
_QUIET = {
    "WANDB_SILENT": "true",
    "WANDB_ERROR_REPORTING": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
}
"""Environment variables, unless they are set: no messages, and no reports to the makers of a tracker."""


def check_trackers(names: Sequence[str]) -> None:
    """Check the names of trackers.

    Raises:
        ConfigError: accelerate has no tracker of a name.
        MissingExtraError: a tracker is not installed.
    """
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

    available = {str(tracker) for tracker in get_available_trackers()}
    for name in names:
        if name not in LOGGER_TYPE_TO_CLASS:
            tracker_names = sorted(map(str, LOGGER_TYPE_TO_CLASS))
            raise ConfigError(
                f"`trackers` names {name!r}, which accelerate does not have{nearest(name, tracker_names)}"
            )
        if name not in available:
            raise MissingExtraError(f"the tracker {name} is not installed; pip install {name}")


class Trackers:
    """The trackers of a run, on its main process; one that fails later is left out, so that it does not stop the run.

    Args:
        config: names of the trackers, and the settings to store when a run begins.
        run: the run folder; a tracker without a folder of its own writes into it.

    Attributes:
        note: called with a sentence if a tracker fails.

    Raises:
        ConfigError: a tracker does not start.
    """

    def __init__(self, config: TrainConfig, run: Path) -> None:
        for name, value in _QUIET.items():
            os.environ.setdefault(name, value)
        self.note: Callable[[str], None] = print
        self._trackers = {name: _start(name, config, run) for name in dict.fromkeys(config.trackers)}

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Log the values of a row of `metrics.jsonl`."""
        self._each(lambda name, tracker: tracker.log(dict(values), step=step))

    def log_pictures(self, pictures: Sequence[Image.Image], step: int) -> None:
        """Log the sample pictures of an evaluation, RGB, to the trackers that show pictures."""
        self._each(lambda name, tracker: _PICTURES[name](tracker, pictures, step) if name in _PICTURES else None)

    def finish(self) -> None:
        """Write what is left, and close the trackers."""
        self._each(lambda name, tracker: tracker.finish())

    def _each(self, action: Callable[[str, Any], None]) -> None:
        for name, tracker in list(self._trackers.items()):
            try:
                action(name, tracker)
            except Exception as error:
                del self._trackers[name]
                self.note(f"note: the tracker {name} failed and is left out from here on ({first_line(error)})")


def flat_settings(config: TrainConfig) -> dict[str, str | int | float | bool]:
    """Return the settings by dotted name, such as `optimizer.lr`; lists and `None` as text."""

    def flatten(values: Mapping[str, Any], prefix: str) -> dict[str, str | int | float | bool]:
        """Return the values of nested groups, each name after its `prefix`."""
        flat: dict[str, str | int | float | bool] = {}
        for name, value in values.items():
            if isinstance(value, Mapping):
                flat |= flatten(value, f"{prefix}{name}.")
            else:
                flat[prefix + name] = value if isinstance(value, str | int | float) else str(value)
        return flat

    return flatten(asdict(config), "")


def _start(name: str, config: TrainConfig, run: Path) -> Any:
    """Start a tracker, or continue it if the run is resumed."""
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    kind, resumed = LOGGER_TYPE_TO_CLASS[name], config.resume is not None
    try:
        settings = _SETTINGS[name](run, resumed) if name in _SETTINGS else {}
        if kind.requires_logging_directory:
            tracker = kind(name, str(run), **settings)
        else:
            tracker = kind(PROJECT, **settings)
        tracker.start()
        if not resumed:
            tracker.store_init_configuration(flat_settings(config))
    except Exception as error:
        raise ConfigError(
            f"the tracker {name} does not start ({first_line(error)}); correct its settings, or leave it out of "
            "`trackers`"
        ) from error
    return tracker


def _wandb_settings(run: Path, resumed: bool) -> dict[str, Any]:
    """Return the arguments of `wandb.init`; a resumed run has the id at the end of its newest folder's name."""
    folder = os.environ.get("WANDB_DIR", str(run))
    names = sorted(path.name for path in Path(folder, "wandb").glob("*run-*-*")) if resumed else []
    earlier = {"id": names[-1].rpartition("-")[2]} if names else {}
    mode = os.environ.get("WANDB_MODE", "offline")
    return {"name": run.name, "dir": folder, "mode": mode, "resume": "allow", **earlier}


def _mlflow_settings(run: Path, resumed: bool) -> dict[str, Any]:
    """Choose MLflow's store, by default a database in the run folder, and return the arguments of the tracker."""
    import mlflow

    folder, experiment = run.resolve(), os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
    tag = hashlib.sha256(str(folder).encode()).hexdigest()[:16]
    arguments: dict[str, Any] = {"run_name": run.name, "tags": {"folder": tag}}
    query = f"tags.folder = '{tag}'"
    if "MLFLOW_TRACKING_URI" not in os.environ:
        mlflow.set_tracking_uri(f"sqlite:///{folder / 'mlflow.db'}")
        arguments["logging_dir"] = (folder / "mlflow").as_uri()
        query = ""  # the database has one run, even if its folder was moved
    runs = mlflow.search_runs(experiment_names=[experiment], filter_string=query, output_format="list")
    return arguments | ({"run_id": runs[0].info.run_id} if resumed and runs else {})


_SETTINGS: dict[str, Callable[[Path, bool], dict[str, Any]]] = {"wandb": _wandb_settings, "mlflow": _mlflow_settings}


def _pictures_to_tensorboard(tracker: Any, pictures: Sequence[Image.Image], step: int) -> None:
    named = {f"predictions/{index}": np.asarray(picture)[None] for index, picture in enumerate(pictures)}
    tracker.log_images(named, step=step, dataformats="NHWC")


def _pictures_to_wandb(tracker: Any, pictures: Sequence[Image.Image], step: int) -> None:
    tracker.log_images({"predictions": list(pictures)}, step=step)


def _pictures_to_mlflow(tracker: Any, pictures: Sequence[Image.Image], step: int) -> None:
    import mlflow

    for index, picture in enumerate(pictures):
        mlflow.log_image(picture, f"predictions/step-{step:07d}-{index}.png")


_PICTURES = {"tensorboard": _pictures_to_tensorboard, "wandb": _pictures_to_wandb, "mlflow": _pictures_to_mlflow}
