"""`verify`: an exported file, run in its own runtime on real images, compared with the network that it was made of."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import cycle, islice
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL.Image import Resampling
from torch import Tensor

from twins.bands import AnyImage, Bands
from twins.data.channels import RGB, open_channels
from twins.data.formats.digits import Digits
from twins.data.formats.scenes import Scenes, photographs
from twins.errors import MissingExtraError, few, number_of
from twins.exported import ExportedNetwork, load_exported
from twins.exporting.comparison import Arrays, Measure, Mismatch, Ties, bounds_of, compare, compare_objects, rms
from twins.exporting.graph import Shape, network_outputs
from twins.exporting.metadata import IMAGES, SIZES, SMALLEST, FileInfo
from twins.exporting.sessions import Session
from twins.files import first_line
from twins.predictions import Prediction
from twins.predictor import Predictor
from twins.preprocess import FixedPreprocess, pixels_of
from twins.tasks.inference import SelectionConfig
from twins.tasks.network import TaskNetwork

OPEN_BATCHES = (1, 3)
"""Numbers of images with which a file of open batch is run."""
SMALL = (33, 47)
"""A height and width close to the smallest, at which a file of open sides is run."""
TIE = 1e-5
"""Difference of two logits, relative to their root mean square, below which either class is right."""
DEFAULT_IMAGES = ("china.jpg", "flower.jpg", "digits/1", "scenes/val/0")
"""Names of the images on which a file is verified if none are given: two photographs, a digit and a scene."""
SECONDS, ROUNDS, LEAST_ROUNDS = 2.0, 15, 3
"""Limits of the measurement of speed: seconds, of which a round may exceed the rest, and runs of each model."""


@dataclass(frozen=True, kw_only=True)
class Verification:
    """How an exported file compares with its network."""

    images: tuple[str, ...] = ()
    """Names of the images."""
    sizes: tuple[tuple[int, int], ...] = ()
    """Heights and widths at which the file was run."""
    batches: tuple[int, ...] = ()
    """Numbers of images in a batch."""
    differences: dict[str, float] = field(default_factory=dict)
    """Largest difference of each output: boxes in pixels, masks in probability, others relative to the root mean square
    of the output."""
    agreement: dict[str, float] = field(default_factory=dict)
    """Smallest share of equal results: classes of images or pixels, and objects that network and file both find."""
    objects: int | None = None
    """Objects that the network found in all runs; `None` for a task without objects."""
    failure: str | None = None
    """What exceeds its bound, by how much and where; `None` if nothing does."""

    def lines(self) -> list[str]:
        """Return the comparison in a few lines."""
        sizes = f"{len(self.sizes)} sizes from {_size(min(self.sizes))} to {_size(max(self.sizes))}"
        batches = "one by one" if self.batches == (1,) else f"in batches of {' and '.join(map(str, self.batches))}"
        lines = [
            f"verified: agrees with the network on {number_of(len(self.images), 'image')} "
            f"({'the default ones: ' if self.images == DEFAULT_IMAGES else ''}{few(self.images)}), at "
            f"{sizes if len(self.sizes) > 1 else _size(self.sizes[0])}, {batches}"
        ]
        equal = [f"{name} {100 * share:.4g} % equal" for name, share in self.agreement.items()]
        different = [f"{name} {_difference(name, value)}" for name, value in self.differences.items()]
        lines += [f"  results: {', '.join(equal)}"] if equal else []
        lines += [f"  largest differences: {', '.join(different)}"] if different else []
        if self.objects == 0:
            lines.append("  the images show no object that it finds; verify it on some that do (`verify`)")
        return lines


def _size(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]} pixels"


def _difference(name: str, value: float) -> str:
    """Return a largest difference for people."""
    if name in ("boxes", "masks"):
        unit, least = ("pixels", 0.001) if name == "boxes" else ("in probability", 1e-5)
        return f"below {least:g} {unit}" if value < least else f"{value:.2g} {unit}"
    return "below 0.001 %" if value < 1e-5 else f"{100 * value:.2g} %"


class Case(NamedTuple):
    """A batch on which file and network are compared."""

    images: tuple[str, ...]
    """Name of each image."""
    pixels: NDArray[np.uint8]
    """`(B, H, W, C)`."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.pixels.shape[1], self.pixels.shape[2]

    def __str__(self) -> str:
        return f"{few(self.images, limit=3)} at {_size(self.size)} in a batch of {len(self.images)}"


class Comparison:
    """The measures of all cases: the worst of each, and the worst of all that exceeds its bound."""

    def __init__(self) -> None:
        self.differences: dict[str, float] = {}
        self.agreement: dict[str, float] = {}
        self.failure: str | None = None
        self._excess = 1.0

    def add(self, measures: Iterable[Measure], where: str) -> None:
        """Add the measures of a case; `where` describes it."""
        try:
            for measure in measures:
                self._add(measure, where)
        except Mismatch as mismatch:
            self.fail(f"{mismatch}, for {where}")

    def _add(self, measure: Measure, where: str) -> None:
        kept = self.agreement if measure.is_share else self.differences
        worst = min if measure.is_share else max
        kept[measure.name] = worst(measure.value, kept.get(measure.name, measure.value))
        if measure.excess > self._excess:
            self.failure, self._excess = f"{measure.describe()}, for {where}", measure.excess

    def fail(self, sentence: str) -> None:
        """Note a failure that no number describes; the first one is kept."""
        if self._excess < float("inf"):
            self.failure, self._excess = sentence, float("inf")


def verification_images(paths: Sequence[str], channels: int) -> dict[str, AnyImage]:
    """Return the images on which a file is verified, by name.

    Args:
        paths: files of images; if there are none, images of the embedded sets are used: two photographs, a digit and a
            scene.
        channels: number of channels that the network takes.

    Raises:
        NotFoundError: there is no such file.
        DataError: a file is no image, or has another number of channels.
    """
    if paths:
        return {path: open_channels(path, channels) for path in paths}
    digits, scenes = Digits(train=False), Scenes(train=False)
    images = dict(zip(DEFAULT_IMAGES, (*photographs(), digits.load(0), scenes.load(0)), strict=True))
    if channels in (1, RGB):
        return {name: open_channels(image, channels) for name, image in images.items()}
    return {name: Bands(list(islice(cycle(image.split()), channels))) for name, image in images.items()}


def verify(
    network: TaskNetwork, path: Path, shape: Shape, info: FileInfo, images: Mapping[str, AnyImage]
) -> Verification:
    """Run a file on images in its own runtime, and compare its outputs and its predictions with the network's.

    Whatever is wrong with the file ends in `failure` of the result, not in an error.

    Args:
        network: in eval mode on the CPU; not laid out for the file.
        path: the file.
        shape: shape of the images that the network in the file sees.
        info: what the file is to say of itself.
        images: images by name; see `verification_images`.

    Raises:
        MissingExtraError: the file's runtime is not installed.
    """
    info = replace(info, network=network.info)
    comparison, objects = Comparison(), list[int]()
    cases = [] if info.resize_in_graph else list(_cases(network, shape, images))
    try:
        file = load_exported(path)
        _compare_descriptions(info, file.session.info)
    except MissingExtraError:
        raise
    except Mismatch as mismatch:
        comparison.fail(str(mismatch))
    except Exception as error:  # runtimes have errors of their own
        comparison.fail(f"it cannot be opened ({first_line(error)})")
    else:
        native = native_session(network, replace(info, padded=False, batch=None, height=None, width=None))
        for case in cases:
            expected = native.run(case.pixels)
            comparison.add(_compare_case(case, expected, file.session, info, _ties(network, case)), str(case))
            objects += [int(expected["count"].sum())] if "count" in expected else []
        if info.padded:
            case = max(cases, key=lambda case: case.pixels.size)
            where = f"a padded batch of unequal images within {_size(case.size)}"
            comparison.add(_compare_padded(case, native, file.session, info), where)
        reference = _reference(network, shape, info)
        comparison.add(
            _compare_predictions(reference, file, shape, info, images), "predictions on images at their own size"
        )
    seen = [case.size for case in cases] or [(image.height, image.width) for image in images.values()]
    return Verification(
        images=tuple(images),
        sizes=tuple(sorted(set(seen))),
        batches=tuple(sorted({len(case.images) for case in cases})) or (info.batch or 1,),
        differences=comparison.differences,
        agreement=comparison.agreement,
        objects=sum(objects) if objects else None,
        failure=comparison.failure,
    )


def native_session(network: TaskNetwork, info: FileInfo) -> Session:
    """Return a network, run eagerly, behind the interface of an exported file with this description."""
    logits = "logits" in info.outputs

    @torch.inference_mode()
    def run(inputs: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Return the outputs of the network by name, in float32 where they are floats."""
        sizes = torch.from_numpy(inputs[SIZES]) if SIZES in inputs else None
        x, sizes = network.prepare(torch.from_numpy(inputs[IMAGES]).permute(0, 3, 1, 2), sizes)
        outputs = network_outputs(network, x, sizes, features=info.features, logits=logits)
        return {
            name: values.float().numpy() if values.is_floating_point() else values.numpy()
            for name, values in outputs.items()
        }

    return Session(Path("the network"), info, run)


def _cases(network: TaskNetwork, shape: Shape, images: Mapping[str, AnyImage]) -> Iterator[Case]:
    """Yield batches at up to three other sizes, where sides are open, and at the network's own size with each image."""
    names = list(images)
    batches = OPEN_BATCHES if shape.batch is None else (shape.batch,)
    sizes = {name: _own_size(network, shape, image) for name, image in images.items()}
    height, width = sizes[names[0]]
    others = ((SMALLEST, SMALLEST), SMALL, (int(1.1 * height) | 1, int(0.7 * width) | 1))
    for batch in batches:
        for shift, size in enumerate(others):  # the smallest first: a runtime may keep what it compiled for it
            if (fixed := _fixed(shape, size)) not in sizes.values():
                yield _case(images, list(islice(cycle(names), shift, shift + batch)), fixed)
        groups = [names[first : first + batch] for first in range(0, len(names), batch)] if batch != 3 else [names[:3]]
        for group in groups:
            yield _case(images, list(islice(cycle(group), batch)), sizes[group[0]])


def _own_size(network: TaskNetwork, shape: Shape, image: AnyImage) -> tuple[int, int]:
    """Return the height and width at which the network in a file sees an image."""
    preprocess = network.info.preprocess
    width, height = preprocess.kept_size(image) if preprocess.fit == "keep" else (preprocess.size, preprocess.size)
    return _fixed(shape, (height, width))


def _fixed(shape: Shape, size: tuple[int, int]) -> tuple[int, int]:
    """Return a height and width, with those that the file fixes."""
    return shape.height or max(size[0], SMALLEST), shape.width or max(size[1], SMALLEST)


def _case(images: Mapping[str, AnyImage], names: Sequence[str], size: tuple[int, int]) -> Case:
    resized = [images[name].resize((size[1], size[0]), Resampling.BILINEAR) for name in names]
    return Case(tuple(names), np.stack([pixels_of(image).permute(1, 2, 0).numpy() for image in resized]))


def _compare_descriptions(expected: FileInfo, actual: FileInfo) -> None:
    """Raise Mismatch if a file says something else of itself than its network."""
    values = actual.to_dict()
    for name, value in expected.to_dict().items():
        if values[name] != value:
            raise Mismatch(f"its description says `{name}={values[name]!r:.80}` instead of {value!r:.80}")


def _compare_case(case: Case, expected: Arrays, file: Session, info: FileInfo, ties: Ties) -> Iterator[Measure]:
    """Yield how the outputs for a batch differ."""
    yield from compare(expected, _run(file, case.pixels), bounds_of(info), selection=info.selection, ties=ties)


def _ties(network: TaskNetwork, case: Case) -> Ties:
    """Return a function that finds the pixels of label maps at which the network is undecided."""

    @torch.inference_mode()
    def ties(first: NDArray[Any], second: NDArray[Any]) -> NDArray[np.bool_]:
        x, _ = network.prepare(torch.from_numpy(case.pixels).permute(0, 3, 1, 2), None)
        logits = network_outputs(network, x, None, features=False, logits=True)["logits"].float()
        return undecided(logits, first, second)

    return ties


def undecided(logits: Tensor, first: NDArray[Any], second: NDArray[Any]) -> NDArray[np.bool_]:
    """Return the pixels at which two label maps differ and the network scores both classes nearly the same.

    Args:
        logits: `(B, K, h, w)`, resized bilinearly to the label maps.
        first: class ids `(B, H, W)`.
        second: class ids `(B, H, W)`.
    """
    result = np.zeros(first.shape, dtype=bool)
    least = TIE * rms(logits.numpy())
    for index, (one, other) in enumerate(zip(first, second, strict=True)):
        rows, columns = np.nonzero(one != other)
        if not 0 < len(rows) < 0.02 * one.size:  # more are no ties, and would need much memory
            continue
        centres = [2 * (x + 0.5) / side - 1 for x, side in zip((columns, rows), one.shape[::-1], strict=True)]
        grid = torch.from_numpy(np.stack(centres, axis=-1)).float()[None, None]
        part = logits[index : index + 1]
        scores = F.grid_sample(part, grid, padding_mode="border", align_corners=False)[0, :, 0].numpy()
        pixels = np.arange(len(rows))
        gap = scores[one[rows, columns], pixels] - scores[other[rows, columns], pixels]
        result[index, rows, columns] = np.abs(gap) < least
    return result


def _run(file: Session, pixels: NDArray[np.uint8], sizes: NDArray[np.int64] | None = None) -> Arrays:
    """Return the outputs of a file; raise Mismatch for any error of its runtime."""
    try:
        return file.run(pixels, sizes)
    except Exception as error:  # runtimes have errors of their own
        raise Mismatch(f"its runtime fails ({first_line(error.__cause__ or error)})") from error


def _compare_padded(case: Case, native: Session, file: Session, info: FileInfo) -> Iterator[Measure]:
    """Yield how images of unequal size in a padded batch differ from each image alone."""
    height, width = case.size
    parts = ((max(SMALL[0], 3 * height // 4 | 1), width), (height, max(SMALL[0], width // 2 | 1)), (height, width))
    sizes = np.array(list(islice(cycle(parts), info.batch or len(parts))))
    pixels = np.full((len(sizes), *case.pixels.shape[1:]), 255, dtype=np.uint8)  # padding may hold anything
    for row, image, (h, w) in zip(pixels, cycle(case.pixels), sizes, strict=False):
        row[:h, :w] = image[:h, :w]
    actual = _run(file, pixels, sizes)
    for index, (h, w) in enumerate(sizes.tolist()):
        expected = native.run(pixels[index : index + 1, :h, :w])
        alone = {name: _inside(name, actual[name][index : index + 1], values) for name, values in expected.items()}
        yield from compare(expected, alone, bounds_of(info), selection=info.selection)


def _inside(name: str, actual: NDArray[Any], expected: NDArray[Any]) -> NDArray[Any]:
    """Return the part of an output of a padded batch that an image has alone; class ids beyond it must be 0."""
    inside = tuple(slice(0, side) for side in expected.shape)
    if actual.dtype.kind in "iu" and np.count_nonzero(actual) != np.count_nonzero(actual[inside]):
        raise Mismatch(f"its {name} is not 0 in the padding")
    return actual[inside]


def _reference(network: TaskNetwork, shape: Shape, info: FileInfo) -> TaskNetwork:
    """Return the network whose predictions those of a file must equal.

    Files resize label maps, and fit images into a fixed size, which networks do not: then it is the network behind the
    interface of a file.
    """
    keeps = network.info.preprocess.fit == "keep"
    if "label_map" not in info.outputs and not (keeps and (shape.height or shape.width)):
        return network
    if not info.resize_in_graph:
        return ExportedNetwork(native_session(network, info)).eval()
    reference = ExportedNetwork(native_session(network, replace(info, resize_in_graph=False))).eval()
    fixed = FixedPreprocess(**vars(network.info.preprocess), height=shape.height, width=shape.width)
    reference.info = replace(network.info, preprocess=fixed)
    return reference


def _compare_predictions(
    reference: TaskNetwork, file: ExportedNetwork, shape: Shape, info: FileInfo, images: Mapping[str, AnyImage]
) -> Iterator[Measure]:
    """Yield how predictions for images at their own size differ: names, resizing and decoding are compared too."""
    expected = _predict(reference, info, images)
    try:
        actual = _predict(file, info, images)
    except Exception as error:  # runtimes have errors of their own
        raise Mismatch(f"its predictor fails ({first_line(error.__cause__ or error)})") from error
    for image, one, other in zip(images.values(), expected, actual, strict=True):
        height, width = _own_size(reference, shape, image)
        scale = max(1.0, image.height / height, image.width / width)  # boxes are in pixels of the image
        bounds = replace(bounds_of(info), boxes=scale * bounds_of(info).boxes)
        if "count" in one:
            yield from compare_objects(one, other, bounds, info.selection or SelectionConfig())
        else:
            yield from compare(one, other, bounds)


def _predict(network: TaskNetwork, info: FileInfo, images: Mapping[str, AnyImage]) -> list[Arrays]:
    """Return the predictions for images, or the maps of a backbone, each as outputs for a batch of one image."""
    predictor = Predictor(network, device="cpu", selection=info.selection)
    batch = max(OPEN_BATCHES) if info.batch is None else info.batch
    if info.features:
        embeddings = predictor.embed(list(images.values()), maps=True, batch_size=batch)
        return [{f"map{index}": values for index, values in enumerate(maps)} for maps in embeddings]
    predictions = predictor.predict(list(images.values()), batch_size=batch)
    if any(prediction.names != network.info.names for prediction in predictions):
        raise Mismatch("its predictions have other class names")
    return [_arrays(prediction) for prediction in predictions]


def _arrays(prediction: Prediction) -> Arrays:
    """Return a prediction as outputs for a batch of one image."""
    if prediction.label_map is not None:
        return {"label_map": prediction.label_map[None]}
    assert prediction.labels is not None
    assert prediction.scores is not None
    if prediction.boxes is None:
        return {"scores": prediction.scores[prediction.labels.argsort()][None]}
    fields: dict[str, NDArray[Any]] = {
        "boxes": prediction.boxes,
        "scores": prediction.scores,
        "labels": prediction.labels,
    }
    fields |= {} if prediction.masks is None else {"masks": prediction.masks}
    return {"count": np.array([len(prediction.scores)])} | {name: values[None] for name, values in fields.items()}


def time_per_image(network: TaskNetwork, path: Path, shape: Shape, info: FileInfo, image: AnyImage) -> dict[str, Any]:
    """Return the milliseconds per image of a file and of its network, with the batch and the size.

    Both decode, at the size at which the network sees the image, with one image or the file's fixed batch. The network
    runs eagerly. They run in turn; medians are returned.
    """
    case = _case({"": image}, [""] * (info.batch or 1), _own_size(network, shape, image))
    native = native_session(network, replace(info, resize_in_graph=False))
    calls = {"file": load_exported(path).session.run, "network": native.run}
    times: dict[str, list[float]] = {name: [] for name in calls}
    end = perf_counter() + SECONDS
    while len(times["file"]) < LEAST_ROUNDS or (perf_counter() < end and len(times["file"]) <= ROUNDS):
        for name, call in calls.items():
            start = perf_counter()
            call(case.pixels)
            times[name].append(1000 * (perf_counter() - start) / len(case.pixels))
    medians = {name: median(values[1:]) for name, values in times.items()}  # the first warms up
    return {**medians, "batch": len(case.pixels), "size": list(case.size)}
