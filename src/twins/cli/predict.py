"""`twins predict`: a trained network on images."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from tyro.conf import Positional

from twins.cli.parse import parse
from twins.errors import ConfigError, DataError
from twins.tasks.inference import InferenceConfig

if TYPE_CHECKING:
    from PIL.Image import Image

    from twins.predictions import Prediction
    from twins.predictor import Predictor


@dataclass(frozen=True, kw_only=True)
class PredictArgs:
    """Run a network on images and print what it sees."""

    model: Positional[str]
    """Run folder, checkpoint or published name."""
    images: Positional[tuple[str, ...]]
    """Files, folders or globs."""
    out: str | None = None
    """Folder to write results to: each image with its prediction drawn; of a semantic network also `NAME-classes.png`,
    whose pixels are class ids."""
    json: str | None = None
    """File to write all predictions to, as JSON; a semantic network's are the pixels of each class."""
    csv: str | None = None
    """File to write the listed classes to, as CSV."""
    top: int = 5
    """Classes to list for each image."""
    batch_size: int = 8
    """Images per forward pass."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """What computes."""
    inference: Annotated[InferenceConfig, tyro.conf.arg(name="")] = field(default_factory=InferenceConfig)
    """How a semantic network looks at an image."""


def run(arguments: list[str]) -> int:
    """Print a table; write what was asked for. 1 when images could not be read."""
    args = parse(PredictArgs, "predict", arguments)
    if not args.images:
        raise ConfigError("no image is named; give files, folders or globs after the model")
    if args.top < 1 or args.batch_size < 1:
        raise ConfigError(f"--top and --batch-size must be at least 1, found {args.top} and {args.batch_size}")
    from twins.predictor import expand, load

    predictor = load(args.model, device=args.device, inference=args.inference)
    rows, failures = _predict_all(predictor, expand(args.images), args)
    _write(rows, args)
    _show(rows)
    for failure in failures:
        print(f"not read: {failure}")
    return 1 if failures else 0


def _predict_all(predictor: Predictor, paths: list[Any], args: PredictArgs) -> tuple[list[dict[str, Any]], list[str]]:
    """Predict batch by batch; a file that cannot be read is named and the others go on."""
    from twins.data.images import open_image

    folder = Path(args.out) if args.out else None
    if folder:
        folder.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    failures: list[str] = []
    for start in range(0, len(paths), args.batch_size):
        chunk, opened = [], []
        for path in paths[start : start + args.batch_size]:
            try:
                opened.append(open_image(path))
                chunk.append(path)
            except DataError as error:
                failures.append(str(error))
        for path, image, prediction in zip(
            chunk, opened, predictor.predict(opened, batch_size=args.batch_size), strict=True
        ):
            rows.append({"image": str(path)} | prediction.to_dict(top=args.top))
            if folder:
                _save(folder, Path(path), image, prediction)
    return rows, failures


def _save(folder: Path, source: Path, image: Image, prediction: Prediction) -> None:
    """Write a drawing, and the map of class ids where there is one, under a name that nothing has taken."""
    from twins.drawing import index_image, palette

    stem, number = source.stem, 1
    while (folder / f"{stem}.png").exists():
        number += 1
        stem = f"{source.stem}-{number}"
    prediction.draw(image).save(folder / f"{stem}.png")
    if prediction.label_map is not None:
        index_image(prediction.label_map, palette(prediction)).save(folder / f"{stem}-classes.png")


def _write(rows: list[dict[str, Any]], args: PredictArgs) -> None:
    from twins.weights.files import atomic_file

    if args.json:
        with atomic_file(Path(args.json)) as beside:
            beside.write_text(json.dumps({"format": 1, "predictions": rows}, indent=1, ensure_ascii=False) + "\n")
    if args.csv:
        text = io.StringIO()
        writer = csv.writer(text)
        dense = any("areas" in row for row in rows)
        writer.writerow(["image", "name", "pixels"] if dense else ["image", "rank", "label", "name", "score"])
        for row in rows:
            writer.writerows(_areas(row) if dense else _ranks(row))
        with atomic_file(Path(args.csv)) as beside:
            beside.write_text(text.getvalue())


def _ranks(row: dict[str, Any]) -> list[list[Any]]:
    listed = zip(row["labels"], row["names"], row["scores"], strict=True)
    return [[row["image"], rank, *values] for rank, values in enumerate(listed, 1)]


def _areas(row: dict[str, Any]) -> list[list[Any]]:
    return [[row["image"], name, pixels] for name, pixels in row["areas"].items()]


def _show(rows: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column("image", overflow="fold")
    table.add_column("classes", overflow="fold")
    for row in rows:
        table.add_row(escape(row["image"]), escape(_LISTED["areas" in row](row)))
    Console().print(table)


def _listed_scores(row: dict[str, Any]) -> str:
    return ", ".join(f"{name} {score:.1%}" for name, score in zip(row["names"], row["scores"], strict=True))


def _listed_areas(row: dict[str, Any]) -> str:
    total = max(1, sum(row["areas"].values()))
    ordered = sorted(row["areas"].items(), key=lambda item: -item[1])
    return ", ".join(f"{name} {pixels / total:.1%}" for name, pixels in ordered)


_LISTED: dict[bool, Callable[[dict[str, Any]], str]] = {False: _listed_scores, True: _listed_areas}
