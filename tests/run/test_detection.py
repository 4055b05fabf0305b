"""Detection and instance segmentation on the command line: training, evaluation, report, resuming and wrong input."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import twins
from twins.cli.main import main
from twins.data.objects import encode_mask
from twins.engine.config import read_config
from twins.engine.log import Log, read_rows
from twins.engine.processes import build_accelerator
from twins.engine.state import load_state
from twins.run_folder import CONFIG
from twins.tasks.contract import spec_of
from twins.training import _build_network

TRAIN, VAL = 14, 5
STEPS, EPOCH = 12, 7
SETTINGS = ["--model", "twins_svt_nano", "--device", "cpu", "--log-every", "1", "--size", "64"]
SETTINGS += ["--eval-every", "100", "--workers", "0", "--weights", "none"]
FEWER = ["--detection.samples", "32"]
INTERRUPTED = [*SETTINGS, "--batch-size", "2", "--steps", str(STEPS), "--save-every", "2", "--drop-path", "0.2"]
SINGLE_PROCESS = [*INTERRUPTED, *FEWER, "--workers", "1", "--ema-decay", "0.9"]
TASKS = ["detection", "instance"]


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Images of two shapes with red and blue discs on grey, in COCO's layout; the first of each part has no disc."""
    root = tmp_path_factory.mktemp("detection") / "discs"
    random = np.random.default_rng(0)
    for part, count in (("train", TRAIN), ("val", VAL)):
        (root / "images" / part).mkdir(parents=True)
        images, annotations = [], []
        for number in range(count):
            height, width = ((56, 64), (64, 48))[number % 2]
            pixels = np.full((height, width, 3), 90.0)
            images.append({"id": number, "file_name": f"{number:02}.png", "height": height, "width": width})
            for category in (3, 7) if number else ():
                mask = disc(random, height, width)
                pixels[mask] = (200, 60, 60) if category == 3 else (60, 60, 200)
                annotations.append(annotation(len(annotations), number, category, mask))
            noisy = np.clip(pixels + random.normal(0, 12, pixels.shape), 0, 255).astype(np.uint8)
            Image.fromarray(noisy).save(root / "images" / part / f"{number:02}.png")
        categories = [{"id": 3, "name": "red"}, {"id": 7, "name": "blue"}]
        content = {"images": images, "annotations": annotations, "categories": categories}
        (root / f"instances_{part}.json").write_text(json.dumps(content))
    return root


def disc(random: np.random.Generator, height: int, width: int) -> np.ndarray:
    rows, columns = np.mgrid[:height, :width]
    middle, radius = random.integers(14, (height - 14, width - 14)), random.integers(10, 14)
    return (rows - middle[0]) ** 2 + (columns - middle[1]) ** 2 < radius**2


def annotation(number: int, image: int, category: int, mask: np.ndarray) -> dict:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    box = [columns[0], rows[0], columns[-1] + 1 - columns[0], rows[-1] + 1 - rows[0]]
    encoded = encode_mask(mask)
    return {
        "id": number,
        "image_id": image,
        "category_id": category,
        "bbox": [int(side) for side in box],
        "area": int(mask.sum()),
        "iscrowd": 0,
        "segmentation": {"size": encoded["size"], "counts": encoded["counts"].decode()},
    }


@pytest.fixture
def train(run_cli, data, tmp_path):
    """Train in this process and return the run's folder."""

    def train(name: str, *arguments: object, task: str = "detection", source: Path = data) -> Path:
        run = tmp_path / name
        code, _, stderr = run_cli("train", "--task", task, *SETTINGS, "--data", source, "--out", run, *arguments)
        assert code == 0, stderr
        return run

    return train


@pytest.fixture(scope="module", params=TASKS)
def trained(request, data, tmp_path_factory):
    """A run that has learned to find the discs."""
    run = tmp_path_factory.mktemp(request.param) / "run"
    arguments = ["--task", request.param, "--data", str(data), "--out", str(run), "--eval-every", "10"]
    arguments += [*FEWER, "--steps", "30", "--batch-size", "7"] if request.param == "instance" else []
    arguments += ["--steps", "80", "--batch-size", "4"] if request.param == "detection" else []
    arguments += ["--optimizer.lr", "3e-3", "--schedule.warmup-epochs", "3"]
    assert main(["train", *SETTINGS, *arguments]) == 0
    return request.param, run


def monitor(task: str) -> str:
    return "mask_ap50" if task == "instance" else "box_ap50"


@pytest.mark.slow
def test_a_run_learns_and_its_result_report_and_weights_have_the_class_names(trained):
    task, run = trained
    result = json.loads((run / "eval.json").read_text())
    assert result["metrics"][monitor(task)] > 0.5
    assert result["protocol"]["selection"] == {"score": 0.05, "nms": 0.5, "agnostic": False, "most": 100}
    assert [row["name"] for row in result["per_class"]] == ["red", "blue"]
    assert [row["objects"] for row in result["per_class"]] == [VAL - 1, VAL - 1]
    (last, *_) = reversed(read_rows(run, "eval"))
    assert last["box_ap"] <= result["metrics"]["box_ap"] + 1e-9 or task == "instance"
    page = (run / "report.html").read_text()
    assert "red" in page
    assert "AP50" in page
    model = twins.load(run, device="cpu").model
    assert model.info.names == ("red", "blue")
    assert len(model.info.colours) == 2


@pytest.mark.slow
def test_results_files_of_eval_score_the_same(trained, data, run_cli, tmp_path):
    task, run = trained
    file, results = tmp_path / "eval.json", tmp_path / "results.json"
    assert run_cli("eval", run, "--data", data, "--out", file, "--results", results, "--device", "cpu")[0] == 0
    expected = json.loads(file.read_text())["metrics"]
    assert expected == pytest.approx(json.loads((run / "eval.json").read_text())["metrics"], abs=1e-6)
    scored = tmp_path / "scored.json"
    truth = data / "instances_val.json"
    assert run_cli("eval", results, "--data", truth, "--task", task, "--out", scored)[0] == 0
    scores = json.loads(scored.read_text())["metrics"]
    prefix = "mask_" if task == "instance" else "box_"
    sized = ("small", "medium", "large") if task == "instance" else ()  # pycocotools takes a mask's size from its box
    names = {name for name in expected if name.startswith(prefix) and not name.endswith(sized or "-")}
    assert {name: scores[name] for name in names} == pytest.approx({name: expected[name] for name in names}, abs=1e-6)
    assert {entry["category_id"] for entry in json.loads(results.read_text())} <= {3, 7}


@pytest.mark.slow
@pytest.mark.usefixtures("no_report")
def test_a_run_that_is_killed_within_an_epoch_resumes_exactly(data, tmp_path, start, assert_equal_weights, losses):
    settings = ["--task", "instance", *SINGLE_PROCESS, "--data", str(data), "--out"]
    uninterrupted, interrupted = tmp_path / "uninterrupted", tmp_path / "interrupted"
    assert main(["train", *settings, str(uninterrupted)]) == 0
    training = start(*settings, str(interrupted))
    training.wait_for_step(interrupted, EPOCH + 2)
    training.kill()
    assert EPOCH < load_state(interrupted).progress.step < STEPS
    start("--resume", str(interrupted), report=False).finish()
    assert_equal_weights(uninterrupted, interrupted)
    assert losses(interrupted) == losses(uninterrupted)


@pytest.mark.slow
def test_two_processes_evaluate_each_image_once(data, tmp_path, start, run_cli):
    run = tmp_path / "run"
    settings = [*SETTINGS, "--batch-size", "2", "--steps", "4", "--eval-every", "0.5"]
    settings += ["--data", str(data), "--out", str(run)]
    start("--task", "detection", *settings, processes=2, report=False).finish()
    held_out = read_rows(run, "eval")[-1]
    file = tmp_path / "alone.json"
    weights = run / "last" / "model.safetensors"
    assert run_cli("eval", weights, "--data", data, "--out", file, "--batch-size", 1, "--device", "cpu")[0] == 0
    single = json.loads(file.read_text())
    assert single["protocol"]["images"] == VAL  # which two processes cannot share evenly
    for name, value in single["metrics"].items():
        tolerance = 1e-4 if name.startswith("loss") else 1e-6  # the inference form rounds losses otherwise
        assert held_out[name] == pytest.approx(value, abs=tolerance), name


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_settings_can_be_combined(task, train, losses, monkeypatch):
    if task == "instance":  # the trained run has a report of the same head
        monkeypatch.setattr("twins.report.page.write_report", lambda run, *, device: None)
    precision = "bf16" if task == "detection" else "fp32"  # many CPUs emulate bf16, which is slow
    together = ["--precision", precision, "--checkpointing", "--accumulate", "2", "--ema-decay", "0.9", "--steps", "2"]
    together += ["--batch-size", "4", "--detection.crop", "0.5", "--detection.ratio", "0.7", "1.3"]
    together += ["--detection.photometric", "--detection.anchor-scale", "2", "--schedule.kind", "step"]
    together += [*FEWER, "--epochs", "60", "--schedule.drop-epochs", "20", "--head"]
    together += ["faster_rcnn" if task == "detection" else "mask_rcnn"]
    run = train("together", *together, task=task)
    assert len(losses(run)) == 2
    assert all(math.isfinite(loss) for loss in losses(run))
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["detection"]["ratio"] == [0.7, 1.3]
    model = twins.load(run, device="cpu").model
    assert (model.info.head, model.info.anchor_scale) == (together[-1], 2.0)
    if task == "detection":
        assert "faster_rcnn" in (run / "report.html").read_text()


@pytest.mark.slow
@pytest.mark.usefixtures("no_report")
def test_a_resumed_run_keeps_the_head_of_its_initial_weights(train, data, tmp_path):
    file = tmp_path / "start.safetensors"
    start = twins.create_model("twins_svt_nano", task="detection", head="faster_rcnn", anchor_scale=2.0, num_classes=3)
    twins.save_weights(start, file)
    run = train("run", *FEWER, "--weights", file, "--steps", 1, "--batch-size", 2)
    config, spec = replace(read_config(run / CONFIG), resume=str(run)), spec_of("detection")
    assert (config.head, config.detection.anchor_scale) == ("faster_rcnn", 2.0)
    network = _build_network(config, spec, spec.open(config.source), build_accelerator(config), Log(active=False))
    assert (network.info.head, network.info.anchor_scale) == ("faster_rcnn", 2.0)
    network.load_state_dict(load_state(run).weights)


@pytest.mark.slow
def test_a_run_with_a_missing_validation_image_writes_a_report(train, data, tmp_path):
    root = shutil.copytree(data, tmp_path / "damaged")
    (root / "images" / "val" / "02.png").unlink()
    run = train("reported", "--steps", 1, "--batch-size", 2, "--max-skipped", 0.3, source=root)
    assert json.loads((run / "eval.json").read_text())["protocol"]["skipped"] == 1
    assert (run / "report.html").is_file()


@pytest.mark.slow
@pytest.mark.usefixtures("no_report")
def test_checkpointing_gives_bit_identical_weights(train, assert_equal_weights):
    settings = ["--steps", 3, "--batch-size", 4, "--drop-path", 0.3]
    assert_equal_weights(train("plain", *settings), train("checkpointed", *settings, "--checkpointing"))


@pytest.mark.slow
def test_batches_without_an_object_give_finite_losses(train, data, tmp_path, losses):
    root = tmp_path / "empty"
    root.mkdir()
    (root / "images").symlink_to(data / "images")
    for part in ("train", "val"):
        content = json.loads((data / f"instances_{part}.json").read_text())
        if part == "train":
            content["annotations"] = content["annotations"][:1]  # one image of fourteen has an object
        (root / f"instances_{part}.json").write_text(json.dumps(content))
    run = train("learned", "--steps", 4, "--batch-size", 2, source=root)
    assert all(math.isfinite(loss) for loss in losses(run))


def test_validation_images_without_an_object_are_refused_before_training(data, tmp_path, run_cli, expect_error):
    root = shutil.copytree(data, tmp_path / "nothing")
    content = json.loads((root / "instances_val.json").read_text())
    for record in content["annotations"]:
        record["iscrowd"] = 1
    (root / "instances_val.json").write_text(json.dumps(content))
    code, out, _ = run_cli("check", root, "--task", "detection")
    assert code == 1
    assert "no held-out image has an object to find" in out
    command = ["train", "--task", "detection", *SETTINGS, "--data", root, "--out", tmp_path / "run", "--steps", 1]
    assert "has an object to find, so nothing could be measured" in expect_error(*command)


def test_a_loss_that_becomes_infinite_stops_before_the_weights_change(data, tmp_path, run_cli):
    arguments = ["--task", "detection", *SETTINGS, "--data", data, "--steps", 8, "--batch-size", 2, "--save-every", 1]
    code, _, stderr = run_cli(
        "train", *arguments, "--out", tmp_path / "run", "--optimizer.lr", 1e9, "--schedule.warmup-epochs", 0
    )
    assert code == 2
    assert "training stopped before the weights moved" in stderr
    assert "is kept in" in stderr


@pytest.mark.slow
@pytest.mark.usefixtures("no_report")
def test_only_the_backbone_is_compiled(train, monkeypatch):
    compiled = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module, *a, **k: compiled.append(type(module).__name__))
    train("compiled", "--steps", 1, "--batch-size", 2, "--compile")
    assert compiled == ["Twins"]


@pytest.mark.slow
@pytest.mark.usefixtures("no_report")
def test_a_detector_starts_from_the_backbone_of_a_classifier(data, train, tmp_path):
    file = tmp_path / "classifier.safetensors"
    classifier = twins.create_model("twins_svt_nano", names=("dark", "light"))
    twins.save_weights(classifier, file)
    run = train("started", "--steps", 1, "--batch-size", 2, "--weights", file, "--optimizer.lr", 1e-12)
    trained_backbone = twins.load(run, device="cpu").model.backbone.state_dict()
    for name, value in classifier.backbone.state_dict().items():
        if name.startswith("stages.") and ".norm." not in name[:16]:
            torch.testing.assert_close(trained_backbone[name], value, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--class-weights", "balanced"], "--class-weights is for classification and semantic"),
        (["--masks.values", "binary"], "--masks.values is for semantic, found --task detection"),
        (["--semantic.norm", "group"], "--semantic.norm is for semantic, found --task detection"),
        (["--augment.mixup", 0.5], "--augment.mixup is for classification, found --task detection"),
        (["--fit", "squash"], "--fit is for classification, found --task detection"),
        (["--head", "mask_rcnn"], "the heads of detection are retinanet, faster_rcnn"),
        (FEWER, "--detection.samples is for a second stage; retinanet has none"),
        (["--detection.longest", 60], "--size is the shorter side and cannot exceed --detection.longest"),
        (["--schedule.kind", "step", "--schedule.drop-epochs", 90], "must be within --epochs 20, found 90"),
    ],
)
def test_settings_of_other_tasks_are_refused(arguments, expected, expect_error, data, tmp_path):
    command = ["train", "--task", "detection", *SETTINGS, "--data", data, "--out", tmp_path / "run", "--steps", 1]
    assert expected in expect_error(*command, *arguments)


@pytest.mark.parametrize(
    ("task", "data"), [("semantic", "digits"), ("detection", "digits"), ("classification", "scenes")]
)
def test_the_error_for_an_embedded_set_of_another_task_names_the_set(task, data, expect_error):
    assert f"the embedded {data} has nothing to learn for this task; give a folder" in expect_error(
        "check", data, "--task", task
    )


def test_eval_refuses_options_data_and_files_that_do_not_fit(expect_error, data, tmp_path):
    file = tmp_path / "model.safetensors"
    twins.save_weights(twins.create_model("twins_svt_nano", names=("dark", "light")), file)
    assert "--score, --nms, --agnostic and --most are for detection and instance" in expect_error(
        "eval", file, "--data", data, "--score", 0.5
    )
    assert "is a results file; give --task detection" in expect_error("eval", tmp_path / "x.json", "--data", data)
    results = ["eval", tmp_path / "x.json", "--data", data, "--task", "detection"]
    assert "scored as it is; leave out --score, --nms, --agnostic, --most" in expect_error(*results, "--score", 0.5)
    assert "scored as it is; leave out --batch-size" in expect_error(*results, "--batch-size", 2)
    assert "--task is for results files" in expect_error("eval", file, "--data", data, "--task", "detection")
    twins.save_weights(twins.create_model("twins_svt_nano", task="detection", names=("red", "green")), file)
    assert "does not know the data's classes blue" in expect_error("eval", file, "--data", data, "--device", "cpu")
    assert "--crop is for classifiers" in expect_error("eval", file, "--data", data, "--crop", 0.9, "--device", "cpu")
    twins.save_weights(twins.create_model("twins_svt_nano", task="detection", names=("red", "blue")), file)
    assert "--absent is for semantic" in expect_error(
        "eval", file, "--data", data, "--absent", "zero", "--device", "cpu"
    )
