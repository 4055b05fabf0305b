"""`train`: from a config to a run folder, with data, network, training loop, final evaluation and report."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from torch import Tensor

from twins.banner import end_lines, start_lines
from twins.choosing import choose_settings
from twins.data.base import ImageSet, Splits
from twins.data.loading.batch import Batch, collate, normalise_batch
from twins.data.loading.loader import EvalSamples, TrainSamples, eval_loader, train_loader
from twins.data.loading.sampler import TrainBatches
from twins.engine.batch_size import fitting_batch, trial_pass
from twins.engine.config import LENGTHS, EvalConfig, TrainConfig, read_config
from twins.engine.log import Log
from twins.engine.loop import Outcome, training_loop
from twins.engine.processes import build_accelerator, run_on_main
from twins.engine.progress import Progress
from twins.engine.randomness import reseed
from twins.engine.schedule import extend_run
from twins.engine.signals import Stop, stop_on_signals
from twins.engine.state import load_state
from twins.engine.trackers import Trackers
from twins.errors import ConfigError, NotFoundError, WeightsError, check_type
from twins.factory import create_model, model_from_info
from twins.files import atomic_file, write_json
from twins.preprocess import Preprocess
from twins.report.live import follow
from twins.resolving import resolve_config
from twins.run_folder import BEST, CONFIG, DATA, LAST, LAST_WEIGHTS, RESULT
from twins.tasks.choices import Choice
from twins.tasks.contract import TaskSpec, spec_of
from twins.tasks.default_recipe import DEFAULT, changed_settings
from twins.tasks.network import TaskNetwork
from twins.tasks.table import facts_of
from twins.weights.files import read_tensors
from twins.weights.loading import check_finite
from twins.weights.store import resolve

SAMPLED_IMAGES = 16
"""Number of training images of which trial batches are made."""


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """Result of a training run."""

    path: Path
    """Run folder."""
    metrics: dict[str, float]
    """Metrics of the best weights; of the newest evaluation if the run was interrupted."""
    interrupted: bool
    """Whether a signal stopped the run; `TrainConfig(resume=path)` resumes it."""


def train(config: TrainConfig, *, given: Collection[str] | None = None) -> RunResult:
    """Train a network, or resume a run; writes the run folder and its report.

    Under `torchrun`, the same call trains on all processes.

    Args:
        config: settings of the run; with `resume`, only settings of the machine may change, and `data` if the data has
            moved, see `merge_resumed`; with `extend` also the length, see `extend_run`. With `recipe="default"`,
            settings that are not given are chosen from the data.
        given: dotted names of the settings that the default recipe keeps; `None`: those that differ from their
            defaults.

    Returns:
        the run folder and its metrics.

    Raises:
        ConfigError: settings contradict each other or the machine, or the folder `out` is not empty.
        NotFoundError: there is no model, weights or run of this name.
        DataError: the data cannot be used.
        WeightsError: the weights are not available or do not fit.
        TrainingError: the run had to stop; its newest whole state is kept.
        KeyboardInterrupt: a signal before the first step, or after the last one is saved.
    """
    check_type(config, TrainConfig, "config", "a twins.TrainConfig")
    if config.extend and not config.resume:
        raise ConfigError("`extend` adds a length to a run; give its folder as `resume`, or leave it out")
    given = changed_settings(config) if given is None else given
    requested, config = config, resolve_config(config)
    accelerator = build_accelerator(config)
    log = Log(active=accelerator.is_main_process, output=config.output)
    with stop_on_signals(log.problem) as stop:
        stop.at_once(f"stopping: {'the run is as before' if config.resume else 'nothing was learned or saved'}")
        spec, facts, choices = spec_of(config.task), facts_of(config.task), list[Choice]()
        with log.phase(f"opening {config.data}"):
            splits = spec.open(config.source)
        if config.recipe == DEFAULT and not config.resume:
            with log.phase("choosing settings from the data"):
                config = _choose(config, given, spec, splits, accelerator, choices)
        network = _build_network(config, spec, splits, accelerator, log)
        if config.auto_batch:
            with log.phase("finding the batch that fits"):
                choices.append(_fit_batch(config, spec, splits, network, accelerator))
            config = replace(config, batch_size=choices[-1].value, auto_batch=False)
        source = TaskSource(spec, splits, network.info.preprocess, config, accelerator)
        if requested.extend:
            config = _extended(requested, config, source.steps_per_epoch)
        run = run_on_main(accelerator, lambda: _open_run(config, network, splits, accelerator.device.type))
        saved = read_config(run / CONFIG)
        log.open(run)
        _start_trackers(log, config, run, accelerator)
        _say_start(log, start_lines(run, config, splits, network, source, accelerator, choices), spec, splits, network)
        with follow(run, splits.val, log) as follower:
            outcome = training_loop(
                network,
                source,
                spec.metric(splits.train.names),
                config,
                accelerator,
                log,
                monitor=facts.monitor,
                metrics=tuple(facts.metrics),
                fingerprint=fingerprint(splits.train, _data_folder(config.data), _data_folder(saved.data)),
                stop=stop,
                after_evaluation=follower,
            )
            follower.finished = outcome.reason != "stopped"
        main = accelerator.is_main_process
        if main and (config.data, config.layout) != (saved.data, saved.layout):
            _write_config(run, replace(saved, data=config.data, layout=config.layout))
            _write_plan(run, splits)
        if accelerator.num_processes > 1:
            accelerator.end_training()
        return _finish(run, config, outcome, source, log, stop)


def _choose(
    config: TrainConfig,
    given: Collection[str],
    spec: TaskSpec,
    splits: Splits[Any],
    accelerator: Accelerator,
    choices: list[Choice],
) -> TrainConfig:
    """Return the settings of the default recipe, the same on all processes, and add its choices to the list."""
    device, processes = accelerator.device, accelerator.num_processes
    chosen = run_on_main(accelerator, lambda: choose_settings(config, given, spec, splits, device, processes))
    choices += chosen[1]
    return chosen[0]


def _finish(run: Path, config: TrainConfig, outcome: Outcome, source: TaskSource, log: Log, stop: Stop) -> RunResult:
    """Measure the best weights, write the report, and print how the run ended; after a stop only if it has time."""
    stopped, metrics = outcome.reason == "stopped", dict[str, float]()
    if not log.active:
        return RunResult(path=run, metrics=outcome.metrics, interrupted=stopped)
    stop.at_once(f"stopping without the report; twins train --resume {run} writes it, with all training saved")
    others_end = source.ranks["world"] > 1  # and the launcher then ends this process
    if not stopped or (not others_end and (run / BEST).is_file()):
        metrics = _measure_and_report(run, config, log, source.val_count)
    for line in end_lines(run, outcome, facts_of(config.task).monitor, source.steps_per_epoch):
        log.problem(line)
    return RunResult(path=run, metrics=outcome.metrics if stopped else metrics, interrupted=stopped)


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


def _fit_batch(
    config: TrainConfig, spec: TaskSpec, splits: Splits[Any], network: TaskNetwork, accelerator: Accelerator
) -> Choice:
    """Return the batch size that fits in memory, found with the first training images."""
    one_image = replace(config, batch_size=accelerator.num_processes * config.accumulate)
    source = TaskSource(spec, splits, network.info.preprocess, one_image, accelerator)
    samples = [source.train_samples[0, index % source.train_count, 0] for index in range(SAMPLED_IMAGES)]

    def batch_of(images: int) -> tuple[Tensor, Any, Tensor | None]:
        batch = collate([samples[index % SAMPLED_IMAGES] for index in range(images)])
        return *source.prepare(batch, 0), batch.sizes

    return fitting_batch(
        trial_pass(network, batch_of, accelerator),
        recipe=config.batch_size,
        accumulate=config.accumulate,
        train_count=source.train_count,
        accelerator=accelerator,
    )


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


def _data_folder(data: str) -> Path:
    """Return the folder of a data set, which may be given by its `data.yaml`; neither need exist any longer."""
    path = Path(data)
    return path.parent if path.suffix.lower() in (".yaml", ".yml") and not path.is_dir() else path


def _build_network(
    config: TrainConfig, spec: TaskSpec, splits: Splits[Any], accelerator: Accelerator, log: Log
) -> TaskNetwork:
    newest = Path(config.resume or "") / LAST_WEIGHTS
    saved = read_tensors(newest) if config.resume and newest.exists() else None
    saved_info = saved.info if saved is not None else None
    if saved is not None and saved_info is not None:
        check_finite(saved.tensors, str(newest))
        network = model_from_info(saved_info, drop_rate=config.drop_rate, drop_path_rate=config.drop_path)
    else:
        weights = _find_weights(config, accelerator, log)
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


def _say_start(log: Log, lines: Iterable[str], spec: TaskSpec, splits: Splits[Any], network: TaskNetwork) -> None:
    """Print the banner, and notes on the data and on the initial weights: which of a file's networks they are."""
    if not log.active:
        return
    weights = [network.load_report.note] if network.load_report and network.load_report.note else []
    for line in lines:
        log.info(line)
    for note in (*splits.plan.short()[1:], *weights, *splits.notes):
        log.info(f"note: {note}")
    for warning in spec.warnings(splits):
        log.problem(f"note: {warning}")


def _find_weights(config: TrainConfig, accelerator: Accelerator, log: Log) -> Path | None:
    """Return the file of the initial weights; the main process downloads it first."""
    if config.weights == "none":
        return None
    name = config.model if config.weights == "published" else config.weights

    def say(repo: str) -> None:
        log.info(f"fetching the weights of {repo}, which are not on this machine, from the network ...")

    try:
        run_on_main(accelerator, lambda: resolve(name, on_download=say))
        return resolve(name)
    except (WeightsError, NotFoundError) as error:
        if config.weights != "published":
            raise
        reason = str(error).partition(";")[0]
        raise WeightsError(
            f"training starts from the published weights of {config.model}, which cannot be had ({reason}); give a "
            'file with `weights=PATH`, or train from scratch: a small network with `model="twins_svt_nano"`, or this '
            'one with `weights="none"`'
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
    if config.extend:
        length = {name: getattr(config, name) for name in (*LENGTHS, "max_steps", "schedule")}
        _write_config(run, replace(read_config(run / CONFIG), **length))
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


def _start_trackers(log: Log, config: TrainConfig, run: Path, accelerator: Accelerator) -> None:
    """Let the experiment trackers of a run get the log's rows."""
    started: list[Trackers] = []
    if config.trackers:
        resolved = replace(read_config(run / CONFIG), resume=config.resume)
        run_on_main(accelerator, lambda: started.append(Trackers(resolved, run)))
    for trackers in started:
        log.tracker, trackers.note = trackers, log.info


def _extended(requested: TrainConfig, resumed: TrainConfig, steps_per_epoch: int) -> TrainConfig:
    """Return the settings of a resumed run with the requested length added to what it has done."""
    run = Path(resumed.resume or "")
    progress = load_state(run).progress if (run / LAST).exists() else Progress()
    epochs = progress.step / steps_per_epoch
    return extend_run(requested, resumed, step=progress.step, epochs=epochs, seconds=progress.seconds)


def _measure_and_report(run: Path, config: TrainConfig, log: Log, images: int) -> dict[str, float]:
    """Evaluate the best weights on the run's device, write the report, and return the metrics."""
    from twins.evaluation import evaluate
    from twins.report.page import write_report

    eval_config = EvalConfig(
        out=str(run / RESULT), max_skipped=config.max_skipped, device=config.device, workers=config.workers
    )
    with log.phase("measuring the best weights", images) as count:
        result = evaluate(run, config.data, eval_config, on_images=count)
    with log.phase("drawing the report"):
        write_report(run, device=config.device)
    return result.metrics
