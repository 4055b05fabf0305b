"""`ExportedNetwork`: an exported file as a network, so that predictions and evaluations take it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from twins.backbone.config import PATCH_SIZES, VARIANTS
from twins.errors import ConfigError, WeightsError
from twins.exporting.comparison import CLASS_SCORES
from twins.exporting.sessions import Session, open_session
from twins.ops.padding import reduce_sizes, true_sizes
from twins.predictions import Prediction
from twins.preprocess import FixedPreprocess, NoResize
from twins.tasks.exports import export_of
from twins.tasks.inference import SelectionConfig
from twins.tasks.network import TaskNetwork, check_finite_scores


class Part(NamedTuple):
    """What a file returned for some images of a batch."""

    outputs: dict[str, NDArray[Any]]
    """Outputs by name."""
    images: int
    """Number of images; a file of a fixed batch returns rows beyond it."""


class ExportedNetwork(TaskNetwork):
    """A file of `twins.export` as a network that takes pixels; it predicts, and has neither weights nor losses.

    Args:
        session: the opened file.
    """

    has_losses = False

    def __init__(self, session: Session) -> None:
        info = session.info
        super().__init__(_NoBackbone(session.path), info.network)
        self.session, self.task = session, info.network.task
        if info.features:
            self.backbone = _FileBackbone(self)
        preprocess = self.info.preprocess
        if info.resize_in_graph:
            self.info = replace(self.info, preprocess=NoResize(**vars(preprocess)))
        elif preprocess.fit == "keep" and (info.height or info.width):
            fixed = FixedPreprocess(**vars(preprocess), height=info.height, width=info.width)
            self.info = replace(self.info, preprocess=fixed)

    @property
    def precision(self) -> str:
        """Number format of the file."""
        return self.session.info.precision

    @property
    def device(self) -> torch.device:
        """The CPU, which holds a file's inputs and outputs."""
        return torch.device("cpu")

    def prepare(self, images: Tensor, sizes: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return uint8 images unchanged: the file normalises them."""
        if images.dtype != torch.uint8:
            raise ConfigError("an exported file takes uint8 images, found normalised floats; give the pixels")
        return images.cpu(), None if sizes is None else sizes.cpu()

    def forward(self, images: Tensor, sizes: Tensor | None = None) -> list[Part]:
        """Return what the file computes for uint8 images `(B, C, H, W)`, in one part or several.

        A file without the input `sizes` gets images of unequal size one by one.
        """
        pixels, inside = images.permute(0, 2, 3, 1).contiguous().numpy(), true_sizes(images, sizes).numpy()
        one_call = self.session.info.padded or bool((inside == inside[:1]).all())
        rows = [slice(0, len(pixels))] if one_call else [slice(i, i + 1) for i in range(len(pixels))]
        return [part for row in rows for part in self._run(pixels[row], inside[row])]

    def decode(
        self, outputs: list[Part], sizes: Tensor | None, originals: Sequence[tuple[int, int]]
    ) -> list[Prediction]:
        """Return each image's prediction; see `TaskNetwork.decode`."""
        if self.session.info.features:
            raise ConfigError(f"{self.session.path} holds the maps of a backbone, not a task; use `embed(maps=True)`")
        assert sizes is not None
        predictions: list[Prediction] = []
        for part in outputs:
            rows = slice(len(predictions), len(predictions) + part.images)
            arrays = {name: array[: part.images] for name, array in part.outputs.items()}
            inside = [(int(height), int(width)) for height, width in sizes[rows].tolist()]
            selection = self.selection if hasattr(self, "selection") else SelectionConfig()
            try:
                predictions += export_of(self.task).predictions(self.info, arrays, inside, originals[rows], selection)
            except KeyError as error:
                raise WeightsError(
                    f"{self.session.path} has no output {error}, which a network for {self.task} returns; "
                    "export it again"
                ) from error
        return predictions

    def forward_features(self, images: Tensor, sizes: Tensor | None = None) -> NoReturn:
        """Raise ConfigError: a file has no single feature map."""
        raise ConfigError(
            f"{self.session.path} does not hold the mean of a network's last map; use `embed(maps=True)` with a file "
            "of `twins export --features`, or the run that the file was made of"
        )

    def fuse(self) -> Self:
        """Return the network itself: a file is in its final form."""
        return self

    def _run(self, pixels: NDArray[np.uint8], inside: NDArray[np.int64]) -> Iterator[Part]:
        """Run the file on images of one size, or with `sizes` of several, in batches of its own size."""
        info = self.session.info
        batch = info.batch or len(pixels)
        fill = np.rint(255 * np.array(self.info.preprocess.mean)).astype(np.uint8)
        limits = inside.max(axis=0, initial=0)
        shape = [side or int(limit) for side, limit in zip((info.height, info.width), limits, strict=True)]
        for first in range(0, len(pixels), batch):
            part, part_sizes = pixels[first : first + batch], inside[first : first + batch]
            images = np.empty((info.batch or len(part), *shape, pixels.shape[3]), dtype=np.uint8)
            images[:] = fill  # normalised, this is zero
            images[: len(part), : part.shape[1], : part.shape[2]] = part[:, : shape[0], : shape[1]]
            sizes = np.array([shape] * len(images), dtype=np.int64)
            sizes[: len(part)] = part_sizes
            outputs = self.session.run(images, sizes if info.padded else None)
            self._check(outputs)
            yield Part(outputs, len(part))

    def _check(self, outputs: dict[str, NDArray[Any]]) -> None:
        """Raise WeightsError for outputs that are not finite, or of other classes than the file's."""
        path, classes = self.session.path, self.info.num_classes
        for name, array in outputs.items():
            if name in CLASS_SCORES and array.shape[1] != classes:
                raise WeightsError(
                    f"{path} returns {array.shape[1]} {name}, but names {classes} classes; export it again"
                )
        try:
            check_finite_scores({name: torch.from_numpy(array) for name, array in outputs.items()})
        except WeightsError as error:
            raise WeightsError(
                f"{path} returns scores that are not finite: it is damaged, or they are too large for "
                f"{self.precision}; copy it again, or export another checkpoint or precision"
            ) from error


class _NoBackbone(nn.Module):
    """Stands for the backbone of a file of a whole network."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    def forward(self, images: Tensor, sizes: Tensor | None = None) -> NoReturn:
        """Raise ConfigError: the file returns no maps."""
        raise ConfigError(
            f"{self.path} does not return the maps of its backbone; use a file of `twins export --features`, or the "
            "run that the file was made of"
        )


class _FileBackbone(nn.Module):
    """The backbone of a file with `features`."""

    def __init__(self, network: ExportedNetwork) -> None:
        super().__init__()
        self._network = [network]  # in a list, so that the two modules do not contain each other
        config = VARIANTS[network.info.model]
        self.channels = config.embed_dims

    def forward(self, images: Tensor, sizes: Tensor | None = None) -> tuple[Tensor, ...]:
        """Return the maps of the stages."""
        parts = self._network[0](images, sizes)
        if len(parts) > 1:
            raise ConfigError("a file with `features` takes images of one size; give them one by one")
        return tuple(torch.from_numpy(parts[0].outputs[f"map{index}"]) for index in range(len(self.channels)))

    def map_sizes(self, sizes: Tensor) -> tuple[Tensor, ...]:
        """Return each image's true size on each map."""
        result: list[Tensor] = []
        for patch in PATCH_SIZES:
            reduced = reduce_sizes(result[-1] if result else sizes, patch, self._network[0].info.padding)  # type: ignore[arg-type]
            assert reduced is not None
            result.append(reduced)
        return tuple(result)


def load_exported(path: str | Path, *, threads: int | None = None) -> ExportedNetwork:
    """Open an exported file as a network.

    Raises:
        WeightsError: the file is no exported file, is damaged, or is of a newer format.
        MissingExtraError: its runtime is not installed.
    """
    return ExportedNetwork(open_session(Path(path), threads=threads)).eval()


def check_device(path: str | Path, device: str | torch.device) -> None:
    """Raise ConfigError for a device on which predictions do not run an exported file."""
    if str(device) not in ("auto", "cpu"):
        raise ConfigError(
            f'`device="{device}"` is for checkpoints, {path} is an exported file, which runs on the CPU; leave it out'
        )


def check_selection(network: ExportedNetwork, selection: SelectionConfig) -> None:
    """Raise ConfigError for a selection of objects that the file left out when it was exported."""
    kept = network.session.info.selection
    assert kept is not None
    if selection.score < kept.score or selection.most > kept.most:
        raise ConfigError(
            f"{network.session.path} holds objects with scores above {kept.score:g}, at most {kept.most}; ask for "
            "fewer, or export the run again with another `score`"
        )
    if (selection.nms, selection.agnostic) != (kept.nms, kept.agnostic):
        raise ConfigError(f"{network.session.path} suppresses boxes in its graph; leave out `nms` and `agnostic`")
