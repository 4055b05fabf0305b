"""`Predictor` and `load`: a trained network that predicts on images of any kind and size."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator
from copy import deepcopy
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from twins.backbone.network import is_fused, is_fusible
from twins.bands import AnyImage
from twins.data.channels import open_channels
from twins.data.images import list_images
from twins.data.loading.batch import stack_images
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
    """A network with its preprocessing and decoding; see `load`.

    Args:
        model: a task's network.
        device: `auto`, `cpu`, `cuda` or `mps`, or a torch device.
        inference: scales, flip, window and tiles; `None`: the whole image, once.
        selection: score and NMS thresholds of a detector; `None`: scores above 0.3.
        compile: compile the network with torch.compile; worth its time if many images have the same size.

    Predictions are computed by the inference form, a copy with the same function (see `model.fuse()`). It is made again
    when `model` changes, except by writes to `.data`, which PyTorch does not count. A model with hooks, or with modules
    of other classes than ours, computes itself.

    Raises:
        ConfigError: the device is not available, or the settings are for another task.
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
        self.model = set_selection(model.eval().to(self.device), selection, default=SHOWN)
        self.inference = check_inference(model, inference)
        self._compile = compile
        self._inference_network, self._made_from = self.model, list[Any]()

    @property
    def names(self) -> tuple[str, ...]:
        """Class names by class id."""
        return self.model.info.names

    def predict(self, images: Any, *, batch_size: int = 8) -> list[Prediction]:
        """Return one prediction per image, in order.

        Args:
            images: one image or a list: paths, folders, globs, Pillow images, numpy arrays `(H, W, C)`, tensors
                `(C, H, W)`, of any size; RGB, unless the network takes another number of channels: see
                `twins.data.channels.open_channels`.
            batch_size: images per forward pass.

        Raises:
            NotFoundError: a path does not exist, or a folder or glob has no images.
            DataError: a file is no image.
            InputError: an array or tensor has another shape, dtype or number of channels.
        """
        return [prediction for _, prediction in self.stream(expand(images), batch_size=batch_size)]

    def stream(self, sources: Iterable[Any], *, batch_size: int = 8) -> Iterator[tuple[AnyImage, Prediction]]:
        """Yield each opened image with its prediction, batch by batch; memory does not grow with their number."""
        if batch_size < 1:
            raise ConfigError(f"`batch_size` must be at least 1, found {batch_size}")
        remaining = iter(sources)
        while chunk := list(islice(remaining, batch_size)):
            opened = [open_channels(source, self.model.info.in_chans) for source in chunk]
            yield from zip(opened, self._predict(opened), strict=True)

    @torch.inference_mode()
    def _predict(self, images: list[AnyImage]) -> list[Prediction]:
        if not self.inference.plain:
            infer, network = spec_of(self.model.task).infer, self._network()
            return [infer(network, image, self.inference) for image in images]
        batch, sizes = stack_images([self.model.info.preprocess.pixels(image) for image in images])
        return predict_batch(self._network(), batch, sizes, [(image.height, image.width) for image in images])

    def _network(self) -> TaskNetwork:
        """Return the inference form of the current model, or the model itself if it has hooks."""
        hooked = any(map(is_hooked, self.model.modules()))
        tensors = [*self.model.parameters(), *self.model.buffers()]  # kept, so that no new tensor gets the same id
        state = [(id(x), version_of(x), x.data_ptr(), x.dtype, x.device) for x in tensors]
        if [hooked, *state] != self._made_from[1:]:
            network = inference_form(self.model, compile=self._compile)
            self._inference_network, self._made_from = network, [tensors, hooked, *state]
        self._inference_network.info = self.model.info
        if facts_of(self.model.task).selection:
            self._inference_network.selection = self.model.selection
        return self._inference_network


def inference_form(network: TaskNetwork, *, compile: bool = False) -> TaskNetwork:
    """Return a copy for inference with the same function, by `fuse()`, and optionally compiled.

    A network with modules of other classes than ours, see `is_fusible`, is not fused. Each image size is compiled
    separately; after eight sizes, others run without compilation.
    """
    if is_fused(network) or not is_fusible(network):
        inference_network = deepcopy(network) if compile else network
    else:
        inference_network = network.fuse()
    if compile:
        (inference_network if inference_network.one_graph else inference_network.backbone).compile(dynamic=False)
    return inference_network


def check_inference(model: TaskNetwork, inference: InferenceConfig | None) -> InferenceConfig:
    """Return the inference settings, by default the whole image once.

    Raises:
        ConfigError: a setting of another task differs from its default.
    """
    inference, default = inference or InferenceConfig(), InferenceConfig()
    for name in vars(default):
        if name not in facts_of(model.task).inference and getattr(inference, name) != getattr(default, name):
            raise ConfigError(
                f"`{name}` is for {' and '.join(tasks_with('inference', name))} networks, found one for {model.task}; "
                "leave it out"
            )
    return inference


def set_selection(
    model: TaskNetwork, selection: SelectionConfig | None, *, default: SelectionConfig | None = None
) -> TaskNetwork:
    """Set the score and NMS thresholds of a detector, and return the network.

    Raises:
        ConfigError: `selection` for a network that predicts no objects.
    """
    if facts_of(model.task).selection:
        model.selection = selection or default or SelectionConfig()
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
    weights_key: str | None = None,
    inference: InferenceConfig | None = None,
    selection: SelectionConfig | None = None,
    compile: bool = False,
) -> Predictor:
    """Return a predictor for a run folder, a checkpoint of any known layout, or a published name.

    Args:
        path_or_name: run folder, checkpoint or published name.
        device: `auto`, `cpu`, `cuda` or `mps`, or a torch device.
        weights_key: where the network stands in a checkpoint that holds several, such as `teacher`; `None`: the one
            that evaluation should use, which is the average of the weights if there is one.
        inference: scales, flip, window and tiles; `None`: the whole image, once.
        selection: score and NMS thresholds of a detector; `None`: scores above 0.3.
        compile: compile the network with torch.compile; worth its time if many images have the same size.

    Raises:
        NotFoundError: no run folder, file or published model has this name.
        WeightsError: the file cannot be read, holds no known network, or weights that are not finite.
        ConfigError: the device is not available.
    """
    model = model_from_checkpoint(weights_of(path_or_name), weights_key=weights_key)
    return Predictor(model, device=device, inference=inference, selection=selection, compile=compile)


def expand(images: Any) -> list[Any]:
    """Return a flat list of single images; folders and globs are replaced by their image files, sorted.

    Raises:
        NotFoundError: a path does not exist, or a folder or glob has no images.
    """
    if isinstance(images, list | tuple):
        return [single for item in images for single in expand(item)]
    if not isinstance(images, str | Path):
        return [images]
    path = path_of(images, "image")
    if os.path.isdir(path):
        paths: list[Any] = list_images(path)
    elif not os.path.exists(path) and glob.has_magic(str(images)):
        paths = sorted(Path(name) for name in glob.glob(str(images), recursive=True) if Path(name).is_file())
    else:
        return [path]
    if not paths:
        raise NotFoundError(f"{images} leads to no image; check the path")
    return paths


def pick_device(device: str | torch.device) -> torch.device:
    """Return a torch device for a name or device; `auto` is the first available one of cuda, mps and cpu.

    Raises:
        ConfigError: the name is unknown, or the device is not available.
    """
    name = str(device)
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return torch.device(next(kind for kind, is_available in available.items() if is_available))
    kind, colon, index = name.partition(":")
    if kind not in available or (colon and not (index.isascii() and index.isdigit())):
        raise ConfigError(f"`device` must be one of auto, {', '.join(available)}, found {name!r}")
    if not available[kind] or (kind == "cuda" and index and int(index) >= torch.cuda.device_count()):
        raise ConfigError(f"`device={name}` is not available on this machine; leave it out or use cpu")
    return torch.device(name)
