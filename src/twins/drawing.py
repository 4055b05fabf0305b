"""Draws predictions on images, and arranges pictures in a grid."""

from __future__ import annotations

import colorsys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from twins.bands import Bands
from twins.data.channels import RGB, open_channels
from twins.data.classes import class_colours, distinct_colours
from twins.drawing_labels import Colour, Rectangle, contrast, draw_labels, font, shorten
from twins.errors import ConfigError, InputError, check_type
from twins.predictions import Prediction

Palette = Sequence[Colour]
"""RGB of each class, by class id."""
INK, PAPER, BAR, GOOD, BAD = "#1b1f24", "#ffffff", "#9ec5f8", "#2f9e44", "#d9480f"
"""Colours of text, background, probability bars, right captions and wrong captions."""
MIN_SIDE = 448
"""Minimum of an image's longer side in pixels when objects are marked on it; smaller images are enlarged."""
MAX_LABELLED = 60
"""Number of objects above which none is labelled; a legend counts them by class instead."""
LISTED_CLASSES = 5
"""Number of a classifier's classes that are listed below an image."""
TRACK_COLOURS = 24
"""Number of colours of tracks; tracks that differ by a multiple of it look the same."""
TONES = ((0.0, 0.0), (0.0, 0.5), (0.0, -0.45), (0.09, 0.0), (-0.09, 0.0))
"""Tones of a colour for neighbouring masks: change of the hue, and share of white or, if negative, of black."""
Line = Literal["solid", "dashed", "double"]
"""Line style of a box."""


@dataclass(frozen=True, kw_only=True)
class DrawConfig:
    """How predictions are drawn on images."""

    line_width: int | None = None
    """Width of boxes and outlines, in pixels of the drawing, at most a quarter of its shorter side; unset: from the
    size of the image."""
    labels: bool = True
    """Write names and scores: labels of objects, the bars of a classifier, the legend of a semantic map."""
    opacity: float = 0.5
    """Opacity of masks and of semantic maps, from 0 to 1."""
    colours: Literal["class", "object"] = "class"
    """Give objects a colour by class, in tones if masks of a class are neighbours, or each object its own."""

    def __post_init__(self) -> None:
        check_type(self.line_width, int | None, "line_width", "a whole number of pixels")
        check_type(self.labels, bool, "labels", "True or False")
        check_type(self.opacity, float | int, "opacity", "a number in 0..1")
        if self.line_width is not None and self.line_width < 1:
            raise ConfigError(f"`line_width` must be at least 1 pixel, found {self.line_width}")
        if not 0 <= self.opacity <= 1:
            raise ConfigError(f"`opacity` must be in 0..1, found {self.opacity}")
        if self.colours not in ("class", "object"):
            raise ConfigError(f"`colours` must be class or object, found {self.colours!r}")


DEFAULT = DrawConfig()


def picture_of(prediction: Prediction, image: Any = None) -> Image.Image:
    """Return the image of a prediction as upright RGB: the one given here, to the predictor, or by its path.

    Raises:
        InputError: there is none.
        NotFoundError, DataError: the file is gone or damaged.
    """
    sources = (image, prediction.image, prediction.path)
    source = next((source for source in sources if source is not None), None)
    if source is None:
        raise InputError("this prediction knows no image to draw on; give the image, as in prediction.draw(image)")
    return source.to_rgb() if isinstance(source, Bands) else cast(Image.Image, open_channels(source, RGB))


def draw_prediction(
    prediction: Prediction, image: Image.Image, config: DrawConfig | None = None, *, steady: bool = False
) -> Image.Image:
    """Return a copy of an RGB image with its prediction: class bars below it, a coloured map, or marked objects.

    Args:
        prediction: the image's prediction; a classifier's `LISTED_CLASSES` most probable classes are shown.
        image: any size; a classifier's is shown at least 320 pixels wide, a detector's with a longer side of at least
            `MIN_SIDE` pixels.
        config: what to draw and how; `None`: the defaults.
        steady: make the picture's size depend only on the image's size, which the frames of a video need.

    Raises:
        InputError: the prediction holds nothing to draw, or is for an image of another size.
    """
    check_type(config, DrawConfig | None, "config", "a twins.DrawConfig")
    config, size = config or DEFAULT, prediction.size
    if image.size != (size[1], size[0]):
        raise InputError(
            f"the image has {image.width} x {image.height} pixels, its prediction is for {size[1]} x {size[0]}; give "
            "the image that was predicted"
        )
    if prediction.label_map is not None:
        picture = overlay(image, prediction.label_map, palette(prediction), strength=config.opacity)
        return _with_shares(prediction, picture, steady) if config.labels else picture
    if prediction.labels is None or prediction.scores is None:
        raise InputError(f"drawing needs classes or a map of them, found a prediction of {prediction.task} without")
    if prediction.boxes is not None:
        return _with_objects(prediction, image, config, steady)
    return _with_bars(prediction, image) if config.labels else image.convert("RGB")


def palette(prediction: Prediction) -> Palette:
    """Return the colours of a prediction's classes: its own, or distinct ones if it lacks some."""
    labels = prediction.labels if prediction.label_map is None else prediction.label_map
    count = max(len(prediction.names), int(labels.max(initial=0)) + 1 if labels is not None else 0)
    return class_colours(count, prediction.colours, bright=prediction.boxes is not None)


def overlay(
    image: Image.Image, label_map: NDArray[np.integer[Any]], colours: Palette, *, strength: float = 0.55
) -> Image.Image:
    """Blend a map of class ids `(H, W)` as colours over its image, with dark lines between classes.

    Ignored pixels (255) and classes without a colour keep the image's colours.

    Args:
        image: RGB.
        label_map: class ids `(H, W)`.
        colours: RGB of each class.
        strength: opacity of the colours, from 0 to 1.

    Raises:
        InputError: the map has another size than the image.
    """
    if label_map.shape != (image.height, image.width):
        raise InputError(f"the image has {image.width} x {image.height} pixels, its map {label_map.shape[::-1]}")
    coloured = label_map < len(colours)
    tints = np.array([*colours, (0, 0, 0)], dtype=np.float32)[np.where(coloured, label_map, len(colours))]
    pixels = np.asarray(image.convert("RGB"), dtype=np.float32)
    blended = np.where(coloured[..., None], pixels + strength * (tints - pixels), pixels)
    blended[_edges(label_map) & coloured] *= 0.35
    return Image.fromarray(blended.round().astype(np.uint8))


def index_image(label_map: NDArray[np.integer[Any]], colours: Palette) -> Image.Image:
    """Return a map of class ids as an image to be saved as PNG.

    Its pixels are the class ids and its palette the classes' colours; ids above 255 need 16 bits and have no palette.
    """
    if int(label_map.max(initial=0)) > 255:
        return Image.fromarray(label_map.astype(np.uint16))
    picture = Image.fromarray(label_map.astype(np.uint8)).convert("P")
    values = [value for colour in colours[:256] for value in colour]
    picture.putpalette(values + [0] * (768 - len(values)))  # with a shorter palette, PNG would store fewer bits a pixel
    return picture


def _edges(label_map: NDArray[np.integer[Any]]) -> NDArray[np.bool_]:
    edges = np.zeros(label_map.shape, dtype=bool)
    edges[:, :-1] |= label_map[:, :-1] != label_map[:, 1:]
    edges[:-1] |= label_map[:-1] != label_map[1:]
    return edges


def _with_shares(prediction: Prediction, picture: Image.Image, steady: bool) -> Image.Image:
    """Add a legend with the twelve largest classes of a semantic map and their shares of it, largest first."""
    assert prediction.label_map is not None
    colours = palette(prediction)
    labels, pixels = np.unique(prediction.label_map, return_counts=True)
    largest = sorted(zip(pixels.tolist(), labels.tolist(), strict=True), reverse=True)[:12]
    total = prediction.label_map.size
    entries = [(colours[label], f"{prediction.name(label)} {count / total:.1%}") for count, label in largest]
    longest = sorted((f"{name} 100.0%" for name in prediction.names), key=len)[-12:] if steady else []
    return _with_legend(picture, entries, room_for=longest)


def _with_legend(
    picture: Image.Image, entries: Sequence[tuple[Colour, str]], *, room_for: Sequence[str] = ()
) -> Image.Image:
    """Add a legend of colours and texts below a picture; if `room_for` is given, its height is that of those texts."""
    line = min(32, max(14, picture.width // 24))
    letters = font(round(line * 0.68))

    def arrange(texts: Sequence[str]) -> list[tuple[int, int]]:
        return _flow([line + 6 + round(letters.getlength(text)) + line for text in texts], picture.width)

    positions = arrange([text for _, text in entries])
    rows = arrange(room_for)[-1][1] if room_for else positions[-1][1]
    canvas = Image.new("RGB", (picture.width, picture.height + (rows + 1) * line + line // 2), PAPER)
    canvas.paste(picture)
    pen = ImageDraw.Draw(canvas)
    for (colour, text), (x, row) in zip(entries, positions, strict=True):
        y = picture.height + line // 4 + row * line
        pen.rectangle((x + 3, y + 2, x + line - 3, y + line - 4), fill=colour)
        pen.text((x + line + 2, y + line * 0.08), text, fill=INK, font=letters)
    return canvas


def _flow(widths: Sequence[int], width: int) -> list[tuple[int, int]]:
    """Arrange entries of some widths from left to right in rows of a total width; return the x and row of each."""
    positions, x, row = [], 0, 0
    for entry in widths:
        if x and x + entry > width:
            x, row = 0, row + 1
        positions.append((x, row))
        x += entry
    return positions


def _with_bars(prediction: Prediction, image: Image.Image) -> Image.Image:
    """Add the most probable classes below an image, with their probabilities as bars."""
    assert prediction.labels is not None
    assert prediction.scores is not None
    scale = max(1, round(320 / image.width))
    picture = image.convert("RGB").resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)
    labels, scores = (values[:LISTED_CLASSES].tolist() for values in (prediction.labels, prediction.scores))
    rows = list(zip(labels, scores, strict=True))
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
    """A box, label and mask to draw for one object."""

    box: Sequence[float]
    """xyxy in pixels of the image."""
    colour: Colour
    """Colour of the box, the label and the mask."""
    text: str = ""
    """Text of the label; empty for no label."""
    mask: NDArray[np.bool_] | None = None
    """Mask `(H, W)` of the image's size."""
    line: Line = "solid"
    """Line style of the box."""


def mark(image: Image.Image, marks: Sequence[Mark], config: DrawConfig = DEFAULT) -> Image.Image:
    """Return a copy of an RGB image with objects marked on it, the first one on top.

    An image whose longer side is below `MIN_SIDE` is enlarged by an integer factor. Neighbouring masks of one colour
    have different tones of it. Labels stay inside the picture, at positions where they hide the least and no other
    label. With many objects, labels are smaller; those without room are left out.

    Args:
        image: RGB.
        marks: the objects.
        config: line width, labels and opacity.

    Raises:
        InputError: a mask has another size than the image.
    """
    scale = max(1, -(-MIN_SIDE // max(image.size)))
    size = (image.width * scale, image.height * scale)
    picture = image.convert("RGB").resize(size, Image.Resampling.NEAREST)
    width = config.line_width or max(2, round(min(picture.size) / 240)) - (len(marks) > MAX_LABELLED)
    width = min(width, max(2, min(picture.size) // 4))
    alpha = round(255 * config.opacity)
    for item, tone in reversed(list(zip(marks, mask_tones(marks, max(image.size) / 50), strict=True))):
        if item.mask is not None:
            _draw_mask(picture, item.mask, tone, scale, width, alpha)
    for item in reversed(marks):
        thickness = width if item.mask is None else max(1, width // 2)
        _draw_box(picture, [scale * side for side in item.box], item.colour, thickness, item.line)
    if config.labels:
        boxes = scale * np.array([item.box for item in marks], dtype=np.float64).reshape(-1, 4)
        draw_labels(picture, boxes, [item.text for item in marks], [item.colour for item in marks])
    return picture


def mask_tones(marks: Sequence[Mark], reach: float) -> list[Colour]:
    """Return the colour of each mask: that of its mark, or another tone of it near a mask with that tone.

    Args:
        marks: the objects, with or without masks.
        reach: distance in pixels up to which boxes count as neighbours.
    """
    boxes = np.array([item.box for item in marks], dtype=np.float64).reshape(-1, 4)
    tones: list[int] = []
    for index, item in enumerate(marks):
        before = boxes[:index]
        gaps = np.maximum(before[:, :2] - boxes[index, 2:], boxes[index, :2] - before[:, 2:]).max(axis=1, initial=-1e9)
        near = np.flatnonzero(gaps <= reach).tolist() if item.mask is not None else []
        used = Counter(tones[i] for i in near if marks[i].mask is not None and marks[i].colour == item.colour)
        tones.append(min(range(len(TONES)), key=lambda tone: used[tone]))
    return [_tone(item.colour, *TONES[tone]) for item, tone in zip(marks, tones, strict=True)]


def _tone(colour: Colour, turn: float, light: float) -> Colour:
    """Return a colour with its hue turned, and mixed with white or, if `light` is negative, with black."""
    hue, saturation, value = colorsys.rgb_to_hsv(*(side / 255 for side in colour))
    turned = colorsys.hsv_to_rgb((hue + turn) % 1.0, saturation, value)
    red, green, blue = (round(255 * (side + abs(light) * ((light > 0) - side))) for side in turned)
    return red, green, blue


def _with_objects(prediction: Prediction, image: Image.Image, config: DrawConfig, steady: bool) -> Image.Image:
    """Mark the objects of a detector, the highest-scoring one on top."""
    assert prediction.boxes is not None
    assert prediction.labels is not None
    assert prediction.scores is not None
    colours, labelled = palette(prediction), len(prediction.boxes) <= MAX_LABELLED
    labels = prediction.labels.tolist()
    tracks = [-1] * len(labels) if prediction.tracks is None else prediction.tracks.tolist()
    own = distinct_colours(len(labels) + 1)[1:]
    marked = own if config.colours == "object" else [colours[label] for label in labels]
    marked = [_track_colour(track) if track >= 0 else colour for track, colour in zip(tracks, marked, strict=True)]
    texts = [
        f"{prediction.name(label)} {f'#{track} ' if track >= 0 else ''}{score:.0%}" if labelled else ""
        for label, score, track in zip(labels, prediction.scores.tolist(), tracks, strict=True)
    ]
    masks = [None] * len(labels) if prediction.masks is None else prediction.masks
    marks = [
        Mark(box=box, colour=colour, text=text, mask=mask)
        for box, colour, text, mask in zip(prediction.boxes.tolist(), marked, texts, masks, strict=True)
    ]
    picture = mark(image, marks, config)
    if labelled or steady or not config.labels:
        return picture
    counts = Counter(labels).most_common(12)
    return _with_legend(picture, [(colours[label], f"{count} × {prediction.name(label)}") for label, count in counts])


def _track_colour(track: int) -> Colour:
    """Return the colour of a track, the same in every frame."""
    return distinct_colours(TRACK_COLOURS + 1)[1 + track % TRACK_COLOURS]


def _draw_mask(
    picture: Image.Image, mask: NDArray[np.bool_], colour: Colour, scale: int, width: int, opacity: int
) -> None:
    """Tint a mask's pixels and draw its outline, in place."""
    size = (picture.width // scale, picture.height // scale)
    if mask.shape[::-1] != size:
        raise InputError(f"the image has {size[0]} x {size[1]} pixels, its mask {mask.shape[::-1]}")
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return
    part = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].repeat(scale, axis=0).repeat(scale, axis=1)
    padded = Image.fromarray(np.pad(part, width).astype(np.uint8) * 255)
    eroded = padded
    for _ in range(width):  # faster than one filter of size 2 * width + 1, whose time grows with the size's square
        eroded = eroded.filter(ImageFilter.MinFilter(3))
    inside = np.asarray(eroded)
    alpha = np.where(np.asarray(padded) > inside, 255, inside // 255 * opacity).astype(np.uint8)
    layer = Image.fromarray(alpha[width:-width, width:-width])
    picture.paste(colour, (int(columns[0]) * scale, int(rows[0]) * scale), layer)


def _draw_box(picture: Image.Image, box: Sequence[float], colour: Colour, width: int, line: Line) -> None:
    """Draw a box in place, clipped to the picture; lines wider than a pixel get a contrasting outline."""
    pen = ImageDraw.Draw(picture)
    left, top = min(max(0, round(box[0])), picture.width - 1), min(max(0, round(box[1])), picture.height - 1)
    right = min(max(left, round(box[2]) - 1), picture.width - 1)
    bottom = min(max(top, round(box[3]) - 1), picture.height - 1)
    if line == "dashed":
        pen.rectangle((left, top, right, bottom), outline=contrast(colour), width=width)
        for dash in _dashes(left, top, right, bottom, width):
            pen.rectangle(dash, fill=colour)
        return
    if width > 1:
        pen.rectangle((left - 1, top - 1, right + 1, bottom + 1), outline=contrast(colour))
    pen.rectangle((left, top, right, bottom), outline=colour, width=width)
    gap = 2 * width
    if line == "double" and min(right - left, bottom - top) > 2 * (gap + width):
        pen.rectangle((left + gap, top + gap, right - gap, bottom - gap), outline=colour, width=width)


def _dashes(left: int, top: int, right: int, bottom: int, width: int) -> list[Rectangle]:
    """Return the dashes of a box's four sides as filled rectangles."""
    step, length = 7 * width, 4 * width - 1
    horizontal = [(x, min(x + length, right)) for x in range(left, right + 1, step)]
    vertical = [(y, min(y + length, bottom)) for y in range(top, bottom + 1, step)]
    thick = width - 1
    return [(x, y, end, y + thick) for x, end in horizontal for y in (top, max(top, bottom - thick))] + [
        (x, y, x + thick, end) for y, end in vertical for x in (left, max(left, right - thick))
    ]


def grid(
    pictures: Sequence[Image.Image],
    captions: Sequence[str],
    *,
    columns: int = 6,
    side: int = 150,
    good: Sequence[bool] = (),
) -> Image.Image:
    """Arrange pictures in rows of squares, each with its caption below.

    Args:
        pictures: any sizes.
        captions: one for each picture.
        columns: pictures in a row.
        side: side of each square, in pixels.
        good: for each caption whether it is green or red; if empty, all are black.
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
        pen.text((x, y + side + 2), shorten(caption, letters, side), fill=colour, font=letters)
    return canvas


def thumbnail(image: Image.Image, side: int = 160) -> Image.Image:
    """Resize an image so that its longer side has `side` pixels; small images are enlarged without smoothing."""
    scale = side / max(image.size)
    smooth = Image.Resampling.NEAREST if scale >= 2 else Image.Resampling.LANCZOS
    return image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))), smooth)


def letterbox(picture: Image.Image, side: int) -> Image.Image:
    """Resize a picture into a white square of `side` pixels, with its aspect ratio kept."""
    small, canvas = thumbnail(picture.convert("RGB"), side), Image.new("RGB", (side, side), PAPER)
    canvas.paste(small, ((side - small.width) // 2, (side - small.height) // 2))
    return canvas
