"""Names by which folders of images, folders of masks and mask files are recognised."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal, NamedTuple

from twins.data.images import image_endings, is_image_file, walk
from twins.data.parts import part_of

IMAGE_FOLDERS = ("images", "image", "imgs", "img", "JPEGImages", "leftImg8bit")
MASK_FOLDERS = ("masks", "mask", "annotations", "labels", "label", "gt", "gtFine", "SegmentationClass")
MASK_ENDINGS = (
    "_gtFine_labelIds", "_gtFine_labelTrainIds", "_gtCoarse_labelIds", "_gtCoarse_labelTrainIds", "_gtFine_color",
    "_labelTrainIds", "_labelIds", "_segmentation", "_segmentations", "_ground_truth", "_groundtruth", "_annotation",
    "_annotations", "_mask", "-mask", "_masks", "-masks", ".mask", "_label", "-label", "_labels", ".label", "_lab",
    "_anno", "_gt", "-gt", "_seg", "-seg", "_trimap", "_matte", "_manual1", "_semantic", "_L",
)  # fmt: skip
"""Endings of the names of mask files; case does not count."""
IMAGE_ENDINGS = ("_leftImg8bit", "_image", "-image", "_img", "-img", "_rgb", "_sat", "_training", "_test", "_0000")
_MASK_BEGINNINGS = ("mask_", "masks_", "label_", "labels_", "gt_", "seg_", "mask-", "label-")
_IMAGE_BEGINNINGS = ("image_", "images_", "img_", "rgb_", "image-", "img-", "sat_")
_IMAGE_WORDS = (
    "rgb", "photo", "photos", "picture", "pictures", "pics", "pngimages", "imgdir", "imagedir", "imagesdir", "imgsdir",
    "rgbimages", "rgbimage", "inputimages", "input", "inputs", "original", "originals", "originalimages", "frames",
    "stillsraw", "stillsrawfull", "rawimages", "sourceimages",
)  # fmt: skip
_MASK_WORDS = (
    "annotation", "annot", "annots", "anno", "annos", "anndir", "annodir", "labeldir", "maskdir", "gts", "gtcoarse",
    "gtdir", "groundtruth", "groundtruths", "segmentation", "segmentations", "segmentationmask", "segmentationmasks",
    "segmentationclasspng", "segmentationlabels", "segmasks", "segmask", "semanticmasks", "semanticlabels",
    "labelmaps", "labelimages", "labelimagessemantic", "labeled", "labelled", "labeledapproved", "labeledapprovedfull",
    "target", "targets", "trimaps", "maskpng", "maskspng", "masksmachine",
)  # fmt: skip
_SHORT_PARTS = {"tr": "train", "ts": "test"}
"""nnU-Net's: `imagesTr`, `labelsTr`, `imagesTs`."""
OTHER_FOLDERS = {
    "segmentationobject": "masks of instances, which label maps do not need",
    "segmentationobjectpng": "masks of instances, which label maps do not need",
    "segmentationobjectnpy": "masks of instances, which label maps do not need",
    "instances": "masks of instances, which label maps do not need",
    "segmentationclassvisualization": "pictures of the masks for people",
    "segmentationobjectvisualization": "pictures of the masks for people",
    "visualization": "pictures of the masks for people",
    "maskshuman": "pictures of the masks for people",
    "segmentationclassnpy": "the masks as arrays of NumPy, which are read as images",
    "xmls": "boxes, which label maps do not need",
}
"""Why folders beside the masks are not used, by their `compact` name."""


class Role(NamedTuple):
    """What a folder's name says of its content."""

    kind: Literal["images", "masks"]
    part: str | None
    """The part of the data set, as `part_of` names it; `None` if the name says none."""


def compact(name: str) -> str:
    """Return the letters of a name in lower case, without digits and separators."""
    return "".join(re.findall(r"[^\W\d_]+", name.lower()))


_ROLES: tuple[tuple[str, Literal["images", "masks"]], ...] = (
    *((word, "images") for word in dict.fromkeys((*map(compact, IMAGE_FOLDERS), *_IMAGE_WORDS))),
    *((word, "masks") for word in dict.fromkeys((*map(compact, MASK_FOLDERS), *_MASK_WORDS))),
)


def role_of(name: str) -> Role | None:
    """Return what a folder's name says: `images`, `img_dir`, `SegmentationClass`, `train_masks`, `trainannot`.

    Case, digits and separators do not count. A name that says only a part, as `train` does, has no role.
    """
    letters = compact(name)
    for word, kind in sorted(_ROLES, key=lambda role: -len(role[0])):
        if letters == word:
            return Role(kind, None)
        for rest in (letters.removeprefix(word), letters.removesuffix(word)):
            if rest != letters and (part := part_of(rest) or _SHORT_PARTS.get(rest)):
                return Role(kind, part)
    return None


def subfolders(folder: Path) -> list[Path]:
    """Return the folders in a folder, sorted, without hidden ones; none if it cannot be read."""
    try:
        return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    except OSError:
        return []


def holds_images(folder: Path) -> bool:
    """Return whether an image file is in a folder or below it."""
    return any(is_image_file(Path(name)) for name in walk(folder, hidden=False))


def has_own_images(folder: Path) -> bool:
    """Return whether an image file is in a folder itself."""
    return any(is_image_file(path) and path.is_file() for path in folder.iterdir())


def stripped(stem: str, kind: Literal["images", "masks"]) -> str:
    """Return a file's name without what marks it as an image or as a mask, such as `_mask`, `_rgb` or `mask_`.

    A mask may also have the whole name of its image: `a.jpg.png`.
    """
    is_mask, name = kind == "masks", stem.lower()
    ending = mask_ending(stem) if is_mask else _image_ending(name)
    beginnings = _MASK_BEGINNINGS if is_mask else _IMAGE_BEGINNINGS
    beginning = "" if ending else next((start for start in beginnings if name.startswith(start)), "")
    short = stem[len(beginning) : len(stem) - len(ending)] or stem
    whole = Path(short)
    return whole.stem if is_mask and whole.suffix.lower() in image_endings() else short


def mask_ending(stem: str) -> str:
    """Return the ending that marks a name as a mask's, in lower case; empty if it has none."""
    name = stem.lower()
    return next((ending for ending in _MASK_ENDINGS_LOWER if name.endswith(ending) and name != ending), "")


_MASK_ENDINGS_LOWER = tuple(ending.lower() for ending in sorted(MASK_ENDINGS, key=len, reverse=True))


def _image_ending(name: str) -> str:
    return next((ending.lower() for ending in IMAGE_ENDINGS if name.endswith(ending.lower())), "")
