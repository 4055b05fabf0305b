"""Predictions, metrics and the report of a run folder, through the functions that a user calls."""

from __future__ import annotations

import json
import shlex
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import twins
from twins.cli.main import main
from twins.data.formats.digits import Digits
from twins.engine.config import EvalConfig, TrainConfig
from twins.errors import ConfigError, DataError, InputError, NotFoundError
from twins.evaluation import evaluate
from twins.predictor import Predictor, load
from twins.preprocess import Preprocess
from twins.report.facts import _one_line, train_command
from twins.report.page import curves_section, write_report
from twins.tasks.recipes import starting_point
from twins.tasks.table import facts_of
from twins.training import RunResult

DIGITS = tuple(str(digit) for digit in range(10))


def network(names=DIGITS, **settings):
    torch.manual_seed(0)
    return twins.create_model("twins_svt_nano", names=names, preprocess=Preprocess(size=32, crop=1.0), **settings)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run folder with an untrained network, complete enough for evaluation and report."""
    folder = tmp_path_factory.mktemp("run")
    twins.save_weights(network(), folder / "best.safetensors")
    (folder / "config.yaml").write_text(TrainConfig(data="digits", model="twins_svt_nano", weights="none").to_yaml())
    rows = [{"kind": "train", "step": 1, "epoch": 0.1, "lr": 1e-3, "loss": 2.3, "images_per_s": 100.0}]
    rows += [{"kind": "eval", "step": 1, "epoch": 0.1, "top1": 0.1}]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    evaluate(folder, "digits", EvalConfig(out=str(folder / "eval.json"), device="cpu"))
    return folder


@pytest.mark.slow
def test_a_saved_network_predicts_the_same_from_any_form_and_batch_of_images(run, tmp_path):
    image = Digits(train=False).load(0)
    image.save(tmp_path / "digit.png")
    predictor = load(run, device="cpu")
    assert predictor.names == DIGITS
    images = [tmp_path / "digit.png", image, np.asarray(image), torch.from_numpy(np.array(image)).permute(2, 0, 1)]
    predictions = predictor.predict(images, batch_size=3)
    with torch.inference_mode():
        logits = network().eval()(Preprocess(size=32, crop=1.0)(image)[None])
    expected = logits.softmax(1).sort(descending=True).values[0].numpy()
    for prediction in predictions:
        np.testing.assert_allclose(prediction.scores, expected, atol=1e-6)


def test_missing_images_weights_and_devices_are_refused(run, tmp_path):
    predictor = load(run, device="cpu")
    (tmp_path / "bare").mkdir()
    for missing in (tmp_path / "gone.png", tmp_path / "bare", str(tmp_path / "*.png")):
        with pytest.raises(NotFoundError):
            predictor.predict(missing)
    with pytest.raises(NotFoundError, match=r"holds no best\.safetensors"):
        load(tmp_path / "bare")
    with pytest.raises(ConfigError, match="`device`"):
        Predictor(network(), device="abacus")


def test_the_result_has_the_protocol_versions_and_hashes(run):
    result = json.loads((run / "eval.json").read_text())
    assert result["protocol"] | {"images": 359, "size": 32, "crop": 1.0, "padding": "exact"} == result["protocol"]
    assert len(result["hashes"]["weights"]) == 64
    assert sum(map(sum, result["confusion"])) == 359
    assert 0.0 <= result["metrics"]["top1"] <= 1.0
    assert "torch" in result["versions"]


def test_classes_are_matched_by_name_not_by_id(run):
    expected = json.loads((run / "eval.json").read_text())
    reordered = network(names=tuple(reversed(DIGITS))).eval()
    with torch.no_grad():
        reordered.head.weight.copy_(reordered.head.weight.flip(0))
        reordered.head.bias.copy_(reordered.head.bias.flip(0))
    result = evaluate(reordered, "digits", EvalConfig(device="cpu"))
    assert result.metrics["top1"] == pytest.approx(expected["metrics"]["top1"])
    with pytest.raises(DataError, match="does not know the data's classes"):
        evaluate(network(names=tuple("abcdefghij")), "digits", EvalConfig(device="cpu"))


def test_the_report_has_all_sections_and_is_self_contained(run):
    page = write_report(run).read_text()
    for part in (
        "Training",
        "Calibration",
        "Training images",
        "<b>step 1</b> of 1",
        "Confusion",
        "Where it looks",
        "Classes",
        "prefers-color-scheme",
        "viewport",
    ):
        assert part in page
    assert "://" not in page
    assert page.count("data:image/") > 10


@pytest.mark.slow
def test_a_fitted_temperature_is_saved_and_changes_the_scores_but_not_their_order(run, tmp_path):
    image, path = Digits(train=False).load(0), tmp_path / "run" / "best.safetensors"
    shutil.copytree(run, tmp_path / "run")
    (before,) = load(path, device="cpu").predict(image)
    result = evaluate(tmp_path / "run", "digits", EvalConfig(calibrate=True, device="cpu"))
    temperature = result.details["temperature_scaling"]["temperature"]
    predictor = load(path, device="cpu")
    assert predictor.model.info.temperature == pytest.approx(temperature)
    (after,) = predictor.predict(image)
    logits = np.log(before.scores) / temperature
    np.testing.assert_allclose(after.scores, np.exp(logits) / np.exp(logits).sum(), atol=1e-5)
    assert after.labels.tolist() == before.labels.tolist()
    again = evaluate(tmp_path / "run", "digits", EvalConfig(device="cpu"))
    assert again.metrics["top1"] == result.metrics["top1"]
    assert again.protocol["temperature"] == pytest.approx(temperature)
    refitted = evaluate(tmp_path / "run", "digits", EvalConfig(calibrate=True, device="cpu"))  # not on top of it
    assert refitted.details["temperature_scaling"]["temperature"] == pytest.approx(temperature, rel=1e-3)


def test_a_temperature_is_refused_where_it_has_no_meaning_or_no_room(run, tmp_path):
    twins.save_weights(network(), tmp_path / "network.pth")
    with pytest.raises(ConfigError, match="no description of its network"):
        evaluate(tmp_path / "network.pth", "digits", EvalConfig(calibrate=True, device="cpu"))
    detector = twins.create_model("twins_svt_nano", task="detection", names=DIGITS)
    with pytest.raises(ConfigError, match="`calibrate` is for classification, found a network for detection"):
        evaluate(detector, "scenes", EvalConfig(calibrate=True, device="cpu"))


def test_the_curves_show_the_held_out_loss_and_its_parts_where_the_log_has_them():
    train = [
        {"kind": "train", "step": n, "lr": 0.1, "loss": 3.0, "images_per_s": 9.0, "loss_boxes": 1.0} for n in (1, 2)
    ]
    measured = [{"kind": "eval", "step": n, "loss": 4.0, "loss_boxes": 2.0, "box_ap": 0.1 * n} for n in (1, 2)]
    facts = facts_of("detection")
    page = curves_section([*train, *measured], facts)
    assert "step 2: held-out 4" in page
    assert "step 2: boxes, held-out 2" in page
    assert "held-out box AP <b>20.0%</b> best, step 2" in page
    older = curves_section([*train[:1], {"kind": "eval", "step": 1, "box_ap": 0.1, "loss": None}], facts)
    assert "held-out 4" not in older
    assert "training loss" in older


@pytest.mark.parametrize(
    "config",
    [
        TrainConfig(data="digits", recipe="digits", model="twins_svt_nano", weights="none"),
        replace(starting_point("scenes_detection", data="scenes"), minutes=None, steps=40, batch_size=8),
        replace(starting_point(data="digits", weights="none"), minutes=1.5, size=32, epochs=20.0),
        replace(starting_point(data="my data", task="detection", weights="none"), steps=9, epochs=12.0),
        replace(starting_point("scenes", data="my data"), minutes=1.5, checkpointing=True, class_weights="balanced"),
    ],
)
def test_the_command_of_a_report_gives_the_same_settings(config, monkeypatch):
    trained = []
    monkeypatch.setattr("twins.training.train", lambda config, given=None: trained.append(config) or RunResult)
    monkeypatch.setattr(RunResult, "interrupted", True, raising=False)
    assert main(shlex.split(train_command(config))[1:]) == 130
    assert trained == [config]


def test_numbers_of_the_facts_are_short():
    assert _one_line({"scales": (1.0, 0.5), "flip": False, "window": None}) == "scales 1 0.5, flip off"
    assert _one_line(0.5458633934344196) == "0.545863"


def test_the_report_of_an_unfinished_run_is_refused(run, tmp_path):
    with pytest.raises(NotFoundError, match=r"config\.yaml"):
        write_report(tmp_path)


def test_a_drawing_shows_the_image_and_its_classes():
    (prediction,) = Predictor(network(), device="cpu").predict(Image.new("RGB", (64, 48), "red"))
    drawn = prediction.draw(Image.new("RGB", (64, 48), "red"))
    assert drawn.width == 320
    assert drawn.getpixel((5, 5)) == (255, 0, 0)
    assert drawn.height > 240
    with pytest.raises(InputError, match="a prediction of semantic without"):
        replace(prediction, task="semantic", labels=None).draw(Image.new("RGB", (64, 48)))


def test_predict_writes_the_requested_files_and_names_unreadable_images(run, tmp_path, capsys):
    Digits(train=False).load(3).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"")
    out, table, rows = tmp_path / "drawn", tmp_path / "all.csv", tmp_path / "all.json"
    arguments = ["predict", str(run), str(tmp_path / "a.png"), str(tmp_path / "b.png"), "--out", str(out)]
    code = main([*arguments, "--csv", str(table), "--json", str(rows), "--top", "2"])
    assert code == 1
    assert "b.png is empty" in capsys.readouterr().err
    assert [path.name for path in out.iterdir()] == ["a.png"]
    assert len(table.read_text().splitlines()) == 3
    assert len(json.loads(rows.read_text())["predictions"]) == 1
