"""Drawing predictions on images, and pictures in a grid."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from twins.data.classes import distinct_colours
from twins.errors import InputError
from twins.predictions import Prediction

Colour = tuple[int, int, int]
"""RGB in 0..255."""
Palette = Sequence[Colour]
"""RGB of each class, by class id."""
INK, PAPER, BAR, GOOD, BAD = "#1b1f24", "#ffffff", "#9ec5f8", "#2f9e44", "#d9480f"
MIN_SIDE = 448
"""Pixels of the longer side that an image has at least when objects are marked on it."""
CROWDED, NAMED = 25, 60
"""Objects above which labels are smaller and give way, and above which they are counted by class below instead."""
LISTED = 5
"""Classes of a classifier that are listed below an image."""
TINT = 110
"""How opaque masks are, of 255."""
Line = Literal["solid", "dashed", "double"]
"""How a box is drawn."""
Place = tuple[int, int, int, int]
"""Pixels of a rectangle, xyxy, the last included."""


def draw_prediction(prediction: Prediction, image: Image.Image, *, steady: bool = False) -> Image.Image:
    """Return a copy of an RGB image with its prediction: classes below it as bars, a map over it, objects marked.

    Args:
        prediction: of the image; of a classifier's classes the `LISTED` most probable are shown.
        image: any size; a classifier's is shown at least 320 pixels wide, a detector's with a longer side of at least
            `MIN_SIDE` pixels.
        steady: whether the picture's size follows from the image's alone, as the frames of a video need it.

    Raises:
        InputError: a prediction that holds nothing to draw, or of an image of another size.
    """
    if prediction.label_map is not None:
        return _with_shares(prediction, overlay(image, prediction.label_map, palette(prediction)), steady)
    if prediction.labels is None or prediction.scores is None:
        raise InputError(f"drawing needs classes or a map of them, found a prediction of {prediction.task} without")
    if prediction.boxes is not None:
        return _objects(prediction, image, steady)
    return _bars(prediction, image)


def palette(prediction: Prediction) -> Palette:
    """Return the colours of a prediction's classes, chosen where it has none."""
    said = prediction.labels if prediction.label_map is None else prediction.label_map
    needed = max(len(prediction.names), int(said.max(initial=0)) + 1 if said is not None else 0)
    if len(prediction.colours) >= needed:
        return prediction.colours
    return distinct_colours(needed) if prediction.boxes is None else distinct_colours(needed + 1)[1:]


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


def _with_shares(prediction: Prediction, picture: Image.Image, steady: bool) -> Image.Image:
    """Put the classes of a semantic map below its picture, the largest first, with their share of it."""
    assert prediction.label_map is not None
    colours = palette(prediction)
    labels, pixels = np.unique(prediction.label_map, return_counts=True)
    parts = sorted(zip(pixels.tolist(), labels.tolist(), strict=True), reverse=True)[:12]
    entries = [(colours[label], f"{prediction.name(label)} {n / prediction.label_map.size:.1%}") for n, label in parts]
    longest = sorted((f"{name} 100.0%" for name in prediction.names), key=len)[-12:] if steady else []
    return _with_legend(picture, entries, room_for=longest)


def _with_legend(
    picture: Image.Image, entries: Sequence[tuple[Colour, str]], *, room_for: Sequence[str] = ()
) -> Image.Image:
    """Put colours and what they mean below a picture; there is room for other texts too where they are given."""
    line = min(32, max(14, picture.width // 24))
    letters = font(round(line * 0.68))

    def arrange(texts: Sequence[str]) -> list[tuple[int, int]]:
        return _flow([line + 6 + round(letters.getlength(text)) + line for text in texts], picture.width)

    places = arrange([text for _, text in entries])
    rows = arrange(room_for)[-1][1] if room_for else places[-1][1]
    canvas = Image.new("RGB", (picture.width, picture.height + (rows + 1) * line + line // 2), PAPER)
    canvas.paste(picture)
    pen = ImageDraw.Draw(canvas)
    for (colour, text), (x, row) in zip(entries, places, strict=True):
        y = picture.height + line // 4 + row * line
        pen.rectangle((x + 3, y + 2, x + line - 3, y + line - 4), fill=colour)
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


def _bars(prediction: Prediction, image: Image.Image) -> Image.Image:
    assert prediction.labels is not None
    assert prediction.scores is not None
    scale = max(1, round(320 / image.width))
    picture = image.convert("RGB").resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)
    rows = list(zip(prediction.labels[:LISTED].tolist(), prediction.scores[:LISTED].tolist(), strict=True))
    line = max(18, picture.width // 18)
    canvas = Image.new("RGB", (picture.width, picture.height + line * len(rows) + line // 2), PAPER)
    canvas.paste(picture)
    pen, letters = ImageDraw.Draw(canvas), font(round(line * 0.68))
    for row, (label, score) in enumerate(rows):
        y = picture.height + line // 4 + row * line
        pen.rectangle((0, y, round(picture.width * score), y + line - 3), fill=BAR)
        pen.text((6, y + line * 0.08), f"{prediction.name(label)}  {score:.1%}", fill=INK, font=letters)
    return canvas


@dataclass(frozen=True, kw_only=True)
class Mark:
    """An object to be marked on an image."""

    box: Sequence[float]
    """xyxy in pixels of the image."""
    colour: Colour
    """Of its box, its label and its mask."""
    text: str = ""
    """What its label says; empty has none."""
    mask: NDArray[np.bool_] | None = None
    """Its pixels, `(H, W)` of the image."""
    line: Line = "solid"
    """How its box is drawn."""


def mark(image: Image.Image, marks: Sequence[Mark]) -> Image.Image:
    """Return a copy of an RGB image with objects marked on it, the first of them on top.

    An image whose longer side is below `MIN_SIDE` is enlarged by a whole number. Labels stay inside the picture and lie
    where they hide the least; where there are many they are smaller, and those that find no room are left out.

    Raises:
        InputError: a mask of another size than the image.
    """
    scale = max(1, -(-MIN_SIDE // max(image.size)))
    size = (image.width * scale, image.height * scale)
    picture = image.convert("RGB").resize(size, Image.Resampling.NEAREST)
    width = max(2, round(min(picture.size) / 240)) - (len(marks) > NAMED)
    for item in reversed(marks):
        if item.mask is not None:
            _paint(picture, item.mask, item.colour, scale, width)
    for item in reversed(marks):
        thickness = width if item.mask is None else max(1, width // 2)
        _frame(picture, [scale * side for side in item.box], item.colour, thickness, item.line)
    _write_labels(picture, marks, scale)
    return picture


def _objects(prediction: Prediction, image: Image.Image, steady: bool) -> Image.Image:
    """Mark what a detector found, the surest on top."""
    assert prediction.boxes is not None
    assert prediction.labels is not None
    assert prediction.scores is not None
    colours, named = palette(prediction), len(prediction.boxes) <= NAMED
    labels = prediction.labels.tolist()
    masks = [None] * len(labels) if prediction.masks is None else prediction.masks
    found = zip(prediction.boxes.tolist(), labels, prediction.scores.tolist(), masks, strict=True)
    marks = [
        Mark(box=box, colour=colours[label], text=f"{prediction.name(label)} {score:.0%}" if named else "", mask=mask)
        for box, label, score, mask in found
    ]
    picture = mark(image, marks)
    if named or steady:
        return picture
    counts = Counter(labels).most_common(12)
    return _with_legend(picture, [(colours[label], f"{count} × {prediction.name(label)}") for label, count in counts])


def _paint(picture: Image.Image, mask: NDArray[np.bool_], colour: Colour, scale: int, width: int) -> None:
    """Tint a mask's pixels in place and draw its outline."""
    size = (picture.width // scale, picture.height // scale)
    if mask.shape[::-1] != size:
        raise InputError(f"the image has {size[0]} x {size[1]} pixels, its mask {mask.shape[::-1]}")
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return
    part = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].repeat(scale, axis=0).repeat(scale, axis=1)
    whole = Image.fromarray(np.pad(part, width).astype(np.uint8) * 255)
    eroded = whole
    for _ in range(width):  # as one filter of width 2 * width + 1 would, whose time grows with its square
        eroded = eroded.filter(ImageFilter.MinFilter(3))
    inside = np.asarray(eroded)
    strength = np.where(np.asarray(whole) > inside, 255, inside // 255 * TINT).astype(np.uint8)
    layer = Image.fromarray(strength[width:-width, width:-width])
    picture.paste(colour, (int(columns[0]) * scale, int(rows[0]) * scale), layer)


def _frame(picture: Image.Image, box: Sequence[float], colour: Colour, width: int, line: Line) -> None:
    """Draw a box in place, cut off at the picture's edge; a line that is not thin has one of contrast around it."""
    pen = ImageDraw.Draw(picture)
    left, top = min(max(0, round(box[0])), picture.width - 1), min(max(0, round(box[1])), picture.height - 1)
    right = min(max(left, round(box[2]) - 1), picture.width - 1)
    bottom = min(max(top, round(box[3]) - 1), picture.height - 1)
    if line == "dashed":
        pen.rectangle((left, top, right, bottom), outline=_contrast(colour), width=width)
        for dash in _dashes(left, top, right, bottom, width):
            pen.rectangle(dash, fill=colour)
        return
    if width > 1:
        pen.rectangle((left - 1, top - 1, right + 1, bottom + 1), outline=_contrast(colour))
    pen.rectangle((left, top, right, bottom), outline=colour, width=width)
    gap = 2 * width
    if line == "double" and min(right - left, bottom - top) > 2 * (gap + width):
        pen.rectangle((left + gap, top + gap, right - gap, bottom - gap), outline=colour, width=width)


def _dashes(left: int, top: int, right: int, bottom: int, width: int) -> list[Place]:
    """Return the dashes of a box's four sides as filled rectangles."""
    step, long = 7 * width, 4 * width - 1
    across = [(x, min(x + long, right)) for x in range(left, right + 1, step)]
    down = [(y, min(y + long, bottom)) for y in range(top, bottom + 1, step)]
    thick = width - 1
    return [(x, y, end, y + thick) for x, end in across for y in (top, max(top, bottom - thick))] + [
        (x, y, x + thick, end) for y, end in down for x in (left, max(left, right - thick))
    ]


def _write_labels(picture: Image.Image, marks: Sequence[Mark], scale: int) -> None:
    """Write labels in place, each where it hides the least of objects and of the labels before it."""
    pen, letters = ImageDraw.Draw(picture), font(_text_size(picture, len(marks)))
    boxes = scale * np.array([item.box for item in marks], dtype=np.float64).reshape(-1, 4)
    written = np.zeros((0, 4))
    for item, box in zip(marks, boxes, strict=True):
        text = _shorten(item.text, letters, picture.width - 6)
        if not text:
            continue
        size = (round(letters.getlength(text)) + 6, sum(letters.getmetrics()))
        place, cost = _label_place(box, size, picture.size, boxes, written)
        if cost > 1.0 and len(marks) > CROWDED:
            continue
        pen.rectangle(place, fill=item.colour)
        pen.text((place[0] + 3, place[1]), text, fill=_contrast(item.colour), font=letters)
        written = np.vstack([written, place])


def _text_size(picture: Image.Image, count: int) -> int:
    """Return the size of labels in pixels: in proportion to the picture, smaller where there are many."""
    fewer = min(1.0, max(0.6, (12 / max(1, count)) ** 0.5))
    return round(min(40.0, max(10.0, fewer * min(picture.size) / 30)))


def _label_place(
    box: NDArray[np.float64],
    size: tuple[int, int],
    limits: tuple[int, int],
    boxes: NDArray[np.float64],
    written: NDArray[np.float64],
) -> tuple[Place, float]:
    """Return where a box's label goes inside the picture, and how much it hides there: 1 is a whole object.

    It goes above the box where that hides nothing, else below, beside or inside it.
    """
    left, top, right, bottom = box
    width, height = size
    corners = [(left, top - height), (right - width, top - height), (left, bottom), (right - width, bottom)]
    corners += [(right, top), (left - width, top), (left, top), (right - width, bottom - height)]
    tried: list[tuple[float, Place]] = []
    for order, corner in enumerate(corners):
        x, y = (max(0, min(round(at), most - side)) for at, most, side in zip(corner, limits, size, strict=True))
        place = (x, y, x + width - 1, y + height - 1)
        tried.append((_hidden(place, boxes, written) + 0.02 * order, place))
    cost, best = min(tried)
    return best, cost


def _hidden(place: Place, boxes: NDArray[np.float64], written: NDArray[np.float64]) -> float:
    """Return how much a label would hide: shares of objects, and more dearly of labels."""
    objects = _shared(place, boxes)
    shares = objects / (boxes[:, 2:] - boxes[:, :2]).clip(min=1).prod(axis=1)
    area = (place[2] - place[0]) * (place[3] - place[1])
    return float(shares.sum() + 0.3 * objects.sum() / area + 5 * _shared(place, written).sum() / area)


def _shared(place: Place, boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return how many pixels a place shares with each of some boxes `(R, 4)`."""
    sides = np.minimum(place[2:], boxes[:, 2:]) - np.maximum(place[:2], boxes[:, :2])
    return np.asarray(sides.clip(min=0).prod(axis=1))


def _contrast(colour: Colour) -> Colour:
    """Return black or white, whichever is easier to read on a colour (WCAG 2.2, relative luminance)."""
    red, green, blue = ((level / 255) ** 2.2 for level in colour)
    return (20, 22, 26) if 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.18 else (255, 255, 255)


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
        canvas.paste(letterbox(picture, side), (x, y))
        colour = (GOOD if good[number] else BAD) if good else INK
        pen.text((x, y + side + 2), _shorten(caption, letters, side), fill=colour, font=letters)
    return canvas


def thumbnail(image: Image.Image, side: int = 160) -> Image.Image:
    """Return an image with its longer side at `side` pixels; small ones are enlarged without smoothing."""
    scale = side / max(image.size)
    smooth = Image.Resampling.NEAREST if scale >= 2 else Image.Resampling.LANCZOS
    return image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))), smooth)


def letterbox(picture: Image.Image, side: int) -> Image.Image:
    """Return a picture resized into a square of `side` pixels, its aspect kept, on white."""
    small, canvas = thumbnail(picture.convert("RGB"), side), Image.new("RGB", (side, side), PAPER)
    canvas.paste(small, ((side - small.width) // 2, (side - small.height) // 2))
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
