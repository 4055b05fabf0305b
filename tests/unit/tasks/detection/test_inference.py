"""Detectors on several scales, mirrored images and tiles: objects are found once, at their positions in the image."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from twins.errors import ConfigError, WeightsError
from twins.heads.merging import Detections
from twins.predictor import Predictor
from twins.preprocess import Preprocess
from twins.tasks.detection.inference import infer
from twins.tasks.inference import InferenceConfig, SelectionConfig

HEADS = ["retinanet", "faster_rcnn", "mask_rcnn"]
KEEP = Preprocess(size=96, fit="keep", longest=256, interpolation="bilinear")


def coordinates(width: int, height: int) -> Image.Image:
    """An image whose pixels hold their own position, so that a network knows which part it is shown."""
    rows, columns = np.mgrid[:height, :width]
    pixels = np.stack([columns % 256, rows % 256, columns // 256 * 16 + rows // 256], axis=2)
    return Image.fromarray(pixels.astype(np.uint8))


class PerfectDetector(torch.nn.Module):
    """Finds the part of each object that lies in what it is shown, with a full mask."""

    task, selection = "instance", SelectionConfig(most=1000)
    preprocess = Preprocess(mean=(0, 0, 0), std=(1, 1, 1), fit="keep")
    info = SimpleNamespace(task="instance", preprocess=preprocess, names=(), colours=())

    def __init__(self, boxes) -> None:
        super().__init__()
        self.boxes, self.batches = torch.tensor(boxes, dtype=torch.float64).reshape(-1, 4), []
        self.anchor = torch.nn.Parameter(torch.zeros((), dtype=torch.float64))

    def forward(self, images):
        assert min(images.shape[2:]) >= 32  # as in a real network
        self.batches.append(len(images))
        return {"images": images}

    def objects(self, outputs):
        return [self._visible(image) for image in outputs["images"]]

    def _visible(self, image):
        low, high, further = (round(value) for value in (image[:, 0, 0] * 255).tolist())
        corner = torch.tensor([low + further // 16 * 256, high + further % 16 * 256])
        sides = torch.tensor([image.shape[2], image.shape[1]])
        boxes = torch.minimum((self.boxes - corner.repeat(2)).clamp(min=0), sides.repeat(2))
        boxes = boxes[(boxes[:, 2:] > boxes[:, :2]).all(dim=1)]
        ones = torch.ones(len(boxes), dtype=torch.float64)
        return Detections(boxes, 0.9 * ones, ones.long(), ones[:, None, None].expand(-1, 28, 28))


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def same(one, other, atol: float = 1e-3) -> bool:
    arrays = [(getattr(one, name), getattr(other, name)) for name in ("boxes", "scores", "labels", "masks")]
    return all(a is b is None or (a.shape == b.shape and np.allclose(a, b, atol=atol)) for a, b in arrays)


@pytest.mark.parametrize("seed", range(4))
def test_objects_of_tiles_have_their_boxes_and_masks_in_the_image(seed):
    random = np.random.default_rng(seed)
    width, height = (int(side) for side in random.integers(150, 500, 2))
    tile = int(random.integers(64, 128))
    cells = [(x, y) for x in range(0, width - 40, 50) for y in range(0, height - 40, 50)]
    boxes = [(x, y, x + random.integers(4, 40), y + random.integers(4, 40)) for x, y in cells]
    boxes += [(0, height - 12, width, height)] if not seed % 2 else []  # larger than a tile
    network = PerfectDetector(np.array(boxes))
    prediction = infer(network, coordinates(width, height), InferenceConfig(tile=tile, overlap=40))
    assert max(network.batches) > 1  # small tiles are batched
    assert sorted(prediction.boxes.round(3).tolist()) == sorted(np.array(boxes, dtype=float).tolist())
    assert prediction.masks.shape == (len(boxes), height, width)
    for mask, (left, top, right, bottom) in zip(prediction.masks, prediction.boxes.round().astype(int), strict=True):
        assert mask[top:bottom, left:right].all()
        assert mask.sum() == (bottom - top) * (right - left)


@pytest.mark.parametrize("size", [(1, 1), (20, 300), (31, 31)])
def test_images_smaller_than_a_tile_or_the_smallest_input_are_padded(size):
    width, height = size
    prediction = infer(PerfectDetector([(0, 0, width, height)]), coordinates(*size), InferenceConfig(tile=64))
    assert prediction.boxes.round(3).tolist() == [[0, 0, width, height]]
    assert prediction.masks.all()
    nothing = infer(PerfectDetector([]), coordinates(*size), InferenceConfig(tile=64))
    assert nothing.masks.shape == (0, height, width)


def test_tiles_without_overlap_are_refused_unless_there_is_one():
    with pytest.raises(ConfigError, match="`overlap` must be above 0 for a detector"):
        infer(PerfectDetector([]), coordinates(100, 40), InferenceConfig(tile=64, overlap=0))
    infer(PerfectDetector([]), coordinates(64, 40), InferenceConfig(tile=64, overlap=0))


@pytest.mark.parametrize("head", HEADS)
def test_the_default_settings_and_a_tile_of_the_whole_image_equal_a_predictor(detector, head):
    model, image = detector(head, preprocess=KEEP).double(), picture(150, 96)
    model.selection = SelectionConfig()
    (plain,) = Predictor(model, device="cpu", selection=SelectionConfig()).predict(image)
    assert len(plain.boxes) > 20
    assert same(infer(model, image, InferenceConfig()), plain)
    assert same(infer(model, image, InferenceConfig(tile=150)), plain)


@pytest.mark.parametrize("head", ["retinanet", pytest.param("mask_rcnn", marks=pytest.mark.slow)])
def test_with_flip_the_objects_of_a_mirrored_image_are_mirrored(detector, head):
    model, image = detector(head, preprocess=KEEP).double(), picture(150, 96)
    mirrored = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    for settings, equal in (({}, False), ({"flip": True, "scales": (1.0, 0.5)}, True)):
        one, other = (infer(model, each, InferenceConfig(**settings)) for each in (image, mirrored))
        left, top, right, bottom = other.boxes.T
        boxes = np.stack([150 - right, top, 150 - left, bottom], axis=1)
        assert (one.boxes.shape == boxes.shape and np.allclose(one.boxes, boxes, atol=1e-2)) == equal
        if equal and one.masks is not None:
            assert (one.masks != other.masks[:, :, ::-1]).mean() < 1e-3


def test_a_higher_threshold_only_leaves_objects_out(detector):
    model, image = detector("retinanet", preprocess=KEEP).double(), picture(96, 96)
    config = InferenceConfig(scales=(1.0, 0.5))
    model.selection = SelectionConfig()
    every = infer(model, image, config)
    gaps = every.scores[9:-1] - every.scores[10:]
    count = 10 + int(np.flatnonzero(gaps > 1e-5)[0])  # scores may tie
    threshold = float(every.scores[count - 1 : count + 1].mean())
    model.selection = SelectionConfig(score=threshold)
    assert infer(model, image, config).boxes.tolist() == every.boxes[:count].tolist()
    assert model.selection.score == threshold


@pytest.mark.parametrize("settings", [{"flip": True}, {"tile": 64}])
def test_scores_that_overflow_are_refused(settings):
    network = PerfectDetector([])
    network.forward = lambda images: {"scores": torch.full((1,), float("nan"))}
    with pytest.raises(WeightsError, match="the network's scores are not finite"):
        infer(network, coordinates(64, 64), InferenceConfig(**settings))


def test_a_network_is_not_changed_meanwhile_so_that_threads_can_share_it():
    network, seen = PerfectDetector([(10, 10, 40, 40)]), []
    network.selection = selection = SelectionConfig(score=0.6)
    network.register_forward_pre_hook(lambda *_: seen.append(network.selection))
    infer(network, coordinates(150, 90), InferenceConfig(tile=64))
    assert seen
    assert all(each is selection for each in seen)
