"""Training from a config to a run folder: data, network, the loop, the final evaluation and the report."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from twins.backbone.config import PUBLISHED, resolve_name
from twins.data.dataset import LabelledImages, Splits, open_classification
from twins.data.loader import Batch, EvalSamples, TrainBatches, TrainSamples, eval_loader, mix, train_loader
from twins.data.preprocess import Preprocess
from twins.data.transforms import train_transform
from twins.engine import contracts
from twins.engine.config import CONFIG, TrainConfig, merge_resumed, read_config
from twins.engine.loop import Outcome, fit
from twins.engine.processes import build_accelerator, on_main
from twins.engine.randomness import reseed
from twins.engine.records import Records
from twins.engine.session import BEST
from twins.engine.state import LAST, WEIGHTS
from twins.errors import ConfigError, NotFoundError, WeightsError
from twins.factory import check_runs, create_model
from twins.metrics.classification import ClassificationMetric
from twins.tasks.classification import Classification
from twins.weights.files import atomic_file, read_tensors
from twins.weights.store import resolve


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """What came of a training run."""

    path: Path
    """The run's folder."""
    metrics: dict[str, float]
    """The best weights' numbers; those of the newest evaluation where the run was interrupted."""
    interrupted: bool
    """Whether a signal stopped the run; `TrainConfig(resume=path)` goes on with it."""


def train(config: TrainConfig) -> RunResult:
    """Train a classifier, or go on with a run that was stopped; writes the run folder and its report.

    The same call under `torchrun` trains on all its processes.

    Args:
        config: the run's settings; with `resume` only what says how to compute may be given anew.

    Returns:
        the run's folder and its numbers.

    Raises:
        ConfigError: settings that contradict each other or the machine, or an `out` that is in use.
        NotFoundError: no model, weights or run are called so.
        DataError: the data cannot be used.
        WeightsError: weights cannot be had or do not fit.
        TrainingError: the run had to stop; its newest whole state is kept.
    """
    config = _settle(config)
    accelerator = build_accelerator(config)
    splits = open_classification(config.data, seed=config.seed, val_share=config.val_share)
    network = _build_network(config, splits, accelerator)
    source = ClassificationSource(splits, network.info.preprocess, config, accelerator)
    run = on_main(accelerator, lambda: _open_run(config, network, accelerator.device.type))
    records = Records(run, active=accelerator.is_main_process, tracker=accelerator if config.trackers else None)
    if config.trackers:
        accelerator.project_configuration.set_directories(str(run))
        accelerator.init_trackers("twins", {"model": config.model, "data": config.data, "seed": config.seed})
    for warning in class_warnings(splits):
        records.say(f"note: {warning}")
    metric = ClassificationMetric(splits.train.names)
    outcome = fit(network, source, metric, config, accelerator, records, fingerprint=fingerprint(splits.train))
    main = accelerator.is_main_process
    if config.trackers or accelerator.num_processes > 1:
        accelerator.end_training()
    return _finish(run, config, outcome, main=main)


class ClassificationSource:
    """One process's share of labelled images, as the engine takes it.

    Args:
        splits: images to learn from and to evaluate on.
        preprocess: how images are prepared.
        config: batch, augmentation, workers.
        accelerator: processes and device.

    Raises:
        ConfigError: a batch that processes and passes do not divide.
    """

    def __init__(self, splits: Splits, preprocess: Preprocess, config: TrainConfig, accelerator: Accelerator) -> None:
        self.splits, self.config = splits, config
        self.train_count, self.val_count = len(splits.train), len(splits.val)
        self.rank, self.world = accelerator.process_index, accelerator.num_processes
        self.pin = accelerator.device.type == "cuda"
        self.images_per_pass = _images_per_pass(config, self.world)
        self.batches = TrainBatches(
            self.train_count,
            self.images_per_pass,
            seed=config.seed,
            rank=self.rank,
            world=self.world,
            accumulate=config.accumulate,
            repeats=config.augment.repeats,
        )
        self.steps_per_epoch = self.batches.steps
        self.learn_from = TrainSamples(splits.train, train_transform(config.augment, preprocess), seed=config.seed)
        self.evaluate_on = EvalSamples(splits.val, preprocess)

    def train(self, step: int) -> Iterator[Batch]:
        """Yield training batches without end, from optimiser step `step` of the run on."""
        return train_loader(
            self.learn_from,
            self.batches,
            step=step,
            accumulate=self.config.accumulate,
            workers=self.config.workers,
            pin=self.pin,
        )

    def evaluation(self) -> Any:
        """Return this process's batches of the images to evaluate on."""
        return eval_loader(
            self.evaluate_on,
            batch=self.images_per_pass,
            rank=self.rank,
            world=self.world,
            workers=self.config.workers,
            pin=self.pin,
        )

    def prepare(self, batch: contracts.Batch, epoch: int) -> tuple[Tensor, Tensor]:
        """Return images and targets, mixed where the settings say so; an odd image out stays as it is."""
        augment, images, targets = self.config.augment, batch.images, batch.targets
        even = len(images) // 2 * 2
        if not mixes(self.config) or not even:
            return images, targets
        classes = len(self.splits.train.names)
        mixed, soft = mix(
            images[:even],
            targets[:even],
            mixup=augment.mixup,
            cutmix=augment.cutmix,
            smoothing=augment.smoothing,
            num_classes=classes,
            key=(self.config.seed, epoch, batch.indices[0]),
        )
        if even == len(images):
            return mixed, soft
        alone = torch.nn.functional.one_hot(targets[even:], classes).to(soft)
        alone = alone * (1.0 - augment.smoothing) + augment.smoothing / classes
        return torch.cat([mixed, images[even:]]), torch.cat([soft, alone])

    def path(self, index: int) -> str:
        """Return what to call a training image in messages."""
        return self.splits.train.path(index)


def mixes(config: TrainConfig) -> bool:
    """Return whether training mixes images."""
    return config.augment.mixup > 0 or config.augment.cutmix > 0


def class_warnings(splits: Splits) -> list[str]:
    """Return a sentence for each class that has too few images to be learned or measured."""
    learn, held_out = Counter(splits.train.labels), Counter(splits.val.labels)
    sentences = []
    for label, name in enumerate(splits.train.names):
        if learn[label] == 0:
            sentences.append(f"class {name} has no training image, so it cannot be learned; add images or remove it")
        elif learn[label] + held_out[label] == 1:
            sentences.append(
                f"class {name} has one image, which is trained on, so nothing tells how well it is learned; add images"
            )
        elif learn[label] == 1:
            sentences.append(f"class {name} has one training image, too few to learn it well; add images")
    return sentences


def balanced_weights(images: LabelledImages) -> Tensor:
    """Return each class's weight `(K,)`: the inverse of its number of images, 1 on average over the images."""
    counts = torch.bincount(torch.tensor(images.labels), minlength=len(images.names)).float()
    present = counts > 0
    weights = len(images) / (int(present.sum()) * counts.clamp(min=1))
    return torch.where(present, weights, 0.0)


def fingerprint(images: LabelledImages) -> str:
    """Return a text that changes when an image is added, removed, renamed or moved to another class."""
    hasher = hashlib.blake2b(digest_size=16)
    for index, label in enumerate(images.labels):
        hasher.update(f"{'/'.join(Path(images.path(index)).parts[-2:])}\0{images.names[label]}\n".encode())
    return hasher.hexdigest()


def _settle(config: TrainConfig) -> TrainConfig:
    """Return settings with names resolved and paths that hold from any folder."""
    if config.resume:
        return merge_resumed(config, read_config(Path(config.resume) / CONFIG))
    if not config.data:
        raise ConfigError("--data is missing; give a folder with one folder per class, or digits")
    check_runs(config.task)
    model = resolve_name(config.model)
    weights = config.weights
    if weights == "auto":
        weights = "published" if model in PUBLISHED else "none"
    elif Path(weights).exists():
        weights = str(Path(weights).resolve())
    if config.out and Path(config.out).is_dir() and any(Path(config.out).iterdir()):
        raise ConfigError(
            f"--out {config.out} is not empty; choose another folder, or go on with it by --resume {config.out}"
        )
    data = config.data if config.data == "digits" else str(Path(config.data).resolve())
    return replace(config, model=model, weights=weights, data=data)


def _build_network(config: TrainConfig, splits: Splits, accelerator: Accelerator) -> Classification:
    newest = Path(config.resume or "") / LAST / WEIGHTS
    known = read_tensors(newest).info if config.resume and newest.exists() else None
    weights = None if known is not None else _find_weights(config, accelerator)
    reseed(config.seed)
    network = create_model(
        config.model,
        task=config.task,
        head=config.head,
        weights=weights,
        padding=config.padding,
        drop_rate=config.drop_rate,
        drop_path_rate=config.drop_path,
        names=splits.train.names,
        preprocess=known.preprocess if known else None,
        resize_head=True,
    )
    assert isinstance(network, Classification)
    preprocess = replace(network.info.preprocess, size=config.size, crop=config.crop, fit=config.fit)
    network.info = replace(network.info, preprocess=preprocess)
    network.label_smoothing = 0.0 if mixes(config) else config.augment.smoothing
    if config.class_weights == "balanced":
        network.class_weights = balanced_weights(splits.train).to(accelerator.device)
    network.set_grad_checkpointing(config.checkpointing)
    for stage in network.backbone.stages[: config.freeze]:
        stage.requires_grad_(False)
    return network


def _find_weights(config: TrainConfig, accelerator: Accelerator) -> Path | None:
    """Return the file that training starts from; the main process downloads it first."""
    if config.weights == "none":
        return None
    name = config.model if config.weights == "published" else config.weights
    try:
        on_main(accelerator, lambda: resolve(name))
        return resolve(name)
    except (WeightsError, NotFoundError) as error:
        if config.weights != "published":
            raise
        reason = str(error).partition(";")[0]
        raise WeightsError(
            f"training starts from the published weights of {config.model}, which cannot be had ({reason}); give a "
            "file with --weights PATH, or train from scratch with --weights none"
        ) from error


def _images_per_pass(config: TrainConfig, world: int) -> int:
    parts = world * config.accumulate
    if config.batch_size % parts:
        raise ConfigError(
            f"--batch-size must be a multiple of the processes times --accumulate, found {config.batch_size} images "
            f"for {world} x {config.accumulate}"
        )
    return config.batch_size // parts


def _open_run(config: TrainConfig, network: Classification, device: str) -> Path:
    """Make the run's folder and write the settings as they are used."""
    run = Path(config.resume) if config.resume else _new_folder(config)
    if not config.resume:
        used: dict[str, Any] = {"out": str(run), "padding": network.info.padding, "device": device}
        config = replace(config, **used)
        with atomic_file(run / CONFIG) as beside:
            beside.write_text(config.to_yaml())
    return run


def _new_folder(config: TrainConfig) -> Path:
    if config.out:
        folder = Path(config.out)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"--out {config.out} cannot be made ({error.strerror}); choose another folder") from error
        return folder
    number = 1
    while True:
        folder = Path("runs") / f"{config.model}-{Path(config.data).name}-{number}"
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:
            number += 1


def _finish(run: Path, config: TrainConfig, outcome: Outcome, *, main: bool) -> RunResult:
    """Evaluate the best weights and write the report, in the main process."""
    if outcome.reason == "stopped" or not main:
        return RunResult(path=run, metrics=outcome.metrics, interrupted=outcome.reason == "stopped")
    from twins.evaluation import evaluate
    from twins.report.page import write_report

    result = evaluate(
        run / BEST,
        config.data,
        out=run / "eval.json",
        seed=config.seed,
        val_share=config.val_share,
        max_skipped=config.max_skipped,
    )
    write_report(run)
    return RunResult(path=run, metrics=dict(result["metrics"]), interrupted=False)
