"""Drawing predictions on images, and pictures in a grid."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from twins.data.classes import distinct_colours
from twins.errors import InputError
from twins.predictions import Prediction

Palette = Sequence[tuple[int, int, int]]
"""RGB of each class, by class id."""
INK, PAPER, BAR, GOOD, BAD = "#1b1f24", "#ffffff", "#9ec5f8", "#2f9e44", "#d9480f"


def draw(prediction: Prediction, image: Image.Image, *, top: int = 5) -> Image.Image:
    """Return a copy of an RGB image with its prediction: a classifier's below it as bars, a semantic map over it.

    Args:
        prediction: of the image.
        image: any size; a classifier's is shown at 320 pixels wide or more.
        top: how many of a classifier's classes to list.

    Raises:
        InputError: a prediction that holds nothing to draw, or of an image of another size.
    """
    if prediction.label_map is not None:
        return _with_legend(prediction, overlay(image, prediction.label_map, palette(prediction)))
    if prediction.labels is None or prediction.scores is None or prediction.boxes is not None:
        raise InputError(f"drawing needs classes or a map of them, found a prediction of {prediction.task} without")
    return _bars(prediction, image, top)


def palette(prediction: Prediction) -> Palette:
    """Return the colours of a prediction's classes, chosen where it has none."""
    assert prediction.label_map is not None
    needed = max(len(prediction.names), int(prediction.label_map.max(initial=0)) + 1)
    return prediction.colours if len(prediction.colours) >= needed else distinct_colours(needed)


def overlay(
    image: Image.Image, label_map: NDArray[np.integer[Any]], colours: Palette, *, strength: float = 0.55
) -> Image.Image:
    """Lay a map of class ids `(H, W)` over its image as colours, with dark lines where classes meet.

    What counts for nothing (255 and whatever has no colour) is left as it is.

    Raises:
        InputError: a map of another size.
    """
    if label_map.shape != (image.height, image.width):
        raise InputError(f"the image has {image.width} x {image.height} pixels, its map {label_map.shape[::-1]}")
    known = label_map < len(colours)
    tints = np.array([*colours, (0, 0, 0)], dtype=np.float32)[np.where(known, label_map, len(colours))]
    pixels = np.asarray(image.convert("RGB"), dtype=np.float32)
    mixed = np.where(known[..., None], pixels + strength * (tints - pixels), pixels)
    mixed[_edges(label_map) & known] *= 0.35
    return Image.fromarray(mixed.round().astype(np.uint8))


def index_image(label_map: NDArray[np.integer[Any]], colours: Palette) -> Image.Image:
    """Return a map as a PNG-ready palette image: pixels hold class ids, shown in the classes' colours."""
    if int(label_map.max(initial=0)) > 255:
        return Image.fromarray(label_map.astype(np.uint16))
    picture = Image.fromarray(label_map.astype(np.uint8)).convert("P")
    levels = [level for colour in colours[:256] for level in colour]
    picture.putpalette(levels + [0] * (768 - len(levels)))  # PNG drops the bits that a shorter palette does not need
    return picture


def _edges(label_map: NDArray[np.integer[Any]]) -> NDArray[np.bool_]:
    edges = np.zeros(label_map.shape, dtype=bool)
    edges[:, :-1] |= label_map[:, :-1] != label_map[:, 1:]
    edges[:-1] |= label_map[:-1] != label_map[1:]
    return edges


def _with_legend(prediction: Prediction, picture: Image.Image) -> Image.Image:
    """Put the classes of a semantic map below its picture, the largest first, with their share of it."""
    assert prediction.label_map is not None
    colours = palette(prediction)
    labels, pixels = np.unique(prediction.label_map, return_counts=True)
    parts = sorted(zip(pixels.tolist(), labels.tolist(), strict=True), reverse=True)[:12]
    line = min(32, max(14, picture.width // 24))
    letters = font(round(line * 0.68))
    texts = [f"{prediction.name(label)} {count / prediction.label_map.size:.1%}" for count, label in parts]
    places = _flow([line + 6 + round(letters.getlength(text)) + line for text in texts], picture.width)
    canvas = Image.new("RGB", (picture.width, picture.height + (places[-1][1] + 1) * line + line // 2), PAPER)
    canvas.paste(picture)
    pen = ImageDraw.Draw(canvas)
    for (_, label), text, (x, row) in zip(parts, texts, places, strict=True):
        y = picture.height + line // 4 + row * line
        pen.rectangle((x + 3, y + 2, x + line - 3, y + line - 4), fill=colours[label])
        pen.text((x + line + 2, y + line * 0.08), text, fill=INK, font=letters)
    return canvas


def _flow(widths: Sequence[int], width: int) -> list[tuple[int, int]]:
    """Return where boxes of some widths go, left to right, line by line: x and line."""
    places, x, row = [], 0, 0
    for box in widths:
        if x and x + box > width:
            x, row = 0, row + 1
        places.append((x, row))
        x += box
    return places


def _bars(prediction: Prediction, image: Image.Image, top: int) -> Image.Image:
    assert prediction.labels is not None
    assert prediction.scores is not None
    scale = max(1, round(320 / image.width))
    picture = image.convert("RGB").resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)
    rows = list(zip(prediction.labels[:top].tolist(), prediction.scores[:top].tolist(), strict=True))
    line = max(18, picture.width // 18)
    canvas = Image.new("RGB", (picture.width, picture.height + line * len(rows) + line // 2), PAPER)
    canvas.paste(picture)
    pen, letters = ImageDraw.Draw(canvas), font(round(line * 0.68))
    for row, (label, score) in enumerate(rows):
        y = picture.height + line // 4 + row * line
        pen.rectangle((0, y, round(picture.width * score), y + line - 3), fill=BAR)
        pen.text((6, y + line * 0.08), f"{prediction.name(label)}  {score:.1%}", fill=INK, font=letters)
    return canvas


def grid(
    pictures: Sequence[Image.Image],
    captions: Sequence[str],
    *,
    columns: int = 6,
    side: int = 150,
    good: Sequence[bool] = (),
) -> Image.Image:
    """Lay pictures out in rows, each in a square of `side` pixels with its caption below.

    Args:
        pictures: any sizes.
        captions: one each.
        columns: pictures in a row.
        side: of each square, in pixels.
        good: colours a caption green or red; empty leaves them black.
    """
    rows = -(-len(pictures) // columns)
    gap, text = side // 12, side // 6
    cell = side + text + gap
    canvas = Image.new("RGB", (min(columns, len(pictures)) * (side + gap) + gap, rows * cell + gap), PAPER)
    pen, letters = ImageDraw.Draw(canvas), font(text * 2 // 3)
    for number, (picture, caption) in enumerate(zip(pictures, captions, strict=True)):
        x, y = gap + number % columns * (side + gap), gap + number // columns * cell
        canvas.paste(fit(picture, side), (x, y))
        colour = (GOOD if good[number] else BAD) if good else INK
        pen.text((x, y + side + 2), _shorten(caption, letters, side), fill=colour, font=letters)
    return canvas


def fit(picture: Image.Image, side: int) -> Image.Image:
    """Return a picture resized into a square of `side` pixels, its aspect kept, on white."""
    scale = side / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    smooth = Image.Resampling.NEAREST if scale >= 2 else Image.Resampling.LANCZOS
    canvas = Image.new("RGB", (side, side), PAPER)
    canvas.paste(picture.convert("RGB").resize(size, smooth), ((side - size[0]) // 2, (side - size[1]) // 2))
    return canvas


@cache
def font(size: int) -> ImageFont.FreeTypeFont:
    """Return matplotlib's bundled DejaVu Sans, which has most scripts' letters."""
    import matplotlib

    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), size)


def _shorten(text: str, letters: ImageFont.FreeTypeFont, width: int) -> str:
    if letters.getlength(text) <= width:
        return text
    while text and letters.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"
