"""Drawing predictions on images, and pictures in a grid."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from twins.errors import InputError
from twins.predictions import Prediction

INK, PAPER, BAR, GOOD, BAD = "#1b1f24", "#ffffff", "#9ec5f8", "#2f9e44", "#d9480f"


def draw(prediction: Prediction, image: Image.Image, *, top: int = 5) -> Image.Image:
    """Return a copy of an RGB image with its prediction below it: the most probable classes as bars.

    Args:
        prediction: a classifier's.
        image: any size; it is shown at 320 pixels wide or more.
        top: how many classes to list.

    Raises:
        InputError: a prediction of another task.
    """
    if prediction.labels is None or prediction.scores is None or prediction.boxes is not None:
        raise InputError(f"drawing needs a classifier's prediction, found one of {prediction.task}")
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
