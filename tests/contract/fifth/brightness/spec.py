"""A folder of images, each as bright as it is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from twins.data.base import Opened, list_images, split
from twins.data.checks.scan import CheckReport
from twins.data.images import open_image
from twins.data.transforms.classification import ImageAlone


class Photographs:
    """Images of a folder with their mean brightness."""

    names = ("brightness",)

    def __init__(self, files):
        self.files = files

    def __len__(self):
        return len(self.files)

    def load(self, index):
        """Return an image."""
        return open_image(self.files[index])

    def target(self, index):
        """Return its brightness."""
        return torch.tensor(np.asarray(self.load(index), dtype=np.float32).mean() / 255)

    def path(self, index):
        """Return its path."""
        return str(self.files[index])


class NearMetric:
    """The share of images whose number is within a tenth."""

    def __init__(self):
        self.reset()

    def reset(self):
        """Forget everything."""
        self.near, self.count = torch.zeros(()), torch.zeros(())

    def update(self, predictions, targets):
        """Count a batch."""
        for prediction, target in zip(predictions, targets, strict=True):
            self.near += abs(float(prediction.scores[0]) - float(target)) < 0.1
            self.count += 1

    def state(self):
        """Return what processes exchange."""
        return {"near": self.near, "count": self.count}

    def merge(self, states):
        """Add other processes' counts."""
        for state in states:
            self.near, self.count = self.near + state["near"], self.count + state["count"]

    def compute(self):
        """Return the share."""
        return {"near": float(self.near / self.count)}

    def details(self):
        """Return the one row there is."""
        return {"per_class": [{"name": "brightness", "images": int(self.count)}]}


class BrightnessSpec:
    """See `twins.tasks.contract.TaskSpec`."""

    examined, columns, listed = 20, ("name", "value"), "brightness"

    def open(self, config):
        """Open a folder of images."""
        return split(Opened([Photographs(list_images(Path(config.data)))]), Path(config.data), config)

    def check(self, config):
        """Count the images."""
        splits = self.open(config)
        images = {"train": len(splits.train), "val": len(splits.val)}
        return CheckReport(data=config.data, names=["brightness"], images=images)

    def warnings(self, splits):
        """Return nothing."""
        return []

    def preprocess(self, config, known):
        """Return a square of the run's size."""
        return replace(known, size=config.size)

    def train_transform(self, config, preprocess):
        """Return the preparation alone: augmentation would change the brightness."""
        return ImageAlone(preprocess.pixels)

    def eval_transform(self, preprocess):
        """Return the preparation alone."""
        return ImageAlone(preprocess.pixels)

    def shapes(self, images):
        """Return nothing: images are brought to one size."""

    def prepare(self, config, batch, epoch, classes):
        """Return a batch's images and numbers."""
        return batch.images, batch.targets

    def set_up(self, network, config, images):
        """Do nothing."""

    def metric(self, names, *, full=False, absent="left_out"):
        """Return the share of images within a tenth."""
        return NearMetric()

    def relabel(self, images, classes):
        """Return the images: there is one class."""
        return images

    def check_pair(self, image, target):
        """Do nothing."""

    def protocol(self, network, config, data):
        """Return nothing."""
        return {}

    def weakest(self, rows, most=5):
        """Return nothing: there is one class."""
        return []

    def rows(self, prediction, top):
        """Yield the number."""
        yield ["brightness", round(float(prediction.scores[0]), 3)]

    def text(self, prediction, top):
        """Return the number."""
        return f"brightness {prediction.scores[0]:.2f}"

    def counts(self, prediction):
        """Return the image once."""
        return {"image": 1}

    def total(self, counts):
        """Return how many images there were."""
        return f"{counts['image']} images"

    def example_target(self, height, width):
        """Return a number."""
        return torch.tensor(0.5)

    def example_batch(self, images, classes):
        """Return a number for each image."""
        return [torch.tensor(0.5, device=images.device) for _ in images]


SPEC = BrightnessSpec()
