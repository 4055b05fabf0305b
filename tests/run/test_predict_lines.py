"""What `twins predict` prints, on a terminal and in a pipe, and how it ends; with tracks of objects in videos."""

from __future__ import annotations

import csv
import io
import json
import os
import shlex
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage
from sklearn.datasets import load_digits

import twins
from twins.cli.predict_lines import Lines
from twins.data.loading import video as videos
from twins.data.loading.sources import Source
from twins.errors import name_counts
from twins.predictions import Prediction
from twins.predictor import Predictor
from twins.tasks.contract import spec_of
from twins.tasks.table import TASKS

NAMES = ("RBC", "WBC")
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """An untrained classifier."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("network") / "classifier.safetensors"
    twins.save_weights(twins.create_model("twins_svt_nano", names=NAMES), path)
    return path


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    """An untrained detector; the tests replace its predictions."""
    path = tmp_path_factory.mktemp("network") / "detector.safetensors"
    twins.save_weights(twins.create_model("twins_svt_nano", task="detection", names=NAMES), path)
    return path


@pytest.fixture
def images(tmp_path):
    """Three images, one of them in a folder whose name is longer than most terminals are wide."""
    paths = [tmp_path / "a.png", tmp_path / ("long folder " * 9) / "b.png", tmp_path / "tab\there.png"]
    for number, path in enumerate(paths):
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (40, 30), (80 * number,) * 3).save(path)
    return paths


def detection(labels, scores, boxes=None) -> Prediction:
    boxes = [(0, 0, 5, 5)] * len(labels) if boxes is None else boxes
    return Prediction(
        task="detection",
        size=(30, 40),
        names=NAMES,
        labels=np.array(labels, dtype=np.int64),
        scores=np.array(scores, dtype=np.float32),
        boxes=np.array(boxes, dtype=np.float32).reshape(-1, 4),
    )


class Terminal(io.StringIO):
    """Text that is printed on a terminal."""

    def isatty(self):
        return True


def test_outside_a_terminal_lines_have_columns_and_paths_are_whole(run_cli, network, images):
    code, output, err = run_cli("predict", network, *images, "--device", "cpu", "--batch-size", 2)
    assert code == 0
    lines = [line.split("\t") for line in output.splitlines()]
    assert [line[0] for line in lines] == [str(path).replace("\t", "\\t") for path in images]
    for path, name, score, others, milliseconds in lines:
        (expected,) = twins.load(network, device="cpu").predict(path.replace("\\t", "\t"))
        assert name == NAMES[expected.labels[0]]
        assert float(score) == pytest.approx(expected.scores[0], abs=1e-3)
        assert others == f"{NAMES[expected.labels[1]]} {float(others.split()[1]):.4f}"
        assert float(milliseconds) > 0
    assert err.startswith("3 images in ")
    assert "images/s)\n" in err


def test_a_detectors_line_counts_objects_by_class(monkeypatch):
    output = io.StringIO()
    monkeypatch.setattr(sys, "stdout", output)
    lines = Lines("detection", 5)
    image = Image.new("RGB", (40, 30))
    lines.add(Source("x.png", 0, image), detection([1, 0, 0], [0.984, 0.5, 0.4]), 12.34, None)
    lines.add(Source("y.png", 1, image), detection([], []), 5, None)
    assert output.getvalue() == "x.png\tRBC 2, WBC 1\t3\t0.9840\t12.3\ny.png\t\t0\t\t5.0\n"


def test_a_semantic_line_begins_with_the_largest_class():
    label_map = np.repeat([0, 1, 2, 1], [10, 50, 15, 25]).reshape(10, 10)
    prediction = Prediction(task="semantic", size=(10, 10), names=("sky", "road", "car"), label_map=label_map)
    spec = spec_of("semantic")
    assert spec.summary_row(prediction, 5) == ("road", "0.7500", "car 0.1500, sky 0.1000")
    assert spec.summary_row(prediction, 1) == ("road", "0.7500", "")
    assert spec.summary(prediction, 5) == "road 75.0%, car 15.0%, sky 10.0%"


def test_counts_of_classes_that_are_numbers_have_a_colon():
    assert name_counts({"7": 2, "1": 1, "RBC": 3}) == "RBC 3, 7: 2, 1: 1"
    assert name_counts({}) == ""


@pytest.mark.parametrize("task", TASKS)
def test_a_row_has_a_value_for_each_column(task):
    scores = {"labels": np.array([1, 0]), "scores": np.array([0.9, 0.1])}
    fields = {
        "classification": scores,
        "semantic": {"label_map": np.zeros((2, 2), dtype=np.uint8)},
        "detection": scores | {"boxes": np.zeros((2, 4))},
        "instance": scores | {"boxes": np.zeros((2, 4)), "masks": np.zeros((2, 2, 2), dtype=bool)},
    }
    prediction = Prediction(task=task, size=(2, 2), names=NAMES, **fields[task])
    spec = spec_of(task)
    for top in (1, 5):
        assert len(spec.summary_row(prediction, top)) == len(spec.summary_columns)


def test_on_a_terminal_lines_are_aligned_and_progress_is_removed(monkeypatch):
    output, errors = Terminal(), Terminal()
    monkeypatch.setattr(sys, "stdout", output)
    monkeypatch.setattr(sys, "stderr", errors)
    monkeypatch.setattr(os, "get_terminal_size", lambda *_: os.terminal_size((40, 20)))
    errors.fileno = lambda: 2
    lines, image = Lines("detection", 1), Image.new("RGB", (40, 30))
    long = "folder/" * 30 + "x.png"
    lines.add(Source("a.png", 0, image), detection([1, 0, 0], [0.984, 0.5, 0.4]), 12.34, None)
    lines.add(Source(long, 1, image), detection([], []), 5, None)
    lines.add(Source("日本.png", 2, image), detection([1], [0.2]), 5, None)
    lines.close()
    lines.summary({})
    first, second, third = output.getvalue().splitlines()
    assert first == "a.png     12.3 ms  RBC 2 and 1 class more (surest 98 %)"
    assert second == f"{long}      5.0 ms  nothing"
    assert third == f"日本.png{' ' * (len(long) - 8)}      5.0 ms  WBC 1 (surest 20 %)"
    shown, summary = errors.getvalue().rsplit("\r\x1b[K", 1)
    assert "images/s" in shown
    assert summary.startswith("3 images in ")


def test_files_that_were_written_are_named_and_quiet_prints_errors_only(run_cli, network, images, tmp_path):
    out, rows, table = tmp_path / "out", tmp_path / "all.json", tmp_path / "all.csv"
    files = ["--out", out, "--json", rows, "--csv", table, "--device", "cpu"]
    code, output, err = run_cli("predict", network, images[0], tmp_path / "none.png", *files)
    assert code == 1
    assert output.count("\n") == 1
    assert err.splitlines()[0] == f"not read: there is no image {tmp_path / 'none.png'}; check the path"
    assert err.splitlines()[2:] == [
        "1 source could not be read, see above",
        f"drew 1 picture in {out}",
        f"wrote the JSON file {rows}",
        f"wrote the CSV file {table}",
    ]
    code, output, err = run_cli("predict", network, images[0], tmp_path / "none.png", "--quiet", "--device", "cpu")
    assert (code, output) == (1, "")
    assert err == f"not read: there is no image {tmp_path / 'none.png'}; check the path\n"


@pytest.mark.slow
@pytest.mark.parametrize("files", [False, True])
def test_a_closed_pipe_ends_without_a_word_or_goes_on_with_the_files(network, tmp_path, files):
    for number in range(40):
        Image.new("RGB", (40, 30)).save(tmp_path / f"{number}.png")
    words = [sys.executable, "-m", "twins", "predict", network, tmp_path, "--device", "cpu", "--batch-size", "1"]
    words += ["--json", tmp_path / "all.json"] if files else []
    process = subprocess.Popen(list(map(str, words)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    first = process.stdout.readline()
    process.stdout.close()
    error = process.stderr.read()
    process.stderr.close()
    assert (process.wait(), error) == (0, "")
    assert first.startswith(f"{tmp_path}/0.png\t")
    if files:
        assert len(json.loads((tmp_path / "all.json").read_text())["predictions"]) == 40


def test_names_that_are_no_text_are_escaped_in_files(run_cli, network, tmp_path):
    image = os.fsencode(tmp_path) + b"/\xff.png"
    Image.new("RGB", (40, 30)).save(os.fsdecode(image))
    files = ["--json", tmp_path / "all.json", "--csv", tmp_path / "all.csv", "--device", "cpu", "--quiet"]
    assert run_cli("predict", network, os.fsdecode(image), *files) == (0, "", "")
    (entry,) = json.loads((tmp_path / "all.json").read_text())["predictions"]
    assert entry["image"] == os.fsdecode(image)
    assert f"{tmp_path}/\\udcff.png," in (tmp_path / "all.csv").read_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("closed", "code", "error"),
    [
        ("<&-", 1, "not read: standard input is empty"),
        (">&- <image.png", 0, ""),
        (">/dev/full <image.png", 2, "twins: standard output cannot be written to (No space left on device)"),
    ],
)
def test_closed_and_full_streams_are_no_mistake_of_the_program(network, tmp_path, closed, code, error):
    Image.new("RGB", (40, 30)).save(tmp_path / "image.png")
    words = shlex.join([sys.executable, "-m", "twins", "predict", str(network), "-", "--device", "cpu"])
    result = subprocess.run(f"{words} {closed}", shell=True, cwd=tmp_path, capture_output=True, text=True)
    assert (result.returncode, "Traceback" in result.stderr) == (code, False)
    assert result.stderr.startswith(error)


# tracks


def find_digits(self, images, **_):
    """Stand in for a detector: boxes around bright spots, as objects of one class, in another order in each frame."""
    predictions = []
    for image in images:
        pixels = np.asarray(image.convert("L"))
        boxes = [(x.start, y.start, x.stop, y.stop) for y, x in ndimage.find_objects(ndimage.label(pixels > 60)[0])]
        boxes = [box for box in boxes if box[2] - box[0] > 8]
        boxes = boxes[:: 1 if pixels[0, 0] < 20 else -1]
        predictions.append(detection([0] * len(boxes), [0.9] * len(boxes), boxes))
    return predictions


@pytest.fixture
def moving_digits(tmp_path):
    """Two digits that pass each other in 20 frames, one above the other; a third appears in the last ten."""
    pytest.importorskip("av", reason="PyAV is not installed; pip install 'twins-vision[video]'")
    pytest.importorskip("trackers", reason="trackers is not installed; pip install 'twins-vision[tracking]'")
    digits = load_digits().images
    pictures = [ndimage.grey_dilation(np.kron(digits[n] > 3, np.ones((5, 5))), 3) for n in (1, 3, 7)]
    with videos.VideoWriter(tmp_path / "clip.mp4") as writer:
        for number in range(20):
            frame = np.zeros((160, 240), dtype=np.uint8)
            for picture, y, x in zip(pictures, (5, 55, 105), (5 + 8 * number, 190 - 8 * number, 100), strict=True):
                if y < 105 or number >= 10:
                    frame[y : y + 40, x : x + 40] = 255 * picture
            writer.add(Image.fromarray(frame).convert("RGB"), number / 10)
    return tmp_path / "clip.mp4"


def test_each_moving_digit_keeps_one_track(run_cli, detector, moving_digits, tmp_path, monkeypatch):
    monkeypatch.setattr(Predictor, "predict", find_digits)
    out, rows, table = tmp_path / "out", tmp_path / "all.json", tmp_path / "all.csv"
    files = ["--out", out, "--json", rows, "--csv", table, "--device", "cpu"]
    code, output, _ = run_cli("predict", detector, moving_digits, "--track", *files)
    assert code == 0
    frames = json.loads(rows.read_text())["predictions"]
    assert [len(frame["boxes"]) for frame in frames] == [2] * 10 + [3] * 10
    path, tracks = str(moving_digits), {}
    for frame in frames:
        for track, box in zip(frame["tracks"], frame["boxes"], strict=True):
            tracks.setdefault(track, []).append(round(box[1] / 50))
    assert {track: set(rows) for track, rows in tracks.items() if track is not None}.keys() == {1, 2, 3}
    assert all(len(set(rows)) == 1 for track, rows in tracks.items() if track is not None)
    assert len(tracks[None]) == 3  # the first frame of each object
    assert output.split("\t")[:2] == [path, "20 frames; found: RBC 50; tracks: RBC 3"]
    lines = list(csv.DictReader(table.open()))
    assert Counter(line["track"] for line in lines) == {"": 3, "1": 19, "2": 19, "3": 9}
    assert (out / "clip.mp4").stat().st_size > 1000


def test_a_track_has_one_colour_in_all_frames():
    image = Image.new("RGB", (448, 448), "grey")

    def colour(track, label, x):
        prediction = replace(
            detection([label], [0.9], [(x, 40, x + 60, 100)]), size=(448, 448), tracks=np.array([track])
        )
        return prediction.draw(image).getpixel((x + 1, 70))

    assert colour(1, 0, 50) == colour(1, 1, 200)
    assert colour(1, 0, 50) != colour(2, 0, 50)
    assert colour(-1, 0, 50) != colour(-1, 1, 50)  # without a track, the colour of the class


def test_an_object_with_a_low_score_continues_a_track_and_begins_none():
    pytest.importorskip("trackers", reason="trackers is not installed; pip install 'twins-vision[tracking]'")
    from twins.tracking import VideoTracks

    tracks, seen = VideoTracks(0.3), []
    for number in range(6):
        scores = [0.9 if number != 4 else 0.15, 0.15]  # the second is never sure
        frame = detection([0, 1], scores, [(number, 0, 20 + number, 20), (60, 60, 90, 90)])
        seen.append(tracks.add(frame, number / 10).tracks.tolist())
    assert seen == [[-1], [1], [1], [1], [1], [1]]
    assert tracks.counts() == {"RBC": 1}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["classifier", "clip.mp4", "--track"], "--track is for detection and instance"),
        (["detector", "a.png", "--track"], "--track follows objects through videos, cameras and streams"),
    ],
)
def test_tracking_without_objects_or_videos_is_refused(run_cli, network, detector, tmp_path, words, message):
    path = network if words[0] == "classifier" else detector
    code, output, err = run_cli("predict", path, *words[1:], "--device", "cpu")
    assert (code, output) == (2, "")
    assert message in err or "PyAV" in err
    assert err.count("\n") == 1


def test_tracking_without_the_package_names_the_pip_command(run_cli, detector, monkeypatch):
    pytest.importorskip("av", reason="PyAV is not installed; pip install 'twins-vision[tracking]'")
    monkeypatch.setitem(sys.modules, "trackers", None)
    code, _, err = run_cli("predict", detector, "clip.mp4", "--track", "--device", "cpu")
    assert code == 2
    assert "pip install 'twins-vision[tracking]'" in err


def test_ctrl_c_ends_a_camera_and_writes_the_files(run_cli, network, tmp_path, monkeypatch):
    pytest.importorskip("av", reason="PyAV is not installed; pip install 'twins-vision[video]'")

    def frames(name, *, every):
        for number in range(10**6):
            if number == 3:
                signal.raise_signal(signal.SIGINT)
            yield videos.Frame(number, number / 10, Image.new("RGB", (40, 30)))

    monkeypatch.setattr("twins.data.loading.sources.read_camera", frames)
    monkeypatch.setattr("twins.data.loading.sources.newest", lambda frames, stopped: until(frames, stopped))
    rows, out = tmp_path / "all.json", tmp_path / "out"
    code, output, err = run_cli("predict", network, "0", "--json", rows, "--out", out, "--device", "cpu")
    assert code == 0
    assert [line.split("\t")[0] for line in output.splitlines()] == ["camera:0#0", "camera:0#1", "camera:0#2"]
    assert [row["frame"] for row in json.loads(rows.read_text())["predictions"]] == [0, 1, 2]
    assert len(list(videos.read_frames(out / "camera-0.mp4"))) == 3
    assert "camera:0: 3 frames; most probable:" in err


def until(frames, stopped):
    """Return frames one by one, as `newest` does for a fast network."""
    for frame in frames:
        if stopped():
            return
        yield frame
