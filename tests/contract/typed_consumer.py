"""User code that relies on the types of all public names; `make lint` checks it with mypy --strict."""

from __future__ import annotations

from pathlib import Path
from typing import assert_type

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

import twins


def build_networks(file: Path) -> tuple[int, ...]:
    name: str = assert_type(twins.list_models(), list[str])[0]
    backbone = twins.create_backbone(name, padding="exact", stage_norms=None, out_indices=(0, 1, 2, 3))
    maps = assert_type(backbone.forward(torch.zeros(1, 3, 64, 64)), tuple[torch.Tensor, ...])
    model = twins.create_model(name, task="semantic", head="upernet", num_classes=2, names=("sky", "sea"))
    report = assert_type(twins.load_weights(model, file), twins.LoadReport)
    twins.save_weights(model, file, dialect="timm")
    preprocess = assert_type(model.info.preprocess, twins.Preprocess)
    shape: tuple[int, ...] = tuple(maps[0].shape) if report.ok else (len(report.missing), preprocess.size)
    return shape + backbone.channels + backbone.strides


def train_and_predict(folder: Path, photo: Image.Image, pixels: NDArray[np.uint8]) -> str:
    config = twins.TrainConfig(data=str(folder), model="twins_svt_nano", epochs=1.0, device="cpu")
    result = assert_type(twins.train(config), twins.RunResult)
    accuracy: float = result.metrics["top1"]
    predictor = assert_type(twins.load(result.path, device="cpu"), twins.Predictor)
    predictions = assert_type(predictor.predict(["a.jpg", Path("b.jpg"), photo, pixels]), list[twins.Prediction])
    predictions += twins.Predictor(predictor.model, device=torch.device("cpu")).predict(torch.zeros(3, 64, 64))
    drawn = assert_type(predictions[0].draw(photo, twins.DrawConfig(line_width=3, opacity=0.4)), Image.Image)
    for prediction in predictor.stream(path for path in (b"bytes", Path("a.jpg"))):
        scores: list[float] = [item.score for item in prediction if item.score is not None]
        prediction.save("drawn.png", config=twins.DrawConfig(labels=bool(scores)))
    assert_type(predictor.embed(photo), NDArray[np.float32])
    assert_type(predictor.embed(photo, maps=True), list[tuple[NDArray[np.float32], ...]])
    return f"{accuracy:.3f} {describe(predictions[0])} {drawn.size}"


def describe(prediction: twins.Prediction) -> list[str]:
    height, width = prediction.size
    lines = [f"{prediction.task}: {height} x {width}, {len(prediction.names)} classes", str(prediction.to_dict())]
    if prediction.label_map is not None:
        lines.append(str(int(prediction.label_map.max())))
    if prediction.labels is not None and prediction.scores is not None:
        lines += [f"{prediction.name(int(label))}" for label in prediction.labels if prediction.scores[0] > 0.5]
    if prediction.boxes is not None and prediction.masks is not None:
        areas: list[int] = prediction.masks.sum(axis=(1, 2)).tolist()
        lines.append(f"{prediction.boxes.shape} {areas}")
    return lines


def find_objects(checkpoint: str, photo: Image.Image) -> int:
    inference = twins.InferenceConfig(scales=(0.5, 1.0), flip=True)
    selection = twins.SelectionConfig(score=0.5, nms=0.5, most=10)
    predictor = twins.load(checkpoint, inference=inference, selection=selection)
    return len(predictor.predict(photo))


def evaluate(run: Path) -> float:
    model = twins.create_model("twins_svt_nano", weights=run / "best.safetensors")
    assert_type(model.load_report, twins.LoadReport | None)
    config = twins.EvalConfig(batch_size=8, device="cpu")
    try:
        result = assert_type(twins.evaluate(model, "digits", config=config), twins.EvalResult)
        assert_type(twins.evaluate(run, "digits"), twins.EvalResult)
    except twins.TwinsError as error:
        raise SystemExit(str(error)) from error
    return result.metrics["top1"]


def export(run: Path) -> Path:
    config = twins.ExportConfig(format="onnx", size=(64, "dynamic"), batch="dynamic")
    result = assert_type(twins.export(run, config=config), twins.ExportResult)
    return result.path


def misspell() -> object:
    return twins.create_modle  # type: ignore[attr-defined]  # an unknown name is an error
