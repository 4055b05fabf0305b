"""`ServedModel`: a network or exported file inside a worker, from encoded images to answers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from twins.data.channels import open_channels
from twins.data.loading.batch import stack_images
from twins.exported import ExportedNetwork, load_exported
from twins.exporting.formats import is_exported_file, read_info
from twins.exporting.graph import network_outputs
from twins.exporting.metadata import SMALLEST
from twins.predictions import Prediction
from twins.predictor import Predictor, load, pads_batches, set_selection
from twins.serve.answers import answer
from twins.serve.messages import Answer, Description, Job, Options
from twins.tasks.inference import SHOWN, SelectionConfig
from twins.tasks.network import check_finite_scores
from twins.tasks.table import facts_of
from twins.token_attention import attention_in_pixels

DATA_TYPES = {"float32": "FP32", "int64": "INT64", "int32": "INT32", "uint8": "UINT8", "bool": "BOOL"}
"""Types of KServe's protocol by those of NumPy."""


class ServedModel:
    """A network or exported file that answers batches.

    Args:
        path: run folder, checkpoint, exported file or published name.
        device: `auto`, `cpu`, `cuda` or `mps`.
        threads: CPU threads of an exported file's runtime.

    Raises:
        TwinsError: as `twins.load`.
    """

    def __init__(self, path: str, *, device: str = "auto", threads: int | None = None) -> None:
        if is_exported_file(path):
            self.runtime: str = read_info(path)[0]
            self.predictor = Predictor(load_exported(path, threads=threads))
        else:
            self.runtime = "pytorch"
            self.predictor = load(path, device=device)
        self.network = self.predictor.model.requires_grad_(False)  # evidence needs gradients of maps alone
        self.selects = facts_of(self.network.task).selection
        file = self.network.session.info if isinstance(self.network, ExportedNetwork) else None
        self.pads = self.network.info.padding == "exact" and (file is None or file.padded)
        """Whether images of several shapes can share a batch without an effect on each other."""
        self.warm_up()

    def warm_up(self) -> None:
        """Predict a grey image once, which also shows that the file works."""
        side, channels = max(64, self.network.info.preprocess.size), self.network.info.in_chans
        pixels = np.full((side, side, channels), 128, dtype=np.uint8)
        image = pixels if channels != 1 else pixels[:, :, 0]
        self.predictor.predict(image if channels not in (1, 3) else Image.fromarray(image))

    def describe(self) -> Description:
        """Return what the server needs to know."""
        network, facts = self.network, facts_of(self.network.task)
        file = network.session.info if isinstance(network, ExportedNetwork) else None
        return Description(
            info=network.info,
            runtime=self.runtime,
            precision=network.precision,
            pads=self.pads,
            padding=0.25 if pads_batches(self.predictor.device) else 0.0,
            masks=facts.selection and "masks" in facts.prediction_fields,
            lowest_score=file.selection.score if file is not None and file.selection else 0.0,
            ranked="labels" in facts.prediction_fields and not facts.selection,
            outputs=self._output_shapes(),
            batch=None if file is None else file.batch,
            height=None if file is None else file.height,
            width=None if file is None else file.width,
        )

    def _output_shapes(self) -> tuple[tuple[str, str, tuple[int, ...]], ...]:
        """Return name, data type and shape of the outputs; a side that two inputs give differently is -1."""
        file = self.network.session.info if isinstance(self.network, ExportedNetwork) else None
        sides = [((file and file.height) or 64 + extra, (file and file.width) or 96 + extra) for extra in (0, SMALLEST)]
        first, second = (
            self.outputs(np.zeros((1, *side, self.network.info.in_chans), dtype=np.uint8), None) for side in sides
        )
        return tuple(
            (name, DATA_TYPES[array.dtype.name], (-1, *_common(array.shape[1:], second[name].shape[1:])))
            for name, array in first.items()
        )

    def preprocess(self, job: Job) -> tuple[Tensor, tuple[int, int]]:
        """Return an image as the network sees it, uint8 `(C, H, W)`, and its original height and width.

        Raises:
            DataError: the bytes are no image that can be read.
            InputError: the image has another number of channels than the network takes.
        """
        if not isinstance(job.content, bytes):
            height, width = job.content.shape[:2]
            return torch.from_numpy(np.array(job.content)).permute(2, 0, 1), (height, width)
        image = open_channels(job.content, self.network.info.in_chans)
        return self.network.info.preprocess.pixels(image), (image.height, image.width)

    def predict(self, images: Sequence[tuple[Tensor, tuple[int, int]]], options: Sequence[Options]) -> list[Answer]:
        """Return the answer for each image of a batch; `images` are of `preprocess`.

        Objects are selected at the lowest score that is asked for. Each answer then drops those below its own, which
        is the same as a selection at its score: an object never suppresses one of a higher score.
        """
        if self.selects:
            lowest = min(SHOWN.score if one.score is None else one.score for one in options)
            self._select(lowest)
        if not self.pads and len({pixels.shape for pixels, _ in images}) > 1:  # a header may say another shape
            return [self.predict([image], [one])[0] for image, one in zip(images, options, strict=True)]
        pixels, originals = zip(*images, strict=True)
        predictions = self.predictor.predict_pixels(pixels, originals)
        return [answer(_above(p, one), one) for p, one in zip(predictions, options, strict=True)]

    def attention(self, image: tuple[Tensor, tuple[int, int]], options: Options) -> Answer:
        """Return what the network looks at in an image, which is of `preprocess`; objects are those shown by default.

        Raises:
            TwinsError: as `attention_at`.
        """
        if self.selects:
            self._select(SHOWN.score)
        place = options.attention
        result = attention_in_pixels(
            self.predictor, *image, place.point, stage=place.stage, block=place.block, head=place.head
        )
        return json.dumps(result.to_dict(), allow_nan=False).encode()

    @torch.inference_mode()
    def outputs(self, images: NDArray[np.uint8], sizes: NDArray[np.int64] | None) -> dict[str, NDArray[Any]]:
        """Return the outputs that an exported file has, selected as published.

        Args:
            images: uint8 `(B, H, W, C)`, at the size that the network sees.
            sizes: true height and width of each image, int `(B, 2)`; `None` if all fill the batch.
        """
        batch = torch.from_numpy(images).permute(0, 3, 1, 2)
        inside = None if sizes is None else torch.from_numpy(sizes)
        if isinstance(self.network, ExportedNetwork):
            parts = self.network(batch, inside)
            return {
                name: np.concatenate([part.outputs[name][: part.images] for part in parts]) for name in parts[0].outputs
            }
        if self.selects:
            set_selection(self.network, SelectionConfig())
        network = self.predictor.inference_network()
        outputs = network_outputs(network, *network.prepare(batch, inside), features=False, logits=False)
        arrays = {name: (x.float() if x.is_floating_point() else x).cpu().numpy() for name, x in outputs.items()}
        check_finite_scores(outputs)
        return arrays

    def tensors(self, images: Sequence[tuple[Tensor, tuple[int, int]]], jobs: Sequence[Job]) -> list[Answer]:
        """Return the outputs of each image of a batch, each with a batch of one."""
        batch, _ = stack_images([pixels for pixels, _ in images])  # the queue gives tensors of one shape
        sizes = None if jobs[0].size is None else np.array([job.size for job in jobs], dtype=np.int64)
        arrays = self.outputs(batch.permute(0, 2, 3, 1).numpy(), sizes)
        return [{name: array[i : i + 1] for name, array in arrays.items()} for i in range(len(jobs))]

    def _select(self, score: float) -> None:
        """Select objects above a score; an exported file selects those above its own itself."""
        if isinstance(self.network, ExportedNetwork):
            kept = self.network.session.info.selection
            assert kept is not None
            selection = replace(kept, score=max(score, kept.score))
        else:
            selection = replace(SHOWN, score=score)
        set_selection(self.network, selection)


def _common(first: tuple[int, ...], second: tuple[int, ...]) -> tuple[int, ...]:
    """Return the sides that two shapes share, and -1 for others."""
    return tuple(one if one == other else -1 for one, other in zip(first, second, strict=True))


def _above(prediction: Prediction, options: Options) -> Prediction:
    """Return a prediction without the classes or objects that do not exceed the score that is asked for."""
    if prediction.scores is None:
        return prediction
    score = options.score if options.score is not None else (SHOWN.score if prediction.boxes is not None else None)
    if score is None:
        return prediction
    kept = prediction.scores > score
    fields = ("labels", "scores", "boxes", "masks")
    values = {name: value[kept] for name in fields if (value := getattr(prediction, name)) is not None}
    return replace(prediction, **values)
