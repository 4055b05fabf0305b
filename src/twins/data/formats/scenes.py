"""Scenes: scikit-learn's handwritten digits on crops of its two photographs, with boxes, masks and a semantic map.

Each scene is a pure function of its seed, part and number. Training and validation share no digit image, and no
region of a photograph: training crops lie in the left halves, validation crops in the right ones.
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
"""Scenes to learn from, and to evaluate on."""
DIGITS = tuple(str(digit) for digit in range(10))
_OVERLAP = 0.2
"""Greatest share of a digit's square that another's may cover."""
_DIMMED = 0.45
"""The photographs' brightness under the digits."""
_TINTS = (190.0, 255.0)
"""Least and greatest red, green and blue of a digit."""


@dataclass(frozen=True)
class Scene:
    """One picture with what is on it."""

    image: Image.Image
    """RGB, `SIDE` x `SIDE`."""
    boxes: NDArray[np.float32]
    """`(R, 4)` xyxy in pixels, around what is visible."""
    labels: NDArray[np.int64]
    """Digits `(R,)`."""
    masks: NDArray[np.bool_]
    """`(R, H, W)`, what is visible."""

    def label_map(self) -> NDArray[np.uint8]:
        """Return class ids `(H, W)`: 0 is background, digit `d` is `d + 1`."""
        found = np.zeros((SIDE, SIDE), dtype=np.uint8)
        for label, mask in zip(self.labels, self.masks, strict=True):
            found[mask] = label + 1
        return found


@lru_cache(maxsize=64)  # a picture and its target are asked for in turn
def draw_scene(number: int, *, train: bool, seed: int = 0) -> Scene:
    """Draw a scene: some digits, scaled and tinted, that overlap little, on a dimmed crop of a photograph."""
    random = np.random.default_rng([seed, int(train), number])
    canvas = _DIMMED * _backdrop(random, train=train)
    labels: list[int] = []
    masks: list[NDArray[np.bool_]] = []
    taken: list[tuple[slice, slice]] = []
    for _ in range(int(random.integers(4, 25))):
        label, alpha, place = _place(random, train=train)
        if any(_shared(place, other) > _OVERLAP for other in taken):
            continue
        under = canvas[place]
        canvas[place] = under + alpha[..., None] * (_tint(random) - under)
        solid = np.zeros((SIDE, SIDE), dtype=bool)
        solid[place] = alpha > 0.5
        masks, labels, taken = [*(mask & ~solid for mask in masks), solid], [*labels, label], [*taken, place]
    return _finish(canvas, labels, masks)


class Scenes:
    """The scenes of a part."""

    def __init__(self, *, train: bool) -> None:
        self.train = train

    def __len__(self) -> int:
        return COUNTS[self.train]

    def load(self, index: int) -> Image.Image:
        """Return a scene's picture."""
        return draw_scene(index, train=self.train).image

    def path(self, index: int) -> str:
        """Return a scene's name, such as `scenes/train/7`."""
        return f"scenes/{'train' if self.train else 'val'}/{index}"


class SceneMaps(Scenes):
    """Scenes with a map of class ids each."""

    classes: ClassTable = build_table(("background", *DIGITS))
    names = classes.names

    def target(self, index: int) -> NDArray[np.uint8]:
        """Return a scene's class ids `(H, W)`."""
        return draw_scene(index, train=self.train).label_map()


class SceneObjects(Scenes):
    """Scenes with their digits as objects; there is no background among the classes."""

    classes: ClassTable = bright_table(DIGITS)
    names = classes.names

    def __init__(self, *, train: bool, masks: bool) -> None:
        super().__init__(train=train)
        self.masks = masks

    def target(self, index: int) -> Objects:
        """Return a scene's digits, what is visible of each; areas are those of the masks."""
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

    def describe_object(self, index: int, place: int) -> str:
        """Return what to call one of a scene's objects."""
        return f"object {place + 1} of {self.path(index)}"

    def without_area(self, index: int) -> tuple[str, ...]:
        """Return nothing: all have some."""
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
    """Return a random square of the left or right half of a photograph, resized and mirrored at will."""
    photograph = _photographs()[int(random.integers(2))]
    half = photograph.width // 2
    side = int(random.integers(SIDE, min(half, photograph.height) + 1))
    x, y = int(random.integers(half - side + 1)), int(random.integers(photograph.height - side + 1))
    x += 0 if train else photograph.width - half
    crop = photograph.crop((x, y, x + side, y + side))  # first, for a resize of a box reads beyond its edges
    pixels = np.asarray(crop.resize((SIDE, SIDE), Image.Resampling.BILINEAR), dtype=np.float32)
    return (pixels[:, ::-1] if random.random() < 0.5 else pixels).copy()


def _place(random: np.random.Generator, *, train: bool) -> tuple[int, NDArray[np.float32], tuple[slice, slice]]:
    """Return a digit, how much of each pixel it covers (0..1), and where it goes."""
    glyphs, labels = _glyphs(train)
    chosen = int(random.integers(len(labels)))
    side = int(random.integers(28, 42))
    large = Image.fromarray(glyphs[chosen]).resize((side, side), Image.Resampling.BICUBIC)
    alpha = np.clip(np.asarray(large, dtype=np.float32) / 255.0 * 1.6 - 0.3, 0.0, 1.0)  # crisper strokes
    x, y = (int(random.integers(SIDE - side + 1)) for _ in range(2))
    return int(labels[chosen]), alpha, (slice(y, y + side), slice(x, x + side))


def _shared(first: tuple[slice, slice], second: tuple[slice, slice]) -> float:
    """Return how much of the smaller of two rectangles the other covers, 0..1."""
    sides = [max(0, min(a.stop, b.stop) - max(a.start, b.start)) for a, b in zip(first, second, strict=True)]
    areas = [(rows.stop - rows.start) * (columns.stop - columns.start) for rows, columns in (first, second)]
    return sides[0] * sides[1] / min(areas)


def _tint(random: np.random.Generator) -> NDArray[np.float32]:
    """Return a bright colour."""
    return random.uniform(*_TINTS, size=3).astype(np.float32)


@cache
def _photographs() -> tuple[Image.Image, ...]:
    from sklearn.datasets import load_sample_images

    return tuple(Image.fromarray(pixels) for pixels in load_sample_images().images)


@cache
def _glyphs(train: bool) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return the digits of a part, `(N, 8, 8)` white on black, and what they are."""
    digits = Digits(train=train)
    return digits.grey, np.array(digits.labels)
