"""Videos, streams and cameras as upright RGB frames, and writing of videos, by PyAV, one frame in memory."""

from __future__ import annotations

import re
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from types import ModuleType, TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from PIL import Image

from twins.errors import ConfigError, DataError, MissingExtraError, NotFoundError

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

ENDINGS = frozenset(
    (".3gp", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".ogv", ".webm", ".wmv")
)
"""File name endings of videos, in lower case."""
TICKS = 1000
"""Time units per second of a written video."""
CODECS = ("libx264", "mpeg4")
"""Codecs for writing videos; the first available one is used."""
MIN_SHARE = 0.9
"""A file with less than this share of the frames that its header declares is reported as cut short."""
TIMEOUT = 15.0
"""Seconds to wait for a server's answer or its next data."""
_BT601 = 5
"""FFmpeg's number of the colour space of its conversion from RGB; without it in the file, players would guess."""


class Frame(NamedTuple):
    """A frame of a video."""

    number: int
    """Index among all frames of the video, from 0."""
    seconds: float
    """Time at which it is shown."""
    image: Image.Image
    """Upright RGB."""


def is_video_file(path: Path) -> bool:
    """Return whether a path has the name of a video; hidden files do not count."""
    return path.suffix.lower() in ENDINGS and not path.name.startswith(".")


def require_av() -> ModuleType:
    """Import and return PyAV.

    Raises:
        MissingExtraError: PyAV is not installed.
    """
    try:
        import av
    except ImportError as error:
        raise MissingExtraError("videos need PyAV; pip install 'twins-vision[video]'") from error
    return av


def read_frames(path: str | Path, *, every: int = 1) -> Iterator[Frame]:
    """Yield the frames of a video one by one, rotated upright as its file says (phones store a rotation).

    Args:
        path: a file that FFmpeg reads.
        every: yields the frames 0, `every`, 2 `every`, ...

    Raises:
        NotFoundError: there is no such file.
        DataError: the file is no video or is damaged; frames before the damage are yielded first.
        ConfigError: `every` is below 1.
        MissingExtraError: PyAV is not installed.
    """
    path = Path(path)
    require_av()
    if not path.is_file():
        raise NotFoundError(f"there is no video {path}; check the path")
    return _decode(_Input(str(path), str(path), "copy it again or convert it"), every)


def read_stream(address: str, *, every: int = 1) -> Iterator[Frame]:
    """Yield the frames of a stream, or of a video on a server, like `read_frames`.

    Args:
        address: an address that FFmpeg reads, such as `rtsp://...` or `http://...`.
        every: yields the frames 0, `every`, 2 `every`, ...

    Raises:
        DataError: the address cannot be opened, holds no video, or stops answering.
        MissingExtraError: PyAV is not installed.
    """
    options = {"rtsp_transport": "tcp"} if address.startswith("rtsp") else {}
    advice = "check the address and the connection"
    return _decode(_Input(without_login(address), address, advice, None, options, timeout=TIMEOUT), every)


def without_login(address: str) -> str:
    """Return an address as it may be shown and written to files: without user name and password."""
    return re.sub(r"(?<=://)[^/@]*@", "", address)


def read_camera(name: str, *, every: int = 1) -> Iterator[Frame]:
    """Yield the frames of a camera of this machine, like `read_frames`.

    Args:
        name: its number, from 0, or its name (Windows always needs the name).
        every: yields the frames 0, `every`, 2 `every`, ...

    Raises:
        DataError: the camera cannot be opened.
        MissingExtraError: PyAV is not installed.
    """
    return _decode(_camera_input(name), every)


class _Input(NamedTuple):
    """What PyAV opens."""

    name: str
    """Path or address in messages."""
    file: str
    """Path, address or device."""
    advice: str
    """What to do if it cannot be read."""
    format: str | None = None
    """Format of FFmpeg; `None`: found in the data."""
    options: dict[str, str] = {}  # noqa: RUF012 - a named tuple is immutable, and nobody writes to the options
    """Options of FFmpeg."""
    timeout: float | None = None
    """Seconds to wait for data."""


def _camera_input(name: str) -> _Input:
    """Return the camera as FFmpeg's capture device of this system."""
    advice = "check that it is connected and that no other program uses it"
    if sys.platform == "darwin":
        return _Input(f"camera {name}", f"{name}:none", advice, "avfoundation", {"framerate": "30"})
    if sys.platform == "win32":
        return _Input(f"camera {name}", f"video={name}", advice, "dshow")
    return _Input(f"camera {name}", f"/dev/video{name}" if name.isdigit() else name, advice, "v4l2")


def _decode(source: _Input, every: int) -> Iterator[Frame]:
    """Yield each `every`-th frame of a file, stream or camera."""
    av = require_av()
    if every < 1:
        raise ConfigError(f"every must be at least 1, found {every}")
    number, seconds = -1, 0.0
    try:
        with av.open(source.file, format=source.format, options=source.options, timeout=source.timeout) as container:
            stream = _stream(container, source.name)
            for number, frame in enumerate(container.decode(stream)):
                seconds = _seconds(frame, stream, number)
                if number % every == 0:
                    yield Frame(number, seconds, _upright(frame))
            declared = stream.frames  # 0 if the format does not say
    except (av.error.FFmpegError, OSError) as error:
        problem = f"is damaged after {seconds:.1f} seconds" if number >= 0 else "is no video or damaged"
        if source.timeout or source.format:
            problem = f"stopped after {number + 1} frames" if number >= 0 else "cannot be opened"
        raise DataError(f"{source.name} {problem} ({_reason(error)}); {source.advice}") from error
    if number < 0:
        raise DataError(f"{source.name} holds no frame; {source.advice}")
    if number + 1 < MIN_SHARE * declared:
        raise DataError(f"{source.name} ends after {number + 1} of {declared} frames; copy it again")


def newest(frames: Iterator[Frame], stopped: Callable[[], bool]) -> Iterator[Frame]:
    """Yield the newest frame whenever one is asked for; those in between are dropped, so a slow reader never lags.

    A thread reads `frames`, which come at their own pace, as those of a camera do. If `stopped` returns true, this
    ends, also while it waits for a frame. The time of a frame is when it came, since streams often state none.
    """
    slot, ended, errors = deque[Frame](maxlen=1), threading.Event(), list[Exception]()

    def read() -> None:
        """Keep the newest frame, until the stream or its reader ends."""
        start = 0.0
        try:
            for frame in frames:
                start = start or time.monotonic()
                slot.append(frame._replace(seconds=time.monotonic() - start))
                if ended.is_set():
                    return
        except Exception as error:  # raised in the thread that waits for frames
            errors.append(error)
        finally:
            ended.set()

    threading.Thread(target=read, daemon=True).start()
    try:
        while not stopped():
            over = ended.is_set()  # before the slot is looked at, so that the last frame is not lost
            if slot:
                yield slot.popleft()
            elif over:
                if errors:
                    raise errors[0]
                return
            else:
                time.sleep(0.002)
    finally:
        ended.set()


def _stream(container: InputContainer, name: str) -> VideoStream:
    if not container.streams.video:
        raise DataError(f"{name} holds sound but no picture; name a video")
    stream = container.streams.video[0]
    stream.thread_type = "AUTO"
    return stream


def _seconds(frame: VideoFrame, stream: VideoStream, number: int) -> float:
    """Return the time of a frame from its time stamp, or from the frame rate if the format has no time stamps."""
    if frame.pts is not None:
        return float(frame.time)
    return float(number / (stream.average_rate or 25))


def _upright(frame: VideoFrame) -> Image.Image:
    image = Image.fromarray(np.asarray(frame.to_ndarray(format="rgb24")))
    return image.rotate(frame.rotation, expand=True) if frame.rotation else image


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


class VideoWriter:
    """Writes images as an MP4 file that browsers play, with H.264 if FFmpeg has it; a context manager.

    The first image determines the size, and others are resized to it. Odd sizes get one more row or column, because the
    format has only even ones. The times of images may be uneven.

    Args:
        path: the file; its ending does not matter.

    Raises:
        MissingExtraError: PyAV is not installed.
    """

    def __init__(self, path: str | Path) -> None:
        self._av = require_av()
        self._container = self._av.open(str(path), "w", format="mp4", options={"movflags": "faststart"})
        self._stream: Any = None
        self._size = (0, 0)
        self._start, self._last = 0.0, -1

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def add(self, image: Image.Image, seconds: float) -> None:
        """Append an image.

        Args:
            image: RGB; from the second on of any size, see the class.
            seconds: time at which it is shown, later than the image before; the time of the first one becomes 0.
        """
        if self._stream is None:
            self._begin(image.size, seconds)
        frame = self._av.VideoFrame.from_image(_at_size(image.convert("RGB"), self._size))
        self._last = max(self._last + 1, round((seconds - self._start) * TICKS))
        frame.pts, frame.time_base = self._last, Fraction(1, TICKS)
        self._container.mux(self._stream.encode(frame))

    def close(self) -> None:
        """Write the remaining frames and close the file."""
        if self._stream is not None:
            self._container.mux(self._stream.encode())
        self._container.close()

    def _begin(self, size: tuple[int, int], seconds: float) -> None:
        codec = next(name for name in CODECS if name in self._av.codecs_available)
        options = {"crf": "20", "preset": "veryfast"} if codec == "libx264" else {"qscale": "3"}
        stream = self._container.add_stream(codec, rate=25, options=options)
        self._size = (size[0] + size[0] % 2, size[1] + size[1] % 2)
        stream.width, stream.height = self._size
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = Fraction(1, TICKS)
        stream.codec_context.colorspace = _BT601
        self._stream, self._start = stream, seconds


def _at_size(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Return an image at a size: a missing last row or column is repeated, any other image is resized."""
    missing = (size[0] - image.width, size[1] - image.height)
    if missing == (0, 0):
        return image
    if not all(0 <= side <= 1 for side in missing):
        return image.resize(size)
    return Image.fromarray(np.pad(np.asarray(image), ((0, missing[1]), (0, missing[0]), (0, 0)), mode="edge"))
