"""Videos as streams of frames: written and read back, rotated, with uneven times, damaged, and without PyAV."""

from __future__ import annotations

import struct
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from twins.data.loading.video import VideoWriter, is_video_file, read_frames
from twins.errors import ConfigError, DataError, MissingExtraError, NotFoundError

av = pytest.importorskip("av", reason="PyAV is not installed; pip install 'twins-vision[video]'")

RED, BLUE = (220, 30, 40), (30, 40, 220)
ROTATIONS = {90: (0, 1, -1, 0), 180: (-1, 0, 0, -1), 270: (0, -1, 1, 0)}
"""The upper left of a track's matrix by its clockwise rotation in players (ISO/IEC 14496-12, 8.3.2)."""


def numbered_frame(number: int, size=(64, 48)) -> Image.Image:
    """Return a red left half, a blue right half, and below them a grey that encodes the number."""
    pixels = np.zeros((size[1], size[0], 3), dtype=np.uint8)
    pixels[:, : size[0] // 2], pixels[:, size[0] // 2 :] = RED, BLUE
    pixels[-16:] = 20 * (number % 12)
    return Image.fromarray(pixels)


def write(path: Path, times, size=(64, 48)) -> Path:
    with VideoWriter(path) as video:
        for number, seconds in enumerate(times):
            video.add(numbered_frame(number, size), seconds)
    return path


def has_colour(image: Image.Image, position, colour) -> bool:
    return all(abs(value - expected) < 16 for value, expected in zip(image.getpixel(position), colour, strict=True))


def read_number(image: Image.Image) -> int:
    return round(image.getpixel((image.width // 4, image.height - 4))[0] / 20)


def test_a_written_video_is_read_back_in_order_at_its_times(tmp_path):
    times = [0.0, 0.1, 0.2, 0.45, 0.7]  # uneven, as phones record
    frames = list(read_frames(write(tmp_path / "clip.mp4", times)))
    assert [frame.number for frame in frames] == list(range(5))
    assert [frame.seconds for frame in frames] == pytest.approx(times, abs=2e-3)
    for number, frame in enumerate(frames):
        assert frame.image.mode == "RGB"
        assert frame.image.size == (64, 48)
        assert read_number(frame.image) == number
        assert has_colour(frame.image, (10, 10), RED)
        assert has_colour(frame.image, (54, 10), BLUE)


def test_every_nth_frame_keeps_its_number_and_time(tmp_path):
    path = write(tmp_path / "clip.mp4", [n / 10 for n in range(10)])
    frames = [(frame.number, round(frame.seconds, 2), read_number(frame.image)) for frame in read_frames(path, every=4)]
    assert frames == [(0, 0.0, 0), (4, 0.4, 4), (8, 0.8, 8)]
    with pytest.raises(ConfigError, match="at least 1"):
        next(read_frames(path, every=0))


def test_a_video_that_begins_late_is_written_from_its_first_image(tmp_path):
    path = write(tmp_path / "clip.mp4", [7.5, 7.6])
    assert [frame.seconds for frame in read_frames(path)] == pytest.approx([0.0, 0.1], abs=2e-3)


def test_an_odd_size_gets_a_row_and_a_column(tmp_path):
    (frame,) = read_frames(write(tmp_path / "odd.mp4", [0.0], size=(63, 47)))
    assert frame.image.size == (64, 48)
    assert has_colour(frame.image, (63, 10), BLUE)


def test_images_of_other_sizes_are_resized_to_the_first(tmp_path):
    with VideoWriter(tmp_path / "sizes.mp4") as video:
        video.add(numbered_frame(0), 0.0)
        video.add(numbered_frame(1, (128, 96)), 0.1)
    assert [frame.image.size for frame in read_frames(tmp_path / "sizes.mp4")] == [(64, 48)] * 2


@pytest.mark.parametrize("rotation", sorted(ROTATIONS))
def test_a_phones_video_is_rotated_upright(tmp_path, rotation):
    """The image is stored rotated, in a file that says how far to rotate it back."""
    upright = numbered_frame(0)
    stored = upright.rotate(rotation, expand=True)  # counterclockwise
    path = tmp_path / "phone.mp4"
    with VideoWriter(path) as video:
        video.add(stored, 0.0)
    content = bytearray(path.read_bytes())
    a, b, c, d = ROTATIONS[rotation]
    matrix = struct.pack(">9i", a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)
    start = content.index(struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30), content.index(b"tkhd"))
    content[start : start + 36] = matrix
    path.write_bytes(content)
    (frame,) = read_frames(path)
    assert frame.image.size == upright.size
    assert has_colour(frame.image, (10, 10), RED)
    assert has_colour(frame.image, (54, 10), BLUE)


@pytest.mark.parametrize(
    ("ending", "codec"), [(".avi", "mpeg4"), (".mkv", "libx264"), (".mov", "mpeg4"), (".mpg", "mpeg2video")]
)
def test_other_formats_are_read(tmp_path, ending, codec):
    path = tmp_path / f"clip{ending}"
    if codec not in av.codecs_available:
        pytest.skip(f"this FFmpeg has no {codec}")
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(5):
            container.mux(stream.encode(av.VideoFrame.from_image(numbered_frame(number))))
        container.mux(stream.encode())
    frames = list(read_frames(path))
    assert [read_number(frame.image) for frame in frames] == list(range(5))
    assert np.diff([frame.seconds for frame in frames]) == pytest.approx(0.04, abs=2e-3)


def test_other_files_than_videos_are_refused(tmp_path):
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "empty.mp4").write_bytes(b"")
    for name in ("text.mp4", "empty.mp4"):
        with pytest.raises(DataError, match=rf"{name} is no video or damaged \("):
            next(read_frames(tmp_path / name))
    with pytest.raises(NotFoundError, match=r"there is no video .*gone\.mp4"):
        next(read_frames(tmp_path / "gone.mp4"))


def test_a_file_with_sound_only_is_refused(tmp_path):
    path = tmp_path / "sound.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), dtype=np.int16), layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with pytest.raises(DataError, match="sound but no picture"):
        next(read_frames(path))


@pytest.mark.parametrize("share", [0.05, 0.4, 0.8])
def test_a_video_that_is_cut_short_yields_its_frames_before_the_error(tmp_path, share, capfd):
    path = tmp_path / "cut.mp4"
    random = np.random.default_rng(0)
    with VideoWriter(path) as video:
        for number in range(60):
            video.add(Image.fromarray(random.integers(0, 255, (48, 64, 3), dtype=np.uint8)), number / 10)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    frames = []
    with pytest.raises(DataError, match=r"cut\.mp4 .*copy it again"):
        frames.extend(read_frames(path))
    assert capfd.readouterr() == ("", "")


def test_frames_are_read_one_by_one(tmp_path):
    """Memory holds a few frames, not all."""
    path = write(tmp_path / "long.mp4", [n / 100 for n in range(300)], size=(320, 240))
    tracemalloc.start()
    count = sum(1 for _ in read_frames(path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 300
    assert peak < 20 * 320 * 240 * 3


def test_without_pyav_the_error_gives_the_command_that_installs_it(tmp_path, monkeypatch):
    path = write(tmp_path / "clip.mp4", [0.0])
    monkeypatch.setitem(sys.modules, "av", None)
    for use in (lambda: next(read_frames(path)), lambda: VideoWriter(tmp_path / "out.mp4")):
        with pytest.raises(MissingExtraError, match=r"pip install 'twins-vision\[video\]'"):
            use()


def test_videos_are_recognised_by_their_file_names():
    assert all(is_video_file(Path(name)) for name in ("a.mp4", "B.MOV", "c/d.webm"))
    assert not any(is_video_file(Path(name)) for name in ("a.gif", ".a.mp4", "mp4", "a.mp4.png"))
