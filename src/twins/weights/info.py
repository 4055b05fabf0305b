"""`ModelInfo`: the description of a network, stored as JSON in the metadata of its weight file."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field, fields

from twins.errors import TwinsError, WeightsError
from twins.preprocess import Preprocess

FORMAT = 1
"""Version of the text that `ModelInfo.to_json` writes."""


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """Description of a network: all that is needed to rebuild it and to prepare its images."""

    task: str
    """`classification`, `semantic`, `detection` or `instance`."""
    model: str
    """Canonical name of the backbone variant."""
    head: str | None = None
    """Name of the head; `None` for a task with a single head."""
    num_classes: int = 1000
    """Number of classes; a classifier with 0 classes returns features."""
    names: tuple[str, ...] = ()
    """Class names by class id; empty if unknown."""
    padding: str = "exact"
    """How local attention treats borders; see `twins.ops.padding`."""
    in_chans: int = 3
    """Channels of the images."""
    stage_norms: bool = False
    """Whether each stage of the backbone ends in a norm."""
    preprocess: Preprocess = field(default_factory=Preprocess)
    """Preprocessing of its images."""
    norm: str = "batch"
    """Norm of a semantic head: `batch` or `group`."""
    width: int | None = None
    """Channels inside a dense head; `None`: as published, 512 for UPerNet and 256 for the others."""
    anchor_scale: float | None = None
    """Side of a detector's smallest square anchors in multiples of the level's stride; `None`: as published, 4 for
    RetinaNet, whose levels begin at stride 8, and 8 for the others, whose levels begin at stride 4."""
    relu_before_p7: bool = False
    """Whether RetinaNet's pyramid has a ReLU before P7, as in detectron2; mmdetection and published ones have none."""
    colours: tuple[tuple[int, int, int], ...] = ()
    """RGB colour of each class in drawings; empty: chosen automatically."""
    temperature: float = 1.0
    """Number that a classifier's logits are divided by before the softmax; `twins eval --calibrate` fits it."""

    def to_json(self) -> str:
        """Return the description as one line of JSON, with the format version."""
        values = asdict(self) | {"preprocess": self.preprocess.to_dict(), "format": FORMAT}
        return json.dumps(values, sort_keys=True, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> ModelInfo:
        """Parse the text of `to_json`.

        Raises:
            WeightsError: the text is damaged, or has a newer format.
        """
        try:
            values = json.loads(text)
            version = values.pop("format")
            if version > FORMAT:
                raise WeightsError(
                    f"the file's description has format {version}, this twins reads up to {FORMAT}; update it"
                )
            values["preprocess"] = Preprocess.from_dict(values["preprocess"])
            values["names"] = tuple(values["names"])
            values["colours"] = tuple(tuple(map(int, colour)) for colour in values.get("colours", ()))
            field_names = {f.name for f in fields(cls)}
            for name, minimum in (("num_classes", 0), ("in_chans", 1), ("width", 1)):
                default = None if name == "width" else minimum
                value = values.get(name, default)
                if value is not default and (type(value) is not int or value < minimum):
                    raise ValueError(f"{name} is {value!r}")
            if (scale := values.get("anchor_scale")) is not None and not 0 < scale < math.inf:
                raise ValueError(f"anchor_scale is {scale!r}")
            if not 0 < (temperature := values.get("temperature", 1.0)) < math.inf:
                raise ValueError(f"temperature is {temperature!r}")
            return cls(**{name: value for name, value in values.items() if name in field_names})
        except WeightsError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError, TwinsError) as error:
            raise WeightsError(
                f"the file's description of its network is damaged ({error}); save the network again"
            ) from error
