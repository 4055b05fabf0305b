"""The embedded data set `scenes`: handwritten digits on crops of photographs, with boxes, masks and label maps.

Digits and photographs are scikit-learn's. A scene depends only on its seed, part and number. Training and validation
share no digit image and no region of a photograph: training crops are in the left halves, validation crops in the
right ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from twins.data.classes import ClassTable, bright_table, build_table
from twins.data.formats.digits import Digits
from twins.data.objects import Objects, build_objects, encode_mask

SIDE = 112
"""Height and width of a scene in pixels."""
COUNTS = {True: 2000, False: 200}
"""Scenes in the training part (true) and in the validation part (false)."""
DIGITS = tuple(str(digit) for digit in range(10))
_OVERLAP = 0.2
"""Greatest share of a digit's square that another digit's square may cover."""
_BRIGHTNESS = 0.45
"""Factor that darkens the photographs."""
_TINTS = (190.0, 255.0)
"""Range of red, green and blue of a digit, 0..255."""


@dataclass(frozen=True)
class Scene:
    """An image with its annotated digits."""

    image: Image.Image
    """RGB, `SIDE` x `SIDE`."""
    boxes: NDArray[np.float32]
    """`(R, 4)` xyxy in pixels, around the visible pixels."""
    labels: NDArray[np.int64]
    """Class ids `(R,)`: the digits."""
    masks: NDArray[np.bool_]
    """`(R, H, W)`, the visible pixels of each digit."""

    def label_map(self) -> NDArray[np.uint8]:
        """Return class ids `(H, W)`: 0 is background, digit `d` is `d + 1`."""
        label_map = np.zeros((SIDE, SIDE), dtype=np.uint8)
        for label, mask in zip(self.labels, self.masks, strict=True):
            label_map[mask] = label + 1
        return label_map


@lru_cache(maxsize=64)  # for `load` and `target` of the same scene
def draw_scene(number: int, *, train: bool, seed: int = 0) -> Scene:
    """Draw digits, scaled and tinted, with little overlap, on a darkened crop of a photograph."""
    random = np.random.default_rng([seed, int(train), number])
    canvas = _BRIGHTNESS * _backdrop(random, train=train)
    labels: list[int] = []
    masks: list[NDArray[np.bool_]] = []
    squares: list[tuple[slice, slice]] = []
    for _ in range(int(random.integers(4, 25))):
        label, alpha, square = _choose_digit(random, train=train)
        if any(_covered_share(square, other) > _OVERLAP for other in squares):
            continue
        backdrop = canvas[square]
        canvas[square] = backdrop + alpha[..., None] * (_tint(random) - backdrop)
        covered = np.zeros((SIDE, SIDE), dtype=bool)
        covered[square] = alpha > 0.5
        masks, labels, squares = [*(mask & ~covered for mask in masks), covered], [*labels, label], [*squares, square]
    return _finish(canvas, labels, masks)


class Scenes:
    """The scenes of a part; subclasses add `target`."""

    def __init__(self, *, train: bool) -> None:
        self.train = train

    def __len__(self) -> int:
        return COUNTS[self.train]

    def load(self, index: int) -> Image.Image:
        """Return a scene's image."""
        return draw_scene(index, train=self.train).image

    def path(self, index: int) -> str:
        """Return a scene's name, such as `scenes/train/7`."""
        return f"scenes/{'train' if self.train else 'val'}/{index}"


class SceneMaps(Scenes):
    """Scenes with a label map each."""

    classes: ClassTable = build_table(("background", *DIGITS))
    names = classes.names

    def target(self, index: int) -> NDArray[np.uint8]:
        """Return a scene's label map `(H, W)`."""
        return draw_scene(index, train=self.train).label_map()


class SceneObjects(Scenes):
    """Scenes with their digits as objects; background is no class."""

    classes: ClassTable = bright_table(DIGITS)
    names = classes.names

    def __init__(self, *, train: bool, masks: bool) -> None:
        super().__init__(train=train)
        self.masks = masks

    def target(self, index: int) -> Objects:
        """Return the visible part of each digit; areas are those of the masks."""
        scene = draw_scene(index, train=self.train)
        return build_objects(
            scene.boxes.tolist(),
            scene.labels.tolist(),
            size=(SIDE, SIDE),
            image_id=index,
            areas=scene.masks.sum(axis=(1, 2)).tolist(),
            masks=[encode_mask(mask) for mask in scene.masks] if self.masks else None,
        )

    def shape(self, index: int) -> tuple[int, int]:
        """Return a scene's height and width."""
        return SIDE, SIDE

    def describe_object(self, index: int, position: int) -> str:
        """Return an object's description for messages."""
        return f"object {position + 1} of {self.path(index)}"

    def names_without_area(self, index: int) -> tuple[str, ...]:
        """Return nothing: every object has area."""
        return ()


def _finish(canvas: NDArray[np.float32], labels: list[int], masks: list[NDArray[np.bool_]]) -> Scene:
    boxes = []
    for mask in masks:
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        boxes.append([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
    pixels = canvas.round().clip(0, 255).astype(np.uint8)
    return Scene(
        Image.fromarray(pixels),
        np.array(boxes, dtype=np.float32).reshape(-1, 4),
        np.array(labels, dtype=np.int64),
        np.array(masks, dtype=bool).reshape(-1, SIDE, SIDE),
    )


def _backdrop(random: np.random.Generator, *, train: bool) -> NDArray[np.float32]:
    """Return a random square of the part's half of a photograph, resized and mirrored at random."""
    photograph = photographs()[int(random.integers(2))]
    half = photograph.width // 2
    side = int(random.integers(SIDE, min(half, photograph.height) + 1))
    x, y = int(random.integers(half - side + 1)), int(random.integers(photograph.height - side + 1))
    x += 0 if train else photograph.width - half
    crop = photograph.crop((x, y, x + side, y + side))  # before the resize, which would read beyond the edges
    pixels = np.asarray(crop.resize((SIDE, SIDE), Image.Resampling.BILINEAR), dtype=np.float32)
    return (pixels[:, ::-1] if random.random() < 0.5 else pixels).copy()


def _choose_digit(random: np.random.Generator, *, train: bool) -> tuple[int, NDArray[np.float32], tuple[slice, slice]]:
    """Return a digit's class id, its opacity per pixel (0..1), and the rows and columns of its square."""
    glyphs, labels = _glyphs(train)
    index = int(random.integers(len(labels)))
    side = int(random.integers(28, 42))
    large = Image.fromarray(glyphs[index]).resize((side, side), Image.Resampling.BICUBIC)
    alpha = np.clip(np.asarray(large, dtype=np.float32) / 255.0 * 1.6 - 0.3, 0.0, 1.0)  # crisper strokes
    x, y = (int(random.integers(SIDE - side + 1)) for _ in range(2))
    return int(labels[index]), alpha, (slice(y, y + side), slice(x, x + side))


def _covered_share(first: tuple[slice, slice], second: tuple[slice, slice]) -> float:
    """Return the share of the smaller of two rectangles that the other covers, 0..1."""
    overlap = [max(0, min(a.stop, b.stop) - max(a.start, b.start)) for a, b in zip(first, second, strict=True)]
    areas = [(rows.stop - rows.start) * (columns.stop - columns.start) for rows, columns in (first, second)]
    return overlap[0] * overlap[1] / min(areas)


def _tint(random: np.random.Generator) -> NDArray[np.float32]:
    """Return a bright colour."""
    return random.uniform(*_TINTS, size=3).astype(np.float32)


@cache
def photographs() -> tuple[Image.Image, ...]:
    """Return scikit-learn's photographs, `china.jpg` and `flower.jpg`, 427 x 640 pixels."""
    from sklearn.datasets import load_sample_images

    return tuple(Image.fromarray(pixels) for pixels in load_sample_images().images)


@cache
def _glyphs(train: bool) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return the digits of a part, `(N, 8, 8)` white on black, and their class ids `(N,)`."""
    digits = Digits(train=train)
    return digits.grey, np.array(digits.labels)
