"""`twins predict`: a trained network on images and videos."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import count, islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from tyro.conf import Positional

from twins.cli.parse import FILE, in_flags, parse
from twins.errors import ConfigError, DataError, NotFoundError
from twins.tasks.inference import SHOWN, InferenceConfig, SelectionConfig
from twins.tasks.table import facts_of, tasks_with

if TYPE_CHECKING:
    from twins.cli.predicted import Add, Seen
    from twins.predictions import Prediction
    from twins.predictor import Predictor


@dataclass(frozen=True, kw_only=True)
class PredictArgs:
    """Run a network on images and videos and print its predictions."""

    model: Annotated[str, Positional, tyro.conf.arg(metavar="MODEL")]
    """Run folder, checkpoint or published name."""
    images: Annotated[tuple[str, ...], Positional, tyro.conf.arg(metavar="IMAGE...")]
    """Files, folders or globs of images, and videos such as `clip.mp4`. A folder stands for the images in it."""
    out: Annotated[str | None, tyro.conf.arg(metavar="DIR")] = None
    """Folder for drawings: each image with its prediction, each video as an MP4 of such frames. A semantic network also
    writes `NAME-classes.png` of each image, whose pixels are class ids."""
    json: Annotated[str | None, FILE] = None
    """File to write all predictions to, as JSON: every object of a detector, the pixels of each class of a semantic
    network, each frame of a video."""
    csv: Annotated[str | None, FILE] = None
    """File to write all predictions to, as CSV: a line for each listed class, or for every object of a detector."""
    coco: Annotated[str | None, FILE] = None
    """File to write a detector's objects to, as COCO results. `image_id` is the number that files are named by, else
    the image's position, from 0; `category_id` is COCO's for a network with COCO's 80 names, else the class id."""
    top: int = 5
    """Classes or objects to list for each image, highest score first."""
    every: int = 1
    """Use every N-th frame of a video."""
    batch_size: int = 8
    """Images per forward pass."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Device to compute on."""
    compile: bool = False
    """Compile the network with torch.compile: worth its time where many images have one size."""
    inference: Annotated[InferenceConfig, tyro.conf.arg(name="")] = field(default_factory=InferenceConfig)
    """Inference settings of a semantic network."""
    selection: Annotated[SelectionConfig, tyro.conf.arg(name="")] = SHOWN
    """Score and NMS thresholds of a detector."""


ARGS = PredictArgs


def run(arguments: list[str]) -> int:
    """Print a table; write what was asked for. 1 when images could not be read."""
    args = parse(PredictArgs, "predict", arguments)
    if not args.images:
        raise ConfigError("no image is named; give files, folders or globs after the model")
    for flag, value in (("--top", args.top), ("--batch-size", args.batch_size), ("--every", args.every)):
        if value < 1:
            raise ConfigError(f"{flag} must be at least 1, found {value}")
    from twins.cli.predicted import Listing
    from twins.data.loading.video import is_video_file, require_av
    from twins.files import check_outputs
    from twins.predictor import expand, load
    from twins.run_folder import parts_of

    selection = None if args.selection == SHOWN else args.selection
    predictor = load(
        args.model, device=args.device, inference=args.inference, selection=selection, compile=args.compile
    )
    paths: list[Path] = expand(args.images)
    if any(map(is_video_file, paths)):
        require_av()
    inputs = [*parts_of(args.model), *(("an image that is looked at", path) for path in paths)]
    if args.out is not None:
        inputs.append(("the folder that --out names", args.out))
    check_outputs({"json": args.json, "csv": args.csv, "coco": args.coco}, inputs)
    listing, failures = Listing(predictor.model.task, args.top), list[str]()
    try:
        with ExitStack() as stack:
            outputs = [listing.add, *_outputs(stack, predictor, paths, args)]
            for seen, prediction in _predicted(predictor, _opened(paths, args.every, failures), args.batch_size):
                for add in outputs:
                    add(seen, prediction)
    except _NetworkError as error:
        raise error.cause from None
    listing.show()
    for failure in failures:
        print(f"not read: {in_flags(failure, PredictArgs)}")
    return 1 if failures else 0


def _opened(paths: list[Path], every: int, failures: list[str]) -> Iterator[Seen]:
    """Yield images and the frames of videos; a file that cannot be read is named and the others go on."""
    from twins.cli.predicted import Seen
    from twins.data.images import open_image
    from twins.data.loading.video import is_video_file, read_frames

    places = count()
    for path in paths:
        try:
            if not is_video_file(path):
                yield Seen(path, next(places), open_image(path))
                continue
            for frame in read_frames(path, every=every):
                yield Seen(path, next(places), frame.image, frame.number, frame.seconds)
        except (DataError, NotFoundError) as error:
            failures.append(str(error))


class _NetworkError(Exception):
    """Takes a network's error past the files that are open, which would take it for their own."""

    def __init__(self, cause: Exception) -> None:
        self.cause = cause


def _predicted(predictor: Predictor, sources: Iterator[Seen], batch: int) -> Iterator[tuple[Seen, Prediction]]:
    from twins.engine.memory import is_out_of_memory

    while chunk := list(islice(sources, batch)):
        try:
            found = predictor.predict([seen.image for seen in chunk], batch_size=batch)
        except (RuntimeError, MemoryError) as error:
            if is_out_of_memory(error):
                raise ConfigError(f"memory ran out with {len(chunk)} images in a pass; lower --batch-size") from error
            raise _NetworkError(error) from error
        yield from zip(chunk, found, strict=True)


def _outputs(stack: ExitStack, predictor: Predictor, paths: list[Path], args: PredictArgs) -> Iterator[Add]:
    """Open what was asked for, before anything is computed; the stack closes it."""
    from twins.cli import predicted
    from twins.data.loading.video import is_video_file

    task = predictor.model.task
    if args.coco and "boxes" not in facts_of(task).prediction_fields:
        raise ConfigError(
            f"--coco is for {' and '.join(tasks_with('prediction_fields', 'boxes'))}, found a network for {task}"
        )
    if args.json:
        yield stack.enter_context(predicted.json_file(Path(args.json), task, args.top))
    if args.csv:
        video = any(map(is_video_file, paths))
        yield stack.enter_context(predicted.csv_file(Path(args.csv), task, args.top, video=video))
    if args.coco:
        yield stack.enter_context(predicted.coco_file(Path(args.coco), predictor.model.info, paths))
    if args.out:
        yield stack.enter_context(predicted.drawings(Path(args.out)))
