"""Settings of a benchmark. This module imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from twins.backbone.config import PUBLISHED, resolve_name
from twins.errors import ConfigError, nearest
from twins.tasks.facts import TaskFacts
from twins.tasks.table import TASKS, facts_of

Mode = Literal["inference", "training", "end-to-end", "loading"]

FEATURES = "features"
"""Name of the task that measures a backbone alone, from images to its four maps."""
FEATURES_SIZE = "800x1333"
"""Default input size for a backbone alone, in pixels."""
PEERS = ("timm", "timm-compiled", "twins-compiled", "twins-fused", "twins-fused-compiled")
"""Names of the peers; `twins.bench.networks.PEERS` has the function that builds each."""
DEFAULT_MODELS = ("twins_svt_small", "twins_pcpvt_small")
"""Networks to measure if none are named."""
PLOT_ENDINGS = (".png", ".svg", ".pdf")
"""Endings of a plot's file name."""
REPORTED_SIZE = "224"
"""Input size of the reported accuracies, in pixels."""
PRECISIONS = {"torch": ("fp32", "bf16"), "onnxruntime": ("fp32",), "openvino": ("fp32", "bf16", "int8")}
"""Number formats that each runtime supports."""


def shape_of(size: int | str) -> tuple[int, int]:
    """Return height and width of a size: the side of a square, or both as in `800x1333`.

    Raises:
        ConfigError: `size` has another form, or a side below 32.
    """
    sides = str(size).lower().split("x")
    if len(sides) > 2 or not all(side.isdecimal() and int(side) >= 32 for side in sides):
        word = not any(side[:1].isdecimal() for side in sides)
        hint = "; name networks first, in `models`" if word else ""
        raise ConfigError(f"`size` must be a side of at least 32, or two as in 800x1333, found {size!r}{hint}")
    return int(sides[0]), int(sides[-1])


@dataclass(frozen=True, kw_only=True)
class BenchConfig:
    """Measure speed and memory on this machine, and compare with peers such as timm.

    Peers have the same weights as our network and run alternately with it.
    """

    models: Annotated[tuple[str, ...], Positional, arg(metavar="[MODEL...]")] = ()
    """Networks to measure; `all` means the six published ones. The default is twins_svt_small and twins_pcpvt_small."""
    task: str = "classification"
    """Task of the networks: `classification`, `semantic`, `detection` or `instance`; `features` is a backbone alone."""
    head: str | None = None
    """Head of a dense network, such as `upernet` or `faster_rcnn`; unset is the task's default."""
    against: tuple[str, ...] = ()
    """Peers: `timm`, `timm-compiled`, `twins-compiled`, `twins-fused` (inference form), `twins-fused-compiled`, `none`.
    In a dense network, timm's backbone has a copy of our head."""
    modes: tuple[Mode, ...] = ("inference", "training")
    """Modes to measure. `inference` is the forward pass. `training` is forward, the task's loss, backward and AdamW.
    `end-to-end` starts from image files and ends with predictions. `loading` is the data loader alone, on one core."""
    precision: tuple[Literal["fp32", "bf16", "int8"], ...] = ("fp32",)
    """Number formats of weights and images. `int8` is post-training quantisation and needs `--runtime openvino`."""
    batch: tuple[int, ...] = (8,)
    """Images per batch."""
    size: Annotated[tuple[str, ...], arg(metavar="N|HxW...")] = ()
    """Input sizes in pixels: a square's side, or height and width as in `800x1333`.
    The default is 224 for classification, 512 for semantic, and 800x1333 for the other tasks."""
    runtime: Literal["torch", "onnxruntime", "openvino"] = "torch"
    """Runtime of all networks. `onnxruntime` and `openvino` are for inference of exported classifiers on the CPU."""
    images: Annotated[str | None, arg(metavar="DIR")] = None
    """Folder of images for `end-to-end` and `loading`; unset is scikit-learn's two photographs of 640 x 427 pixels."""
    compile: bool = False
    """Compile our network with torch.compile, and timm's too unless timm-compiled is among the peers."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Device to compute on."""
    threads: int | None = None
    """CPU threads; unset is torch's choice."""
    rounds: int = 20
    """Timed rounds; each runs our network and every peer once. Medians are reported."""
    warmup: int = 3
    """Rounds before the timed ones."""
    memory: bool = True
    """Also measure peak memory, in a separate process for each network."""
    percentiles: bool = False
    """Also show the median, the 90th and the 99th percentile of our latency.
    With fewer than 100 rounds the 99th percentile is the longest time."""
    roofline: bool = False
    """Also count operations and bytes, measure the machine's peak rates, and show the share of the roofline reached."""
    budget: float | None = None
    """Latency budget for one image, in milliseconds.
    The answer is the measured variant with the highest reported top-1 within the budget."""
    json: Annotated[str | None, arg(metavar="FILE")] = None
    """File to write the result to, as JSON, after each row."""
    plot: Annotated[str | None, arg(metavar="FILE")] = None
    """File to plot the result in, after each row: .png, .svg or .pdf."""

    @property
    def sizes(self) -> tuple[str, ...]:
        """Input sizes in pixels; the task's own by default."""
        return self.size or (FEATURES_SIZE if self.facts is None else self.facts.bench_size,)

    @property
    def facts(self) -> TaskFacts | None:
        """Facts of the task; `None` for a backbone alone."""
        return None if self.task == FEATURES else facts_of(self.task)

    @property
    def names(self) -> tuple[str, ...]:
        """Canonical names of the networks, without duplicates; raises NotFoundError for an unknown name."""
        names = [name for word in self.models for name in (sorted(PUBLISHED) if word == "all" else (word,))]
        return tuple(dict.fromkeys(resolve_name(name) for name in names or DEFAULT_MODELS))

    @property
    def peers(self) -> tuple[str, ...]:
        """Peers to compare with, without duplicates."""
        return tuple(dict.fromkeys(peer for peer in self.against if peer != "none"))

    @property
    def device_name(self) -> str:
        """Device to compute on; exported networks run on the CPU."""
        return self.device if self.runtime == "torch" else "cpu"

    def __post_init__(self) -> None:
        if self.task not in (*TASKS, FEATURES):
            raise ConfigError(f"`task` of a benchmark must be {' or '.join((*TASKS, FEATURES))}, found {self.task!r}")
        for name in ("batch", "modes", "precision"):
            if not getattr(self, name):
                raise ConfigError(f"`{name}` needs at least one value")
        for peer in self.peers:
            if peer not in PEERS:
                hint = nearest(peer, PEERS) or f"; the peers are none, {', '.join(PEERS)}"
                raise ConfigError(f"`against` has no peer {peer!r}{hint}")
        if min(self.batch) < 1:
            raise ConfigError(f"`batch` must be at least 1, found {min(self.batch)}")
        self._check_runtime()
        self._check_shapes()
        self._check_results()
        for name, minimum in (("rounds", 3), ("warmup", 1), ("threads", 1)):
            value = getattr(self, name)
            if value is not None and value < minimum:
                raise ConfigError(f"`{name}` must be at least {minimum}, found {value}")

    def _check_runtime(self) -> None:
        """Raise ConfigError for settings that the runtime does not support."""
        supported = PRECISIONS[self.runtime]
        for precision in self.precision:
            if precision not in supported:
                raise ConfigError(f"`precision` of {self.runtime} must be {' or '.join(supported)}, found {precision}")
        if self.runtime == "torch":
            return
        exportable = self.facts is not None and self.facts.exportable
        if not exportable or self.modes != ("inference",) or self.compile or self.roofline:
            raise ConfigError(
                f'`runtime="{self.runtime}"` measures classifiers that were exported; set `modes=("inference",)`, '
                "without `task`, `compile` or `roofline`"
            )
        if self.device not in ("auto", "cpu"):
            raise ConfigError(f'`runtime="{self.runtime}"` runs on CPUs, found `device="{self.device}"`; leave it out')
        if set(self.peers) - {"timm"}:
            peers = " ".join(self.peers)
            raise ConfigError(f'`runtime="{self.runtime}"` compares only with `against=("timm",)`, found {peers}')

    def _check_shapes(self) -> None:
        """Raise ConfigError for sizes, batches or tasks that a mode does not support."""
        if self.task == FEATURES and self.modes != ("inference",):
            raise ConfigError(
                'a backbone alone has no loss and no predictions: `task="features"` needs `modes=("inference",)`'
            )
        smallest_side = min(side for size in self.sizes for side in shape_of(size))
        batch_norm = self.facts is not None and "norm" in self.facts.network_settings
        head = self.facts.heads.get(self.head) if self.facts else None
        trains_single_image = batch_norm and "training" in self.modes and min(self.batch) == 1
        if trains_single_image and ((head and head.pools) or smallest_side < 64):
            raise ConfigError(
                "a training step of upernet, or of a dense network at a size below 64, needs `batch=(2,)` or more, "
                "found 1: batch norm has no statistics of a single value"
            )
        file_modes = [mode for mode in self.modes if mode in ("end-to-end", "loading")]
        oblong = [size for size in self.sizes if len(set(shape_of(size))) > 1]
        if self.facts is not None and self.facts.one_shape and file_modes and oblong:
            raise ConfigError(
                "classifiers see squares of an image file, so "
                f'`modes=("{file_modes[0]}",)` takes no `size=("{oblong[0]}",)`'
            )

    def _check_results(self) -> None:
        """Raise ConfigError for a plot that cannot be written or a budget that these settings cannot answer."""
        if self.plot is not None and Path(self.plot).suffix.lower() not in PLOT_ENDINGS:
            raise ConfigError(f"`plot` must end in {', '.join(PLOT_ENDINGS)}, found {self.plot!r}")
        if self.budget is None:
            return
        if not 0 < self.budget < float("inf"):
            raise ConfigError(f"`budget` must be milliseconds above 0, found {self.budget:g}")
        needed = {
            '`task="classification"`': self.facts is not None and "top1" in self.facts.metrics,
            '`modes=("inference",)`': "inference" in self.modes,
            "`batch=(1,)`": 1 in self.batch,
            f'`size=("{REPORTED_SIZE}",)`, where top-1 is reported': REPORTED_SIZE in self.sizes,
        }
        for setting, is_set in needed.items():
            if not is_set:
                raise ConfigError(f"`budget` looks at images one at a time and needs {setting}")
