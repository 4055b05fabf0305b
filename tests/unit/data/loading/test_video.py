"""Videos as streams of frames: written and read back, turned, of uneven pace, damaged, and without the package."""

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
QUARTER = {90: (0, 1, -1, 0), 180: (-1, 0, 0, -1), 270: (0, -1, 1, 0)}
"""The upper left of a track's matrix, by how far players turn its pictures clockwise (ISO/IEC 14496-12, 8.3.2)."""


def picture(number: int, size=(64, 48)) -> Image.Image:
    """A red left half, a blue right half, and a grey that tells frames apart along the bottom."""
    pixels = np.zeros((size[1], size[0], 3), dtype=np.uint8)
    pixels[:, : size[0] // 2], pixels[:, size[0] // 2 :] = RED, BLUE
    pixels[-16:] = 20 * (number % 12)
    return Image.fromarray(pixels)


def write(path: Path, times, size=(64, 48)) -> Path:
    with VideoWriter(path) as video:
        for number, seconds in enumerate(times):
            video.add(picture(number, size), seconds)
    return path


def near(image: Image.Image, place, colour) -> bool:
    return all(abs(found - wanted) < 16 for found, wanted in zip(image.getpixel(place), colour, strict=True))


def shade(image: Image.Image) -> int:
    return round(image.getpixel((image.width // 4, image.height - 4))[0] / 20)


def test_a_written_video_gives_its_frames_back_in_order_at_their_times(tmp_path):
    times = [0.0, 0.1, 0.2, 0.45, 0.7]  # uneven, as phones record
    frames = list(read_frames(write(tmp_path / "clip.mp4", times)))
    assert [frame.number for frame in frames] == list(range(5))
    assert [frame.seconds for frame in frames] == pytest.approx(times, abs=2e-3)
    for number, frame in enumerate(frames):
        assert frame.image.mode == "RGB"
        assert frame.image.size == (64, 48)
        assert shade(frame.image) == number
        assert near(frame.image, (10, 10), RED)
        assert near(frame.image, (54, 10), BLUE)


def test_every_nth_frame_keeps_its_number_and_time(tmp_path):
    path = write(tmp_path / "clip.mp4", [n / 10 for n in range(10)])
    found = [(frame.number, round(frame.seconds, 2), shade(frame.image)) for frame in read_frames(path, every=4)]
    assert found == [(0, 0.0, 0), (4, 0.4, 4), (8, 0.8, 8)]
    with pytest.raises(ConfigError, match="at least 1"):
        next(read_frames(path, every=0))


def test_a_video_that_begins_late_is_written_from_its_first_picture(tmp_path):
    path = write(tmp_path / "clip.mp4", [7.5, 7.6])
    assert [frame.seconds for frame in read_frames(path)] == pytest.approx([0.0, 0.1], abs=2e-3)


def test_an_odd_size_gets_a_row_and_a_column(tmp_path):
    (frame,) = read_frames(write(tmp_path / "odd.mp4", [0.0], size=(63, 47)))
    assert frame.image.size == (64, 48)
    assert near(frame.image, (63, 10), BLUE)


def test_pictures_of_other_sizes_are_brought_to_the_first(tmp_path):
    with VideoWriter(tmp_path / "sizes.mp4") as video:
        video.add(picture(0), 0.0)
        video.add(picture(1, (128, 96)), 0.1)
    assert [frame.image.size for frame in read_frames(tmp_path / "sizes.mp4")] == [(64, 48)] * 2


@pytest.mark.parametrize("turn", sorted(QUARTER))
def test_a_phones_video_is_turned_upright(tmp_path, turn):
    """A picture that is stored turned back, in a file that says how far to turn it."""
    upright = picture(0)
    stored = upright.rotate(turn, expand=True)  # counterclockwise
    path = tmp_path / "phone.mp4"
    with VideoWriter(path) as video:
        video.add(stored, 0.0)
    content = bytearray(path.read_bytes())
    a, b, c, d = QUARTER[turn]
    matrix = struct.pack(">9i", a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)
    start = content.index(struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30), content.index(b"tkhd"))
    content[start : start + 36] = matrix
    path.write_bytes(content)
    (frame,) = read_frames(path)
    assert frame.image.size == upright.size
    assert near(frame.image, (10, 10), RED)
    assert near(frame.image, (54, 10), BLUE)


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
            container.mux(stream.encode(av.VideoFrame.from_image(picture(number))))
        container.mux(stream.encode())
    frames = list(read_frames(path))
    assert [shade(frame.image) for frame in frames] == list(range(5))
    assert np.diff([frame.seconds for frame in frames]) == pytest.approx(0.04, abs=2e-3)


def test_what_is_no_video_is_told_in_one_sentence(tmp_path):
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "empty.mp4").write_bytes(b"")
    for name in ("text.mp4", "empty.mp4"):
        with pytest.raises(DataError, match=rf"{name} is no video or damaged \("):
            next(read_frames(tmp_path / name))
    with pytest.raises(NotFoundError, match=r"there is no video .*gone\.mp4"):
        next(read_frames(tmp_path / "gone.mp4"))


def test_sound_alone_is_told(tmp_path):
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
def test_a_video_that_is_cut_short_gives_what_it_has_and_says_so(tmp_path, share, capfd):
    path = tmp_path / "cut.mp4"
    random = np.random.default_rng(0)
    with VideoWriter(path) as video:
        for number in range(60):
            video.add(Image.fromarray(random.integers(0, 255, (48, 64, 3), dtype=np.uint8)), number / 10)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    given = []
    with pytest.raises(DataError, match=r"cut\.mp4 .*copy it again"):
        given.extend(read_frames(path))
    assert capfd.readouterr() == ("", "")


def test_frames_come_one_by_one(tmp_path):
    """Memory is that of some frames, not of all."""
    path = write(tmp_path / "long.mp4", [n / 100 for n in range(300)], size=(320, 240))
    tracemalloc.start()
    count = sum(1 for _ in read_frames(path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 300
    assert peak < 20 * 320 * 240 * 3


def test_without_the_package_the_command_that_installs_it_is_said(tmp_path, monkeypatch):
    path = write(tmp_path / "clip.mp4", [0.0])
    monkeypatch.setitem(sys.modules, "av", None)
    for act in (lambda: next(read_frames(path)), lambda: VideoWriter(tmp_path / "out.mp4")):
        with pytest.raises(MissingExtraError, match=r"pip install 'twins-vision\[video\]'"):
            act()


def test_videos_are_told_by_their_names():
    assert all(is_video_file(Path(name)) for name in ("a.mp4", "B.MOV", "c/d.webm"))
    assert not any(is_video_file(Path(name)) for name in ("a.gif", ".a.mp4", "mp4", "a.mp4.png"))
