"""`twins predict` with detectors and with videos: what is printed, drawn and written, and what is refused."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from faster_coco_eval import COCO
from faster_coco_eval import mask as rle
from PIL import Image

import twins
from twins.cli.main import main
from twins.data.classes import built_in
from twins.data.formats.scenes import draw_scene
from twins.tasks.inference import SelectionConfig
from twins.tasks.table import facts_of

NAMES = ("cat", "dog", "bird")
LOW = ["--score", "0.001", "--most", "12", "--device", "cpu"]
SELECTION = SelectionConfig(score=0.001, most=12)


pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]


@pytest.fixture(scope="module")
def save(tmp_path_factory):
    """Save an untrained nano network, which sees images at 64 pixels, and return its file."""
    folder = tmp_path_factory.mktemp("networks")

    def save(name: str, task: str, names=NAMES, **settings) -> Path:
        torch.manual_seed(0)
        network = twins.create_model("twins_svt_nano", task=task, names=names, **settings)
        twins.save_weights(network, folder / f"{name}.safetensors")
        return folder / f"{name}.safetensors"

    return save


@pytest.fixture(scope="module")
def detector(save):
    return save("detector", "detection", preprocess=small())


@pytest.fixture(scope="module")
def segmenter(save):
    return save("segmenter", "instance", preprocess=small())


@pytest.fixture
def images(tmp_path):
    """Three scenes whose names are numbers, like those of COCO's images."""
    folder = tmp_path / "images"
    folder.mkdir()
    for number in (7, 397133, 12):
        draw_scene(number % 10, train=False).image.save(folder / f"{number:012}.png")
    return folder


@pytest.fixture
def video(tmp_path):
    """Six frames of 0.1 seconds that become brighter."""
    pytest.importorskip("av", reason="PyAV is not installed; pip install 'twins-vision[video]'")
    from twins.data.loading.video import VideoWriter

    with VideoWriter(tmp_path / "clip.mp4") as writer:
        for number in range(6):
            writer.add(Image.new("RGB", (96, 64), (40 * number,) * 3), number / 10)
    return tmp_path / "clip.mp4"


def small():
    from dataclasses import replace

    return replace(facts_of("detection").preprocess, size=64, longest=128)


def frames_of(path: Path):
    from twins.data.loading.video import read_frames

    return list(read_frames(path))


def predicted(path: Path) -> list[dict]:
    content = json.loads(path.read_text())
    assert content["format"] == 1
    return content["predictions"]


def test_predictions_of_a_detector_are_listed_drawn_and_written(run_cli, detector, images, tmp_path):
    out, rows, table = tmp_path / "drawn", tmp_path / "all.json", tmp_path / "all.csv"
    code, output, _ = run_cli(
        "predict", detector, images, *LOW, "--out", out, "--json", rows, "--csv", table, "--top", 2
    )
    assert code == 0
    paths = sorted(images.iterdir())
    expected = twins.load(detector, device="cpu", selection=SELECTION).predict(paths)
    content = predicted(rows)
    assert [row["image"] for row in content] == list(map(str, paths))
    for row, prediction in zip(content, expected, strict=True):
        assert len(row["labels"]) == 12  # all of them, not the two that are listed
        np.testing.assert_allclose(row["boxes"], prediction.boxes, atol=1e-4)
        np.testing.assert_allclose(row["scores"], prediction.scores, atol=1e-6)
        assert row["names"] == [NAMES[label] for label in row["labels"]]
    printed = [line.split("\t") for line in output.splitlines()]
    assert [line[0] for line in printed] == list(map(str, paths))
    for (_, classes, objects, surest, _), row in zip(printed, content, strict=True):
        frequent = sorted((-row["names"].count(name), row["names"].index(name), name) for name in set(row["names"]))
        assert classes.startswith(", ".join(f"{name} {-count}" for count, _, name in frequent[:2]))
        assert (objects, surest) == ("12", f"{row['scores'][0]:.4f}")
    lines = list(csv.DictReader(table.open()))
    assert len(lines) == 36
    assert list(lines[0]) == ["image", "label", "name", "score", "x1", "y1", "x2", "y2"]
    assert float(lines[0]["x2"]) == pytest.approx(content[0]["boxes"][0][2], abs=0.01)
    assert sorted(path.name for path in out.iterdir()) == [path.name for path in paths]
    with Image.open(out / paths[0].name) as drawn, Image.open(paths[0]) as original:
        assert drawn.width == 4 * original.width


def test_masks_are_in_the_json(run_cli, segmenter, images, tmp_path):
    code, _, _ = run_cli("predict", segmenter, images, *LOW, "--json", tmp_path / "all.json")
    assert code == 0
    (expected, *_) = twins.load(segmenter, device="cpu", selection=SELECTION).predict(sorted(images.iterdir()))
    row = predicted(tmp_path / "all.json")[0]
    masks = [rle.decode({"size": mask["size"], "counts": mask["counts"].encode()}) for mask in row["masks"]]
    assert row["areas"] == [int(mask.sum()) for mask in masks]
    np.testing.assert_array_equal(np.array(masks, dtype=bool), expected.masks)


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_coco_results_load_in_an_evaluator(run_cli, detector, segmenter, images, tmp_path, kind):
    network, results = (detector if kind == "bbox" else segmenter), tmp_path / "results.json"
    code, _, _ = run_cli("predict", network, images, *LOW, "--coco", results)
    assert code == 0
    truth = COCO()
    truth.dataset = {
        "images": [{"id": number, "height": 112, "width": 112} for number in (7, 12, 397133)],
        "categories": [{"id": label, "name": name} for label, name in enumerate(NAMES)],
        "annotations": [],
        "info": {},
    }
    truth.createIndex()
    loaded = truth.loadRes(str(results))
    assert sorted(loaded.getImgIds()) == [7, 12, 397133]
    entries = json.loads(results.read_text())
    assert len(entries) == 36
    assert {entry["image_id"] for entry in entries} == {7, 12, 397133}
    assert {entry["category_id"] for entry in entries} <= {0, 1, 2}
    assert ("segmentation" in entries[0]) == (kind == "segm")


def test_images_whose_names_are_not_numbers_get_ids_from_0(run_cli, detector, images, tmp_path):
    (images / "000000000007.png").rename(images / "seven.png")
    (images / "aaa.png").write_bytes(b"no image")
    code, _, err = run_cli("predict", detector, images, *LOW, "--coco", tmp_path / "results.json")
    assert code == 1
    assert "not read: " in err
    assert "aaa.png" in err
    entries = json.loads((tmp_path / "results.json").read_text())
    assert {entry["image_id"] for entry in entries} == {0, 1, 3}  # what could not be read keeps its place


def test_a_network_with_cocos_class_names_writes_cocos_category_ids(run_cli, save, images, tmp_path):
    coco = built_in("coco")
    network = save("coco", "detection", names=coco.names, preprocess=small())
    code, _, _ = run_cli("predict", network, images, *LOW, "--coco", tmp_path / "r.json", "--json", tmp_path / "p.json")
    assert code == 0
    rows = predicted(tmp_path / "p.json")
    expected = [coco.values[label] for row in rows for label in row["labels"]]
    assert [entry["category_id"] for entry in json.loads((tmp_path / "r.json").read_text())] == expected


def test_an_image_without_predictions_is_listed_and_drawn_unchanged(run_cli, detector, images, tmp_path):
    code, output, _ = run_cli("predict", detector, images, "--device", "cpu", "--out", tmp_path / "out")
    assert code == 0
    assert [line.split("\t")[1:4] for line in output.splitlines()] == [["", "0", ""]] * 3
    name = "000000000007.png"
    with Image.open(tmp_path / "out" / name) as drawn, Image.open(images / name) as original:
        np.testing.assert_array_equal(np.asarray(drawn)[::4, ::4], np.asarray(original))


def test_options_of_detectors_are_refused_for_classifiers(run_cli, save, images, tmp_path):
    classifier = save("classifier", "classification")
    for flags, expected in (
        (["--score", 0.5], "--score, --nms"),
        (["--coco", tmp_path / "r.json"], "--coco is for det"),
    ):
        code, _, err = run_cli("predict", classifier, images, *flags, "--device", "cpu")
        assert code == 2
        assert expected in err
        assert err.count("\n") == 1
    assert not (tmp_path / "r.json").exists()
    assert run_cli("predict", classifier, images, "--device", "cpu")[0] == 0


def test_a_missing_output_folder_is_refused_before_any_prediction(run_cli, detector, images, tmp_path):
    code, out, err = run_cli("predict", detector, images, *LOW, "--json", tmp_path / "gone" / "all.json")
    assert (code, out) == (2, "")
    assert "there is no folder" in err


# videos


def test_a_video_is_drawn_with_one_record_per_frame(run_cli, detector, video, images, tmp_path):
    out, rows, table = tmp_path / "drawn", tmp_path / "all.json", tmp_path / "all.csv"
    first = images / "000000000007.png"
    files = ["--out", out, "--json", rows, "--csv", table]
    code, output, _ = run_cli("predict", detector, video, first, *LOW, *files, "--batch-size", 4)
    assert code == 0
    assert "6 frames; found:" in output
    content = predicted(rows)
    assert [(row["image"], row.get("frame")) for row in content] == [
        *((str(video), n) for n in range(6)),
        (str(first), None),
    ]
    assert [row["seconds"] for row in content[:6]] == pytest.approx([n / 10 for n in range(6)], abs=2e-3)
    assert sorted(path.name for path in out.iterdir()) == ["000000000007.png", "clip.mp4"]
    drawn = frames_of(out / "clip.mp4")
    assert [frame.seconds for frame in drawn] == pytest.approx([n / 10 for n in range(6)], abs=2e-3)
    assert {frame.image.size for frame in drawn} == {(480, 320)}
    lines = list(csv.DictReader(table.open()))
    assert [line["frame"] for line in lines[::12]] == ["0", "1", "2", "3", "4", "5", ""]


@pytest.mark.parametrize("task", ["classification", "semantic", "instance"])
def test_every_task_draws_video_frames_of_equal_size(run_cli, save, video, tmp_path, task):
    settings = {} if task == "classification" else {"preprocess": small()}
    network = save(f"video-{task}", task, names=tuple(f"class number {n}" for n in range(14)), **settings)
    flags = ["--score", "0.001"] if task == "instance" else []
    out, rows = tmp_path / "drawn", tmp_path / "all.json"
    code, output, _ = run_cli("predict", network, video, *flags, "--device", "cpu", "--out", out, "--json", rows)
    assert code == 0
    assert "6 frames; " in output
    assert len(predicted(rows)) == 6
    assert len({frame.image.size for frame in frames_of(out / "clip.mp4")}) == 1
    assert [path.name for path in out.iterdir()] == ["clip.mp4"]


def test_every_predicts_each_nth_frame_of_a_video(run_cli, detector, video, tmp_path):
    out, rows = tmp_path / "drawn", tmp_path / "all.json"
    code, output, _ = run_cli("predict", detector, video, *LOW, "--every", 4, "--out", out, "--json", rows)
    assert code == 0
    assert "2 frames; " in output
    assert [row["frame"] for row in predicted(rows)] == [0, 4]
    assert [frame.seconds for frame in frames_of(out / "clip.mp4")] == pytest.approx([0.0, 0.4], abs=2e-3)
    code, _, err = run_cli("predict", detector, video, "--every", 0)
    assert code == 2
    assert "--every must be at least 1" in err


def test_a_damaged_video_is_named_and_the_other_videos_are_predicted(run_cli, detector, video, tmp_path):
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    rows = tmp_path / "all.json"
    code, output, err = run_cli("predict", detector, tmp_path / "bad.mp4", video, *LOW, "--json", rows)
    assert code == 1
    assert "bad.mp4 is no video or damaged" in err
    assert output.startswith(f"{video}\t6 frames; found: ")
    assert len(predicted(rows)) == 6


def test_the_readable_frames_of_a_truncated_video_are_kept(run_cli, detector, video, tmp_path):
    from twins.data.loading.video import VideoWriter

    random, path, out = np.random.default_rng(0), tmp_path / "cut.mp4", tmp_path / "drawn"
    with VideoWriter(path) as writer:
        for number in range(30):
            writer.add(Image.fromarray(random.integers(0, 255, (48, 64, 3), dtype=np.uint8)), number / 10)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    rows = tmp_path / "all.json"
    code, _, err = run_cli("predict", detector, path, video, *LOW, "--json", rows, "--out", out)
    assert code == 1
    (sentence,) = (line for line in err.splitlines() if line.startswith("not read: "))
    assert str(path) in sentence
    count = sum(row["image"] == str(path) for row in predicted(rows))
    assert 5 < count < 30
    assert len(frames_of(out / "cut.mp4")) == count
    assert len(frames_of(out / "clip.mp4")) == 6


def test_a_file_as_output_folder_is_refused(run_cli, detector, images):
    file = images / "000000000007.png"
    code, _, err = run_cli("predict", detector, file, "--out", file, "--device", "cpu")
    assert code == 2
    assert "is a file; name a folder" in err


@pytest.mark.parametrize("flag", ["--json", "--csv", "--coco"])
def test_an_image_as_output_file_is_refused_and_not_replaced(run_cli, detector, images, flag):
    paths = sorted(images.iterdir())
    before = [path.read_bytes() for path in paths]
    code, _, err = run_cli("predict", detector, flag, *paths, "--device", "cpu")  # as `--json images/*.png` comes
    assert code == 2
    assert f"{flag} {paths[0]} is an image" in err
    code, _, err = run_cli("predict", detector, paths[0], flag, detector, "--device", "cpu")
    assert code == 2
    assert [path.read_bytes() for path in paths] == before


def test_two_outputs_or_the_output_folder_may_not_have_the_same_path(run_cli, detector, images, tmp_path):
    shared_path = tmp_path / "s.x"
    code, _, err = run_cli("predict", detector, images, "--csv", shared_path, "--json", shared_path, "--device", "cpu")
    assert code == 2
    assert "--json" in err
    assert "--csv" in err
    code, _, err = run_cli("predict", detector, images, "--out", shared_path, "--json", shared_path, "--device", "cpu")
    assert code == 2
    assert "is the folder that --out names" in err
    assert not shared_path.exists()


def test_an_output_folder_that_cannot_be_created_raises_one_sentence(run_cli, detector, images):
    file = images / "000000000007.png"
    for out in (file / "drawn", images / ("x" * 300)):
        code, _, err = run_cli("predict", detector, file, "--out", out, "--device", "cpu")
        assert code == 2
        assert "cannot be made or written to" in err
        assert err.count("\n") == 1


def test_a_full_disk_raises_one_sentence(run_cli, detector, images, tmp_path, monkeypatch):
    def refuse(*_: object, **__: object):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", refuse)
    code, _, err = run_cli("predict", detector, images, "--out", tmp_path / "drawn", "--device", "cpu")
    assert code == 2
    assert "could not be written" in err
    assert not list((tmp_path / "drawn").iterdir())


def test_drawings_of_images_with_long_names_get_shorter_names(run_cli, save, images, tmp_path):
    network = save("semantic", "semantic", preprocess=small())
    path, out = images / f"{'ä' * 120}x.png", tmp_path / "drawn"
    (images / "000000000007.png").rename(path)
    assert run_cli("predict", network, path, "--out", out, "--device", "cpu")[0] == 0
    assert sorted(file.name for file in out.iterdir()) == [f"{'ä' * 100}-classes.png", f"{'ä' * 100}.png"]


@pytest.mark.parametrize("path", ["", "x" * 300])
def test_an_empty_or_too_long_path_raises_one_sentence(run_cli, detector, path):
    code, _, err = run_cli("predict", detector, path, "--device", "cpu")
    assert code == 2
    assert err.count("\n") == 1


def test_a_drawing_in_the_folder_of_its_source_does_not_replace_it(run_cli, detector, video):
    before = video.read_bytes()
    assert run_cli("predict", detector, video, *LOW, "--out", video.parent)[0] == 0
    assert video.read_bytes() == before
    assert len(frames_of(video.with_name("clip-2.mp4"))) == 6


def test_an_error_of_the_network_is_not_reported_as_a_full_disk(detector, video, tmp_path, monkeypatch):
    from twins.predictor import Predictor

    def fail(*_: object, **__: object):
        raise RuntimeError("the network is at fault")

    monkeypatch.setattr(Predictor, "predict", fail)
    rows = tmp_path / "all.json"
    with pytest.raises(RuntimeError, match="at fault"):
        main(
            ["predict", str(detector), str(video), "--json", str(rows), "--out", str(tmp_path / "o"), "--device", "cpu"]
        )
    assert not rows.exists()


def test_a_video_without_pyav_names_the_pip_command(run_cli, detector, video, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    code, _, err = run_cli("predict", detector, video, "--device", "cpu")
    assert code == 2
    assert "pip install 'twins-vision[video]'" in err
    assert err.count("\n") == 1
