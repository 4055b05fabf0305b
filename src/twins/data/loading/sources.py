"""Sources of images for prediction: files, folders, patterns, lists, videos, cameras, addresses, standard input."""

from __future__ import annotations

import glob
import os
import re
import signal
import threading
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from io import BytesIO
from itertools import chain, count
from pathlib import Path
from types import FrameType
from typing import BinaryIO, Literal, NamedTuple
from urllib.parse import unquote, urlsplit

from PIL.Image import Image

from twins.bands import AnyImage, Bands
from twins.data.channels import open_channels
from twins.data.images import decode, image_endings, iter_images
from twins.data.loading.video import (
    ENDINGS,
    TIMEOUT,
    Frame,
    is_video_file,
    newest,
    read_camera,
    read_frames,
    read_stream,
    without_login,
)
from twins.errors import DataError, InputError, MissingExtraError, NotFoundError
from twins.files import path_of

STDIN = "-"
"""The word for standard input, and its name in results."""
MAX_BYTES = 256 * 2**20
"""Maximum size of an image from a server or from standard input."""
_STREAMS = ("rtsp", "rtsps", "rtmp", "rtmps", "rtp", "srt", "tcp", "udp")
"""Protocols of live streams."""
_PLAYLISTS = (".m3u8", ".mpd")
"""Endings of the addresses of videos in segments."""
_HEAD = 4096
"""Bytes of standard input that decide whether it is an image or a list."""
Kind = Literal["stdin", "folder", "list", "file", "video", "web", "stream", "camera", "pattern"]


class Source(NamedTuple):
    """An image or a video frame to predict."""

    name: str
    """Path of the image or video, its address without a login, `camera:N`, or `-` for standard input."""
    position: int
    """Position among all images and frames, from 0; unreadable images count."""
    image: AnyImage
    """With the network's number of channels, or a frame, RGB."""
    frame: int | None = None
    """Number of the frame in its video, from 0; `None` for an image."""
    seconds: float | None = None
    """Time of the frame in its video; `None` for an image."""
    first: bool = True
    """Whether this is an image, or the first frame of a video that is used."""
    live: bool = False
    """Whether this is a frame of a camera or a live stream, which may have no end."""

    @property
    def stem(self) -> str:
        """Name for files about this source, without ending."""
        return stem_of(self.name)

    def picture(self) -> Image:
        """Return the image to draw on."""
        return self.image.to_rgb() if isinstance(self.image, Bands) else self.image

    def origin(self) -> dict[str, str | int | float | None]:
        """Return the keys of the origin of an image: `image`, and for a frame `frame` and `seconds`."""
        moment = {} if self.seconds is None else {"frame": self.frame, "seconds": round(self.seconds, 3)}
        return {"image": self.name} | moment


@dataclass(frozen=True)
class Item:
    """An image, a video or a stream that is not opened yet."""

    name: str
    """See `Source.name`; an address with its login."""
    kind: Kind = "file"
    """`file`, `video`, `web`, `stream` or `camera`; `stdin` for the image in `content`; `list` for an empty one."""
    content: bytes = b""
    """The image, if it comes from standard input."""


def kind_of(word: str) -> Kind:
    """Return what a word of the command line, or a line of a list, stands for; an existing file is always a file."""
    path = Path(word)
    if word == STDIN:
        return "stdin"
    if os.path.isdir(word):
        return "folder"
    if os.path.exists(word):
        return "list" if path.suffix.lower() == ".txt" else "video" if is_video_file(path) else "file"
    protocol = _protocol(word)
    if protocol in ("http", "https"):
        return "web"
    if protocol in _STREAMS:
        return "stream"
    if re.fullmatch(r"\d{1,3}|camera:.+", word):
        return "camera"
    if word.startswith("@"):
        return "list"
    if glob.has_magic(word):
        return "pattern"
    return "video" if is_video_file(path) else "file"


def _protocol(word: str) -> str:
    """Return the protocol of an address in lower case; empty if the word is none, such as `http://[x/y.png`."""
    try:
        return urlsplit(word).scheme if "://" in word else ""
    except ValueError:
        return ""


def check_words(words: Iterable[str]) -> None:
    """Check sources before anything is computed, without reading them.

    Raises:
        NotFoundError: a path is empty or too long, a list does not exist, or a folder or pattern leads to no image.
    """
    for word in words:
        kind = kind_of(word)
        if kind in ("web", "stream", "camera", "stdin"):
            continue
        path_of(word, "image")
        if kind == "list" and not os.path.isfile(_list_path(word)):
            raise NotFoundError(f"there is no list {_list_path(word)}; check the path, or leave out the @")
        if kind in ("folder", "pattern") and next(_paths(word, kind), None) is None:
            raise NotFoundError(f"{word} leads to no image; check the path")


def has_videos(words: Iterable[str], *, certainly: bool = False) -> bool:
    """Return whether sources hold videos or streams: possibly, or certainly."""
    kinds = ((word, kind_of(word)) for word in words)
    if certainly:
        return any(kind in ("video", "stream", "camera") for _, kind in kinds)
    return any(_may_be_video(word, kind) for word, kind in kinds)


def _may_be_video(word: str, kind: Kind) -> bool:
    if kind == "list":
        lines = ((line, kind_of(line)) for line in _list(word))
        return any(_may_be_video(line, kind) for line, kind in lines if kind != "list")
    if kind in ("web", "pattern"):
        return Path(urlsplit(word).path if kind == "web" else word).suffix.lower() not in image_endings()
    return kind not in ("folder", "file")


def find_items(words: Iterable[str], stdin: BinaryIO) -> Iterator[Item]:
    """Yield what the sources stand for, one by one, so that a large folder need not be read first.

    Folders are read with their subfolders in the order of their files' names; videos in them are left out. A list holds
    a source in each line, relative to the current folder or, if it is not there, to the list's folder.

    Args:
        words: see `kind_of`.
        stdin: standard input: one image, or lines of a list.
    """
    for word in words:
        kind = kind_of(word)
        if kind == "stdin":
            yield from _from_stdin(stdin)
        elif kind == "list":
            item = None
            for item in chain.from_iterable(map(_of_line, _list(word))):
                yield item
            if item is None:
                yield Item(word, "list")  # opening it raises an error, which is reported with those of other files
        else:
            yield from _of_word(word, kind)


def _of_word(word: str, kind: Kind) -> Iterator[Item]:
    if kind not in ("folder", "pattern"):
        yield Item(word, kind)
        return
    path = None
    for path in _paths(word, kind):
        yield Item(str(path), "video" if is_video_file(path) else "file")
    if path is None:
        yield Item(word)  # opening it raises an error, which is reported with those of other files


def _paths(word: str, kind: Kind) -> Iterator[Path]:
    if kind == "folder":
        return iter_images(Path(word))
    return (Path(name) for name in sorted(glob.iglob(word, recursive=True)) if os.path.isfile(name))


def _list_path(word: str) -> Path:
    return Path(word[1:] if word.startswith("@") and not os.path.exists(word) else word)


def _list(word: str) -> Iterator[str]:
    """Yield the lines of a list that a word names; those that are not in the current folder from the list's folder."""
    path = _list_path(word)
    with path.open("rb") as file:
        for line in _lines(file):
            beside = str(path.parent / line)
            is_path = kind_of(line) in ("file", "video", "pattern") and not os.path.exists(line)
            is_beside = any(glob.iglob(beside)) if glob.has_magic(line) else os.path.exists(beside)
            yield beside if is_path and is_beside else line


def _lines(lines: Iterable[bytes]) -> Iterator[str]:
    """Yield the lines of a list that are not empty."""
    for number, line in enumerate(lines):
        text = os.fsdecode(line.removeprefix(b"\xef\xbb\xbf") if number == 0 else line).strip("\r\n")
        if text.strip():
            yield text


def _of_line(line: str) -> Iterator[Item]:
    kind = kind_of(line)
    return _of_word(line, "file" if kind in ("stdin", "list") else kind)  # a list in a list is refused as no image


def _from_stdin(stdin: BinaryIO) -> Iterator[Item]:
    """Yield one image, or the items of a list, whose lines are read as they come."""
    line = stdin.readline(_HEAD)
    if line and _is_text(line):
        yield from chain.from_iterable(map(_of_line, _lines(chain([line], stdin))))
    else:
        yield Item(STDIN, "stdin", line + stdin.read(MAX_BYTES))


def _is_text(line: bytes) -> bool:
    """Return whether the first line of some bytes is a path rather than the beginning of an image."""
    if b"\0" in line or re.match(rb"P[1-7]\s", line):  # the second are netpbm's formats, which begin with text
        return False
    try:
        return line.decode("utf-8-sig").strip("\r\n").isprintable()
    except UnicodeDecodeError:
        return False


def open_items(
    items: Iterable[Item], channels: int, *, every: int = 1, failed: Callable[[str], None]
) -> Iterator[Source]:
    """Yield images, and the frames of videos and streams, one after another.

    A live stream ends with Ctrl-C: the next source follows.

    Args:
        items: what to open.
        channels: number of channels of the network.
        every: yields the frames 0, `every`, 2 `every`, ... of videos and streams.
        failed: called with a sentence about each item that cannot be read; the others are yielded all the same.
    """
    positions = count()
    for item in items:
        try:
            yield from _open(item, positions, channels, every)
        except (DataError, NotFoundError, MissingExtraError) as error:
            failed(str(error))


def _open(item: Item, positions: Iterator[int], channels: int, every: int) -> Iterator[Source]:
    if item.kind == "web":
        yield from _open_address(item.name, positions, channels, every)
    elif item.kind == "camera":
        camera = item.name.removeprefix("camera:")
        yield from _live(f"camera:{camera}", read_camera(camera, every=every), positions)
    elif item.kind == "stream":
        yield from _live(without_login(item.name), read_stream(item.name, every=every), positions)
    elif item.kind == "video":
        yield from _frames(item.name, read_frames(item.name, every=every), positions)
    elif item.kind == "list":
        raise DataError(f"the list {item.name} names no image; it is empty")
    elif item.kind == "stdin":
        yield Source(item.name, next(positions), _from_bytes("standard input", item.content, channels))
    else:
        yield Source(item.name, next(positions), open_channels(item.name, channels))


def _frames(name: str, frames: Iterator[Frame], positions: Iterator[int]) -> Iterator[Source]:
    for number, frame in enumerate(frames):
        yield Source(name, next(positions), frame.image, frame.number, frame.seconds, number == 0)


def _live(name: str, frames: Iterator[Frame], positions: Iterator[int]) -> Iterator[Source]:
    with _interrupted() as interrupted:
        for source in _frames(name, newest(frames, interrupted.is_set), positions):
            yield source._replace(live=True)


@contextmanager
def _interrupted() -> Iterator[threading.Event]:
    """Yield an event that SIGINT (Ctrl-C) and SIGTERM set; a second one has the effect that it had before."""
    event, signals = threading.Event(), (signal.SIGINT, signal.SIGTERM)
    if threading.current_thread() is not threading.main_thread():  # where Python allows no handlers
        yield event
        return

    def handle(number: int, _: FrameType | None) -> None:
        event.set()
        signal.signal(number, handlers[signal.Signals(number)])

    handlers = {number: signal.getsignal(number) or signal.SIG_DFL for number in signals}
    for number in signals:
        signal.signal(number, handle)
    try:
        yield event
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _open_address(address: str, positions: Iterator[int], channels: int, every: int) -> Iterator[Source]:
    """Open what a server sends: an image, a video, or the endless sequence of images of a network camera."""
    name = without_login(address)
    try:
        kind, content = _fetch(address)
    except DataError:
        next(positions)  # of the image that it would be
        raise
    if content is not None:
        yield Source(name, next(positions), _from_bytes(name, content, channels))
    elif kind.startswith("multipart/"):
        yield from _live(name, read_stream(address, every=every), positions)
    else:
        yield from _frames(name, read_stream(address, every=every), positions)


def _fetch(address: str) -> tuple[str, bytes | None]:
    """Return the type of what a server sends, and its bytes if it is no video; at most a byte above `MAX_BYTES`.

    Raises:
        DataError: the server cannot be reached, or refuses.
    """
    from twins import __version__

    name, login = without_login(address), urlsplit(address).netloc.rpartition("@")[0]
    headers = {"User-Agent": f"twins/{__version__}"}
    if login:
        headers["Authorization"] = f"Basic {b64encode(unquote(login).encode()).decode()}"
    try:
        request = urllib.request.Request(name, headers=headers)
        with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
            kind: str = answer.headers.get_content_type()
            is_video = kind.startswith(("video/", "multipart/")) or "mpegurl" in kind
            if is_video or Path(urlsplit(address).path).suffix.lower() in (*ENDINGS, *_PLAYLISTS):
                return kind, None
            return kind, answer.read(MAX_BYTES + 1)
    except urllib.error.HTTPError as error:
        status = f"{error.code} {error.reason}".partition("\n")[0]
        raise DataError(f"{name} could not be fetched ({status}); check the address") from error
    except (OSError, HTTPException, ValueError, OverflowError) as error:  # the last for ports above 65535
        reason = getattr(error, "reason", None) or error
        raise DataError(f"{name} could not be fetched ({reason}); check the address") from error


def _from_bytes(name: str, content: bytes, channels: int) -> AnyImage:
    if not content:
        raise DataError(f"{name} is empty (0 bytes), where an image was expected")
    if len(content) > MAX_BYTES:
        raise DataError(f"{name} has more than {MAX_BYTES // 2**20} MiB; save it in a file first")
    try:
        return open_channels(decode(name, BytesIO(content)), channels)
    except InputError as error:
        raise DataError(f"{name}: {error}") from error


def stem_of(name: str) -> str:
    """Return the file name of a source without its ending: of an address its last part, and `stdin` for `-`."""
    if name == STDIN:
        return "stdin"
    if "://" in name:
        parts = urlsplit(name)
        name = unquote(Path(parts.path).stem) or parts.netloc
    elif not name.startswith("camera:"):
        return Path(name).stem
    return re.sub(r"[^\w.-]+", "-", name)
