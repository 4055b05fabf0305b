"""Matches the classes of a data set with those of a network, which may call them otherwise.

The ways, in the order in which they are tried; each must match all classes of the data, or it is not used:

1. equal names;
2. ImageNet's synsets, as `n01440764` and `tench`;
3. COCO's category ids, where names and ids agree;
4. numbers as names: those of all of ImageNet's or COCO's classes, or of binary masks;
5. names that are equal but for case, Unicode form and separators.

A map of the user comes before all of them.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from twins.data.classes import built_in, imagenet_names
from twins.errors import DataError, few, nearest, number_of

BINARY = ("background", "foreground")
"""Class names of masks that hold two values without names."""
_MIN_EQUAL = 20
"""Number of names equal to COCO's from which ids are taken for COCO's: any data set begins with a person of id 1."""
ClassIds = list[int | None]
"""The network's class id of each class of the data, `None` if there is none."""


@dataclass(frozen=True)
class ClassMatch:
    """The classes of a data set as a network knows them."""

    class_ids: tuple[int | None, ...]
    """The network's class id of each class of the data; `None` leaves the class out."""
    names: tuple[str, ...]
    """The network's class names."""
    by: str = "name"
    """What was matched: `name`, `synset`, `coco_id`, `number`, `spelling`, `order` or `class_map`."""
    note: str = ""
    """A sentence on it, unless all names are equal."""


@dataclass(frozen=True)
class _Classes:
    """Both sides: the data's names with the values of their classes, and the network's names."""

    data: tuple[str, ...]
    values: tuple[int | None, ...]
    network: tuple[str, ...]
    table: str | None


def match_names(
    data: Sequence[str],
    network: Sequence[str],
    num_classes: int,
    *,
    values: Sequence[int] | None = None,
    table: str | None = None,
    class_map: Mapping[str, str | None] | None = None,
) -> ClassMatch:
    """Match the classes of a data set with those of a network.

    Args:
        data: class names of the data, by class id.
        network: class names of the network, by class id; empty if they are unknown.
        num_classes: number of the network's classes.
        values: category ids of the data's classes in their files.
        table: name of the classes of the task's published networks, such as `imagenet`.
        class_map: the network's name for names of the data; `None` leaves a class out.

    Raises:
        DataError: classes of the data stay unmatched, or a map names classes that the network lacks.
    """
    names = tuple(network) or _published(num_classes, table)
    if not network and not class_map and len(data) == num_classes:
        _check_order(data, names)
        order = f"the network has no class names, and is taken to have the data's in their order: {few(list(data))}"
        return ClassMatch(tuple(range(num_classes)), tuple(data), "order", order)
    if not names and class_map:
        names = tuple(map(str, range(num_classes)))
    if not names:
        raise DataError(
            f"the data has {number_of(len(data), 'class', 'classes')}, the network {num_classes} without names; "
            "evaluate it on its own classes, or give their numbers by `class_map`"
        )
    mapped = _read_map(class_map or {}, data, names)
    rest = [index for index, name in enumerate(data) if name not in mapped]
    sides = _Classes(
        tuple(data[index] for index in rest),
        tuple(None if values is None else values[index] for index in rest),
        names,
        table,
    )
    class_ids, by, note = _match(sides) if rest else ([], "name", "")
    matched = dict(zip(rest, class_ids, strict=True))
    if mapped:
        by, note = "class_map", _map_note(mapped, names) + (f"; of the others, {note}" if note else "")
    if not network and table is not None and names == _published(num_classes, table):
        assumed = f"the network has no class names, and is taken to have those of the published networks, {few(names)}"
        note = f"{assumed}; {note}" if note else assumed
    ids = tuple(matched[index] if index in matched else mapped[name] for index, name in enumerate(data))
    return ClassMatch(ids, names, by, note)


def _check_order(data: Sequence[str], published: Sequence[str]) -> None:
    """Raise DataError if most classes of the data are published ones in another order, so two orders can be meant."""
    synsets = {
        name: imagenet_names()[index]
        for index, name in enumerate(imagenet_synsets() if any(map(_synset, data)) else ())
    }
    words = [fold(synsets.get(_synset(name) or "", name)) for name in data]
    expected = [fold(name) for name in published]
    moved = [name for name, word, other in zip(data, words, expected, strict=False) if word != other]
    if moved and 2 * len(set(words) & set(expected)) > len(expected):
        raise DataError(
            f"the network has no class names, and its {len(data)} classes could be in the order of the data or in that "
            f"of the published networks, which differ from {moved[0]} on; give the network's ids for the names of the "
            "data in a file as `class_map=FILE`"
        )


def fold(name: str) -> str:
    """Return a class name without case, Unicode form and separators, except those between digits."""
    text = unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold()).strip()
    return re.sub(r"(?<!\d)[\s_\-]+|[\s_\-]+(?!\d)", "", text)


def _match(sides: _Classes) -> tuple[ClassIds, str, str]:
    """Return the class ids, how they were matched, and a note; raises DataError if none of the ways matches all."""
    best: ClassIds = []
    for by, way, describe in _WAYS:
        class_ids = way(sides)
        if class_ids and None not in class_ids:
            pairs = zip(sides.data, class_ids, strict=True)
            others = [(name, sides.network[i]) for name, i in pairs if i is not None]
            different = [f"{name} is {other}" for name, other in others if name != other]
            return class_ids, by, f"{describe}: {few(different)}" if by != "name" else ""
        if class_ids and (not best or class_ids.count(None) < best.count(None)):
            best = class_ids
    unmatched = [name for name, class_id in zip(sides.data, best, strict=True) if class_id is None]
    raise DataError(
        f"the network does not know the data's classes {few(unmatched)} ({len(unmatched)} of {len(sides.data)}); it "
        f"knows {few(sides.network)}; give the network's names for them, or null to leave them out, in a file as "
        "`class_map=FILE`, or measure it on data of its own classes"
    )


def _by_name(sides: _Classes) -> ClassIds:
    """Match equal names; one that the network has twice matches only if all names are equal."""
    if sides.data == sides.network:
        return list(range(len(sides.data)))
    counts = Counter(sides.network)
    return [sides.network.index(name) if counts[name] == 1 else None for name in sides.data]


def _by_synset(sides: _Classes) -> ClassIds:
    """Match by ImageNet's classes: names on both sides may be synsets, first words or whole descriptions."""
    if not any(map(_synset, (*sides.data, *sides.network))) and sides.table != "imagenet":
        return []
    imagenet = _imagenet_ids()
    positions = len(sides.network) == 1000 and all(
        index in imagenet.get(_synset(name) or fold(name), ()) for index, name in enumerate(sides.network)
    )
    class_of: dict[int, int | None] = dict(enumerate(range(1000))) if positions else {}
    if not positions:
        for class_id, name in enumerate(sides.network):
            for index in _only(imagenet.get(_synset(name) or fold(name), ())):
                class_of[index] = None if index in class_of else class_id
    found = [_only(imagenet.get(_synset(name) or fold(name), ())) for name in sides.data]
    return _without_repeats([class_of.get(ids[0]) if ids else None for ids in found])


def _by_coco_id(sides: _Classes) -> ClassIds:
    """Match by COCO's category ids, or by positions in its list from 0 or 1, if the names confirm them."""
    if sides.table != "coco" or None in sides.values:
        return []
    coco = built_in("coco")
    numberings = (coco.values, range(len(coco)), range(1, len(coco) + 1))
    known, network = {fold(name) for name in coco.names}, _folded_ids(sides.network)
    for numbering in numberings:
        name_of = dict(zip(numbering, coco.names, strict=True))
        official = [name_of.get(value) if value is not None else None for value in sides.values]
        pairs = [(fold(name), fold(other or "")) for name, other in zip(sides.data, official, strict=True)]
        equal = sum(a == b for a, b in pairs)
        contradiction = any(a != b and a in known for a, b in pairs)
        complete = numbering is coco.values and set(sides.values) == set(coco.values)
        enough = equal >= _MIN_EQUAL and 4 * equal >= 3 * len(pairs)
        if None not in official and not contradiction and (complete or enough):
            return [network.get(b) for _, b in pairs]
    return []


def _by_number(sides: _Classes) -> ClassIds:
    """Match numbers that are the ids of all classes of a published network, or of binary masks."""
    if not all(re.fullmatch(r"0|[1-9]\d*", name) for name in sides.data):
        return []
    numbers: ClassIds = [int(name) for name in sides.data]
    published = sides.table is not None and sides.network == _published(len(sides.network), sides.table)
    if published and set(numbers) == set(range(len(sides.network))):
        return numbers
    return numbers if sides.network == BINARY and set(numbers) <= {0, 1} else []


def _by_spelling(sides: _Classes) -> ClassIds:
    """Match names that are equal but for case, Unicode form and separators, where only one can be meant."""
    network, counts = _folded_ids(sides.network), Counter(map(fold, sides.data))
    exact = _by_name(sides)
    return [
        network.get(fold(name)) if class_id is None and counts[fold(name)] == 1 else class_id
        for name, class_id in zip(sides.data, exact, strict=True)
    ]


_WAYS: tuple[tuple[str, Callable[[_Classes], ClassIds], str], ...] = (
    ("name", _by_name, ""),
    ("synset", _by_synset, "classes are matched by ImageNet's synsets"),
    ("coco_id", _by_coco_id, "classes are matched by COCO's category ids"),
    ("number", _by_number, "classes without names are matched by their numbers"),
    ("spelling", _by_spelling, "classes are matched although case, Unicode form or separators of their names differ"),
)


def _read_map(class_map: Mapping[str, str | None], data: Sequence[str], names: Sequence[str]) -> dict[str, int | None]:
    """Return the network's class ids by the names of the data that a map has."""
    if missing := [name for name in class_map if name not in data]:
        hint = nearest(missing[0], data) or f"; it has {few(data)}"
        raise DataError(f"`class_map` has {few(missing)}, which the data does not have{hint}; correct the map")
    exact, folded = {name: i for i, name in enumerate(names) if names.count(name) == 1}, _folded_ids(names)
    ids = {name: _id_of(other, exact, folded, len(names)) for name, other in class_map.items() if other is not None}
    if class_map and not ids and len(class_map) == len(data):
        raise DataError("`class_map` leaves out every class of the data, so nothing can be measured; give some a name")
    if unknown := [class_map[name] for name, class_id in ids.items() if class_id is None]:
        hint = nearest(unknown[0] or "", names) or f"; it has {few(names)}"
        raise DataError(
            f"`class_map` leads to {few(unknown)}, which is no class of the network, or two{hint}; give the name or "
            "id of a class"
        )
    return {name: ids.get(name) for name in class_map}


def _id_of(name: str, exact: Mapping[str, int], folded: Mapping[str, int], count: int) -> int | None:
    """Return the class id of a network's name, or the number in it if it is an id; `None` if there is none."""
    found = exact.get(name, folded.get(fold(name)))
    number = int(name) if re.fullmatch(r"\d{1,6}", name, re.ASCII) else count
    return number if found is None and number < count else found


def _map_note(mapped: Mapping[str, int | None], names: Sequence[str]) -> str:
    pairs = [f"{name} is {'left out' if i is None else names[i]}" for name, i in mapped.items()]
    return f"classes are matched by `class_map`: {few(pairs)}"


def _folded_ids(names: Sequence[str]) -> dict[str, int]:
    """Return class ids by folded name, without names of several classes."""
    groups: dict[str, list[int]] = defaultdict(list)
    for class_id, name in enumerate(names):
        groups[fold(name)].append(class_id)
    return {name: ids[0] for name, ids in groups.items() if len(ids) == 1}


def _without_repeats(class_ids: ClassIds) -> ClassIds:
    counts = Counter(class_ids)
    return [class_id if counts[class_id] == 1 else None for class_id in class_ids]


def _only(ids: Sequence[int]) -> Sequence[int]:
    return ids if len(ids) == 1 else ()


def _synset(name: str) -> str | None:
    """Return the synset that a name begins with, as in `n02085620-Chihuahua`."""
    match = re.match(r"n\d{8}(?![^\W_])", name)
    return match[0] if match else None


@cache
def imagenet_synsets() -> tuple[str, ...]:
    """Return ImageNet-1k's synsets, such as `n01440764`, by class id: in their sorted order."""
    from timm.data import ImageNetInfo

    info = ImageNetInfo("imagenet-1k")
    return tuple(info.index_to_label_name(index) for index in range(1000))


@cache
def _imagenet_ids() -> dict[str, tuple[int, ...]]:
    """Return ImageNet-1k's class ids by synset, by folded first word and by folded description."""
    from timm.data import ImageNetInfo

    info, ids = ImageNetInfo("imagenet-1k"), defaultdict[str, set[int]](set)
    for index, word in enumerate(imagenet_names()):
        for key in (imagenet_synsets()[index], fold(word), fold(info.index_to_description(index))):
            ids[key].add(index)
    return {key: tuple(sorted(group)) for key, group in ids.items()}


def _published(num_classes: int, table: str | None) -> tuple[str, ...]:
    """Return the names of a published network's classes; empty if none has that number."""
    if table == "imagenet":
        return imagenet_names() if num_classes == 1000 else ()
    if table == "coco" and num_classes == 91:  # outputs are category ids
        name_of = dict(zip(built_in("coco").values, built_in("coco").names, strict=True))
        return tuple(name_of.get(index, f"unused {index}") for index in range(91))
    classes = built_in(table).names if table else ()
    return classes if len(classes) == num_classes else ()
