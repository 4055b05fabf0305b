"""The `TaskSpec` of image regression: a folder of images whose target is their mean brightness."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from twins.data.base import UNSPLIT, Opened
from twins.data.checks.scan import CheckReport
from twins.data.formats.source import Source, split
from twins.data.images import list_images, open_image
from twins.data.transforms.classification import ImageAlone
from twins.tasks.contract import Decision


class Photographs:
    """Images with their mean brightness, 0..1."""

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
    """The share of images whose prediction is within 0.1 of the target."""

    def __init__(self):
        self.reset()

    def reset(self):
        """Remove all counts."""
        self.near, self.count = torch.zeros(()), torch.zeros(())

    def update(self, predictions, targets):
        """Count a batch."""
        for prediction, target in zip(predictions, targets, strict=True):
            self.near += abs(float(prediction.scores[0]) - float(target)) < 0.1
            self.count += 1

    def state(self):
        """Return the counts that processes exchange."""
        return {"near": self.near, "count": self.count}

    def merge(self, states):
        """Add the counts of other processes."""
        for state in states:
            self.near, self.count = self.near + state["near"], self.count + state["count"]

    def compute(self):
        """Return the share."""
        return {"near": float(self.near / self.count)}

    def details(self):
        """Return the table of the single class."""
        return {"per_class": [{"name": "brightness", "images": int(self.count)}]}


class BrightnessSpec:
    """Implements `twins.tasks.contract.TaskSpec`."""

    max_report_images, csv_columns, summary_columns = 20, ("name", "value"), ("brightness",)

    def open(self, config):
        """Open a folder of images."""
        source = Source(config, "a folder of images")
        return split(Opened({UNSPLIT: Photographs(list_images(source.root))}), source)

    def check(self, config):
        """Count the images."""
        splits = self.open(config)
        images = {"train": len(splits.train), "val": len(splits.val)}
        return CheckReport(data=config.data, names=["brightness"], images=images)

    def warnings(self, splits):
        """Return nothing."""
        return []

    def preprocess(self, config, initial):
        """Return preprocessing to a square of the run's size."""
        return replace(initial, size=config.size)

    def train_transform(self, config, preprocess):
        """Return the preprocessing without augmentation, which would change the brightness."""
        return ImageAlone(preprocess.pixels)

    def eval_transform(self, preprocess):
        """Return the preprocessing."""
        return ImageAlone(preprocess.pixels)

    def shapes(self, images):
        """Return `None`: images are resized to one size."""

    def sides(self, target):
        """Return nothing: it looks at whole images."""
        return np.zeros(0)

    def prepare_batch(self, config, batch, epoch, num_classes):
        """Return the images and their brightness."""
        return batch.images, batch.targets

    def loss_targets(self, batch):
        """Return the brightness of the images."""
        return batch.targets

    def configure(self, network, config, images):
        """Do nothing."""

    def metric(self, names, *, full=False, absent="left_out"):
        """Return the share of images within 0.1."""
        return NearMetric()

    def relabel(self, images, class_ids):
        """Return the images: there is a single class."""
        return images

    def check_pair(self, image, target):
        """Do nothing."""

    def decision(self, outputs, prediction):
        """Return the brightness as the value that evidence explains."""
        return Decision(label=0, score=float(prediction.scores[0]), value=outputs[0])

    def protocol(self, network, config, data):
        """Return nothing: the numbers depend on nothing else."""
        return {}

    def worst_classes(self, per_class, limit=5):
        """Return nothing: there is a single class."""
        return []

    def csv_rows(self, prediction, top):
        """Yield one row with the brightness."""
        yield ["brightness", round(float(prediction.scores[0]), 3)]

    def summary(self, prediction, top):
        """Return the brightness in words."""
        return f"brightness {prediction.scores[0]:.2f}"

    def summary_row(self, prediction, top):
        """Return the brightness in words, as the only column."""
        return [self.summary(prediction, top)]

    def counts(self, prediction):
        """Return one frame."""
        return {"image": 1}

    def counts_summary(self, counts):
        """Return the number of frames."""
        return f"{counts['image']} images"

    def synthetic_target(self, height, width):
        """Return a brightness."""
        return torch.tensor(0.5)

    def synthetic_targets(self, images, num_classes):
        """Return a brightness for each image."""
        return [torch.tensor(0.5, device=images.device) for _ in images]


SPEC = BrightnessSpec()
