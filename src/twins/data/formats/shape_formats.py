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
