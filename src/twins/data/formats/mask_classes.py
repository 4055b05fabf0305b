"""The classes of a folder of masks: from the file that lies beside them, or those of a well-known data set."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

from twins.data.classes import MAX_CLASSES, ClassTable, Colour, build_table, built_in, has_own_colours, read_table
from twins.data.formats.mask_names import compact
from twins.data.formats.masks import IGNORE, detect_values, palette_colours, sample_colours, sampled_values
from twins.data.formats.names import read_list
from twins.data.formats.source import NAMES, Source
from twins.data.images import is_image_file
from twins.errors import DataError

_NAMES = frozenset((
    "classes", "classnames", "classname", "classlist", "classlabels", "classdict", "labelnames", "labelmap",
    "labelcolor", "labelcolors", "labelcolour", "labelcolours", "semanticclasses", "categorynames",
    "objclasstomachinecolor",
))  # fmt: skip
"""Names of files of classes, by their letters; such a file must be readable."""
_POSSIBLE_NAMES = frozenset((
    "labels", "label", "class", "codes", "names", "categories", "palette", "colormap", "colourmap", "colors", "colours",
    "idlabel", "labelid", "data", "dataset", "config", "meta",
))  # fmt: skip
"""Names of files that may hold classes, or something else."""
_SUPERVISELY = "objclasstomachinecolor"
"""Supervisely's file of the colours in its `masks_machine`; its `meta.json` has those for people."""
_ENDINGS = (".txt", ".csv", ".tsv", ".json", ".yaml", ".yml", ".names")
_ALL_VALUES = {"ade20k": range(151), "cityscapes": range(34)}
"""The mask values that a built-in data set can have; those without a class are ignored."""
_VOID_COLOURS: dict[str, tuple[Colour, ...]] = {
    "voc": ((224, 224, 192),),
    "ade20k": ((0, 0, 0),),
    "cityscapes": (
        (0, 0, 0), (111, 74, 0), (81, 0, 81), (250, 170, 160), (230, 150, 140), (180, 165, 180), (150, 100, 100),
        (150, 120, 90), (0, 0, 90), (0, 0, 110),
    ),
}  # fmt: skip
"""Colours of a built-in data set that are ignored."""
_XML_SAMPLE = 20
"""Number of XML files that are read to see whether a set's classes are VOC's."""


class MaskClasses(NamedTuple):
    """The classes of a set of masks."""

    classes: ClassTable | None = None
    """`None` if nothing names them."""
    ignored: tuple[int, ...] = ()
    """Mask values that are ignored because they have no class."""
    ignored_colours: tuple[Colour, ...] = ()
    """Colours that are ignored."""


@dataclass(frozen=True)
class MaskSet:
    """What decides the classes of a set of masks."""

    masks: Sequence[Path]
    folders: Sequence[Path]
    """Folders of images and of masks."""
    name: str | None = None
    """Name of the layout's own class table: `ade20k`, `cityscapes` or `voc`."""
    table: ClassTable | None = None
    """The classes that the layout defines, such as those of trimaps."""


def find_classes(source: Source, found: MaskSet) -> MaskClasses:
    """Return the classes of masks: those of the settings, else of files beside the data, else of the layout.

    Raises:
        NotFoundError: the settings name no table and no file.
        DataError: a file cannot be read, or two files contradict each other.
    """
    name = source.config.masks.classes
    if name != "auto":
        if Path(name).is_file():
            source.use_names(Path(name))
            return MaskClasses(read_table(Path(name)))
        return _built_in(source, name, found.masks)
    if (path := find_names_file(source, found)) is not None:
        source.use_names(path)
        return MaskClasses(_with_background(read_table(path), path))
    if found.table is not None:
        source.names_from = source.names_from or "the layout"
        return MaskClasses(found.table)
    if found.name == "voc":
        return _voc(source, found)
    return MaskClasses() if found.name is None else _built_in(source, found.name, found.masks)


def find_names_file(source: Source, found: MaskSet) -> Path | None:
    """Return the file of class names in a data folder, in the folders of masks or around them; `None` without any.

    Files that agree are used; of these, one with colours is returned.

    Raises:
        DataError: a file of this purpose cannot be read, or two contradict each other.
    """
    if (tables := _read_tables(source, found)) == {}:
        return None
    (first, *others), chosen = tables, next(iter(tables))
    for path in others:
        if not _agree(tables[first], tables[path]):
            raise DataError(
                f"{source.relative(first)} and {source.relative(path)} in {source.root} name different classes; give "
                f'the one to use, such as `masks.classes="{first}"`'
            )
        chosen = path if has_own_colours(tables[path]) and not has_own_colours(tables[chosen]) else chosen
    source.use(NAMES, *tables)
    return chosen


def _read_tables(source: Source, found: MaskSet) -> dict[Path, ClassTable]:
    """Return the tables of classes in a data folder and around the masks, by file."""
    around = [folder for path in found.folders for folder in (path, *path.parents)]
    below = [folder for folder in around if folder == source.root or folder.is_relative_to(source.root)]
    paths = [source.settings_file] if source.settings_file else []
    for folder in dict.fromkeys((source.root, *below)):
        paths += sorted(path for path in folder.iterdir() if path.suffix.lower() in _ENDINGS and path.is_file())
    tables: dict[Path, ClassTable] = {}
    for path in dict.fromkeys(paths):
        name = "objnames" if path.name.lower() == "obj.names" else compact(path.stem)
        if name in _NAMES or name == "objnames":
            tables[path] = read_table(path)
        elif (name in _POSSIBLE_NAMES or path == source.settings_file) and (table := _possible_table(path, found)):
            tables[path] = table
    machine = {path: table for path, table in tables.items() if compact(path.stem) == _SUPERVISELY}
    return machine or tables


def _possible_table(path: Path, found: MaskSet) -> ClassTable | None:
    """Return the classes in a file that may hold something else, such as a list of the images; `None` if it does."""
    try:
        table = read_table(path)
        words = {Path(word.strip()) for line in read_list(path) for word in re.split('[,;\t"]', line)}
    except DataError:
        return None
    names_images = set(table.names) <= {mask.stem for mask in found.masks} or any(map(is_image_file, words))
    return table if len(table) <= MAX_CLASSES and not names_images else None


def _agree(first: ClassTable, second: ClassTable) -> bool:
    """Return whether two tables have the same classes, values and colours, as far as both have them."""
    colours = not (has_own_colours(first) and has_own_colours(second)) or first.colours == second.colours
    return (first.names, first.values) == (second.names, second.values) and colours


def _with_background(classes: ClassTable, path: Path) -> ClassTable:
    """Return the classes of a file; Supervisely's has values as shades of grey, and none for the background."""
    if compact(path.stem) != _SUPERVISELY:
        return classes
    rows = sorted(zip((colour[0] for colour in classes.colours), classes.names, strict=True))
    return build_table(("background", *(name for _, name in rows)), (0, *(value for value, _ in rows)))


def _built_in(source: Source, name: str, masks: Sequence[Path]) -> MaskClasses:
    """Return the classes of a built-in table, and what has no class in its masks."""
    classes = built_in(name)
    source.names_from = f"the built-in table {name}"
    colours = tuple(colour for colour in _VOID_COLOURS.get(name, ()) if colour not in classes.colours)
    if name == "cityscapes" and masks[0].stem.endswith("labelTrainIds"):
        # the values of these masks are class ids
        return MaskClasses(ClassTable(classes.names, tuple(range(len(classes))), classes.colours), (), colours)
    ignored = tuple(value for value in _ALL_VALUES.get(name, ()) if value not in classes.values)
    return MaskClasses(classes, ignored, colours)


def _voc(source: Source, found: MaskSet) -> MaskClasses:
    """Return VOC's classes for folders with its names, where the masks and XML files do not contradict."""
    reason = _no_voc_reason(found)
    if reason:
        source.notes.append(
            f"the folders are named like Pascal VOC's, but {reason}, so the classes are not VOC's; give their names "
            "with `masks.classes=FILE`"
        )
        return MaskClasses()
    source.notes.append(
        "the classes are Pascal VOC's 21, by its folders and the values of the masks; for other classes, give "
        "`masks.classes=FILE`"
    )
    return _built_in(source, "voc", found.masks)


def _no_voc_reason(found: MaskSet) -> str:
    """Return why masks in VOC's folders are not VOC's; empty if nothing contradicts."""
    classes = built_in("voc")
    if detect_values(found.masks, None) == "colour":
        unknown = sample_colours(found.masks) - {*classes.colours, *_VOID_COLOURS["voc"]}
        return f"masks hold the colour {min(unknown)}" if unknown else ""
    if others := sorted(sampled_values(found.masks) - set(range(21)) - {IGNORE}):
        return f"masks hold the value {others[0]}"
    shown: dict[int, Colour] = {}
    for path in found.masks[:_XML_SAMPLE]:
        shown |= palette_colours(path)
    colours = dict(zip(classes.values, classes.colours, strict=True))
    if wrong := [value for value, colour in shown.items() if value != IGNORE and colour != colours.get(value)]:
        return f"the palette of the masks has another colour for the value {wrong[0]}"
    around = found.folders[0].parent
    if names := sorted(_xml_names(around / "Annotations") - set(classes.names)):
        return f"Annotations names the class {names[0]}"
    has_lists = (around / "ImageSets" / "Segmentation").is_dir()
    return "" if shown or has_lists else "the masks have no palette and ImageSets/Segmentation is missing"


def _xml_names(folder: Path) -> set[str]:
    """Return the names of objects in some XML files of a folder."""
    names: set[str] = set()
    for path in sorted(folder.glob("*.xml"))[:_XML_SAMPLE]:
        try:
            names |= {(element.text or "").strip() for element in ElementTree.parse(path).iterfind("object/name")}
        except (ElementTree.ParseError, OSError, ValueError, LookupError):
            continue
    return names - {""}
