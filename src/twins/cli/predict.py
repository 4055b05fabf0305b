"""`twins predict`: a trained network on images."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tyro.conf import Positional

from twins.cli.parse import parse
from twins.errors import ConfigError, DataError

if TYPE_CHECKING:
    from twins.predictor import Predictor


@dataclass(frozen=True, kw_only=True)
class PredictArgs:
    """Run a network on images and print what it sees."""

    model: Positional[str]
    """Run folder, checkpoint or published name."""
    images: Positional[tuple[str, ...]]
    """Files, folders or globs."""
    out: str | None = None
    """Folder to write the images with their predictions drawn below."""
    json: str | None = None
    """File to write all predictions to, as JSON."""
    csv: str | None = None
    """File to write the listed classes to, as CSV."""
    top: int = 5
    """Classes to list for each image."""
    batch_size: int = 8
    """Images per forward pass."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """What computes."""


def run(arguments: list[str]) -> int:
    """Print a table; write what was asked for. 1 when images could not be read."""
    args = parse(PredictArgs, "predict", arguments)
    if not args.images:
        raise ConfigError("no image is named; give files, folders or globs after the model")
    if args.top < 1:
        raise ConfigError(f"--top must be at least 1, found {args.top}")
    from twins.predictor import expand, load

    predictor = load(args.model, device=args.device)
    paths = expand(args.images)
    rows, failures = _predict_all(predictor, paths, args)
    _write(rows, args)
    _show(rows, args.top)
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
                prediction.draw(image).save(_free_name(folder, Path(path)))
    return rows, failures


def _free_name(folder: Path, source: Path) -> Path:
    """Return a name for a drawing that no other has taken."""
    target, number = folder / f"{source.stem}.png", 1
    while target.exists():
        number += 1
        target = folder / f"{source.stem}-{number}.png"
    return target


def _write(rows: list[dict[str, Any]], args: PredictArgs) -> None:
    from twins.weights.files import atomic_file

    if args.json:
        with atomic_file(Path(args.json)) as beside:
            beside.write_text(json.dumps({"format": 1, "predictions": rows}, indent=1, ensure_ascii=False) + "\n")
    if args.csv:
        text = io.StringIO()
        writer = csv.writer(text)
        writer.writerow(["image", "rank", "label", "name", "score"])
        for row in rows:
            listed = zip(row["labels"], row["names"], row["scores"], strict=True)
            writer.writerows([row["image"], rank, *values] for rank, values in enumerate(listed, 1))
        with atomic_file(Path(args.csv)) as beside:
            beside.write_text(text.getvalue())


def _show(rows: list[dict[str, Any]], top: int) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column("image", overflow="fold")
    table.add_column("classes", overflow="fold")
    for row in rows:
        listed = zip(row["names"], row["scores"], strict=True)
        table.add_row(escape(row["image"]), escape(", ".join(f"{name} {score:.1%}" for name, score in listed)))
    Console().print(table)
