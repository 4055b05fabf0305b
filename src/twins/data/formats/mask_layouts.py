"""Where a data folder has its images and masks: the pairs of folders of each part."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

from twins.data.base import UNSPLIT
from twins.data.formats.mask_names import (
    OTHER_FOLDERS,
    compact,
    has_own_images,
    holds_images,
    mask_ending,
    role_of,
    stripped,
    subfolders,
)
from twins.data.formats.source import Source
from twins.data.images import is_image_file
from twins.data.parts import part_of
from twins.errors import DataError

_COARSE = "gtcoarse"
_WRAPPERS = 2
"""Number of folders with nothing else beside them through which the data are looked for."""
_DESCENTS = frozenset(("trimaps", "masks", "mask", "png", "semantic", "segmentation", "labels"))
"""Folders in a folder of annotations that hold its masks."""


class FolderPair(NamedTuple):
    """A folder of images and the folder of their masks; the same one where the masks lie beside the images."""

    images: Path
    masks: Path


@dataclass
class MaskLayout:
    """Where the images and masks of a data set are."""

    name: str
    """Name of the layout, for people."""
    parts: dict[str, list[FolderPair]]
    folders: list[Path]
    """Folders by which it was recognised."""
    base: FolderPair | None = None
    """The folders in which the parts are, if they are below one pair of folders."""
    given: dict[str, list[Path]] = field(default_factory=dict)
    """By part, the folders that name it in the settings."""

    @property
    def is_voc(self) -> bool:
        """Return whether the folders have Pascal VOC's names."""
        return (
            self.base is not None
            and compact(self.base.images.name) == "jpegimages"
            and compact(self.base.masks.name).startswith("segmentationclass")
        )

    @property
    def all_folders(self) -> list[Path]:
        """Return the folders of images and of masks of all parts."""
        return list(dict.fromkeys(path for pairs in self.parts.values() for pair in pairs for path in pair))

    @property
    def lists_in(self) -> list[Path]:
        """Return further folders that may hold lists of the parts."""
        if self.base is None:
            return []
        parent = self.base.images.parent
        return [parent / "ImageSets" / "Segmentation", parent / "ImageSets", parent, self.base.masks.parent]


def find_layout(source: Source) -> MaskLayout | None:
    """Return where the images and masks are: by the settings, else by the folders' names; `None` if nowhere.

    Raises:
        DataError: two layouts or two folders fit, or a part has no masks.
    """
    given = source.path(source.layout.annotations)
    if given is not None and not given.is_dir():
        return None
    if source.layout.images or given is not None:
        return _by_settings(source)
    root = source.root
    for _ in range(_WRAPPERS + 1):
        if (layout := _in_folder(source, root)) is not None:
            return layout
        folders = subfolders(root)
        if len(folders) != 1 or has_own_images(root):
            return None
        root = folders[0]
    return None


def _by_settings(source: Source) -> MaskLayout | None:
    """Return the layout where the settings give the folder of the images, of the masks, or both."""
    images, masks = source.path(source.layout.images), source.path(source.layout.annotations)
    if masks is None:
        masks = _single(source, [path for path in _candidates(source, source.root, "masks") if path != images], "masks")
    if masks is None or not holds_images(masks):
        return None
    if images is None:
        images = _single(
            source, [path for path in _candidates(source, source.root, "images") if path != masks], "images"
        )
    if images is None:
        raise DataError(
            f"{source.root} has no folder named like one of images; give it as `layout.images`, beside "
            f'`layout.annotations="{source.layout.annotations}"`'
        )
    return _below(source, FolderPair(images, masks))


def _in_folder(source: Source, root: Path) -> MaskLayout | None:
    """Return the layout in a folder; raises DataError if two layouts fit."""
    has_given_parts = any(path.is_dir() for paths in source.part_paths().values() for path in paths)
    pair = _pair_below(source, root)
    candidates = [
        _below(source, pair) if pair else None,
        None if has_given_parts else _in_names(source, root),
        _above(source, root),
    ]
    found = [layout for layout in candidates if layout and not (has_given_parts and UNSPLIT in layout.parts)]
    if len(found) > 1:
        shown = [" and ".join(map(source.relative, layout.folders)) for layout in found]
        raise DataError(
            f"{source.root} holds images and masks twice, in {shown[0]}, and in {shown[1]}; give those to use as "
            "`layout.images` and `layout.annotations`, or the folders of the parts as `layout.train` and `layout.val`"
        )
    if found:
        return found[0]
    if not has_masks_beside(root):
        return None
    pair = FolderPair(root, root)
    return MaskLayout("images with masks beside them", {UNSPLIT: [pair]}, [root], pair)


def _pair_below(source: Source, folder: Path, part: str | None = None) -> FolderPair | None:
    """Return the folder of images and that of masks in a folder, or in that of a part; `None` without one of them.

    Raises:
        DataError: there are several of one kind.
    """
    images, masks = _candidates(source, folder, "images"), _candidates(source, folder, "masks")
    if not images or not masks:
        return None
    chosen = _single(source, images, "images", part), _single(source, masks, "masks", part)
    return FolderPair(chosen[0] or images[0], chosen[1] or masks[0])


def _candidates(source: Source, root: Path, kind: Literal["images", "masks"]) -> list[Path]:
    """Return the folders in a folder that are named like folders of images, or of masks, and hold images."""
    folders: list[Path] = []
    for folder in subfolders(root):
        role = role_of(folder.name)
        if reason := OTHER_FOLDERS.get(compact(folder.name)):
            source.pass_over(reason, folder)
        elif role and role.kind == kind and role.part is None:
            folder = _mask_folder(source, folder) if kind == "masks" else folder
            folders += [folder] if holds_images(folder) else []
    fine = [folder for folder in folders if compact(folder.name) != _COARSE]
    if len(folders) > len(fine) > 0:
        source.pass_over("coarse masks, beside the fine ones", *(folder for folder in folders if folder not in fine))
    return fine or folders


def _single(source: Source, folders: list[Path], kind: str, part: str | None = None) -> Path | None:
    """Return the only folder of a kind, `None` without any; raises DataError if there are several."""
    if len(folders) < 2:
        return folders[0] if folders else None
    names = " and ".join(map(source.relative, folders))
    setting = "layout.images" if kind == "images" else "layout.annotations"
    advice = f"the folder of images and that of masks as `layout.{part}`" if part else f"the one to use as `{setting}`"
    raise DataError(f"{names} in {source.root} could each be the folder of the {kind}; give {advice}")


def _mask_folder(source: Source, folder: Path) -> Path:
    """Return the folder that holds the masks: the folder itself, or one in it, as Oxford-IIIT Pet's `trimaps`."""
    if not folder.is_dir() or has_own_images(folder):
        return folder
    inner = [path for path in subfolders(folder) if holds_images(path)]
    if len(inner) != 1 or part_of(inner[0].name) or compact(inner[0].name) not in _DESCENTS:
        return folder
    for path in subfolders(folder):
        if reason := OTHER_FOLDERS.get(compact(path.name)):
            source.pass_over(reason, path)
    return inner[0]


def has_masks_beside(folder: Path) -> bool:
    """Return whether a folder's own images have masks beside them, `a_mask.png` for `a.jpg`."""
    stems = {path.stem for path in folder.iterdir() if is_image_file(path)}
    return any(mask_ending(stem) and stripped(stem, "masks") in stems for stem in stems)


def _below(source: Source, base: FolderPair) -> MaskLayout:
    """Return the parts in the folders below a folder of images and a folder of masks, or these if they are unsplit."""
    name = "a folder of images and a folder of masks"
    if base.images == base.masks:
        return MaskLayout("images with masks beside them", {UNSPLIT: [base]}, [base.images], base)
    layout = MaskLayout(name, {}, list(base), base)
    name = "Pascal VOC's masks" if layout.is_voc else name
    has_lists = any(path.is_file() for paths in source.part_paths().values() for path in paths)
    images = {} if has_lists else source.part_folders(base.images)
    masks = {} if has_lists else source.part_folders(base.masks)
    if not images and masks:
        parts = {part: [FolderPair(base.images, folder) for folder in folders] for part, folders in masks.items()}
        return MaskLayout(name, parts, list(base), base, masks)
    parts = {}
    for part, folders in images.items():
        pairs = [_part_pair(base, folder, part, images, masks) for folder in folders]
        if any(pair is None for pair in pairs) and part == "test" and len(images) > 1:
            source.pass_over("images of the test part, which has no masks", *folders)
            continue
        if any(pair is None for pair in pairs):
            raise DataError(f"{base.masks} has no folder {folders[0].name} for the images in {folders[0]}; add it")
        parts[part] = [pair for pair in pairs if pair is not None]
        others = [pair.masks for pair in parts[part] if part_of(pair.masks.name) not in (None, part)]
        source.notes += [f"the masks of the {part} part are those in {source.relative(path)}" for path in others]
    given = {part: [path for pair in pairs for path in pair] for part, pairs in parts.items()}
    return MaskLayout(name, parts or {UNSPLIT: [base]}, list(base), base, given)


def _part_pair(
    base: FolderPair, folder: Path, part: str, images: dict[str, list[Path]], masks: dict[str, list[Path]]
) -> FolderPair | None:
    """Return a part's folder of images with the folder of their masks; `None` without one.

    The masks are in the folder of the same name, in that of the same part, or all in one folder.
    """
    names = [part, *(other for other in ("val", "test") if part != "train" and other not in images)]
    same = base.masks / folder.relative_to(base.images) if folder.is_relative_to(base.images) else base.masks
    candidates = [same, *(masks[name][0] for name in names if name in masks)]
    if not masks and has_own_images(base.masks):
        candidates.append(base.masks)
    return next((FolderPair(folder, path) for path in candidates if path.is_dir() and holds_images(path)), None)


def _in_names(source: Source, root: Path) -> MaskLayout | None:
    """Return the parts that the names of the folders of masks say: `train_images` and `train_masks`, CamVid's."""
    masks: dict[str, list[Path]] = {}
    images: dict[str, list[Path]] = {}
    for folder in subfolders(root):
        role, part = role_of(folder.name), part_of(folder.name)
        if role and role.part and role.kind == "masks" and holds_images(folder):
            masks.setdefault(role.part, []).append(folder)
        elif (role and role.part and role.kind == "images") or part:
            images.setdefault((role.part if role else None) or part or "", []).append(folder)
    if not masks or not images:
        return None
    mask_of, image_of = source.one_each(masks), source.one_each(images)
    parts = {part: [FolderPair(image_of[part][0], mask_of[part][0])] for part in mask_of if part in image_of}
    for part, folders in image_of.items():
        if part not in mask_of:
            source.pass_over(f"images of the {part} part, which has no masks", *folders)
    if not parts:
        return None
    given = {part: list(pairs[0]) for part, pairs in parts.items()}
    folders = [path for paths in given.values() for path in paths]
    return MaskLayout("folders of images and of masks, named by their parts", parts, folders, None, given)


def _above(source: Source, root: Path) -> MaskLayout | None:
    """Return the parts of folders that each hold images and masks: `train/images` and `train/masks`."""
    settings = {part: [path for path in paths if path.is_dir()] for part, paths in source.part_paths().items()}
    folders = source.part_folders(root)
    if any(settings.values()):
        folders = {part: paths for part, paths in settings.items() if paths}
    parts: dict[str, list[FolderPair]] = {}
    for part, paths in folders.items():
        beside = [FolderPair(path, path) for path in paths if has_masks_beside(path)]
        parts[part] = (
            _given_pair(paths) or [pair for path in paths if (pair := _pair_below(source, path, part))] or beside
        )
    if not any(parts.values()):
        return None
    first = next(path for part, paths in folders.items() for path in paths if parts[part])
    for part, paths in folders.items():
        if not parts[part] and part == "test":
            source.pass_over("images of the test part, which has no masks", *paths)
        elif not parts[part]:
            raise DataError(f"{paths[0]} needs a folder of images and one of masks, as {first} has")
    parts = {part: pairs for part, pairs in parts.items() if pairs}
    first_pair = next(iter(parts.values()))[0]
    is_beside = first_pair.images == first_pair.masks
    name = "images with masks beside them" if is_beside else "a folder of images and a folder of masks"
    shown = list(dict.fromkeys(first_pair))
    return MaskLayout(name, parts, shown, None, {part: folders[part] for part in parts})


def _given_pair(paths: list[Path]) -> list[FolderPair]:
    """Return a part that the settings give as a folder of images and a folder of masks; none for other folders."""
    if len(paths) < 2 or len(paths) % 2:
        return []
    pairs = [FolderPair(*paths[start : start + 2]) for start in range(0, len(paths), 2)]
    kinds = [tuple(role.kind if (role := role_of(path.name)) else None for path in pair) for pair in pairs]
    return pairs if all(kind[1] == "masks" and kind[0] != "masks" for kind in kinds) else []
