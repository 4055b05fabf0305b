"""Video files as streams of upright RGB frames, read and written through PyAV; memory does not grow with the length."""

from __future__ import annotations

from collections.abc import Iterator
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
"""File name endings, lower case, that are taken for videos."""
TICKS = 1000
"""Units of time in a second of a written video."""
CODECS = ("libx264", "mpeg4")
"""What videos are written with: the first that is there."""
WHOLE = 0.9
"""Share of the frames that a file promises below which it is taken for cut short."""
_BT601 = 5
"""FFmpeg's number of the colour space that its conversion from RGB gives; the file says it, or players guess."""


class Frame(NamedTuple):
    """A picture of a video."""

    number: int
    """Its place among all frames of the video, from 0."""
    seconds: float
    """When it is shown."""
    image: Image.Image
    """RGB, upright."""


def is_video_file(path: Path) -> bool:
    """Whether a path looks like a video by its name; hidden files do not."""
    return path.suffix.lower() in ENDINGS and not path.name.startswith(".")


def require_av() -> ModuleType:
    """Return PyAV.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        import av
    except ImportError as error:
        raise MissingExtraError("videos need PyAV; pip install 'twins-vision[video]'") from error
    return av


def read_frames(path: str | Path, *, every: int = 1) -> Iterator[Frame]:
    """Yield the frames of a video one by one, turned as its file says (as phones do).

    Args:
        path: a file that FFmpeg reads.
        every: yields each frame whose number divides by this.

    Raises:
        NotFoundError: there is no such file.
        DataError: the file is no video or damaged; frames before the damage have been given.
        ConfigError: `every` is below 1.
        MissingExtraError: PyAV is not installed.
    """
    path, av = Path(path), require_av()
    if every < 1:
        raise ConfigError(f"every must be at least 1, found {every}")
    if not path.is_file():
        raise NotFoundError(f"there is no video {path}; check the path")
    number, seconds = -1, 0.0
    try:
        with av.open(str(path)) as container:
            stream = _stream(container, path)
            for number, frame in enumerate(container.decode(stream)):
                seconds = _seconds(frame, stream, number)
                if number % every == 0:
                    yield Frame(number, seconds, _upright(frame))
            promised = stream.frames  # 0 where the format does not say
    except (av.error.FFmpegError, OSError) as error:
        what = f"is damaged after {seconds:.1f} seconds" if number >= 0 else "is no video or damaged"
        raise DataError(f"{path} {what} ({_reason(error)}); copy it again or convert it") from error
    if number < 0:
        raise DataError(f"{path} holds no frame; copy it again or remove it")
    if number + 1 < WHOLE * promised:
        raise DataError(f"{path} ends after {number + 1} of {promised} frames; copy it again")


def _stream(container: InputContainer, path: Path) -> VideoStream:
    if not container.streams.video:
        raise DataError(f"{path} holds sound but no picture; name a video")
    stream = container.streams.video[0]
    stream.thread_type = "AUTO"
    return stream


def _seconds(frame: VideoFrame, stream: VideoStream, number: int) -> float:
    """Return when a frame is shown; formats without time stamps have a rate."""
    if frame.pts is not None:
        return float(frame.time)
    return float(number / (stream.average_rate or 25))


def _upright(frame: VideoFrame) -> Image.Image:
    image = Image.fromarray(np.asarray(frame.to_ndarray(format="rgb24")))
    return image.rotate(frame.rotation, expand=True) if frame.rotation else image


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


class VideoWriter:
    """Writes pictures as an MP4 that browsers play, H.264 where FFmpeg has it; a context manager.

    The first picture decides the size, others are resized to it; odd sizes get a row or column more, as the format
    has even ones alone. Pictures may come at uneven times.

    Args:
        path: of the file, whatever its ending.

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

    def add(self, picture: Image.Image, seconds: float) -> None:
        """Append an RGB picture.

        Args:
            picture: of any size from the second on, see the class.
            seconds: when it is shown, later than the picture before; the first one begins the video.
        """
        if self._stream is None:
            self._begin(picture.size, seconds)
        frame = self._av.VideoFrame.from_image(_even(picture.convert("RGB"), self._size))
        self._last = max(self._last + 1, round((seconds - self._start) * TICKS))
        frame.pts, frame.time_base = self._last, Fraction(1, TICKS)
        self._container.mux(self._stream.encode(frame))

    def close(self) -> None:
        """Write what is left and end the file."""
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


def _even(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Return a picture at a size: one that lacks a row or a column has its last one twice, others are resized."""
    missing = (size[0] - picture.width, size[1] - picture.height)
    if missing == (0, 0):
        return picture
    if not all(0 <= side <= 1 for side in missing):
        return picture.resize(size)
    return Image.fromarray(np.pad(np.asarray(picture), ((0, missing[1]), (0, missing[0]), (0, 0)), mode="edge"))
