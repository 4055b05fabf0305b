"""`Predictor` and `load`: a trained network that predicts on images of any kind and size."""

from __future__ import annotations

import glob
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path
from time import perf_counter
from typing import Any, Literal, TypeVar, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from twins.backbone.network import is_fused, is_fusible
from twins.bands import AnyImage, Bands
from twins.data.channels import open_channels
from twins.data.images import list_images
from twins.data.loading.batch import stack_images
from twins.engine.measure import predict_batch
from twins.errors import ConfigError, InputError, NotFoundError, check_type, number_of
from twins.exported import ExportedNetwork, check_device, check_selection, load_exported
from twins.exporting.formats import is_exported_file
from twins.factory import model_from_checkpoint
from twins.files import path_of
from twins.ops.padding import true_sizes
from twins.ops.private_torch import is_hooked, version_of
from twins.predictions import Prediction
from twins.run_folder import weights_of
from twins.tasks.contract import spec_of
from twins.tasks.inference import SHOWN, InferenceConfig, SelectionConfig
from twins.tasks.network import TaskNetwork
from twins.tasks.table import facts_of, tasks_with

Maps = tuple[NDArray[np.float32], ...]
Result = TypeVar("Result")


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
        ConfigError: the device is not available, the settings are for another task, or an argument has another type.
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
        check_type(model, TaskNetwork, "model", "a network of twins.create_model; twins.load takes paths and names")
        self.device = model.device if isinstance(model, ExportedNetwork) else pick_device(device)
        self.model = set_selection(model.eval().to(self.device), selection, default=SHOWN)
        self.inference = check_inference(model, inference)
        self._compile = compile
        self._inference_network, self._made_from = self.model, list[Any]()

    def __repr__(self) -> str:
        info = self.model.info
        classes = number_of(info.num_classes, "class", "classes")
        return f"Predictor({info.model}, {info.task}, {classes}, on {self.device})"

    @property
    def names(self) -> tuple[str, ...]:
        """Class names by class id."""
        return self.model.info.names

    def __call__(self, images: Any, *, batch_size: int = 8) -> list[Prediction]:
        """Return one prediction per image, in order; see `predict`."""
        return self.predict(images, batch_size=batch_size)

    def predict(self, images: Any, *, batch_size: int = 8) -> list[Prediction]:
        """Return one prediction per image, in order.

        Args:
            images: one image or several, of any size. One image: a path, a Pillow image, the bytes of an image file, a
                file opened in binary mode, an array `(H, W, C)` or a tensor `(C, H, W)`, uint8 in 0..255 or float in
                0..1. Several: a folder, a glob, an array `(B, H, W, C)`, a tensor `(B, C, H, W)`, or a list or other
                iterable of all these. RGB, unless the network takes another number of channels: see
                `twins.data.channels.open_channels`. Transparency of files and Pillow images becomes white; arrays of
                four channels are refused.
            batch_size: images per forward pass. On a CPU only images of one shape share a pass, which is faster there
                than padding; elsewhere all do. An image's prediction does not depend on the others.

        Raises:
            NotFoundError: a path does not exist, or a folder or glob has no images.
            DataError: a file is no image.
            InputError: another type, or an array or tensor of another shape, dtype, range or number of channels.
            ConfigError: `batch_size` is no whole number above 0.
        """
        return list(self.stream(images, batch_size=batch_size))

    def stream(self, images: Any, *, batch_size: int = 8) -> Iterator[Prediction]:
        """Yield the prediction of each image, batch by batch; memory does not grow with their number.

        Arguments and errors are those of `predict`; a generator is read as far as the batch needs.
        """
        chunks = _in_chunks(images, batch_size)
        return (prediction for chunk in chunks for prediction in self._predict(chunk))

    @overload
    def embed(self, images: Any, *, maps: Literal[False] = ..., batch_size: int = ...) -> NDArray[np.float32]: ...
    @overload
    def embed(self, images: Any, *, maps: Literal[True], batch_size: int = ...) -> list[Maps]: ...
    def embed(self, images: Any, *, maps: bool = False, batch_size: int = 8) -> Any:
        """Return features of whole images: the mean over the last map, after the final norm of a classifier.

        Args:
            images: as in `predict`.
            maps: return the maps of the four stages instead, without a classifier's final norm.
            batch_size: images per forward pass.

        Returns:
            float32 `(B, C)`; with `maps` a tuple for each image, of maps `(C, H, W)` from high to low resolution.
        """
        features = [values for chunk in _in_chunks(images, batch_size) for values in self._embed(chunk, maps)]
        if maps:
            return features
        shape = (len(features), self.model.backbone.channels[-1])
        return np.array([mean for (mean,) in features], dtype=np.float32).reshape(shape)

    @torch.inference_mode()
    def predict_pixels(self, pixels: Sequence[Tensor], originals: Sequence[tuple[int, int]]) -> list[Prediction]:
        """Predict images that are preprocessed already, in one pass; they are padded if their shapes differ.

        Args:
            pixels: uint8 images `(C, H_i, W_i)`, see `Preprocess.pixels`.
            originals: height and width in pixels of each image before it was resized.
        """
        return predict_batch(self.inference_network(), *stack_images(pixels), originals)

    @torch.inference_mode()
    def _predict(self, sources: list[Any]) -> list[Prediction]:
        opened, network = self._open(sources), self.inference_network()

        def predict(images: list[AnyImage], batch: Tensor, sizes: Tensor | None) -> list[Prediction]:
            return predict_batch(network, batch, sizes, [(image.height, image.width) for image in images])

        start = perf_counter()
        if self.inference.plain:
            predictions = self._in_batches(opened, predict)
        else:
            infer = spec_of(self.model.task).infer
            predictions = [infer(network, image, self.inference) for image in opened]
        milliseconds = 1000 * (perf_counter() - start) / len(opened)
        return [
            replace(prediction, milliseconds=milliseconds, **_origin(source, image))
            for prediction, source, image in zip(predictions, sources, opened, strict=True)
        ]

    @torch.inference_mode()
    def _embed(self, sources: list[Any], maps: bool) -> list[Maps]:
        opened, network = self._open(sources), self.inference_network()

        def embed(_: list[AnyImage], batch: Tensor, sizes: Tensor | None) -> list[Maps]:
            return _features(network, *network.prepare(batch, sizes), maps)

        return self._in_batches(opened, embed)

    def _open(self, sources: list[Any]) -> list[AnyImage]:
        return [open_channels(source, self.model.info.in_chans) for source in sources]

    def _in_batches(
        self, images: list[AnyImage], compute: Callable[[list[AnyImage], Tensor, Tensor | None], list[Result]]
    ) -> list[Result]:
        """Return a result for each image, computed in batches of resized images: of one shape on a CPU, else padded."""
        pixels = [self.model.info.preprocess.pixels(image) for image in images]
        groups = defaultdict[object, list[int]](list)
        for index, tensor in enumerate(pixels):
            groups[None if pads_batches(self.device) else tensor.shape].append(index)
        results: dict[int, Result] = {}
        for indices in groups.values():
            batch, sizes = stack_images([pixels[index] for index in indices])
            results |= zip(indices, compute([images[index] for index in indices], batch, sizes), strict=True)
        return [results[index] for index in range(len(images))]

    def inference_network(self) -> TaskNetwork:
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


def _features(network: TaskNetwork, images: Tensor, sizes: Tensor | None, maps: bool) -> list[Maps]:
    """Return the maps of the stages of each image in a batch, or the mean over the last map, without padding."""
    backbone, inside = network.backbone, true_sizes(images, sizes)
    outputs = backbone(images, sizes) if maps else (network.forward_features(images, sizes),)
    limits = [limit.tolist() for limit in (backbone.map_sizes(inside) if maps else [backbone.last_sizes(inside)])]
    features = []
    for index in range(len(images)):
        ends = [limit[index] for limit in limits]
        parts = [x[index, :, :height, :width].float() for x, (height, width) in zip(outputs, ends, strict=True)]
        features.append(tuple((part if maps else part.mean(dim=(1, 2))).cpu().numpy() for part in parts))
    return features


def _origin(source: Any, image: AnyImage) -> dict[str, Any]:
    """Return a prediction's fields on the origin of its image, given as a path or as an image.

    An image of any other number of channels than one or three is kept as it was opened, since only the network knows
    the number.
    """
    kept = image if isinstance(image, Bands) else None
    return (
        {"path": str(source), "image": kept}
        if isinstance(source, Path)
        else {"image": source if kept is None else kept}
    )


def pads_batches(device: torch.device) -> bool:
    """Return whether images of different shapes share a padded pass: not on a CPU, where padding costs more time."""
    return device.type != "cpu"


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
    check_type(inference, InferenceConfig | None, "inference", "a twins.InferenceConfig")
    inference, default = inference or InferenceConfig(), InferenceConfig()
    if isinstance(model, ExportedNetwork) and not inference.plain:
        raise ConfigError("an exported file predicts whole images, once; use the run for other inference settings")
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
    check_type(selection, SelectionConfig | None, "selection", "a twins.SelectionConfig")
    if facts_of(model.task).selection:
        if isinstance(model, ExportedNetwork) and selection is not None:
            check_selection(model, selection)
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
    """Return a predictor for a run folder, a checkpoint of any known layout, an exported file, or a published name.

    Args:
        path_or_name: run folder, checkpoint, exported file or published name.
        device: `auto`, `cpu`, `cuda` or `mps`, or a torch device.
        weights_key: where the network stands in a checkpoint that holds several, such as `teacher`; `None`: the one
            that evaluation should use, which is the average of the weights if there is one.
        inference: scales, flip, window and tiles; `None`: the whole image, once.
        selection: score and NMS thresholds of a detector; `None`: scores above 0.3.
        compile: compile the network with torch.compile; worth its time if many images have the same size.

    Raises:
        NotFoundError: no run folder, file or published model has this name.
        WeightsError: the file cannot be read, holds no known network, or weights that are not finite.
        ConfigError: the device is not available, the settings are for another task, or an argument has another type.
    """
    check_type(path_or_name, str | Path, "path_or_name", "the path of a run or a weight file, or a published name")
    check_type(weights_key, str | None, "weights_key", "a key in the weight file, such as teacher")
    if is_exported_file(path_or_name):
        model: TaskNetwork = load_exported(path_or_name)
        _check_file_settings(path_or_name, device, weights_key, compile)
    else:
        model = model_from_checkpoint(weights_of(path_or_name), weights_key=weights_key)
    return Predictor(model, device=device, inference=inference, selection=selection, compile=compile)


def _check_file_settings(path: str | Path, device: str | torch.device, weights_key: str | None, compile: bool) -> None:
    """Raise ConfigError for settings that only checkpoints have."""
    check_device(path, device)
    for name, value in (("weights_key", weights_key), ("compile", compile)):
        if value:
            raise ConfigError(f"`{name}` is for checkpoints, {path} is an exported file; leave it out")


def expand(images: Any) -> list[Any]:
    """Return a flat list of single images: paths, bytes, Pillow images, arrays and tensors.

    Folders and globs are replaced by their image files, sorted; open files by their bytes; batches of arrays and
    tensors by their images; lists and other iterables by what they hold.

    Raises:
        NotFoundError: a path does not exist, or a folder or glob has no images.
    """
    if isinstance(images, str | os.PathLike):
        return _expand_path(images)
    if isinstance(images, bytes | bytearray | memoryview):
        return [bytes(images)]
    if hasattr(images, "read"):
        return [_read(images)]
    if isinstance(images, np.ndarray | Tensor):
        return list(images) if images.ndim == 4 else [images]
    if isinstance(images, Iterable) and not isinstance(images, Mapping):
        return [single for item in images for single in expand(item)]
    return [images]


def _expand_path(images: str | os.PathLike[str]) -> list[Any]:
    path = path_of(images if isinstance(images, str) else Path(images), "image")
    if "://" in str(images) and not os.path.exists(path):
        raise NotFoundError(f"{images} is a URL, and a predictor opens none; download the image, or give its bytes")
    if os.path.isdir(path):
        paths = list_images(path)
    elif not os.path.exists(path) and glob.has_magic(str(images)):
        paths = sorted(Path(name) for name in glob.glob(str(images), recursive=True) if Path(name).is_file())
    else:
        return [path]
    if not paths:
        raise NotFoundError(f"{images} leads to no image; check the path")
    return list(paths)


def _read(file: Any) -> bytes:
    """Return the bytes of an open file, from its current position."""
    content = file.read()
    if not isinstance(content, bytes):
        raise InputError(f"an open file must give bytes, found {type(content).__name__}; open it in the mode rb")
    return content


def _in_chunks(images: Any, count: int) -> Iterator[list[Any]]:
    """Return the single images in lists of `count`; a generator or other iterator is read only as far as needed."""
    check_type(count, int, "batch_size", "a whole number above 0")
    if count < 1:
        raise ConfigError(f"`batch_size` must be at least 1, found {count}")
    reads_as_needed = isinstance(images, Iterator) and not hasattr(images, "read")
    single = chain.from_iterable(map(expand, images)) if reads_as_needed else iter(expand(images))
    return iter(lambda: list(islice(single, count)), [])


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
