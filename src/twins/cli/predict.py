"""`twins predict`: run a trained network on images and videos."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from tyro.conf import Positional

from twins.cli.parse import FILE, parse
from twins.drawing import DrawConfig
from twins.errors import ConfigError, number_of
from twins.tasks.inference import SHOWN, InferenceConfig, SelectionConfig
from twins.tasks.table import facts_of, tasks_with

if TYPE_CHECKING:
    from twins.cli.predict_lines import Lines
    from twins.cli.predict_outputs import Writer
    from twins.data.loading.sources import Item, Source
    from twins.predictions import Prediction
    from twins.predictor import Predictor
    from twins.tasks.network import TaskNetwork
    from twins.tracking import VideoTracks


@dataclass(frozen=True, kw_only=True)
class PredictArgs:
    """Run a network on images and videos and print its predictions."""

    model: Annotated[str, Positional, tyro.conf.arg(metavar="MODEL")]
    """Run folder, checkpoint, exported file or published name."""
    images: Annotated[tuple[str, ...], Positional, tyro.conf.arg(metavar="IMAGE...")]
    """Image files, folders of them, patterns such as `'data/**/*.jpg'`, video files, lists (`list.txt`, `@list`: a path
    in each line), cameras (`camera:0`), addresses (`http://...`, `rtsp://...`), or `-` for standard input: an image, or
    a list. Videos in a folder are ignored."""
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
    quiet: bool = False
    """Print errors only."""
    top: int = 5
    """Classes to list for each image: the most probable, largest or most frequent ones."""
    track: bool = False
    """Follow a detector's objects through videos, cameras and streams: each gets the number of its track."""
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
    drawing: Annotated[DrawConfig, tyro.conf.arg(name="")] = field(default_factory=DrawConfig)
    """How `--out` draws."""


ARGS = PredictArgs


def run(arguments: list[str]) -> int:
    """Print a line for each image and write the requested files; return 1 if images could not be read, otherwise 0."""
    args = parse(PredictArgs, "predict", arguments)
    _check(args)
    from twins.cli.predict_lines import Lines
    from twins.data.loading.sources import check_words, find_items
    from twins.files import check_outputs

    predictor = _load(args)
    check_words(args.images)
    _check_videos(args)
    if args.track:
        _set_tracking(args, predictor.model)
    check_outputs({"json": args.json, "csv": args.csv, "coco": args.coco}, _inputs(args))
    lines = Lines(predictor.model.task, args.top, quiet=args.quiet)
    items: Iterable[Item] = find_items(args.images, sys.stdin.buffer)
    if args.coco:
        items = list(items)  # image ids depend on the names of all images
    try:
        _predict_all(predictor, items, lines, args)
    finally:
        lines.progress.clear()
    lines.summary(_written(args, lines))
    return 1 if lines.failures else 0


def _predict_all(predictor: Predictor, items: Iterable[Item], lines: Lines, args: PredictArgs) -> None:
    """Predict, print and write one image after another."""
    from twins.data.loading.sources import open_items

    try:
        with ExitStack() as stack:
            writers = [*_open_outputs(stack, predictor, items, args)]
            sources = open_items(items, predictor.model.info.in_chans, every=args.every, failed=lines.failed)
            for source, prediction, milliseconds, tracks in _predict(predictor, sources, args):
                for write in writers:
                    write(source, prediction)
                lines.add(source, prediction, milliseconds, tracks)
                if lines.closed and not writers:
                    break
            lines.close()
    except _NetworkError as error:
        raise error.cause from None


def _check(args: PredictArgs) -> None:
    if not args.images:
        raise ConfigError("no image is named; give files, folders or globs after the model")
    for flag, value in (("--top", args.top), ("--batch-size", args.batch_size), ("--every", args.every)):
        if value < 1:
            raise ConfigError(f"{flag} must be at least 1, found {value}")


def _check_videos(args: PredictArgs) -> None:
    """Check before anything is computed whether PyAV is there, if a source is certainly a video."""
    from twins.data.loading.sources import has_videos
    from twins.data.loading.video import require_av

    if has_videos(args.images, certainly=True):
        require_av()
    if args.track and not has_videos(args.images):
        raise ConfigError("--track follows objects through videos, cameras and streams, found images only")


def _set_tracking(args: PredictArgs, model: TaskNetwork) -> None:
    """Let a detector also find the less certain objects that continue a track."""
    from twins.predictor import set_selection
    from twins.tracking import LOW, require_trackers

    if not facts_of(model.task).selection:
        raise ConfigError(f"--track is for {' and '.join(tasks_with('selection'))}, found a network for {model.task}")
    require_trackers()
    set_selection(model, replace(args.selection, score=LOW * args.selection.score))


def _load(args: PredictArgs) -> Predictor:
    """Load the network; print notes about its weights on standard error."""
    from twins.predictor import load
    from twins.run_folder import BEST, weights_of

    selection = None if args.selection == SHOWN else args.selection
    predictor = load(
        args.model,
        device=args.device,
        weights_key=args.weights_key,
        inference=args.inference,
        selection=selection,
        compile=args.compile,
    )
    notes = []
    if os.path.isdir(args.model) and Path(weights_of(args.model)).name != BEST:
        notes.append(f"{args.model} holds no {BEST} yet; its newest weights are used")
    if (report := predictor.model.load_report) is not None and report.note:
        notes.append(report.note)
    for note in notes if not args.quiet else ():
        print(f"note: {note}", file=sys.stderr)
    return predictor


def _inputs(args: PredictArgs) -> list[tuple[str, str | Path]]:
    """Return the files that no output may replace, with descriptions."""
    from twins.run_folder import parts_of

    named = [word for word in args.images if os.path.isfile(word)]
    inputs = [*parts_of(args.model), *(("one of the images to predict", Path(path)) for path in named)]
    return inputs if args.out is None else [*inputs, ("the folder that --out names", args.out)]


def _written(args: PredictArgs, lines: Lines) -> dict[str, str]:
    """Return the files that were written, by the words before them in the summary."""
    drawn = [number_of(lines.images, "picture")] if lines.images else []
    drawn += [number_of(lines.videos, "video")] if lines.videos else []
    files = {f"drew {' and '.join(drawn)} in": args.out} if drawn else {}
    files |= {"wrote the JSON file": args.json, "wrote the CSV file": args.csv, "wrote the COCO results": args.coco}
    return {word: path for word, path in files.items() if path}


class _NetworkError(Exception):
    """Carries a network's error past the open output files, which would report it as an error of their own."""

    def __init__(self, cause: Exception) -> None:
        self.cause = cause


def _predict(
    predictor: Predictor, sources: Iterator[Source], args: PredictArgs
) -> Iterator[tuple[Source, Prediction, float, VideoTracks | None]]:
    """Yield each image with its prediction, the milliseconds of the network, and the tracks of its video."""
    from twins.tracking import VideoTracks

    tracks: VideoTracks | None = None
    for batch in _batches(sources, args.batch_size):
        start = time.perf_counter()
        predictions = _predict_batch(predictor, batch)
        milliseconds = 1000 * (time.perf_counter() - start) / len(batch)
        for source, prediction in zip(batch, predictions, strict=True):
            if args.track and source.first:
                tracks = VideoTracks(args.selection.score)
            if tracks is not None:
                prediction = tracks.add(prediction, source.seconds or 0.0)
            yield source, prediction, milliseconds, tracks


def _batches(sources: Iterator[Source], batch_size: int) -> Iterator[list[Source]]:
    """Yield lists of images; a live frame is a list of its own, so that it does not wait for others."""
    batch: list[Source] = []
    for source in sources:
        batch.append(source)
        if len(batch) == batch_size or source.live:
            yield batch
            batch = []
    if batch:
        yield batch


def _predict_batch(predictor: Predictor, batch: list[Source]) -> list[Prediction]:
    from twins.engine.memory import is_out_of_memory

    try:
        return predictor.predict([source.image for source in batch], batch_size=len(batch))
    except (RuntimeError, MemoryError) as error:
        if is_out_of_memory(error):
            raise ConfigError(
                f"memory ran out with {number_of(len(batch), 'image')} in a pass; lower --batch-size"
            ) from error
        raise _NetworkError(error) from error


def _open_outputs(stack: ExitStack, predictor: Predictor, items: Iterable[Item], args: PredictArgs) -> Iterator[Writer]:
    """Open the requested files before anything is computed, and yield their writers; the stack closes them."""
    from twins.cli import predict_outputs
    from twins.data.loading.sources import has_videos

    task = predictor.model.task
    if args.coco and "boxes" not in facts_of(task).prediction_fields:
        raise ConfigError(
            f"--coco is for {' and '.join(tasks_with('prediction_fields', 'boxes'))}, found a network for {task}"
        )
    if args.json:
        yield stack.enter_context(predict_outputs.json_file(Path(args.json), task, args.top))
    if args.csv:
        video = has_videos(args.images)
        file = predict_outputs.csv_file(Path(args.csv), task, args.top, video=video, track=args.track)
        yield stack.enter_context(file)
    if args.coco:
        yield stack.enter_context(predict_outputs.coco_file(Path(args.coco), predictor.model.info, list(items)))
    if args.out:
        yield stack.enter_context(predict_outputs.drawings(Path(args.out), args.drawing))
