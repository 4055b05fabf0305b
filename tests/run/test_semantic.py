"""Semantic segmentation on the command line: training, evaluation, report, resuming, two processes and wrong input."""

from __future__ import annotations

import base64
import io
import json
import math
import re
import shutil
from dataclasses import replace
from functools import partialmethod
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

import twins
from twins.backbone.config import VARIANTS
from twins.cli.main import main
from twins.engine.log import read_rows
from twins.engine.state import load_state
from twins.preprocess import Preprocess
from twins.tasks.inference import InferenceConfig
from twins.tasks.semantic import network as semantic

NAMES = ("ground", "red", "blue", "green")
COLOURS = np.array([[90, 90, 90], [200, 60, 60], [60, 60, 200]])
TRAIN, VAL = 14, 5
STEPS, EPOCH = 12, 7
SETTINGS = ["--task", "semantic", "--model", "twins_svt_nano", "--device", "cpu", "--log-every", "1"]
SETTINGS += ["--size", "64", "--semantic.crop", "64", "--eval-every", "100", "--workers", "0"]
INTERRUPTED = [*SETTINGS, "--batch-size", "2", "--steps", str(STEPS), "--save-every", "2", "--drop-path", "0.2"]
SINGLE_PROCESS = [*INTERRUPTED, "--workers", "1", "--ema-decay", "0.9"]
SPY = """
import sys
import torch
from twins.cli.main import main
from twins.engine import step

folder, average = sys.argv.pop(1), step.average_statistics

def spy(values, accelerator):
    mine = [value.clone() for value in values]
    average(values, accelerator)
    torch.save(mine, f"{folder}/{accelerator.process_index}.pt")

step.average_statistics = spy
sys.exit(main(sys.argv[1:]))
"""


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Images of two shapes with a red and a blue disc on grey; no image has the fourth class."""
    root = tmp_path_factory.mktemp("semantic") / "discs"
    random = np.random.default_rng(0)
    for part, count in (("train", TRAIN), ("val", VAL)):
        for number in range(count):
            height, width = ((56, 64), (64, 48))[number % 2]
            rows, columns = np.mgrid[:height, :width]
            mask = np.zeros((height, width), dtype=np.uint8)
            for label in (1, 2):
                middle, radius = random.integers(14, (height - 14, width - 14)), random.integers(10, 15)
                mask[(rows - middle[0]) ** 2 + (columns - middle[1]) ** 2 < radius**2] = label
            pixels = np.clip(COLOURS[mask] + random.normal(0, 12, (height, width, 3)), 0, 255).astype(np.uint8)
            for kind, content in (("images", pixels), ("masks", mask)):
                (root / kind / part).mkdir(parents=True, exist_ok=True)
                Image.fromarray(content).save(root / kind / part / f"{number:02}.png")
    (root / "classes.txt").write_text("\n".join(NAMES))
    return root


@pytest.fixture
def damaged(data, tmp_path):
    """A copy of the data that a test may damage."""
    return shutil.copytree(data, tmp_path / "damaged")


@pytest.fixture
def train(run_cli, data, tmp_path):
    """Train in this process and return the run's folder."""

    def train(name: str, *arguments: object, source: Path = data) -> Path:
        run = tmp_path / name
        code, _, stderr = run_cli("train", *SETTINGS, "--data", source, "--out", run, *arguments)
        assert code == 0, stderr
        return run

    return train


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """A run that has learned to segment the discs."""
    run = tmp_path_factory.mktemp("trained") / "run"
    arguments = ["--data", str(data), "--out", str(run), "--steps", "50", "--batch-size", "7", "--eval-every", "20"]
    code = main(["train", *SETTINGS, *arguments, "--optimizer.lr", "3e-3", "--schedule.warmup-epochs", "3"])
    assert code == 0
    return run


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    """The weight file of an untrained classifier with two classes, and a folder with images of these classes."""
    folder = tmp_path_factory.mktemp("classes")
    for name, tone in (("dark", 40), ("light", 200)):
        (folder / "data" / name).mkdir(parents=True)
        for number in range(3):
            Image.new("RGB", (40, 40), (tone, tone, 40 * number)).save(folder / "data" / name / f"{number}.png")
    file = folder / "classifier.safetensors"
    preprocess = Preprocess(size=32)
    twins.save_weights(twins.create_model("twins_svt_nano", names=("dark", "light"), preprocess=preprocess), file)
    return file, folder / "data"


def statistics(run: Path, name: str = "last/model.safetensors") -> list[torch.Tensor]:
    """Return a run's running means and variances in the network's order."""
    tensors = load_file(run / name)
    keys = twins.load(run, device="cpu").model.state_dict()
    return [tensors[key] for key in keys if key.endswith(("running_mean", "running_var"))]


def truncate(path: Path) -> Path:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    return path


# resuming


@pytest.mark.slow
@pytest.mark.usefixtures("no_report")
def test_a_run_that_is_killed_within_an_epoch_resumes_exactly(data, tmp_path, start, assert_equal_weights, losses):
    uninterrupted, interrupted = tmp_path / "uninterrupted", tmp_path / "interrupted"
    assert main(["train", *SINGLE_PROCESS, "--data", str(data), "--out", str(uninterrupted)]) == 0
    training = start(*SINGLE_PROCESS, "--data", str(data), "--out", str(interrupted))
    training.wait_for_step(interrupted, EPOCH + 2)
    training.kill()
    assert EPOCH < load_state(interrupted).progress.step < STEPS
    start("--resume", str(interrupted), report=False).finish()
    assert_equal_weights(uninterrupted, interrupted)
    assert [row["step"] for row in read_rows(interrupted, "train")] == list(range(1, STEPS + 1))
    assert losses(interrupted) == losses(uninterrupted)
    for name in ("last/model.safetensors", "best.safetensors"):  # the best weights are those of the EMA
        assert all(value.isfinite().all() and value.std() > 0 for value in statistics(uninterrupted, name))
    assert any(
        not torch.equal(*pair) for pair in zip(statistics(uninterrupted), statistics(uninterrupted, name), strict=True)
    )


@pytest.fixture(scope="module")
def two_processes(data, tmp_path_factory, start):
    """A run of two processes with one image per pass, and the folder with their statistics before averaging."""
    folder = tmp_path_factory.mktemp("two")
    (folder / "spy.py").write_text(SPY)
    program = (str(folder / "spy.py"), str(folder))
    start(*INTERRUPTED, "--data", str(data), "--out", str(folder / "run"), processes=2, program=program).finish()
    return folder / "run", folder


@pytest.mark.slow
def test_two_processes_killed_within_an_epoch_resume_exactly(
    data, tmp_path, start, two_processes, assert_equal_weights, losses
):
    uninterrupted, interrupted = two_processes[0], tmp_path / "interrupted"
    training = start(*INTERRUPTED, "--data", str(data), "--out", str(interrupted), processes=2)
    training.wait_for_step(interrupted, 3)
    training.kill()
    assert 2 <= load_state(interrupted).progress.step < EPOCH
    start("--resume", str(interrupted), processes=2, report=False).finish()
    assert_equal_weights(uninterrupted, interrupted)
    assert losses(interrupted) == losses(uninterrupted)


@pytest.mark.slow
def test_saved_running_statistics_are_the_mean_of_both_processes(two_processes):
    run, folder = two_processes
    first, second = (torch.load(folder / f"{rank}.pt") for rank in range(2))  # of the last step
    saved = statistics(run)
    assert len(saved) == len(first) > 0
    for one, other, mean in zip(first, second, saved, strict=True):
        assert not torch.equal(one, other)
        assert torch.equal((one + other) / 2, mean)


@pytest.mark.slow
def test_two_processes_evaluate_each_image_once(data, tmp_path, run_cli, two_processes):
    run, _ = two_processes
    (held_out,) = read_rows(run, "eval")
    file = tmp_path / "alone.json"
    weights = run / "last" / "model.safetensors"
    assert run_cli("eval", weights, "--data", data, "--out", file, "--batch-size", 1, "--device", "cpu")[0] == 0
    single = json.loads(file.read_text())
    assert single["protocol"]["images"] == VAL  # which two processes cannot share evenly
    assert sum(map(sum, single["confusion"])) == sum(np.asarray(Image.open(p)).size for p in data.glob("masks/val/*"))
    for name in ("miou", "pixel_accuracy", "mean_class_accuracy"):
        assert held_out[name] == single["metrics"][name], name
    assert held_out["loss"] == pytest.approx(single["metrics"]["loss"], rel=1e-4)


# settings


@pytest.mark.slow
def test_settings_can_be_combined(data, train, losses):
    together = ["--head", "upernet", "--semantic.norm", "group", "--class-weights", "balanced", "--precision", "bf16"]
    together += ["--checkpointing", "--accumulate", "2", "--ema-decay", "0.9", "--steps", "2", "--batch-size", "4"]
    run = train("together", *together)
    assert len(losses(run)) == 2
    assert all(math.isfinite(loss) for loss in losses(run))
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert (config["head"], config["semantic"]["norm"], config["precision"]) == ("upernet", "group", "bf16")
    model = twins.load(run, device="cpu").model
    assert (model.info.head, model.info.norm) == ("upernet", "group")
    kinds = {type(module) for module in model.modules()}
    assert torch.nn.GroupNorm in kinds
    assert torch.nn.BatchNorm2d not in kinds
    assert all(value.dtype == torch.float32 for value in model.parameters())
    page = (run / "report.html").read_text()
    assert "upernet" in page
    assert all(f"<td>{name}</td>" in page for name in NAMES[:3])


@pytest.mark.slow
def test_a_budget_in_minutes_ends_the_run_and_its_schedule(train):
    run = train("minutes", "--minutes", 0.04, "--batch-size", 2)
    state, rows = load_state(run), read_rows(run, "train")
    assert state.progress.seconds >= 0.04 * 60
    assert state.progress.evaluated == state.progress.step == rows[-1]["step"] > 1
    assert rows[-1]["lr"] < 0.5 * max(row["lr"] for row in rows)
    assert (run / "report.html").is_file()


@pytest.mark.slow
@pytest.mark.usefixtures("no_report")
def test_checkpointing_gives_bit_identical_weights(train, assert_equal_weights):
    settings = ["--steps", 3, "--batch-size", 4, "--drop-path", 0.3]
    assert_equal_weights(train("plain", *settings), train("checkpointed", *settings, "--checkpointing"))


@pytest.mark.slow
@pytest.mark.usefixtures("no_report")
def test_accumulated_passes_equal_one_step(train, losses):
    settings = ["--steps", 3, "--batch-size", 4, "--semantic.norm", "group", "--drop-rate", 0, "--drop-path", 0]
    uninterrupted, parts = train("whole", *settings), train("parts", *settings, "--accumulate", 2)
    assert losses(parts) == pytest.approx(losses(uninterrupted), abs=1e-4)


@pytest.mark.usefixtures("no_report")
def test_balanced_class_weights_reach_the_loss(data, train, monkeypatch):
    weighed, cross_entropy = [], semantic.F.cross_entropy

    def spy(logits, targets, *, weight=None, **settings):  # the held-out loss has no weights
        weighed.extend([] if weight is None else [weight])
        return cross_entropy(logits, targets, weight=weight, **settings)

    monkeypatch.setattr(semantic.F, "cross_entropy", spy)
    train("balanced", "--steps", 1, "--batch-size", 4, "--class-weights", "balanced")
    masks = [np.asarray(Image.open(path)) for path in sorted((data / "masks" / "train").iterdir())]
    counts = np.array([[(mask == label).sum() for label in range(3)] for mask in masks])
    sizes = np.array([mask.size for mask in masks])
    frequency = [counts[:, k].sum() / sizes[counts[:, k] > 0].sum() for k in range(3)]
    expected = [np.median(frequency) / share for share in frequency]
    assert len(weighed) == 1
    assert weighed[0].tolist() == pytest.approx([*expected, 0.0], rel=1e-6)
    assert expected[0] < 0.3 < 0.9 < expected[1]


@pytest.mark.slow
@pytest.mark.usefixtures("no_report")
def test_a_compiled_run_has_the_losses_of_an_eager_one(train, monkeypatch, losses):
    def all_but_the_kernels(graph, inputs):  # the kernels would take minutes to build
        graphs.append(graph)
        return torch._dynamo.lookup_backend("aot_eager")(graph, inputs)

    few = replace(VARIANTS["twins_svt_nano"], depths=(2, 1, 1, 2))  # blocks of each kind
    monkeypatch.setitem(VARIANTS, "twins_svt_nano", few)
    graphs, compile_module = [], torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", partialmethod(compile_module, backend=all_but_the_kernels))
    settings = ["--steps", 2, "--batch-size", 4, "--drop-rate", 0, "--drop-path", 0]
    eager, compiled = train("eager", *settings), train("compiled", *settings, "--compile")
    assert len(graphs) == 1  # no break in it
    assert losses(compiled) == pytest.approx(losses(eager), abs=1e-3)
    compiled_statistics, eager_statistics = statistics(compiled), statistics(eager)
    for one, other in zip(compiled_statistics, eager_statistics, strict=True):
        torch.testing.assert_close(one, other, atol=1e-3, rtol=1e-2)


# commands


def test_check_finds_a_damaged_image(run_cli, damaged):
    code, out, _ = run_cli("check", damaged, "--task", "semantic")
    assert code == 0
    assert f"4 classes, {TRAIN} images to train on, {VAL} held out" in out
    assert "1 of the 4 classes is in no image and cannot be learned: green" in out
    assert "no problems found" in out
    truncate(damaged / "images" / "train" / "03.png")
    code, out, _ = run_cli("check", damaged, "--task", "semantic", "--json")
    (problem,) = json.loads(out)["problems"]
    assert code == 1
    assert "03.png is damaged" in problem


def test_a_run_folder_has_its_documented_files(trained, losses):
    files = {
        "config.yaml",
        "metrics.jsonl",
        "best.safetensors",
        "last",
        "states",
        "eval.json",
        "report.html",
        "log.txt",
        "data.json",
        "examples",
    }
    assert {path.name for path in trained.iterdir()} == files
    assert {path.name for path in (trained / "last").iterdir()} == {"model.safetensors", "state.pt"}
    config, result = (
        yaml.safe_load((trained / "config.yaml").read_text()),
        json.loads((trained / "eval.json").read_text()),
    )
    assert (config["format"], config["task"], config["device"], config["padding"]) == (2, "semantic", "cpu", "exact")
    assert {"metrics", "protocol", "versions", "hashes", "per_class", "confusion"} <= result.keys()
    with safe_open(trained / "best.safetensors", "pt") as file:
        info = json.loads(file.metadata()["twins"])
    assert info["format"] == result["format"] == torch.load(trained / "last" / "state.pt")["format"] == 1
    assert (info["task"], info["head"], tuple(info["names"])) == ("semantic", "semantic_fpn", NAMES)
    assert (info["preprocess"]["fit"], info["preprocess"]["size"], info["padding"]) == ("keep", 64, "exact")
    train_row, eval_row = read_rows(trained, "train")[0], read_rows(trained, "eval")[-1]
    assert set(train_row) == {"kind", "step", "epoch", "lr", "loss", "images_per_s"}
    assert set(eval_row) == {"kind", "step", "epoch", "miou", "pixel_accuracy", "mean_class_accuracy", "loss"}
    assert losses(trained)[-1] < 0.5 * losses(trained)[0]
    best = max(row["miou"] for row in read_rows(trained, "eval"))
    assert result["metrics"]["miou"] == pytest.approx(best, abs=1e-3)  # other batches round differently
    assert best > 0.5


@pytest.mark.slow
def test_eval_prints_and_saves_its_protocol(run_cli, data, trained, tmp_path):
    def measure(*arguments: object) -> tuple[str, dict]:
        file = tmp_path / "eval.json"
        code, out, stderr = run_cli("eval", trained, "--data", data, "--out", file, "--device", "cpu", *arguments)
        assert code == 0, stderr
        return out, json.loads(file.read_text())

    out, plain = measure()
    first = json.loads((trained / "eval.json").read_text())
    for part in ("metrics", "hashes", "per_class", "confusion"):
        assert plain[part] == first[part]
    assert "absent classes left out" in out
    assert plain["protocol"]["absent_classes"] == "left_out"
    assert plain["protocol"]["inference"]["scales"] == [1.0]
    assert [row["name"] for row in plain["per_class"]] == list(NAMES)
    assert plain["per_class"][3] | {"pixels": 0, "iou": None} == plain["per_class"][3]  # not predicted either

    out, zero = measure("--absent", "zero")
    assert "absent classes zero" in out
    assert zero["protocol"]["absent_classes"] == "zero"
    assert zero["metrics"]["miou"] == pytest.approx(plain["metrics"]["miou"] * 3 / 4, abs=1e-12)

    out, scales = measure("--scales", 0.75, 1.25, "--flip")
    assert "scales (0.75, 1.25), flip True" in out
    assert scales["protocol"]["inference"]["flip"] is True
    assert scales["confusion"] != plain["confusion"]

    out, window = measure("--window", 48, "--stride", 24)
    assert "window 48, stride 24" in out
    assert window["protocol"]["inference"]["window"] == 48
    assert window["confusion"] not in (plain["confusion"], scales["confusion"])
    for result in (scales, window):
        assert result["metrics"]["miou"] > 0.4
        assert sum(map(sum, result["confusion"])) == sum(map(sum, plain["confusion"]))


def test_eval_reads_masks_as_the_run_did_except_for_changed_settings(run_cli, data, trained, tmp_path):
    run, file = shutil.copytree(trained, tmp_path / "run", symlinks=True), tmp_path / "eval.json"
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(config.replace("values: auto", "values: index"))
    out = run_cli("eval", run, "--data", data, "--out", file, "--device", "cpu", "--masks.ignore", 2)[1]
    result = json.loads(file.read_text())
    assert "masks.values index, masks.ignore (2,)" in out
    assert result["protocol"]["masks"] | {"values": "index", "ignore": [2]} == result["protocol"]["masks"]
    assert result["per_class"][2]["pixels"] == 0


def test_predict_writes_maps_drawings_and_areas(run_cli, data, trained, tmp_path):
    image, out, file = data / "images" / "val" / "00.png", tmp_path / "drawn", tmp_path / "all.json"
    code, output, _ = run_cli("predict", trained, image, "--out", out, "--json", file, "--device", "cpu")
    assert code == 0
    assert "ground" in output
    (expected,) = twins.load(trained, device="cpu").predict(image)
    labels = np.asarray(Image.open(out / "00-classes.png"))
    assert (labels == expected.label_map).all()
    assert len(np.unique(labels)) > 1
    content = json.loads(file.read_text())
    (row,) = content["predictions"]
    assert (content["format"], row["task"], row["size"]) == (1, "semantic", list(labels.shape))
    assert row["areas"] == {NAMES[label]: int((labels == label).sum()) for label in np.unique(labels)}
    original, drawn = np.asarray(Image.open(image)), np.asarray(Image.open(out / "00.png"))
    assert drawn.shape[1] == original.shape[1]
    assert (drawn[: original.shape[0]] != original).any(axis=2).mean() > 0.9


def test_a_report_is_self_contained(trained):
    page = (trained / "report.html").read_text()
    for section in ("Training", "Predictions", "Worst images", "Where it looks", "Classes", "Confusion", "Facts"):
        assert f"<h2>{section}</h2>" in page
    assert "://" not in page
    assert not re.findall(r"<(?:script[^>]|link|iframe|object|embed)|@import", page)  # the script is inline
    sources = re.findall(r"""(?:src|href|url\()\s*=?\s*["']?([^"'\s>)]+)""", page)
    assert len(sources) >= 12
    for source in sources:
        assert source.startswith("data:image/")
        Image.open(io.BytesIO(base64.b64decode(source.partition("base64,")[2]))).load()
    classes = page.partition("<h2>Classes</h2>")[2].partition("</table>")[0]
    assert [name for name in NAMES if f"<td>{name}</td>" in classes] == list(NAMES[:3])
    assert "mean IoU" in page


# malformed input


@pytest.mark.slow
def test_unreadable_images_and_masks_are_named_counted_and_skipped(damaged, train):
    image = truncate(damaged / "images" / "train" / "03.png")
    mask, held_out = damaged / "masks" / "train" / "05.png", truncate(damaged / "images" / "val" / "01.png")
    mask.write_bytes(b"no mask")
    settings = ["--steps", 8, "--batch-size", 4, "--eval-every", 1, "--max-skipped", 0.25]
    run = train("skipping", *settings, source=damaged)
    log = (run / "log.txt").read_text()
    assert log.count("skipped: ") == 3  # each once, though met in every epoch
    for path in (image, mask, held_out):
        assert str(path) in log
    skipped = load_state(run).progress.skipped
    assert set(skipped["train"]) == {str(image), str(damaged / "images" / "train" / "05.png")}
    result = json.loads((run / "eval.json").read_text())
    assert [item["path"] for item in result["skipped"]] == [str(held_out)]
    assert (result["protocol"]["images"], result["protocol"]["skipped"]) == (VAL - 1, 1)


def test_too_many_unreadable_images_end_the_run(damaged, expect_error, tmp_path):
    truncate(damaged / "images" / "train" / "03.png")
    truncate(damaged / "masks" / "train" / "05.png")
    arguments = ["train", *SETTINGS, "--data", damaged, "--steps", 8, "--batch-size", 4, "--out", tmp_path / "run"]
    message = expect_error(*arguments, "--max-skipped", 0.1)
    assert "2 of 14 images cannot be read, a larger share than --max-skipped 0.1" in message


def test_the_error_for_a_mask_of_another_size_names_both_sizes(damaged, expect_error, trained, tmp_path):
    for part, name in (("train", "04.png"), ("val", "01.png")):
        Image.new("L", (30, 20)).save(damaged / "masks" / part / name)
    arguments = ["train", *SETTINGS, "--data", damaged, "--steps", 4, "--batch-size", 7, "--out", tmp_path / "run"]
    assert "1 of 14 images cannot be read" in expect_error(*arguments)
    log = (tmp_path / "run" / "log.txt").read_text()
    assert f"{damaged / 'images' / 'train' / '04.png'}: the mask has 30 x 20 pixels, its image 64 x 56" in log
    for options in ([], ["--flip"]):
        message = expect_error("eval", trained, "--data", damaged, "--device", "cpu", *options)
        assert f"{damaged / 'images' / 'val' / '01.png'}: the mask has 30 x 20 pixels, its image 48 x 64" in message


def test_the_error_for_an_unknown_mask_value_names_it_and_its_file(damaged, expect_error, tmp_path):
    mask = damaged / "masks" / "train" / "06.png"
    Image.fromarray(np.where(np.asarray(Image.open(mask)) == 2, 77, 0).astype(np.uint8)).save(mask)
    arguments = ["train", *SETTINGS, "--data", damaged, "--steps", 4, "--batch-size", 7, "--out", tmp_path / "run"]
    assert "1 of 14 images cannot be read" in expect_error(*arguments)
    assert f"{mask} holds values that no class has: 77" in (tmp_path / "run" / "log.txt").read_text()


def test_validation_masks_with_only_ignored_pixels_are_refused(damaged, expect_error, trained, tmp_path):
    for mask in (damaged / "masks" / "val").iterdir():
        Image.new("L", Image.open(mask).size, 255).save(mask)
    arguments = ["train", *SETTINGS, "--data", damaged, "--steps", 1, "--batch-size", 4, "--out", tmp_path / "run"]
    for message in (expect_error(*arguments), expect_error("eval", trained, "--data", damaged, "--device", "cpu")):
        assert "nothing in the 5 held-out images counts, so miou cannot be measured" in message


@pytest.mark.slow
@pytest.mark.parametrize("settings", [["--head", "upernet"], ["--semantic.crop", 32]], ids=["pooled", "small"])
@pytest.mark.usefixtures("no_report")
def test_batch_norm_refuses_a_single_image_per_pass(data, expect_error, train, tmp_path, settings, losses):
    single_image = ["--steps", 1, "--batch-size", 2, "--accumulate", 2, *settings]
    message = expect_error("train", *SETTINGS, "--data", data, "--out", tmp_path / "run", *single_image)
    assert "a single image in a pass" in message
    assert "--semantic.norm group" in message
    run = train("group", *single_image, "--semantic.norm", "group")
    assert math.isfinite(losses(run)[0])
    smallest = twins.load(run, device="cpu", inference=InferenceConfig(tile=32))
    assert smallest.predict(Image.new("RGB", (32, 32)))[0].label_map.shape == (32, 32)


def test_a_network_of_another_task_is_refused(data, expect_error, trained, classifier):
    network, classes = classifier
    assert "holds no images with masks" in expect_error("eval", trained, "--data", classes)
    message = expect_error("eval", network, "--data", data)
    assert "instead of class folders; choose --task semantic" in message
    assert "--window is for semantic networks" in expect_error("eval", network, "--data", classes, "--window", 64)
    assert "--crop is for classifiers" in expect_error("eval", trained, "--data", data, "--crop", 0.5)


def test_a_note_warns_if_images_and_masks_are_read_as_classes(run_cli, data, classifier):
    code, _, message = run_cli("check", data, "--task", "classification")
    assert code == 2
    assert "instead of class folders; choose --task semantic" in message
    code, out, _ = run_cli("check", classifier[1])
    assert code == 0
    assert "choose --task" not in out


def test_truncated_weights_are_refused(data, expect_error, trained, tmp_path):
    run, image = shutil.copytree(trained, tmp_path / "run", symlinks=True), data / "images" / "val" / "00.png"
    truncate(run / "best.safetensors")
    for arguments in (["eval", run, "--data", data], ["predict", run, image]):
        assert "best.safetensors is damaged or cut short" in expect_error(*arguments)
    truncate(run / "last" / "model.safetensors")
    assert "model.safetensors is damaged or cut short" in expect_error("train", "--resume", run)
    shutil.copy(trained / "last" / "model.safetensors", run / "last" / "model.safetensors")
    truncate(run / "last" / "state.pt")
    assert "state.pt is damaged" in expect_error("train", "--resume", run)
