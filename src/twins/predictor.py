"""A trained network ready to use: any images in, predictions out."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator
from copy import deepcopy
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from PIL.Image import Image

from twins.backbone.network import is_fused, is_fusible
from twins.data.base import list_images
from twins.data.images import open_image
from twins.data.loading.batch import fill_batch
from twins.engine.measure import predict_batch
from twins.errors import ConfigError, NotFoundError
from twins.factory import model_from_checkpoint
from twins.files import path_of
from twins.ops.private_torch import is_hooked, version_of
from twins.predictions import Prediction
from twins.run_folder import weights_of
from twins.tasks.contract import spec_of
from twins.tasks.inference import SHOWN, InferenceConfig, SelectionConfig
from twins.tasks.network import TaskNetwork
from twins.tasks.table import facts_of, tasks_with


class Predictor:
    """A network with its own preparation of images; see `load`.

    Args:
        model: a task's network.
        device: `auto`, `cpu`, `cuda` or `mps`, or a torch device.
        inference: how a semantic network looks at images; `None` is once, whole.
        selection: which of the objects that a detector finds are given; `None` is those of a score above 0.3.
        compile: compile the network with torch.compile: worth its time where many images have one size.

    The network's inference form computes, a copy with the same function (see `model.fuse()`), made again when `model`
    changes; a write to `.data`, which PyTorch does not count, is not seen. A model with hooks, or with parts of other
    classes than ours, computes itself.

    Raises:
        ConfigError: a device that this machine does not have, or settings for another task.
    """

    def __init__(
        self,
        model: TaskNetwork,
        *,
        device: str | torch.device = "auto",
        inference: InferenceConfig | None = None,
        selection: SelectionConfig | None = None,
        compile: bool = False,
    ) -> None:
        self.device = pick_device(device)
        self.model = select(model.eval().to(self.device), selection, usual=SHOWN)
        self.inference = check_inference(model, inference)
        self._compile = compile
        self._form, self._made_of = self.model, list[Any]()

    @property
    def names(self) -> tuple[str, ...]:
        """Class names by class id."""
        return self.model.info.names

    def predict(self, images: Any, *, batch_size: int = 8) -> list[Prediction]:
        """Return one prediction per image, in order.

        Args:
            images: one image or several: paths, folders, globs, Pillow images, numpy arrays `(H, W, 3)`, tensors
                `(3, H, W)`; RGB, of any size.
            batch_size: images per forward pass.

        Raises:
            NotFoundError: a path that leads to nothing.
            DataError: a file that is no image.
            InputError: an array or tensor of another shape or type.
        """
        return [prediction for _, prediction in self.stream(expand(images), batch_size=batch_size)]

    def stream(self, sources: Iterable[Any], *, batch_size: int = 8) -> Iterator[tuple[Image, Prediction]]:
        """Yield each opened image with its prediction, a batch at a time; memory does not grow with the number."""
        if batch_size < 1:
            raise ConfigError(f"batch_size must be at least 1, found {batch_size}")
        remaining = iter(sources)
        while chunk := list(islice(remaining, batch_size)):
            opened = [open_image(source) for source in chunk]
            yield from zip(opened, self._predict(opened), strict=True)

    @torch.inference_mode()
    def _predict(self, images: list[Image]) -> list[Prediction]:
        if not self.inference.plain:
            look, network = spec_of(self.model.task).look, self._network()
            return [look(network, image, self.inference) for image in images]
        batch, sizes = fill_batch([self.model.info.preprocess.pixels(image) for image in images])
        return predict_batch(self._network(), batch, sizes, [(image.height, image.width) for image in images])

    def _network(self) -> TaskNetwork:
        """Return what computes: an inference form of the model as it is now, or the model where hooks watch it."""
        hooked = any(map(is_hooked, self.model.modules()))
        tensors = [*self.model.parameters(), *self.model.buffers()]  # held, so that no other one gets their identity
        state = [(id(x), version_of(x), x.data_ptr(), x.dtype, x.device) for x in tensors]
        if [hooked, *state] != self._made_of[1:]:
            form = inference_form(self.model, compile=self._compile)
            self._form, self._made_of = form, [tensors, hooked, *state]
        self._form.info = self.model.info
        if facts_of(self.model.task).selection:
            self._form.selection = self.model.selection
        return self._form


def inference_form(network: TaskNetwork, *, compile: bool = False) -> TaskNetwork:
    """Return a copy for inference: the same function by exact algebra, compiled where that is asked for.

    A network that cannot be fused, see `is_fusible`, comes back as it is. Each size of the images is
    compiled by itself; after eight the rest runs without.
    """
    if is_fused(network) or not is_fusible(network):
        form = deepcopy(network) if compile else network
    else:
        form = network.fuse()
    if compile:
        (form if form.one_graph else form.backbone).compile(dynamic=False)
    return form


def check_inference(model: TaskNetwork, inference: InferenceConfig | None) -> InferenceConfig:
    """Return how a network looks at images.

    Raises:
        ConfigError: more than once, or in parts, by a network whose task does not have this.
    """
    inference = inference or InferenceConfig()
    if not inference.plain and not facts_of(model.task).inference:
        raise ConfigError(
            f"`scales`, `flip`, `window` and `tile` are for {' and '.join(tasks_with('inference'))} networks, found "
            f"one for {model.task}"
        )
    return inference


def select(
    model: TaskNetwork, selection: SelectionConfig | None, *, usual: SelectionConfig | None = None
) -> TaskNetwork:
    """Return the network, told which of the objects that it finds are given.

    Raises:
        ConfigError: `selection` for a network that finds none.
    """
    if facts_of(model.task).selection:
        model.selection = selection or usual or SelectionConfig()
    elif selection is not None:
        raise ConfigError(
            f"`score`, `nms`, `agnostic` and `most` are for {' and '.join(tasks_with('selection'))}, found a network "
            f"for {model.task}"
        )
    return model


def load(
    path_or_name: str | Path,
    *,
    device: str | torch.device = "auto",
    inference: InferenceConfig | None = None,
    selection: SelectionConfig | None = None,
    compile: bool = False,
) -> Predictor:
    """Return a predictor for a run folder, a checkpoint of any known layout, or a published name.

    Args:
        path_or_name: what holds the network.
        device: `auto`, `cpu`, `cuda` or `mps`, or a torch device.
        inference: how a semantic network looks at images; `None` is once, whole.
        selection: which of the objects that a detector finds are given; `None` is those of a score above 0.3.
        compile: compile the network with torch.compile: worth its time where many images have one size.

    Raises:
        NotFoundError: nothing is called so.
        WeightsError: the file cannot be read, or is of no known network.
        ConfigError: a device that this machine does not have.
    """
    model = model_from_checkpoint(weights_of(path_or_name))
    return Predictor(model, device=device, inference=inference, selection=selection, compile=compile)


def expand(images: Any) -> list[Any]:
    """Return a flat list of single images; folders and globs give their image files, sorted.

    Raises:
        NotFoundError: a path, folder or glob that leads to no image.
    """
    if isinstance(images, list | tuple):
        return [single for item in images for single in expand(item)]
    if not isinstance(images, str | Path):
        return [images]
    path = path_of(images, "image")
    if os.path.isdir(path):
        found: list[Any] = list_images(path)
    elif not os.path.exists(path) and glob.has_magic(str(images)):
        found = sorted(Path(name) for name in glob.glob(str(images), recursive=True) if Path(name).is_file())
    else:
        return [path]
    if not found:
        raise NotFoundError(f"{images} leads to no image; check the path")
    return found


def pick_device(device: str | torch.device) -> torch.device:
    """Return a device, by name where it is none; `auto` is the first of cuda, mps and cpu that is there.

    Raises:
        ConfigError: an unknown name, or a device that this machine does not have.
    """
    name = str(device)
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return torch.device(next(kind for kind, there in present.items() if there))
    kind, colon, number = name.partition(":")
    if kind not in present or (colon and not (number.isascii() and number.isdigit())):
        raise ConfigError(f"`device` must be one of auto, {', '.join(present)}, found {name!r}")
    if not present[kind] or (kind == "cuda" and number and int(number) >= torch.cuda.device_count()):
        raise ConfigError(f"`device={name}` is not available on this machine; leave it out or use cpu")
    return torch.device(name)
