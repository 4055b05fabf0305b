"""`twins predict`: run a trained network on images and videos."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import count, islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from tyro.conf import Positional

from twins.cli.parse import FILE, in_flags, parse
from twins.errors import ConfigError, DataError, NotFoundError, number_of
from twins.tasks.inference import SHOWN, InferenceConfig, SelectionConfig
from twins.tasks.table import facts_of, tasks_with

if TYPE_CHECKING:
    from twins.cli.predict_outputs import Source, Writer
    from twins.predictions import Prediction
    from twins.predictor import Predictor


@dataclass(frozen=True, kw_only=True)
class PredictArgs:
    """Run a network on images and videos and print its predictions."""

    model: Annotated[str, Positional, tyro.conf.arg(metavar="MODEL")]
    """Run folder, checkpoint or published name."""
    images: Annotated[tuple[str, ...], Positional, tyro.conf.arg(metavar="IMAGE...")]
    """Files, folders or globs of images, and video files such as `clip.mp4`. Videos in a folder are ignored."""
    out: Annotated[str | None, tyro.conf.arg(metavar="DIR")] = None
    """Folder for drawings: images with their predictions as PNG, videos as MP4.
    A semantic network also writes `NAME-classes.png` for each image, whose pixels are class ids."""
    json: Annotated[str | None, FILE] = None
    """File to write all predictions to, as JSON, for each image and each frame of a video.
    It holds all objects of a detector, or the number of pixels of each class of a semantic network."""
    csv: Annotated[str | None, FILE] = None
    """File to write all predictions to, as CSV: a line for each listed class, or for every object of a detector."""
    coco: Annotated[str | None, FILE] = None
    """File to write a detector's objects to, as COCO results.
    `image_id` is the number in the file's name if all names are different numbers, otherwise the position, from 0.
    `category_id` is COCO's own if the network has COCO's 80 class names, otherwise the class id."""
    top: int = 5
    """Classes or objects to list for each image, highest score first."""
    every: int = 1
    """Use every N-th frame of a video."""
    batch_size: int = 8
    """Images per forward pass."""
    weights_key: Annotated[str | None, tyro.conf.arg(metavar="KEY")] = None
    """Where the network stands in a file that holds several, such as `teacher`; unset: the average, if there is one."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Device to compute on."""
    compile: bool = False
    """Compile the network with torch.compile. This saves time when many images have the same size."""
    inference: Annotated[InferenceConfig, tyro.conf.arg(name="")] = field(default_factory=InferenceConfig)
    """Scales, flip, window and tiles."""
    selection: Annotated[SelectionConfig, tyro.conf.arg(name="")] = SHOWN
    """Score and NMS thresholds of a detector."""


ARGS = PredictArgs


def run(arguments: list[str]) -> int:
    """Print a table and write the requested files; return 1 if images could not be read, otherwise 0."""
    args = parse(PredictArgs, "predict", arguments)
    if not args.images:
        raise ConfigError("no image is named; give files, folders or globs after the model")
    for flag, value in (("--top", args.top), ("--batch-size", args.batch_size), ("--every", args.every)):
        if value < 1:
            raise ConfigError(f"{flag} must be at least 1, found {value}")
    from twins.cli.predict_outputs import Listing
    from twins.data.loading.video import is_video_file, require_av
    from twins.files import check_outputs
    from twins.predictor import expand, load
    from twins.run_folder import BEST, parts_of, weights_of

    selection = None if args.selection == SHOWN else args.selection
    predictor = load(
        args.model,
        device=args.device,
        weights_key=args.weights_key,
        inference=args.inference,
        selection=selection,
        compile=args.compile,
    )
    if os.path.isdir(args.model) and Path(weights_of(args.model)).name != BEST:
        print(f"note: {args.model} holds no {BEST} yet; its newest weights are used")
    if (report := predictor.model.load_report) is not None and report.note:
        print(f"note: {in_flags(report.note, PredictArgs)}")
    paths: list[Path] = expand(args.images)
    if any(map(is_video_file, paths)):
        require_av()
    inputs = [*parts_of(args.model), *(("one of the images to predict", path) for path in paths)]
    if args.out is not None:
        inputs.append(("the folder that --out names", args.out))
    check_outputs({"json": args.json, "csv": args.csv, "coco": args.coco}, inputs)
    listing, failures = Listing(predictor.model.task, args.top), list[str]()
    try:
        with ExitStack() as stack:
            writers = [listing.add, *_open_outputs(stack, predictor, paths, args)]
            sources = _open_sources(paths, args.every, failures, predictor.model.info.in_chans)
            for source, prediction in _predict(predictor, sources, args.batch_size):
                for write in writers:
                    write(source, prediction)
    except _NetworkError as error:
        raise error.cause from None
    listing.show()
    for failure in failures:
        print(f"not read: {in_flags(failure, PredictArgs)}")
    return 1 if failures else 0


def _open_sources(paths: list[Path], every: int, failures: list[str], channels: int) -> Iterator[Source]:
    """Yield the images and the frames of videos; skip files that cannot be read and add the errors to `failures`."""
    from twins.cli.predict_outputs import Source
    from twins.data.channels import open_channels
    from twins.data.loading.video import is_video_file, read_frames

    positions = count()
    for path in paths:
        try:
            if not is_video_file(path):
                yield Source(path, next(positions), open_channels(path, channels))
                continue
            for frame in read_frames(path, every=every):
                yield Source(path, next(positions), frame.image, frame.number, frame.seconds)
        except (DataError, NotFoundError) as error:
            failures.append(str(error))


class _NetworkError(Exception):
    """Carries a network's error past the open output files, which would report it as an error of their own."""

    def __init__(self, cause: Exception) -> None:
        self.cause = cause


def _predict(predictor: Predictor, sources: Iterator[Source], batch_size: int) -> Iterator[tuple[Source, Prediction]]:
    from twins.engine.memory import is_out_of_memory

    while batch := list(islice(sources, batch_size)):
        try:
            predictions = predictor.predict([source.image for source in batch], batch_size=batch_size)
        except (RuntimeError, MemoryError) as error:
            if is_out_of_memory(error):
                raise ConfigError(
                    f"memory ran out with {number_of(len(batch), 'image')} in a pass; lower --batch-size"
                ) from error
            raise _NetworkError(error) from error
        yield from zip(batch, predictions, strict=True)


def _open_outputs(stack: ExitStack, predictor: Predictor, paths: list[Path], args: PredictArgs) -> Iterator[Writer]:
    """Open the requested files before anything is computed, and yield their writers; the stack closes them."""
    from twins.cli import predict_outputs
    from twins.data.loading.video import is_video_file

    task = predictor.model.task
    if args.coco and "boxes" not in facts_of(task).prediction_fields:
        raise ConfigError(
            f"--coco is for {' and '.join(tasks_with('prediction_fields', 'boxes'))}, found a network for {task}"
        )
    if args.json:
        yield stack.enter_context(predict_outputs.json_file(Path(args.json), task, args.top))
    if args.csv:
        video = any(map(is_video_file, paths))
        yield stack.enter_context(predict_outputs.csv_file(Path(args.csv), task, args.top, video=video))
    if args.coco:
        yield stack.enter_context(predict_outputs.coco_file(Path(args.coco), predictor.model.info, paths))
    if args.out:
        yield stack.enter_context(predict_outputs.drawings(Path(args.out)))
