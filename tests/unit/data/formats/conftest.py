"""Fixtures of the formats' tests: open a folder, compare what was read, and open it again by the settings found."""

from __future__ import annotations

import contextlib
import re
from random import Random
from types import SimpleNamespace

import numpy as np
import pytest

from twins.data.config import DataConfig, LayoutConfig, MaskConfig
from twins.data.formats.open import open_label_maps, open_objects
from twins.data.formats.source import layout_text
from twins.data.objects import decode_masks
from twins.errors import TwinsError


def _open(root, target="boxes", ignore=(), **layout):
    """Open a folder for boxes, masks or maps."""
    layout = {k: (v,) if k in ("train", "val", "test") and isinstance(v, str) else v for k, v in layout.items()}
    config = DataConfig(data=str(root), layout=LayoutConfig(**layout), masks=MaskConfig(ignore=ignore))
    return open_label_maps(config) if target == "maps" else open_objects(config, masks=target == "masks")


def _items(splits):
    """Return each image of the parts, with its index in its part, by name."""
    parts = {id(images): images for images in splits.parts.values()}.values()
    return {images.path(i).rpartition("/")[2]: (images, i) for images in parts for i in range(len(images))}


def _objects(splits):
    """Return the class names and boxes of each image by name."""
    result = {}
    for name, (images, i) in _items(splits).items():
        objects = images.target(i)
        boxes = np.round(objects.boxes, 3).tolist()
        result[name] = [(splits.names[label], box) for label, box in zip(objects.labels, boxes, strict=True)]
    return result


def _masks(splits):
    """Return the masks of each image by name."""
    items = _items(splits).items()
    return {name: decode_masks(images.target(i).masks, images.target(i).size) for name, (images, i) in items}


def _maps(splits):
    """Return the label map of each image by name."""
    return {name: images.target(i) for name, (images, i) in _items(splits).items()}


def _parts(splits):
    """Return the names of the images of each part."""
    return {
        part: sorted(images.path(i).rpartition("/")[2] for i in range(len(images)))
        for part, images in splits.parts.items()
    }


def _check(root, splits, target="boxes"):
    """Assert that each file is accounted for, and that the settings that were found open the same images."""
    plan = splits.plan
    assert sum(plan.used.values()) + sum(group.count for group in plan.passed_over) == plan.files
    (root / "twins.yaml").write_text(layout_text(splits.layout))
    again = _open(root, target)
    (root / "twins.yaml").unlink()
    assert _parts(again) == _parts(splits)
    assert again.names == splits.names
    return splits


_ODD = ("null", "true", "-1", "1e999", "NaN", '"x"', "[]", "{}", '""', "1e30", "9" * 20, "[[1]]", "0", '"1.0"')
_CHARACTERS = ("", "{", "}", "[", "]", '"', ",", ";", "\n", "\0", "é", "\ufeff", "<", ">", "&", "\\")


def _mutate(text, random):
    """Return a text with one value, character or stretch changed, doubled or gone."""
    values = list(re.finditer(r'-?\d+\.?\d*|"[^"]*"|true|false|null', text))
    first = random.randrange(len(text) + 1)
    last = min(len(text), first + random.randrange(60))
    if values and random.random() < 0.6:
        value = random.choice(values)
        return text[: value.start()] + random.choice(_ODD) + text[value.end() :]
    stretch = random.choice([random.choice(_CHARACTERS), "", text[first:last] * 2])
    return text[:first] + stretch + text[last:]


def _survive(root, name, *, targets=("boxes", "masks", "maps"), count=60, seed=0):
    """Assert that a file of a folder, however it is changed, is read or refused in one sentence."""
    random, original, messages = Random(seed), (root / name).read_text(), []
    for number in range(count):
        text = original
        for _ in range(random.choice((1, 1, 2, 4))):
            text = _mutate(text, random)
        (root / name).write_text(text)
        try:
            splits = _open(root, targets[number % len(targets)])
        except TwinsError as error:
            messages.append(str(error))
            continue
        assert sum(splits.plan.used.values()) + sum(g.count for g in splits.plan.passed_over) == splits.plan.files
        for images, index in _items(splits).values():
            with contextlib.suppress(TwinsError):
                images.target(index)
    (root / name).write_text(original)
    assert not [message for message in messages if "\n" in message]


@pytest.fixture(scope="session")
def reading():
    """The functions above."""
    return SimpleNamespace(
        open=_open,
        objects=_objects,
        masks=_masks,
        maps=_maps,
        parts=_parts,
        check=_check,
        items=_items,
        survive=_survive,
    )
