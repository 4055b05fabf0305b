"""The formats of labelling tools whose files hold named shapes, in the order in which they are tried."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from twins.data.base import Opened
from twins.data.formats.csv_boxes import find_csv_boxes, open_csv_boxes
from twins.data.formats.cvat import find_cvat, open_cvat
from twins.data.formats.label_studio import find_label_studio, open_label_studio
from twins.data.formats.labelme import find_labelme, open_labelme
from twins.data.formats.shape_files import Target
from twins.data.formats.source import Source
from twins.data.formats.via import find_via, open_via
from twins.errors import DataError, few

Find = Callable[[Source], tuple[Path, ...]]
Open = Callable[[Source, Target], Opened | None]
SHAPE_FORMATS: dict[str, tuple[Find, Open]] = {
    "LabelMe": (find_labelme, open_labelme),
    "CVAT": (find_cvat, open_cvat),
    "Label Studio": (find_label_studio, open_label_studio),
    "VIA": (find_via, open_via),
    "CSV": (find_csv_boxes, open_csv_boxes),
}
"""By name: the function that returns the files by which a format is recognised, and the one that opens it."""


def open_shape_formats(source: Source, target: Target) -> Opened | None:
    """Open a folder with the files of a labelling tool; `None` if there are none.

    Raises:
        DataError: the folder holds files of several tools, or a file is damaged.
    """
    files = {name: paths for name, (find, _) in SHAPE_FORMATS.items() if (paths := find(source))}
    if len(files) > 1:
        shown = few([f"{source.relative(paths[0])} ({name})" for name, paths in files.items()])
        raise DataError(
            f"{source.root} holds annotations of several tools, {shown}; give the one to use as `layout.annotations`"
        )
    return next((SHAPE_FORMATS[name][1](source, target) for name in files), None)


def are_given(source: Source) -> bool:
    """Return whether the layout settings give annotations of a labelling tool, so that no other format is meant."""
    paths = [path for group in source.part_paths().values() for path in group]
    annotations = source.path(source.layout.annotations)
    paths += [] if annotations is None else [annotations]
    is_given = annotations is not None or any(path.is_file() and path.suffix.lower() != ".txt" for path in paths)
    return is_given and any(find(source) for find, _ in SHAPE_FORMATS.values())
