"""The description of its network that a weight file of ours carries, as text in its metadata."""

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
    """Everything needed to rebuild a network and to feed it."""

    task: str
    """`classification`, `semantic`, `detection` or `instance`."""
    model: str
    """Canonical name of the backbone's variant."""
    head: str | None = None
    """Which of the task's heads; `None` where the task has one."""
    num_classes: int = 1000
    """Number of classes; a classifier of 0 returns features."""
    names: tuple[str, ...] = ()
    """Class names by class id; empty when unknown."""
    padding: str = "exact"
    """How local attention treats borders; see `twins.ops.padding`."""
    in_chans: int = 3
    """Channels of the images."""
    stage_norms: bool = False
    """Whether each stage of the backbone ends in its own norm."""
    preprocess: Preprocess = field(default_factory=Preprocess)
    """How images are prepared."""
    norm: str = "batch"
    """Norm of a semantic head: `batch` or `group`."""
    width: int | None = None
    """Channels inside a dense head; `None` is as published: 256, of UPerNet 512."""
    anchor_scale: float | None = None
    """Side of a detector's smallest square anchors in multiples of a level's stride; `None` is as published: 4 of
    RetinaNet, whose levels begin at stride 8, and 8 of the others, whose levels begin at stride 4."""
    colours: tuple[tuple[int, int, int], ...] = ()
    """RGB of each class in drawings; empty where they are chosen."""

    def to_json(self) -> str:
        """Return the description as one line of JSON, with its format version."""
        values = asdict(self) | {"preprocess": self.preprocess.to_dict(), "format": FORMAT}
        return json.dumps(values, sort_keys=True, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> ModelInfo:
        """Read what `to_json` wrote.

        Raises:
            WeightsError: the text is damaged, or of a newer format.
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
            known = {f.name for f in fields(cls)}
            for name, least in (("num_classes", 0), ("in_chans", 1), ("width", 1)):
                missing = None if name == "width" else least
                value = values.get(name, missing)
                if value is not missing and (type(value) is not int or value < least):
                    raise ValueError(f"{name} is {value!r}")
            if (scale := values.get("anchor_scale")) is not None and not 0 < scale < math.inf:
                raise ValueError(f"anchor_scale is {scale!r}")
            return cls(**{name: value for name, value in values.items() if name in known})
        except WeightsError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError, TwinsError) as error:
            raise WeightsError(
                f"the file's description of its network is damaged ({error}); save the network again"
            ) from error
