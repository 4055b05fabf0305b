"""`FileInfo`: the description of an exported file, stored in it as JSON under the key `twins`; torch-free."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from twins.errors import TwinsError, WeightsError
from twins.files import first_line
from twins.tasks.inference import SelectionConfig
from twins.tasks.table import check_task
from twins.weights.info import FORMAT as NETWORK_FORMAT
from twins.weights.info import ModelInfo

FORMAT = 1
"""Version of the text that `FileInfo.to_json` writes."""
KEY = "twins"
"""Key of the text: in ONNX's `metadata_props`, in OpenVINO's `rt_info`, among the extra files of a `.pt2`."""
Precision = Literal["fp32", "fp16", "bf16", "int8"]
IMAGES, SIZES = "images", "sizes"
"""Names of the inputs."""
SMALLEST = 32
"""Smallest height and width of images in pixels."""


@dataclass(frozen=True, kw_only=True)
class FileInfo:
    """Description of an exported file: all that is needed to check its input and to read its outputs.

    Raises:
        ValueError: a value is out of range.
        NotFoundError: there is no such task.
    """

    network: ModelInfo
    """The network that was exported, with its class names and preprocessing. Normalisation is in the graph."""
    precision: Precision = "fp32"
    """Number type of weights and arithmetic."""
    batch: int | None
    """Images in a batch; `None`: any number."""
    height: int | None
    """Height of the images in pixels; `None`: any height of at least 32."""
    width: int | None
    """Width of the images in pixels; `None`: any width of at least 32."""
    padded: bool = False
    """Whether the file has the second input `sizes`, the true height and width of each image in a padded batch."""
    resize_in_graph: bool = False
    """Whether the graph resizes its images, which may then have any size."""
    features: bool = False
    """Whether the file is a backbone alone, whose outputs are its maps."""
    outputs: tuple[str, ...]
    """Names of the outputs."""
    selection: SelectionConfig | None = None
    """Which objects the graph keeps; `None` for a task without objects."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Versions of the packages that wrote the file."""
    weights_sha256: str = ""
    """SHA-256 of the exported weights, in hexadecimal."""

    def __post_init__(self) -> None:
        for name, smallest in (("batch", 1), ("height", SMALLEST), ("width", SMALLEST)):
            value = getattr(self, name)
            if value is not None and (type(value) is not int or value < smallest):
                raise ValueError(f"{name} is {value!r:.80}")
        for name in ("padded", "resize_in_graph", "features"):
            if type(getattr(self, name)) is not bool:
                raise ValueError(f"{name} is {getattr(self, name)!r:.80}")
        check_task(self.network.task)
        if self.precision not in get_args(Precision):
            raise ValueError(f"precision is {self.precision!r:.80}")
        if not self.outputs or not all(isinstance(name, str) for name in self.outputs):
            raise ValueError(f"outputs is {self.outputs!r:.80}")
        names, classes = self.network.names, self.network.num_classes
        if names and len(names) != classes:
            raise ValueError(f"there are {len(names)} names for {classes} classes")

    @property
    def dynamic(self) -> tuple[str, ...]:
        """Those of `batch`, `height` and `width` that are open."""
        return tuple(name for name in ("batch", "height", "width") if getattr(self, name) is None)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values: those of `ModelInfo` and of this class, the input's shape under `input`."""
        return json.loads(self.network.to_json()) | {
            "format": FORMAT,
            "precision": self.precision,
            "dynamic": list(self.dynamic),
            "input": {"batch": self.batch, "height": self.height, "width": self.width},
            "padded": self.padded,
            "resize_in_graph": self.resize_in_graph,
            "features": self.features,
            "outputs": list(self.outputs),
            "selection": None if self.selection is None else asdict(self.selection),
            "versions": dict(self.versions),
            "weights_sha256": self.weights_sha256,
        }

    def to_json(self) -> str:
        """Return the description as one line of JSON, with the format version."""
        return json.dumps(self.to_dict(), sort_keys=True, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str, path: Path) -> FileInfo:
        """Parse the text of `to_json`.

        Args:
            text: one line of JSON.
            path: the file that holds it, for messages.

        Raises:
            WeightsError: the text is damaged, or has a newer format.
        """
        try:
            values = json.loads(text)
            version = values["format"]
            if type(version) is not int or version < 1:
                raise ValueError(f"format is {version!r:.80}")
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise _damaged(path, error) from error
        if version > FORMAT:
            raise WeightsError(
                f"{path} has format {version} of exported files, this twins reads up to {FORMAT}; update twins"
            )
        try:
            return cls._from_dict(values)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, TwinsError) as error:
            raise _damaged(path, error) from error

    @classmethod
    def _from_dict(cls, values: dict[str, Any]) -> FileInfo:
        shape, selection = values["input"], values["selection"]
        return cls(
            network=ModelInfo.from_json(json.dumps(values | {"format": NETWORK_FORMAT})),
            batch=shape["batch"],
            height=shape["height"],
            width=shape["width"],
            outputs=tuple(values["outputs"]),
            selection=None if selection is None else SelectionConfig(**selection),
            versions={str(name): str(version) for name, version in values["versions"].items()},
            weights_sha256=str(values["weights_sha256"]),
            **{name: values[name] for name in ("precision", "padded", "resize_in_graph", "features")},
        )


def _damaged(path: Path, error: Exception) -> WeightsError:
    """Return the error of a damaged description; `error` is its cause."""
    cause = error.__cause__ if isinstance(error, WeightsError) and error.__cause__ else error
    reason = f"no field {cause}" if isinstance(cause, KeyError) else first_line(cause)
    return WeightsError(f"{path}: its description under the key {KEY} is damaged ({reason}); export it again")
