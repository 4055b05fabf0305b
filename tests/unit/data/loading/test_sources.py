"""Sources of prediction: what each word stands for, lists, standard input, servers and streams, and what is refused."""

from __future__ import annotations

import io
import os
import signal
import threading
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest
from PIL import Image

from twins.data.loading import sources, video
from twins.data.loading.sources import check_words, find_items, has_videos, kind_of, open_items, stem_of
from twins.errors import NotFoundError


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working folder with four images of different grey, one named like a pattern, and a text file."""
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate(("a.png", "sub/b.jpg", "sub/deep/c.png", "odd[1].png")):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (50 * number,) * 3).save(name)
    Path("notes.md").write_text("none")
    return tmp_path


@pytest.fixture
def clip(tmp_path):
    """A video of six frames that become brighter."""
    pytest.importorskip("av", reason="PyAV is not installed; pip install 'twins-vision[video]'")
    with video.VideoWriter(tmp_path / "clip.mp4") as writer:
        for number in range(6):
            writer.add(Image.new("RGB", (32, 32), (40 * number,) * 3), number / 10)
    return tmp_path / "clip.mp4"


class Handler(BaseHTTPRequestHandler):
    """Serves a folder's files by their endings, and `camera`, an endless sequence of JPEG images."""

    logins: ClassVar[list] = []

    def __init__(self, folder, *arguments):
        self.folder = folder
        super().__init__(*arguments)

    def do_GET(self):
        self.logins.append(self.headers["Authorization"])
        name, types = self.path.strip("/"), {"png": "image/png", "mp4": "video/mp4"}
        if name == "camera":
            self.send_camera()
            return
        if not (self.folder / name).is_file():
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Type", types[name.rpartition(".")[2]])
        self.send_header("Content-Length", str((self.folder / name).stat().st_size))
        self.end_headers()
        self.send((self.folder / name).read_bytes())

    def send(self, content):
        try:
            self.wfile.write(content)
        except OSError:  # the client has gone
            return False
        return True

    def send_camera(self):
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace;boundary=frame")
        self.end_headers()
        file = io.BytesIO()
        Image.new("RGB", (32, 32), "red").save(file, "JPEG")
        head = b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(file.getvalue())
        while not self.server.closing.wait(0.01) and self.send(head + file.getvalue() + b"\r\n"):
            pass

    def log_message(self, *_):
        pass


@pytest.fixture
def server(tmp_path):
    """A server on this machine for the folder; yields its address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, tmp_path))
    server.closing = threading.Event()
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.closing.set()
    server.shutdown()
    server.server_close()


def names(*words, stdin=b""):
    return [item.name for item in find_items(words, io.BytesIO(stdin))]


def opened(*words, stdin=b"", every=1):
    failures = []
    items = find_items(words, io.BytesIO(stdin))
    return list(open_items(items, 3, every=every, failed=failures.append)), failures


def test_folders_patterns_and_files_are_found_in_order(folder):
    assert names(".") == ["a.png", "odd[1].png", "sub/b.jpg", "sub/deep/c.png"]
    assert names("**/*.png") == ["a.png", "odd[1].png", "sub/deep/c.png"]
    assert names("sub/*.jpg", "a.png") == ["sub/b.jpg", "a.png"]


def test_a_file_whose_name_looks_like_a_pattern_a_camera_or_a_list_is_a_file(folder):
    for name in ("odd[1].png", "0", "@a", "camera:0"):
        if name != "odd[1].png":
            Path("a.png").copy(name) if hasattr(Path, "copy") else Path(name).write_bytes(Path("a.png").read_bytes())
        assert kind_of(name) == "file"
    images, failures = opened("odd[1].png", "0")
    assert [image.name for image in images] == ["odd[1].png", "0"]
    assert not failures


def test_a_large_folder_begins_at_once(folder, monkeypatch):
    read = []

    def walk(folder, *, hidden):
        for number in range(10**9):
            read.append(number)
            yield f"{number}.png"

    monkeypatch.setattr("twins.data.images.walk", walk)
    assert next(find_items(["sub"], io.BytesIO())).name == "sub/0.png"
    assert len(read) == 1


@pytest.mark.parametrize("word", ["sub/list.txt", "@sub/list.txt", "@sub/plain"])
def test_paths_of_a_list_are_relative_to_the_working_folder_else_to_the_list(folder, word):
    text = "\ufeffa.png\r\n\r\nb.jpg\r\ndeep\r\nde*/*.png\r\nmissing.png\r\n"
    for name in ("sub/list.txt", "sub/plain"):
        Path(name).write_bytes(text.encode())
    images, failures = opened(word)
    assert [image.name for image in images] == ["a.png", "sub/b.jpg", "sub/deep/c.png", "sub/deep/c.png"]
    assert [image.position for image in images] == [0, 1, 2, 3]
    (sentence,) = failures
    assert "there is no image missing.png" in sentence


def test_standard_input_is_an_image_or_a_list_by_its_content(folder):
    images, failures = opened("-", stdin=Path("sub/b.jpg").read_bytes())
    assert ([image.name for image in images], failures) == (["-"], [])
    assert images[0].image.getpixel((0, 0)) == pytest.approx((50, 50, 50), abs=2)
    assert names("-", stdin=b"a.png\nsub\n") == ["a.png", "sub/b.jpg", "sub/deep/c.png"]
    for kind in ("PNG", "PPM", "BMP", "GIF", "TIFF", "WEBP"):
        file = io.BytesIO()
        Image.new("RGB", (40, 30), "red").save(file, kind)
        images, failures = opened("-", stdin=file.getvalue())
        assert (len(images), failures) == (1, []), kind
    assert "standard input is damaged" in opened("-", stdin=Path("sub/b.jpg").read_bytes()[:300])[1][0]


@pytest.mark.parametrize(
    "address", ["http://[x/y.png", "http://localhost:99999/y.png", "https://", "http://a\tb/y.png"]
)
def test_an_address_that_is_none_is_named(folder, address):
    images, (sentence,) = opened(address)
    assert not images
    assert address.partition("://")[2].partition("\t")[0] in sentence
    assert "check the" in sentence


def test_an_empty_list_or_standard_input_is_named(folder):
    Path("none.txt").write_text("\n \n")
    for word, name in (("none.txt", "the list none.txt"), ("@none.txt", "the list @none.txt"), ("-", "standard input")):
        images, (sentence,) = opened(word)
        assert not images
        assert sentence.startswith(name)
        assert "empty" in sentence


def test_a_list_on_standard_input_may_begin_with_a_byte_order_mark(folder):
    assert names("-", stdin="\ufeffa.png\r\nsub/b.jpg\r\n".encode()) == ["a.png", "sub/b.jpg"]


def test_a_list_on_standard_input_is_read_line_by_line(folder):
    reader, writer = os.pipe()
    with open(reader, "rb") as stdin, open(writer, "wb", buffering=0) as end:
        end.write(b"a.png\n")
        items = find_items(["-"], stdin)
        assert next(items).name == "a.png"  # the pipe is still open
        end.write(b"sub/b.jpg\n")
        assert next(items).name == "sub/b.jpg"


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("empty", "leads to no image"),
        ("x*.png", "leads to no image"),
        ("@none", "there is no list none"),
        ("", "empty"),
    ],
)
def test_a_word_that_leads_nowhere_is_refused_at_once(folder, word, message):
    Path("empty").mkdir()
    with pytest.raises(NotFoundError, match=message):
        check_words([word])


def test_videos_are_announced_before_they_are_opened(folder):
    Path("images.txt").write_text("a.png\n")
    Path("mixed.txt").write_text("a.png\nclip.mp4\n")
    for words in (["."], ["a.png"], ["**/*.png"], ["images.txt"], ["http://host/a.png?x=1"]):
        assert not has_videos(words), words
    for words in (["clip.mp4"], ["mixed.txt"], ["*"], ["0"], ["rtsp://host/1"], ["http://host/stream"], ["-"]):
        assert has_videos(words), words
    assert [has_videos([word], certainly=True) for word in ("clip.mp4", "camera:0", "-")] == [True, True, False]


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("a/b.c.png", "b.c"),
        ("-", "stdin"),
        ("camera:0", "camera-0"),
        ("rtsp://user@host:554/", "user-host-554"),
        ("http://h/a%20b.png?q=/", "a-b"),
    ],
)
def test_files_about_a_source_have_names_that_files_can_have(name, stem):
    assert stem_of(name) == stem


def test_images_are_fetched_from_a_server_and_refusals_are_named(folder, server, monkeypatch):
    images, failures = opened(f"{server}/a.png", f"{server}/none.png", "http://127.0.0.1:9/a.png", "a.png")
    assert [image.name for image in images] == [f"{server}/a.png", "a.png"]
    assert [image.position for image in images] == [0, 3]  # those that could not be read count
    assert "none.png could not be fetched (404 Not Found); check the address" in failures[0]
    assert "127.0.0.1:9/a.png could not be fetched" in failures[1]
    monkeypatch.setattr(sources, "MAX_BYTES", 20)
    assert "has more than" in opened(f"{server}/a.png")[1][0]


def test_a_login_is_sent_and_never_shown(folder, server):
    image, camera = (f"{server.replace('://', '://user:p%40ss@')}/{name}" for name in ("a.png", "none.png"))
    images, failures = opened(image, camera)
    assert [image.name for image in images] == [f"{server}/a.png"]
    assert Handler.logins[-2:] == ["Basic dXNlcjpwQHNz"] * 2
    assert "p%40ss" not in failures[0]
    images, failures = opened("rtsp://user:secret@127.0.0.1:9/1")
    assert failures[0].startswith("rtsp://127.0.0.1:9/1 cannot be opened (")


def test_a_list_that_holds_itself_is_refused_as_an_image(folder):
    Path("self.txt").write_text("self.txt\na.png\n")
    assert not has_videos(["self.txt"])
    images, failures = opened("self.txt")
    assert [image.name for image in images] == ["a.png"]
    assert "self.txt is no image" in failures[0]


def test_a_video_on_a_server_is_read_frame_by_frame(clip, server):
    images, failures = opened(f"{server}/clip.mp4", every=2)
    assert failures == []
    assert [(image.frame, image.first, image.live) for image in images] == [
        (0, True, False),
        (2, False, False),
        (4, False, False),
    ]


def test_ctrl_c_ends_a_live_stream_and_the_next_source_follows(clip, folder, server):
    failures, before = [], signal.getsignal(signal.SIGINT)
    items = find_items([f"{server}/camera", "a.png"], io.BytesIO())
    images = open_items(items, 3, failed=failures.append)
    frames = [next(images) for _ in range(3)]
    assert all(frame.live for frame in frames)
    assert [frame.first for frame in frames] == [True, False, False]
    assert frames[0].frame < frames[1].frame < frames[2].frame
    signal.raise_signal(signal.SIGINT)
    assert next(images).name == "a.png"
    assert failures == []
    assert signal.getsignal(signal.SIGINT) is before


def test_a_slow_reader_gets_the_newest_frame():
    asked, last = threading.Event(), threading.Event()

    def frames():
        yield video.Frame(0, 0.0, None)
        asked.wait(5)
        for number in range(1, 100):
            yield video.Frame(number, 0.0, None)
        last.set()

    newest = video.newest(frames(), lambda: False)
    assert next(newest).number == 0
    asked.set()
    last.wait(5)
    assert [frame.number for frame in newest] == [99]


def test_a_camera_is_read_like_a_stream(clip, monkeypatch):
    monkeypatch.setattr(video, "_camera_input", lambda name: video._Input(f"camera {name}", str(clip), "check it"))
    images, failures = opened("camera:0")
    assert failures == []
    assert {(image.name, image.live) for image in images} == {("camera:0", True)}
    assert images[-1].frame == 5


def test_a_missing_camera_is_named(clip):
    images, failures = opened("camera:99", "camera:99")
    assert images == []
    assert len(failures) == 2
    assert "camera 99 cannot be opened" in failures[0]


def test_a_video_in_a_list_without_pyav_is_named_and_the_images_are_read(folder, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    Path("clip.mp4").write_bytes(b"x")
    images, failures = opened("-", stdin=b"clip.mp4\na.png\n")
    assert [image.name for image in images] == ["a.png"]
    assert "pip install 'twins-vision[video]'" in failures[0]
