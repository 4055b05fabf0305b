"""Formats that are not read: how they are recognised, and what to convert them with."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from twins.data.formats.shape_files import read_start
from twins.data.formats.source import Source
from twins.data.images import walk

_SAMPLE = 12
"""Number of files of each ending, in each of the first folders, whose content is looked at."""
_TO_COCO = "convert it to COCO's JSON"


@dataclass(frozen=True)
class _Format:
    """A format that is not read."""

    name: str
    advice: str
    """What to do, after a semicolon."""
    path: str = ""
    """Pattern of a file's path below the data folder, in lower case."""
    content: str = ""
    """Pattern of the beginning of the file; empty if the path is enough."""


_N = r"[-+.\deE]+"
_FORMATS = (
    _Format("Supervisely's JSON files", f"{_TO_COCO} with Supervisely's app Export to COCO", r"\.json$",
            r'"classTitle"\s*:'),
    _Format("a Supervisely project", f"{_TO_COCO} with Supervisely's app Export to COCO", r"(^|/)meta\.json$",
            r'"classes"\s*:\s*\[\s*\{[^\]]*"shape"\s*:'),
    _Format("a Datumaro JSON file", f"{_TO_COCO} with datum convert -if datumaro -f coco", r"\.json$",
            r'"categories"\s*:\s*\{\s*"(label|mask|points)"\s*:'),
    _Format("Apple's CreateML JSON", f"{_TO_COCO}, with Roboflow for example", r"\.json$",
            r'"coordinates"\s*:\s*\{\s*"(x|y|width|height)"'),
    _Format("BDD100K's JSON", f"{_TO_COCO} with python -m bdd100k.label.to_coco", r"\.json$", r'"(box2d|poly2d)"\s*:'),
    _Format("SA-1B's JSON files", f"join them to one COCO file, or {_TO_COCO}", r"\.json$",
            r'"(predicted_iou|stability_score|point_coords)"\s*:'),
    _Format("a Labelbox export", f"{_TO_COCO} with FiftyOne (fiftyone.utils.labelbox)", r"\.(json|ndjson|jsonl)$",
            r'"(data_row|Labeled Data|DataRow ID|media_attributes)"\s*:'),
    _Format("a Scale AI export", f"{_TO_COCO}; a box there is left, top, width and height", r"\.(json|ndjson|jsonl)$",
            r'"task_id"\s*:[^}]*"(response|params|attachment|callback_url)"'),
    _Format("V7's Darwin JSON", f"{_TO_COCO} with darwin convert coco", r"\.(json|ndjson|jsonl)$",
            r'"(schema_ref|team)"\s*:.*"item"|"item"\s*:\s*\{.*"slots"'),
    _Format("a VIA 3 project", "export it in VIA as COCO", r"\.json$", r'"project"\s*:\s*\{.*"(pid|rev_timestamp)"'),
    _Format("a VoTT export", "export it in VoTT as Pascal VOC or CSV", r"\.(json|vott)$",
            r'"asset"\s*:\s*\{.*"format"|"sourceConnection"\s*:'),
    _Format("JSON lines", _TO_COCO, r"\.(ndjson|jsonl)$", r"^\s*\{"),
    _Format("VIA's CSV", "export the annotations in VIA as JSON", r"\.csv$", r"region_shape_attributes"),
    _Format("a CSV file of boxes by a point and two sides", "give the columns xmin, ymin, xmax and ymax, in pixels",
            r"\.csv$", r"\A[^\n]*\b(x|x_?min|x1|left|c_?x|x_?c|x_?cent(er|re)|bbox_x)\b[^\n]*"
            r"\b(w|width|bbox_w(idth)?)\b"),
    _Format("old LabelMe XML files, or CVAT's LabelMe 3.0", "export them as COCO, or as CVAT for images", r"\.xml$",
            r"<annotation>(?!.*<bndbox>).*<polygon>"),
    _Format("WIDER FACE's list of boxes", f"{_TO_COCO} with datum convert -if wider_face -f coco",
            r"wider_?face.*\.txt$|bbx_gt\.txt$"),
    _Format("MOT's gt.txt", f"{_TO_COCO} with datum convert -if mot_seq -f coco",
            r"(^|/)gt/gt\.txt$|(^|/)seqinfo\.ini$"),
    _Format("KITTI's label files", f"{_TO_COCO} with datum convert -if kitti -f coco", r"\.txt$",
            rf"^[A-Za-z_]\w*( {_N}){{14,15}}\s*$"),
    _Format("DOTA's label files", "convert them to YOLO's with ultralytics.data.converter.convert_dota_to_yolo_obb",
            r"\.txt$", rf"^imagesource:|^({_N} ){{8}}[A-Za-z][\w-]* [012]\s*$"),
    _Format("TFRecord files", f"{_TO_COCO} with FiftyOne (fiftyone convert, from TFObjectDetectionDataset)",
            r"\.tfrecords?([-.]|$)|\.record(-\d|$)"),
    _Format("Parquet or Arrow files, as Hugging Face's datasets are",
            f"no extra of this package reads them yet: save the images, and {_TO_COCO}, with the package datasets",
            r"\.(parquet|arrow)$|(^|/)(dataset_info|dataset_dict)\.json$"),
    _Format("MATLAB files", "save masks as PNG, and boxes as COCO's JSON, with scipy.io.loadmat", r"\.mat$"),
    _Format("an LMDB", "save its images and annotations as files, with the package lmdb", r"\.mdb$"),
    _Format("MXNet's RecordIO", "save its images as files with mxnet's tools", r"\.(rec|idx)$"),
    _Format("HDF5 files", "save the images and masks as PNG with h5py", r"\.(h5|hdf5)$"),
    _Format("NumPy arrays", "save masks as PNG, with PIL.Image.fromarray", r"\.(npy|npz)$"),
    _Format("Python pickles, which can run any code and are never opened", f"{_TO_COCO} where they were made",
            r"\.(pkl|pickle)$"),
    _Format("medical images (DICOM, NIfTI)", "save the slices as PNG, images and masks with the same names",
            r"\.(dcm|dicom|nii|nii\.gz|nrrd|mha)$"),
    _Format("videos", "save the frames as images, for example with ffmpeg -i VIDEO images/%06d.jpg",
            r"\.(mp4|avi|mov|mkv|webm|m4v|wmv|mpe?g)$"),
    _Format("archives", "unpack them", r"\.(zip|tar|tgz|gz|bz2|xz|7z|rar)$"),
)  # fmt: skip
"""The formats, the surest first."""
_LABELS = (r"\.txt$", r"\.xml$", r"(^|/)gt/gt\.txt$|(^|/)seqinfo\.ini$")
"""Paths of formats whose files could be taken for VOC's or YOLO's."""


def unread_format(source: Source, *, labels_only: bool = False) -> str | None:
    """Return a sentence on the format of a data set that is not read: its name, a file, what to do; or `None`.

    Args:
        source: the data set.
        labels_only: whether only formats whose files have the names of VOC's or YOLO's are looked for.
    """
    names = list(walk(source.root, hidden=False))
    starts = {name: read_start(source.root / name).replace("\r", "") for name in _sample(names)}
    for kind in (kind for kind in _FORMATS if not labels_only or kind.path in _LABELS):
        path, content = re.compile(kind.path), re.compile(kind.content, re.MULTILINE | re.DOTALL)
        for name in starts if kind.content else names:
            if path.search(name.lower()) and (not kind.content or content.search(starts[name])):
                return f"{source.root} holds {kind.name} ({name:.100} first), which is not read; {kind.advice}"
    return None


def _sample(names: Sequence[str]) -> list[str]:
    """Return the names of files whose content is looked at."""
    seen: Counter[tuple[str, str]] = Counter()
    sampled: list[str] = []
    for name in names:
        folder, ending = name.rpartition("/")[0], Path(name).suffix.lower()
        if ending in (".json", ".ndjson", ".jsonl", ".txt", ".xml", ".csv", ".vott"):
            seen[folder, ending] += 1
            if seen[folder, ending] <= _SAMPLE and len(sampled) < 40 * _SAMPLE:
                sampled.append(name)
    return sampled
