"""What a run prints at its start, a dozen lines on what it is going to do, and at its end."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
from accelerate import Accelerator

from twins.backbone.config import PUBLISHED
from twins.data.base import ImageSet, Splits
from twins.engine.config import TrainConfig
from twins.engine.contracts import Source
from twins.engine.display import clock
from twins.engine.loop import Outcome
from twins.engine.schedule import total_steps, warmup_share
from twins.errors import DataError, NotFoundError, few, number_of
from twins.ops.dispatch import objection_to_kernels
from twins.ops.forms import FORMS, forms_in
from twins.preprocess import Preprocess
from twins.run_folder import BEST, LOG, METRICS, REPORT, RESULT
from twins.tasks.choices import Choice
from twins.tasks.default_recipe import DEFAULT
from twins.tasks.network import TaskNetwork
from twins.tasks.table import facts_of

SAMPLED_IMAGES = 5
"""Number of training images that are opened to say how large the images are."""
NOT_SHOWN = ("bfloat16", "float16", "windows of a block")
"""Functions of `twins doctor` that say nothing about a training on a CPU."""


def start_lines(
    run: Path,
    config: TrainConfig,
    splits: Splits[Any],
    network: TaskNetwork,
    source: Source,
    accelerator: Accelerator,
    choices: Sequence[Choice] = (),
) -> Iterator[str]:
    """Yield the lines that a run prints before it learns."""
    head = f", {network.info.head.replace('_', ' ')}" if network.info.head else ""
    yield f"{config.model}{head}, {facts_of(config.task).title.lower()} on {config.data}"
    rows = {
        "run": str(run),
        "recipe": recipe_reason(config),
        "weights": weights_origin(config, network),
        "data": data_parts(splits),
        "classes": f"{len(splits.names):,}: {few(splits.names, limit=8)}",
        "input": input_size(network.info.preprocess, splits.train),
        "machine": machine(config, accelerator),
        "kernels": kernels(config, accelerator.device.type),
        "step": step_settings(config, accelerator.num_processes),
        "length": length(config, source),
        "chosen": "\n".join(choice_lines(choices)),
    }
    for name, text in rows.items():
        for index, line in enumerate(text.splitlines()):
            yield f"  {'' if index else name:<8} {line}"


def choice_lines(choices: Sequence[Choice]) -> list[str]:
    """Return the choices, those with the same reason in one line."""
    reasons = dict.fromkeys(choice.reason for choice in choices)
    texts = {reason: ", ".join(choice.text() for choice in choices if choice.reason == reason) for reason in reasons}
    return [f"{text}: {reason}" for reason, text in texts.items()]


def recipe_reason(config: TrainConfig) -> str:
    """Return the recipe, and why it is this one."""
    if config.recipe is None:
        return "none: the settings are those of the call"
    if config.recipe == DEFAULT:
        return f"{config.recipe}: settings that are not given are chosen from the data"
    return f"{config.recipe}, as asked for"


def weights_origin(config: TrainConfig, network: TaskNetwork) -> str:
    """Return where the weights come from, and what of them was loaded."""
    report = network.load_report
    if report is None and config.resume:
        return "those of the run's newest state"
    if report is None:
        missing = "" if config.model in PUBLISHED else f" ({config.model} has no published weights)"
        return f"random, from seed {config.seed}: training starts from scratch{missing}"
    lists = {"new, from random weights": report.initialised, "not used": report.unused}
    groups = [f"{title}: {few(_groups(keys))}" for title, keys in lists.items() if keys]
    source = f"the published weights of {config.model}" if config.weights == "published" else report.path
    return "; ".join([f"{number_of(len(report.loaded), 'tensor')} of {source}", *groups])


def _groups(keys: Sequence[str]) -> list[str]:
    """Return the modules of tensors: `head`, `bbox_head`, `backbone.stages.3.norm`."""
    modules = (key.rpartition(".")[0] if key.startswith("backbone.") else key.partition(".")[0] for key in keys)
    return list(dict.fromkeys(modules))


def data_parts(splits: Splits[Any]) -> str:
    """Return the images of each part, and where it comes from."""
    plan = splits.plan
    if not plan.parts:
        return ", ".join(f"{len(images):,} {name}" for name, images in splits.parts.items())
    parts = (f"{part['images']:,} {name} ({part['origin']})" for name, part in plan.parts.items())
    return f"{', '.join(parts)}; read as {plan.layout}"


def input_size(preprocess: Preprocess, images: ImageSet) -> str:
    """Return the size of the network's input, and how it compares to the size of the images."""
    keep = preprocess.fit == "keep"
    size = f"{preprocess.size} pixels" if keep else f"{preprocess.size} x {preprocess.size} pixels"
    size = f"shorter side {size}, longer at most {preprocess.longest}" if keep else size
    shape = typical_shape(images)
    if shape is None:
        return size
    scale = preprocess.size / min(shape)
    if keep:
        scale = min(scale, preprocess.longest / max(shape))
    change = (
        "kept at their size" if abs(scale - 1) < 0.02 else f"{'shrunk' if scale < 1 else 'enlarged'} to {scale:.0%}"
    )
    return f"{size}; the images have about {shape[1]} x {shape[0]}, so they are {change}"


def typical_shape(images: ImageSet) -> tuple[int, int] | None:
    """Return the median height and width of a few images, or `None` if none can be read."""
    shapes = []
    for index in range(0, len(images), max(1, len(images) // SAMPLED_IMAGES)):
        try:
            image = images.load(index)
        except (DataError, NotFoundError):  # training names them
            continue
        shapes.append((image.height, image.width))
    if not shapes:
        return None
    heights, widths = zip(*shapes, strict=True)
    return round(median(heights)), round(median(widths))


def machine(config: TrainConfig, accelerator: Accelerator) -> str:
    """Return device, threads, processes and precision."""
    device = accelerator.device
    parts = [f"{device.type}, {number_of(torch.get_num_threads(), 'thread')}"]
    if device.type == "cuda":
        parts = [torch.cuda.get_device_name(device)]
    if accelerator.num_processes > 1:
        parts.append(number_of(accelerator.num_processes, "process", "processes"))
    parts += [config.precision, number_of(config.workers, "loader process", "loader processes")]
    return ", ".join([*parts, *(["compiled"] if config.compile else [])])


def kernels(config: TrainConfig, device: str) -> str:
    """Return which operators have a faster form here, as `twins doctor` says in full."""
    if device == "cuda" and not objection_to_kernels():
        return "Triton kernels of twins; twins doctor lists them"
    if device != "cpu":
        return f"PyTorch's operators; {objection_to_kernels()}"
    rows = forms_in("compiled" if config.compile else "eager, gradient")
    faster = [row.function for row in rows if row.form != FORMS[row.function][0] and row.function not in NOT_SHOWN]
    return f"faster forms of {'; '.join(faster)} (twins doctor says more)" if faster else "PyTorch's operators"


def step_settings(config: TrainConfig, processes: int) -> str:
    """Return what an optimiser step is: images, rate, schedule."""
    passes = f" in {config.accumulate} passes" if config.accumulate > 1 else ""
    passes += f" on {processes} processes" if processes > 1 else ""
    decay = f", layer decay {config.optimizer.layer_decay:g}" if config.optimizer.layer_decay else ""
    warmup = f"warm-up over {100 * warmup_share(config):.2g}% of the run, then {config.schedule.kind}"
    return f"{number_of(config.batch_size, 'image')}{passes}, AdamW, peak rate {config.lr:.2g}{decay}, {warmup}"


def length(config: TrainConfig, source: Source) -> str:
    """Return how long the run is and, if minutes say it, when it ends."""
    epoch = f"an epoch has {number_of(source.steps_per_epoch, 'step')}"
    epoch += f"; evaluated every {'epoch' if config.eval_every == 1 else f'{config.eval_every:g} epochs'}"
    steps = total_steps(config, source.steps_per_epoch)
    epochs = (steps or 0) / source.steps_per_epoch
    limit = "" if steps is None else f"{number_of(steps, 'step')}, {epochs:.4g} epoch{'' if epochs == 1 else 's'}"
    if not config.minutes:
        return f"{limit}; {epoch}"
    until = time.strftime("%H:%M", time.localtime(time.time() + 60 * config.minutes))
    time_limit = f"{config.minutes:g} minutes" + ("" if config.resume else f", until {until}")
    return f"{time_limit}{f', at most {limit}' if limit else ''}, then the report; {epoch}"


def end_lines(run: Path, outcome: Outcome, monitor: str, steps_per_epoch: int) -> Iterator[str]:
    """Yield the lines that a run prints at its end.

    Args:
        run: run folder.
        outcome: how the training ended.
        monitor: name of the monitored metric.
        steps_per_epoch: optimiser steps in an epoch.
    """
    progress = outcome.progress

    def at(step: int) -> str:
        return f"step {step:,}, epoch {step / steps_per_epoch:.4g}"

    if outcome.reason != "stopped":  # which the loop has said, with the command that continues
        ended = "finished" if outcome.reason == "finished" else "ended early"
        yield f"{ended} at {at(progress.step)}, after {clock(progress.seconds)} of training and evaluation"
    if progress.best is not None:
        is_newest = progress.best_step == progress.evaluated or monitor not in outcome.metrics
        newest = "" if is_newest else f"; the newest evaluation has {outcome.metrics[monitor]:.4g}"
        yield f"best {monitor} {progress.best:.4g} at {at(progress.best_step)}{newest}"
    files = [name for name in (BEST, RESULT, REPORT, METRICS, LOG) if (run / name).is_file()]
    yield f"files in {run}: {', '.join(files)}"
