"""`twins check`: the reading plan, the layout flags, and the file of settings beside the data."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from twins.cli.main import main
from twins.data.formats.source import LAYOUT_FILE, read_layout


@pytest.fixture
def folder(tmp_path):
    """Class folders in `batch 1` and `batch 2`, names that say no part."""
    random = np.random.default_rng(0)
    for batch in ("batch 1", "batch 2"):
        for name in ("a", "b"):
            (tmp_path / batch / name).mkdir(parents=True)
            for index in range(3):
                pixels = random.integers(0, 256, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / batch / name / f"{index}.png")
    (tmp_path / "list.csv").touch()
    return tmp_path


@pytest.fixture
def check(capsys):
    """Run `twins check` and return its code, output and error."""

    def run(data, *arguments):
        code = main(["check", str(data), *arguments])
        return code, *capsys.readouterr()

    return run


FLAGS = ["--layout.train", "batch 1", "--layout.val", "batch 2"]


def test_flags_decide_and_the_plan_is_printed(folder, check):
    code, _, error = check(folder)
    assert (code, "batch 1, batch 2 in" in error, "--layout.train" in error) == (2, True, True)
    code, out, _ = check(folder, *FLAGS)
    assert code == 0
    assert "layout: class folders, recognised by batch 1, batch 2\n" in out
    assert "train: 6 images, batch 1\nval: 6 images, batch 2\nclass names: the folders\n" in out
    assert "used: 12 images of 13 files\n" in out
    assert "passed over: 1 file in the data folder: a file such as annotations come in, which this layout does" in out
    plan = json.loads(check(folder, *FLAGS, "--json")[1])["plan"]
    assert plan["parts"] == {"train": {"images": 6, "origin": "batch 1"}, "val": {"images": 6, "origin": "batch 2"}}
    assert plan["passed_over"][0]["count"] == 1


def test_the_data_folder_is_called_so(folder, check):
    _, out, _ = check(folder / "batch 1")
    assert "recognised by the data folder\ntrain: 4 images, the rest of the data folder\n" in out
    assert "val: 2 images, share 0.2, seed 0, of the data folder\n" in out


def test_the_settings_are_written_once_and_open_the_same(folder, check):
    code, out, _ = check(folder, *FLAGS, "--write-layout")
    assert (code, "used: 12 images, 1 layout file of 14 files" in out) == (0, True)
    file = folder / LAYOUT_FILE
    assert (read_layout(file).train, read_layout(file).val) == (("batch 1",), ("batch 2",))
    written = file.read_bytes()
    for data in (folder, file):
        code, out, _ = check(data)
        assert (code, "train: 6 images, batch 1" in out) == (0, True)
    code, _, error = check(folder, "--write-layout")
    assert (code, error.endswith("twins.yaml exists and is kept; change it, or remove it first\n")) == (2, True)
    assert file.read_bytes() == written


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("digits", "digits is no folder, so no twins.yaml is written beside it; give a folder"),
        ("batch 1", "batch 1 needs no twins.yaml: the folder itself is all there is to say"),
    ],
)
def test_settings_that_cannot_be_written_are_refused(folder, check, data, message):
    code, _, error = check(folder / data if " " in data else data, "--write-layout")
    assert (code, message in error) == (2, True)
    assert not (folder / "batch 1" / LAYOUT_FILE).exists()


def test_a_folder_that_may_not_be_written_is_refused(folder, check, monkeypatch):
    def write_text(*arguments, **settings):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "write_text", write_text)
    code, _, error = check(folder, *FLAGS, "--write-layout")
    assert (code, "cannot be written (Permission denied); give the settings as flags" in error) == (2, True)


@pytest.fixture
def boxes(tmp_path):
    """A YOLO set as its exporter writes it, with parts above images and labels, and class folders beside them."""
    for part in ("train", "val"):
        for kind in ("images", "labels"):
            (tmp_path / part / kind).mkdir(parents=True)
        for index in range(3):
            image = Image.new("RGB", (64, 48), (index * 50, 0, 99 if part == "val" else 0))
            image.save(tmp_path / part / "images" / f"{part}{index}.png")
            (tmp_path / part / "labels" / f"{part}{index}.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    (tmp_path / "data.yaml").write_text("train: train/images\nval: val/images\nnames: [cat]\n")
    return tmp_path


def test_without_a_task_the_one_that_uses_most_of_the_annotations_is_checked(boxes, check):
    for data in (boxes, boxes / "data.yaml"):
        code, out, _ = check(data, "--json")
        found = json.loads(out)
        assert (code, found["task"], found["names"]) == (0, "detection", ["cat"])
        assert {task for task, suit in found["tasks"].items() if suit["opens"]} == {"detection"}
        assert found["tasks"]["detection"]["layout"] == "YOLO's label files"
        assert "boxes and no masks" in found["tasks"]["instance"]["reason"]
    out = check(boxes)[1]
    assert "--task detection       yes, as YOLO's label files, checked here\n" in out
    assert "--task instance        no: " in out


def test_boxes_do_not_suit_a_task_that_needs_masks(tmp_path, check):
    annotations = [{"id": n, "image_id": n, "category_id": 1, "bbox": [5, 5, 20, 20], "area": 400} for n in range(5)]
    images = [{"id": n, "file_name": f"{n}.png", "width": 64, "height": 48} for n in range(5)]
    for index in range(5):
        Image.new("RGB", (64, 48), (index * 40, 0, 9)).save(tmp_path / f"{index}.png")
    truth = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "cat"}]}
    (tmp_path / "_annotations.coco.json").write_text(json.dumps(truth))
    found = json.loads(check(tmp_path, "--json")[1])
    assert (found["task"], found["tasks"]["instance"]["opens"]) == ("detection", False)
    assert main(["train", "--data", str(tmp_path), "--model", "twins_svt_nano", "--weights", "none"]) == 2


def test_a_folder_called_like_an_embedded_set_is_told_from_it(folder, check, monkeypatch):
    (folder / "digits").mkdir()
    monkeypatch.chdir(folder)
    assert "note: digits is the embedded data set" in check("digits")[1]
    assert check("./digits")[0] == 2


def test_a_test_part_that_selects_the_weights_is_said(folder, check):
    (folder / "batch 1").rename(folder / "train")
    (folder / "batch 2").rename(folder / "test")
    assert "note: there is no validation part, so the test part is used as one" in check(folder)[1]


def test_names_whose_bytes_are_no_text_are_printed(folder, monkeypatch):
    (folder / "list.csv").rename(folder / "caf\udce9.csv")
    for arguments in ([], ["--json"]):
        output = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
        monkeypatch.setattr(sys, "stdout", output)
        assert main(["check", str(folder), *FLAGS, *arguments]) == 0
        output.flush()
        text = output.buffer.getvalue().decode()
        assert "caf\\udce9.csv" in text
        assert not arguments or json.loads(text)["plan"]["passed_over"][0]["first"] == "caf\udce9.csv"
