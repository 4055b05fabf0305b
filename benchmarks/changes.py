"""Changes of a data set's files: each function changes something in a folder at random, and says what."""

from __future__ import annotations

import json
import os
import random
import shutil
import unicodedata
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from PIL import Image

Change = Callable[[random.Random, Path], str]
NAMES = (
    "Ünïcode", unicodedata.normalize("NFD", "Ünïcode"), "with space ", "UPPER", ".hidden", "x" * 240, "a\\b", "名前",
    "#1", "train", "val", "images", "annotations", "classes", "data", "..name", "a.b.c", "-f", "%20",
    "__MACOSX", "\udcff",
)  # fmt: skip
ENDINGS = (".png", ".JPG", ".jpeg", ".tif", ".txt", ".json", ".xml", ".yaml", ".zip", ".PNG", "", ".bak", ".names")
VALUES = (
    None, True, False, 0, -1, 1, 1.5, 1e308, 10**30,
    10**400, float("nan"), float("inf"), "", "1", "1.0", "nan", "cat", "名", [],
    {}, [1], [[]], {"a": 1}, [None], "a/b.png", "..\\c.png", "\0", "x" * 300, "[1, 2, 3, 4]",
)  # fmt: skip
WORDS = (
    "nan",
    "inf",
    "-1",
    "1e400",
    "",
    "cat",
    "1,5",
    "0",
    "99",
    "名",
    "\t",
    "[",
    "{",
    "<",
    "&",
    ":",
    "-",
    "'",
    "9" * 400,
)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_dir() and not path.is_symlink())


def _texts(folder: Path) -> list[Path]:
    return [path for path in _files(folder) if path.suffix.lower() in (".json", ".xml", ".txt", ".yaml", ".csv")]


def _pick(draw: random.Random, paths: Sequence[Path], folder: Path) -> Path:
    """Return one of some paths; a new file where there is none."""
    if paths:
        return draw.choice(paths)
    path = folder / "new.txt"
    path.write_text("new\n")
    return path


def _move(path: Path, target: Path) -> None:
    with suppress(OSError):  # such as a name that is too long
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            path.rename(target)


def rename(draw: random.Random, folder: Path) -> str:
    """Give a file or folder another name."""
    path = _pick(draw, [*_files(folder), *_folders(folder)], folder)
    stem, ending = draw.choice(NAMES), path.suffix
    name = draw.choice((stem + ending, path.stem.upper() + ending, path.stem + draw.choice(ENDINGS), f"{path.name} "))
    _move(path, path.with_name(name))
    return f"{path.name} renamed to {name!r}"


def move(draw: random.Random, folder: Path) -> str:
    """Move a file or folder into another folder."""
    path = _pick(draw, [*_files(folder), *_folders(folder)], folder)
    target = draw.choice([folder, *_folders(folder)])
    if path not in (target, *target.parents):
        _move(path, target / path.name)
    return f"{path.name} moved into {target.name}"


def double(draw: random.Random, folder: Path) -> str:
    """Copy a file or folder under another name."""
    path = _pick(draw, [*_files(folder), *_folders(folder)], folder)
    name = draw.choice((f"{path.stem} copy{path.suffix}", path.stem + draw.choice(ENDINGS), f"{path.stem}_2", "test"))
    target = path.with_name(name)
    with suppress(OSError):
        if not target.exists():
            (shutil.copytree if path.is_dir() else shutil.copy)(path, target)
    return f"{path.name} copied to {name}"


def remove(draw: random.Random, folder: Path) -> str:
    """Remove a file or folder."""
    path = _pick(draw, [*_files(folder), *_folders(folder)], folder)
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    return f"{path.name} removed"


def to_folder(draw: random.Random, folder: Path) -> str:
    """Replace a file by a folder of its name, or a folder by a file."""
    path = _pick(draw, [*_files(folder), *_folders(folder)], folder)
    if path.is_dir():
        shutil.rmtree(path)
        path.write_text("")
    else:
        path.unlink()
        path.mkdir()
    return f"{path.name} replaced by a folder or file"


def link(draw: random.Random, folder: Path) -> str:
    """Add a link: to a file or folder, to a folder around it, to itself, or to nothing."""
    parent = draw.choice([folder, *_folders(folder)])
    place = parent / draw.choice(("link", "link.png", "test", "link.json", "val2", "classes.txt"))
    target = draw.choice([*_files(folder), *_folders(folder), folder, parent, folder / "nothing", place])
    if not os.path.lexists(place):
        place.symlink_to(target)
    return f"{place.name} links to {target.name}"


def damage(draw: random.Random, folder: Path) -> str:
    """Empty, truncate or overwrite a file."""
    path = _pick(draw, _files(folder), folder)
    data = path.read_bytes()
    place = draw.randrange(len(data) + 1)
    noise = draw.randbytes(8)
    how = draw.choice(("emptied", "truncated", "overwritten", "filled with noise", "with bytes in it"))
    results = {
        "emptied": b"",
        "truncated": data[:place],
        "overwritten": data[:place] + noise + data[place + 8 :],
        "filled with noise": draw.randbytes(200),
        "with bytes in it": data[:place] + noise + data[place:],
    }
    path.write_bytes(results[how])
    return f"{path.name} {how}"


def encode(draw: random.Random, folder: Path) -> str:
    """Write a text in another encoding, with other line ends or separators."""
    path = _pick(draw, _texts(folder), folder)
    text = path.read_bytes().decode("utf-8", errors="replace")
    how = draw.choice(("utf-16", "utf-8-sig", "latin-1", "cp1252", "utf-16-le", "CRLF", "CR", "\\", "tabs", "NUL"))
    changed = {"CRLF": ("\n", "\r\n"), "CR": ("\n", "\r"), "\\": ("/", "\\"), "tabs": (" ", "\t"), "NUL": (" ", "\0")}
    if how in changed:
        path.write_bytes(text.replace(*changed[how]).encode())
    else:
        path.write_bytes(f"{text}".replace("cat", "cät").encode(how, errors="replace"))
    return f"{path.name} in {how}"


def change_lines(draw: random.Random, folder: Path) -> str:
    """Remove, double or swap lines of a text, or change a word."""
    path = _pick(draw, _texts(folder), folder)
    lines = path.read_bytes().decode("utf-8", errors="replace").split("\n")
    i, j = draw.randrange(len(lines)), draw.randrange(len(lines))
    how = draw.choice(("removed", "doubled", "swapped", "changed", "changed"))
    if how == "removed":
        del lines[i]
    elif how == "doubled":
        lines.insert(j, lines[i])
    elif how == "swapped":
        lines[i], lines[j] = lines[j], lines[i]
    else:
        words = lines[i].replace("<", " <").replace(">", "> ").split(" ")
        words[draw.randrange(len(words))] = draw.choice(WORDS)
        lines[i] = " ".join(words)
    path.write_bytes("\n".join(lines).encode())
    return f"line {i + 1} of {path.name} {how}"


def change_value(draw: random.Random, folder: Path) -> str:
    """Change a value of a JSON file; of another text, a line."""
    path = _pick(draw, _texts(folder), folder)
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return change_lines(draw, folder)
    slots = _slots(content)
    if not slots:
        return change_lines(draw, folder)
    container, key = draw.choice(slots)
    how = draw.choice(("removed", "doubled", "as text", "as list", "as float", "other", "other", "other", "swapped"))
    _change_slot(draw, container, key, how, slots)
    path.write_text(json.dumps(content))
    return f"{key} in {path.name} {how}"


def _slots(content: Any) -> list[tuple[Any, Any]]:
    """Return each place of a value: the list or dictionary that holds it, and its key."""
    keys = (
        list(content) if isinstance(content, dict) else list(range(len(content))) if isinstance(content, list) else []
    )
    return [slot for key in keys for slot in ((content, key), *_slots(content[key]))]


def _change_slot(draw: random.Random, container: Any, key: Any, how: str, slots: Sequence[tuple[Any, Any]]) -> None:
    value = container[key]
    if how == "removed":
        del container[key]
    elif how == "doubled" and isinstance(container, list):
        container.insert(draw.randrange(len(container)), value)
    elif how == "as float" and isinstance(value, int):
        container[key] = float(value)
    elif how == "swapped":
        other, place = draw.choice(slots)
        if not isinstance(value, list | dict) and not isinstance(other[place], list | dict):
            container[key], other[place] = other[place], value
    else:
        container[key] = {"as text": str(value), "as list": [value]}.get(how, draw.choice(VALUES))


def change_image(draw: random.Random, folder: Path) -> str:
    """Write an image in another size, mode or format."""
    images = [path for path in _files(folder) if path.suffix.lower() in (".png", ".jpg")]
    path = _pick(draw, images, folder)
    mode = draw.choice(("L", "RGBA", "P", "1", "I;16", "F", "CMYK", "LA"))
    size = draw.choice(((12, 9), (9, 12), (1, 1), (13, 9), (300, 2)))
    ending = draw.choice(("PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP"))
    with suppress(OSError, ValueError, KeyError):
        image = Image.new("RGB", size, (draw.randrange(256), 1, 2)).convert("L" if mode == "I;16" else mode)
        image = image.convert("I").convert("I;16") if mode == "I;16" else image
        image.save(path, ending)
    return f"{path.name} as {ending} of {mode}, {size[0]} x {size[1]}"


def add(draw: random.Random, folder: Path) -> str:
    """Add a file that other programs leave, or a second annotation file."""
    parent = draw.choice([folder, *_folders(folder)])
    name = draw.choice((
        "Thumbs.db", ".DS_Store", "README.md", "notes.txt", "data.yaml", "classes.txt", "labels.csv", "val.txt",
        "x.npy", "extra.xml", "instances_test.json", "_annotations.coco.json", "images.zip", "photo.heic", "extra.png",
        "test/x.png", "twins.yaml", "train.txt", "a.json",
    ))  # fmt: skip
    content = draw.choice(
        (b"", b"{}", b"[]", b"a b c\n", b"0\n1\n", b"<a/>", b"names: [x]\n", b"layout: {train: .}\n", b"[" * 1100)
    )
    with suppress(OSError):
        if not (parent / name).exists():
            (parent / name).parent.mkdir(exist_ok=True)
            (parent / name).write_bytes(content)
    return f"{name} added to {parent.name}"


CHANGES: tuple[Change, ...] = (
    rename, move, double, remove, to_folder, link, damage, encode, change_lines, change_value, change_value,
    change_value, change_image, add,
)  # fmt: skip
