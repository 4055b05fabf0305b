"""`train`: from a config to a run folder, with data, network, training loop, final evaluation and report."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from torch import Tensor

from twins.backbone.config import PUBLISHED, resolve_name
from twins.data.base import ImageSet, Splits
from twins.data.config import EMBEDDED
from twins.data.loading.batch import Batch, normalise_batch
from twins.data.loading.loader import EvalSamples, TrainSamples, eval_loader, train_loader
from twins.data.loading.sampler import TrainBatches
from twins.engine.config import EvalConfig, TrainConfig, merge_resumed, read_config
from twins.engine.log import Log
from twins.engine.loop import training_loop
from twins.engine.processes import build_accelerator, run_on_main
from twins.engine.randomness import reseed
from twins.engine.trackers import Trackers
from twins.errors import ConfigError, NotFoundError, WeightsError
from twins.factory import create_model, model_from_info
from twins.files import atomic_file, is_invalid_path, write_json
from twins.preprocess import Preprocess
from twins.report.live import follow
from twins.run_folder import CONFIG, DATA, LAST, LAST_WEIGHTS, RESULT, STATES
from twins.tasks.contract import TaskSpec, spec_of
from twins.tasks.network import TaskNetwork
from twins.tasks.table import TASKS, check_task, facts_of, tasks_with
from twins.weights.files import read_tensors
from twins.weights.loading import check_finite
from twins.weights.store import resolve


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """Result of a training run."""

    path: Path
    """Run folder."""
    metrics: dict[str, float]
    """Metrics of the best weights; of the newest evaluation if the run was interrupted."""
    interrupted: bool
    """Whether a signal stopped the run; `TrainConfig(resume=path)` resumes it."""


def train(config: TrainConfig) -> RunResult:
    """Train a network, or resume a run; writes the run folder and its report.

    Under `torchrun`, the same call trains on all processes.

    Args:
        config: settings of the run; with `resume`, only settings of the machine may change, and `data` if the data has
            moved; see `merge_resumed`.

    Returns:
        the run folder and its metrics.

    Raises:
        ConfigError: settings contradict each other or the machine, or the folder `out` is not empty.
        NotFoundError: there is no model, weights or run of this name.
        DataError: the data cannot be used.
        WeightsError: the weights are not available or do not fit.
        TrainingError: the run had to stop; its newest whole state is kept.
    """
    config = _resolve_config(config)
    accelerator = build_accelerator(config)
    spec = spec_of(config.task)
    splits = spec.open(config.source)
    network = _build_network(config, spec, splits, accelerator)
    source = TaskSource(spec, splits, network.info.preprocess, config, accelerator)
    run = run_on_main(accelerator, lambda: _open_run(config, network, splits, accelerator.device.type))
    log = _open_log(run, config, accelerator)
    for note in (*splits.plan.short(), *_weights_notes(network), *splits.notes, *spec.warnings(splits)):
        log.info(f"note: {note}")
    saved = read_config(run / CONFIG)
    roots = _data_folder(config.data), _data_folder(saved.data)
    metric, data_hash = spec.metric(splits.train.names), fingerprint(splits.train, *roots)
    monitor = facts_of(config.task).monitor
    with follow(run, splits.val, log) as follower:
        outcome = training_loop(
            network,
            source,
            metric,
            config,
            accelerator,
            log,
            monitor=monitor,
            fingerprint=data_hash,
            after_evaluation=follower,
        )
        follower.finished = outcome.reason != "stopped"
    main = accelerator.is_main_process
    if main and (config.data, config.layout) != (saved.data, saved.layout):
        _write_config(run, replace(saved, data=config.data, layout=config.layout))
        _write_plan(run, splits)
    if accelerator.num_processes > 1:
        accelerator.end_training()
    if outcome.reason == "stopped" or not main:
        return RunResult(path=run, metrics=outcome.metrics, interrupted=outcome.reason == "stopped")
    return RunResult(path=run, metrics=_measure_and_report(run, config), interrupted=False)


class TaskSource:
    """One process's share of a task's data; implements the engine's `Source`.

    Args:
        spec: the task spec.
        splits: training and validation images.
        preprocess: preprocessing of the images.
        config: batch size, augmentation, workers.
        accelerator: processes and device.

    Raises:
        ConfigError: `batch_size` is not divisible by processes times passes.
    """

    def __init__(
        self, spec: TaskSpec, splits: Splits[Any], preprocess: Preprocess, config: TrainConfig, accelerator: Accelerator
    ) -> None:
        self.spec, self.splits, self.preprocess, self.config = spec, splits, preprocess, config
        self.device, self.train_count, self.val_count = accelerator.device, len(splits.train), len(splits.val)
        self.ranks = {"rank": accelerator.process_index, "world": accelerator.num_processes}
        self.loader_settings: Any = {"workers": config.workers, "pin": self.device.type == "cuda"}
        self.images_per_pass = _images_per_pass(config, accelerator.num_processes)
        self.order = TrainBatches(
            self.train_count,
            self.images_per_pass,
            seed=config.seed,
            accumulate=config.accumulate,
            repeats=config.augment.repeats,
            shapes=spec.shapes(splits.train),
            **self.ranks,
        )
        self.steps_per_epoch = self.order.steps
        self.train_samples = TrainSamples(splits.train, spec.train_transform(config, preprocess), seed=config.seed)
        self.eval_samples = EvalSamples(splits.val, spec.eval_transform(preprocess))

    def train(self, step: int) -> Iterator[Batch]:
        """Yield training batches without end, starting at optimiser step `step` of the run."""
        return train_loader(self.train_samples, self.order, step=step, **self.loader_settings)

    def evaluation(self) -> Iterable[Batch]:
        """Return this process's batches of the validation images."""
        shapes = self.spec.shapes(self.splits.val)
        return eval_loader(
            self.eval_samples, batch=self.images_per_pass, shapes=shapes, **self.ranks, **self.loader_settings
        )

    def prepare(self, batch: Batch, epoch: int) -> tuple[Tensor, Any]:
        """Return images, normalised on the device, and targets for the losses."""
        ready = normalise_batch(batch, self.preprocess, self.device)
        return self.spec.prepare_batch(self.config, ready, epoch, len(self.splits.train.names))

    def loss_targets(self, batch: Batch) -> Any:
        """Return the targets of an evaluation batch for the held-out losses."""
        return self.spec.loss_targets(batch)

    def path(self, index: int) -> str:
        """Return the path of a training image, for messages."""
        return self.splits.train.path(index)


def fingerprint(images: ImageSet, root: Path, first_root: Path) -> str:
    """Return a hash that changes if an image is added, removed, renamed or moved to another class's folder.

    Args:
        images: training images.
        root: folder of the data set.
        first_root: the folder when the run began; the hash of a moved data set is that of the first place.
    """
    hasher = hashlib.blake2b("\0".join(images.names).encode(), digest_size=16)
    for index in range(len(images)):
        path = Path(images.path(index))
        folder = first_root if path.parent == root else path.parent
        hasher.update(f"{folder.name}/{path.name}\n".encode())
    return hasher.hexdigest()


def _resolve_config(config: TrainConfig) -> TrainConfig:
    """Return the settings with resolved names and absolute paths; with `resume`, those of the saved run."""
    if config.resume:
        run = Path(config.resume)
        saved = read_config(run / CONFIG)
        if not (run / LAST).exists() and any((run / STATES).glob("[0-9]*")):
            raise NotFoundError(f"{run / LAST} leads to no state of {run / STATES}; copy the run again with its links")
        data = _absolute_path(config.data) if config.data else saved.data
        if data not in EMBEDDED and not Path(data).exists():
            problem = f"the data folder {data} of {run} does not exist"
            raise NotFoundError(f"{problem}; if it has moved, give its new folder as `data`")
        return merge_resumed(replace(config, data=data), saved)
    if not config.data:
        raise ConfigError("`data` is missing; give a folder, or the name of an embedded set such as digits")
    check_task(config.task)
    _check_task_settings(config)
    model = resolve_name(config.model)
    weights = config.weights
    if weights == "auto":
        weights = "published" if model in PUBLISHED else "none"
    else:
        weights = _absolute_path(weights)
    if config.out and Path(config.out).is_dir() and any(Path(config.out).iterdir()):
        raise ConfigError(
            f'`out="{config.out}"` is not empty; choose another folder, or continue it with `resume="{config.out}"`'
        )
    masks = replace(config.masks, classes=_absolute_path(config.masks.classes))
    boxes = replace(config.boxes, classes=_absolute_path(config.boxes.classes))
    data = config.data if config.data in EMBEDDED else _absolute_path(config.data)
    return replace(config, model=model, weights=weights, data=data, masks=masks, boxes=boxes)


def _check_task_settings(config: TrainConfig) -> None:
    """Raise ConfigError for settings that belong to other tasks."""
    default, settings = TrainConfig(), facts_of(config.task).train_settings
    for name in sorted({name for task in TASKS for name in facts_of(task).train_settings} - set(settings)):
        if change := _first_change(getattr(config, name), getattr(default, name), name):
            tasks = " and ".join(tasks_with("train_settings", name))
            raise ConfigError(f'`{change}` is for {tasks}, found `task="{config.task}"`; leave it out')


def _first_change(value: Any, default: Any, name: str) -> str | None:
    """Return the dotted name of the first setting that differs from its default, or `None`."""
    if value == default or not is_dataclass(value):
        return None if value == default else name
    return next(f"{name}.{f.name}" for f in fields(value) if getattr(value, f.name) != getattr(default, f.name))


def _data_folder(data: str) -> Path:
    """Return the folder of a data set, which may be given by its `data.yaml`; neither need exist any longer."""
    path = Path(data)
    return path.parent if path.suffix.lower() in (".yaml", ".yml") and not path.is_dir() else path


def _absolute_path(path_or_name: str) -> str:
    """Return an existing path as an absolute one, and anything else, such as a name, unchanged."""
    if is_invalid_path(path_or_name):
        raise NotFoundError(f"{path_or_name} does not exist; check the path")
    return str(Path(path_or_name).resolve()) if Path(path_or_name).exists() else path_or_name


def _build_network(config: TrainConfig, spec: TaskSpec, splits: Splits[Any], accelerator: Accelerator) -> TaskNetwork:
    newest = Path(config.resume or "") / LAST_WEIGHTS
    saved = read_tensors(newest) if config.resume and newest.exists() else None
    saved_info = saved.info if saved is not None else None
    if saved is not None and saved_info is not None:
        check_finite(saved.tensors, str(newest))
        network = model_from_info(saved_info, drop_rate=config.drop_rate, drop_path_rate=config.drop_path)
    else:
        weights = _find_weights(config, accelerator)
        reseed(config.seed)
        network = create_model(
            config.model,
            task=config.task,
            head=config.head,
            weights=weights,
            weights_key=config.weights_key,
            padding=config.padding,
            drop_rate=config.drop_rate,
            drop_path_rate=config.drop_path,
            names=splits.train.names,
            norm=config.semantic.norm,
            anchor_scale=config.detection.anchor_scale,
            resize_head=True,
        )
    network.info = replace(network.info, preprocess=spec.preprocess(config, network.info.preprocess))
    spec.configure(network, config, splits.train)
    checkpointing = config.checkpointing or config.selective_checkpointing
    network.set_grad_checkpointing(checkpointing, selective=not config.checkpointing)
    for stage in network.backbone.stages[: config.freeze]:
        stage.requires_grad_(False)
    return network


def _weights_notes(network: TaskNetwork) -> list[str]:
    """Return what to say of the initial weights: which of a file's networks they are, and what was left out."""
    return [network.load_report.note] if network.load_report and network.load_report.note else []


def _find_weights(config: TrainConfig, accelerator: Accelerator) -> Path | None:
    """Return the file of the initial weights; the main process downloads it first."""
    if config.weights == "none":
        return None
    name = config.model if config.weights == "published" else config.weights
    try:
        run_on_main(accelerator, lambda: resolve(name))
        return resolve(name)
    except (WeightsError, NotFoundError) as error:
        if config.weights != "published":
            raise
        reason = str(error).partition(";")[0]
        raise WeightsError(
            f"training starts from the published weights of {config.model}, which cannot be had ({reason}); give a "
            'file with `weights=PATH`, or train from scratch with `weights="none"`'
        ) from error


def _images_per_pass(config: TrainConfig, world: int) -> int:
    shares = world * config.accumulate
    if config.batch_size % shares:
        raise ConfigError(
            f"`batch_size` must be a multiple of the processes times `accumulate`, found {config.batch_size} images "
            f"for {world} x {config.accumulate}"
        )
    return config.batch_size // shares


def _open_run(config: TrainConfig, network: TaskNetwork, splits: Splits[Any], device: str) -> Path:
    """Create the run folder, and write the resolved settings and the reading plan."""
    run = Path(config.resume) if config.resume else _new_folder(config)
    if not config.resume:
        info = network.info
        resolved: dict[str, Any] = {"out": str(run), "padding": info.padding, "device": device, "head": info.head}
        resolved["detection"] = replace(config.detection, anchor_scale=info.anchor_scale)
        _write_config(run, replace(config, **resolved))
        _write_plan(run, splits)
    return run


def _write_plan(run: Path, splits: Splits[Any]) -> None:
    write_json(run / DATA, {"data": splits.source, **splits.plan.to_dict()})


def _write_config(run: Path, config: TrainConfig) -> None:
    with atomic_file(run / CONFIG) as temporary:
        temporary.write_text(config.to_yaml())


def _new_folder(config: TrainConfig) -> Path:
    if config.out:
        folder = Path(config.out)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                f'`out="{config.out}"` cannot be made ({error.strerror}); choose another folder'
            ) from error
        return folder
    number = 1
    while True:
        folder = Path("runs") / f"{config.model}-{Path(config.data).name}-{number}"
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:
            number += 1


def _open_log(run: Path, config: TrainConfig, accelerator: Accelerator) -> Log:
    """Return the logger of the run, with its trackers started."""
    started: list[Trackers] = []
    if config.trackers:
        resolved = replace(read_config(run / CONFIG), resume=config.resume)
        run_on_main(accelerator, lambda: started.append(Trackers(resolved, run)))
    log = Log(run, active=accelerator.is_main_process, tracker=started[0] if started else None)
    for trackers in started:
        trackers.note = log.info
    return log


def _measure_and_report(run: Path, config: TrainConfig) -> dict[str, float]:
    """Evaluate the best weights on the run's device, write the report, and return the metrics."""
    from twins.evaluation import evaluate
    from twins.report.page import write_report

    eval_config = EvalConfig(
        out=str(run / RESULT), max_skipped=config.max_skipped, device=config.device, workers=config.workers
    )
    result = evaluate(run, config.data, eval_config)
    write_report(run, device=config.device)
    return result.metrics
