"""Labels of objects in pictures: their font, and positions where they hide little and no other label."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Colour = tuple[int, int, int]
"""RGB in 0..255."""
Rectangle = tuple[int, int, int, int]
"""xyxy in pixels; the last row and column are included."""
CROWDED = 25
"""Number of objects above which a label that finds no room is left out."""


def draw_labels(
    picture: Image.Image, boxes: NDArray[np.float64], texts: Sequence[str], colours: Sequence[Colour]
) -> None:
    """Draw labels in place, each where it hides the least of the objects, and no label before it.

    Args:
        picture: RGB.
        boxes: `(R, 4)` xyxy of the objects in pixels of the picture.
        texts: the label of each object; empty for no label.
        colours: RGB of each object.
    """
    pen, letters = ImageDraw.Draw(picture), font(_text_size(picture, len(boxes)))
    labels = np.zeros((0, 4))
    for box, full_text, colour in zip(boxes, texts, colours, strict=True):
        text = shorten(full_text, letters, picture.width - 6)
        if not text:
            continue
        size = (round(letters.getlength(text)) + 6, sum(letters.getmetrics()))
        label = _place_label(box, size, picture.size, boxes, labels, limit=1.0 if len(boxes) > CROWDED else np.inf)
        if label is None:
            continue
        pen.rectangle(label, fill=colour)
        pen.text((label[0] + 3, label[1]), text, fill=contrast(colour), font=letters)
        labels = np.vstack([labels, np.add(label, (0, 0, 1, 1))])


def _text_size(picture: Image.Image, count: int) -> int:
    """Return the size of labels in pixels: in proportion to the picture, and smaller with many labels."""
    shrink, side = min(1.0, max(0.6, (12 / max(1, count)) ** 0.5)), min(picture.size)
    return round(min(max(40.0, side / 50), max(10.0, shrink * side / 30)))


def _place_label(
    box: NDArray[np.float64],
    size: tuple[int, int],
    limits: tuple[int, int],
    boxes: NDArray[np.float64],
    labels: NDArray[np.float64],
    *,
    limit: float,
) -> Rectangle | None:
    """Return the best rectangle for a box's label inside the picture, on no other label; `None` if there is no room.

    Positions are tried above, below, beside and inside the box, in this order, then up to eight lines further away. The
    cost counts hidden objects, a whole one as 1, and a little more for later positions; it must not exceed `limit`.
    """
    left, top, right, bottom = box
    width, height = size
    near = [(left, top - height), (right - width, top - height), (left, bottom), (right - width, bottom)]
    near += [(right, top), (left - width, top), (left, top), (right - width, bottom - height)]
    lines = [height * line for line in range(1, 9)]
    far = [(left, y) for line in lines for y in (top + line, top - height - line, bottom + line)]
    for first, corners in ((0, near), (len(near), far)):
        candidates: list[tuple[float, Rectangle]] = []
        for order, corner in enumerate(corners, first):
            x, y = (max(0, min(round(at), most - side)) for at, most, side in zip(corner, limits, size, strict=True))
            rectangle = (x, y, x + width - 1, y + height - 1)
            if not _shared_pixels((x, y, x + width, y + height), labels).any():
                candidates.append((_hiding_cost(rectangle, boxes) + 0.02 * order, rectangle))
        if candidates:
            cost, best = min(candidates)
            return best if cost <= limit else None
    return None


def _hiding_cost(label: Rectangle, boxes: NDArray[np.float64]) -> float:
    """Return the cost of a label: the shares of objects that it hides, and its own share that hides them."""
    hidden = _shared_pixels(label, boxes)
    shares = hidden / (boxes[:, 2:] - boxes[:, :2]).clip(min=1).prod(axis=1)
    area = (label[2] - label[0]) * (label[3] - label[1])
    return float(shares.sum() + 0.3 * hidden.sum() / area)


def _shared_pixels(rectangle: Rectangle, boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the number of pixels that a rectangle shares with each box of `(R, 4)`."""
    sides = np.minimum(rectangle[2:], boxes[:, 2:]) - np.maximum(rectangle[:2], boxes[:, :2])
    return np.asarray(sides.clip(min=0).prod(axis=1))


def contrast(colour: Colour) -> Colour:
    """Return black or white, whichever is easier to read on a colour (WCAG 2.2, relative luminance)."""
    red, green, blue = ((value / 255) ** 2.2 for value in colour)
    return (20, 22, 26) if 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.18 else (255, 255, 255)


@cache
def font(size: int) -> ImageFont.FreeTypeFont:
    """Return matplotlib's bundled DejaVu Sans, which has the letters of most scripts."""
    import matplotlib

    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), size)


def shorten(text: str, letters: ImageFont.FreeTypeFont, width: int) -> str:
    """Return the text, cut off with an ellipsis if it is wider than `width` pixels."""
    if letters.getlength(text) <= width:
        return text
    while text and letters.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"
