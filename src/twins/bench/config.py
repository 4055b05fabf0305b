"""Settings of a benchmark. This module imports no torch."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from twins.backbone.config import PUBLISHED, resolve_name
from twins.errors import ConfigError, NotFoundError, nearest
from twins.exporting.formats import is_exported_file
from twins.files import is_invalid_path
from twins.run_folder import BEST, LAST_WEIGHTS
from twins.tasks.facts import TaskFacts
from twins.tasks.table import TASKS, facts_of

Mode = Literal["inference", "training", "end-to-end", "loading"]

FEATURES = "features"
"""Name of the task that measures a backbone alone, from images to its four maps."""
FEATURES_SIZE = "800x1333"
"""Default input size for a backbone alone, in pixels."""
PEERS = ("timm", "timm-compiled", "twins-compiled", "twins-fused", "twins-fused-compiled")
"""Names of the peers; `twins.bench.networks.PEERS` has the function that builds each."""
FORMS = {
    "twins-fused": "fused",
    "twins-compiled": "compiled",
    "twins-fused-compiled": "fused, compiled",
}
"""Forms of a trained network beside `eager`, by the peer that stands for each in `against`."""
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


def is_saved(word: str) -> bool:
    """Return whether a word is the path of a run folder with weights, of a checkpoint, or of an exported file.

    A word with a path separator counts even if nothing is there, so that the error is about a path.
    """
    if is_invalid_path(word) or word == "all" or _is_name(word):
        return False
    holds_weights = any((Path(word) / name).is_file() for name in (BEST, LAST_WEIGHTS))
    return holds_weights or Path(word).is_file() or os.sep in word or is_exported_file(word)


def _is_name(word: str) -> bool:
    try:
        return bool(resolve_name(word))
    except NotFoundError:
        return False


@dataclass(frozen=True, kw_only=True)
class BenchConfig:
    """Measure speed and memory on this machine: of networks beside peers such as timm, or of a run beside its exports.

    Peers have the same weights as our network and run alternately with it.
    """

    models: Annotated[tuple[str, ...], Positional, arg(metavar="[MODEL...]")] = ()
    """Networks to measure; `all` means the six published ones. The default is twins_svt_small and twins_pcpvt_small.
    Or a run folder or checkpoint and files that were exported from it, side by side."""
    task: str = "classification"
    """Task of the networks: `classification`, `semantic`, `detection` or `instance`; `features` is a backbone alone."""
    head: str | None = None
    """Head of a dense network, such as `upernet` or `faster_rcnn`; unset is the task's default."""
    against: tuple[str, ...] = ()
    """Peers: `timm`, `timm-compiled`, `twins-compiled`, `twins-fused` (inference form), `twins-fused-compiled`, `none`.
    In a dense network, timm's backbone has a copy of our head. A run takes forms of itself, by default twins-fused."""
    modes: tuple[Mode, ...] = ()
    """Modes to measure; the default is `inference`, and for networks by name `training` too. `inference` is the forward
    pass. `training` is forward, the task's loss, backward and AdamW. `end-to-end` starts from image files and ends with
    predictions. `loading` is the data loader alone, on one core."""
    precision: tuple[Literal["fp32", "bf16", "int8"], ...] = ("fp32",)
    """Number formats of weights and images. `int8` is post-training quantisation and needs `--runtime openvino`."""
    batch: tuple[int, ...] = ()
    """Images per batch; the default is 8, beside exported files theirs."""
    size: Annotated[tuple[str, ...], arg(metavar="N|HxW...")] = ()
    """Input sizes in pixels: a square's side, or height and width as in `800x1333`.
    The default is 224 for classification, 512 for semantic, and 800x1333 for the other tasks; of a run its own, beside
    exported files of a fixed size theirs."""
    runtime: Literal["torch", "onnxruntime", "openvino"] = "torch"
    """Runtime of all networks. `onnxruntime` and `openvino` are for inference of exported classifiers on the CPU."""
    images: Annotated[str | None, arg(metavar="DIR")] = None
    """Folder of images for `end-to-end`, `loading` and exported files; unset is scikit-learn's two photographs of 640 x
    427 pixels."""
    compile: bool = False
    """Compile our network with torch.compile, and timm's too unless timm-compiled is among the peers. Of a run, measure
    the compiled inference form beside the others."""
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
    def saved(self) -> bool:
        """Whether trained networks and exported files are measured, not networks by name."""
        return any(is_saved(word) or (os.path.exists(word) and not _is_name(word)) for word in self.models)

    @property
    def forms(self) -> tuple[str, ...]:
        """Forms in which a trained network is measured."""
        against = self.against if self.against and "end-to-end" not in self.modes else ("twins-fused", *self.against)
        compiled = ("twins-fused-compiled",) if self.compile else ()
        return ("eager", *dict.fromkeys(FORMS[peer] for peer in (*against, *compiled) if peer != "none"))

    @property
    def measured_modes(self) -> tuple[Mode, ...]:
        """Modes to measure; by default inference, and training where it is possible."""
        if self.modes:
            return self.modes
        return ("inference",) if self.saved or self.runtime != "torch" else ("inference", "training")

    @property
    def batches(self) -> tuple[int, ...]:
        """Images per batch of networks by name."""
        return self.batch or (8,)

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
        return self.device if self.runtime == "torch" and not self.saved else "cpu"

    def __post_init__(self) -> None:
        if self.task not in (*TASKS, FEATURES):
            raise ConfigError(f"`task` of a benchmark must be {' or '.join((*TASKS, FEATURES))}, found {self.task!r}")
        if not self.precision:
            raise ConfigError("`precision` needs at least one value")
        for peer in self.peers:
            if peer not in PEERS:
                hint = nearest(peer, PEERS) or f"; the peers are none, {', '.join(PEERS)}"
                raise ConfigError(f"`against` has no peer {peer!r}{hint}")
        if min(self.batches) < 1:
            raise ConfigError(f"`batch` must be at least 1, found {min(self.batches)}")
        if self.saved:
            self._check_saved()
        self._check_runtime()
        self._check_shapes()
        self._check_results()
        for name, minimum in (("rounds", 3), ("warmup", 1), ("threads", 1)):
            value = getattr(self, name)
            if value is not None and value < minimum:
                raise ConfigError(f"`{name}` must be at least {minimum}, found {value}")

    def _check_saved(self) -> None:
        """Raise ConfigError for settings that do not fit trained networks and exported files."""
        facts_of_networks = {"task": "classification", "head": None, "runtime": "torch"}
        for name, default in facts_of_networks.items():
            if getattr(self, name) != default:
                raise ConfigError(
                    f"`{name}` is for networks by name: a run or checkpoint has its own, and an exported file runs in "
                    f"its own runtime; leave out "
                    f'`{name}="{getattr(self, name)}"`'
                )
        for name in ("roofline", "budget", "plot"):
            if getattr(self, name):
                raise ConfigError(f"`{name}` is for networks by name, found a run or a file; leave it out")
        if unknown := [peer for peer in self.peers if peer not in FORMS]:
            raise ConfigError(
                f"`against` of a run takes {', '.join(FORMS)} or none, found {unknown[0]!r}; name a published "
                "network to compare with timm"
            )
        if unfit := [mode for mode in self.measured_modes if mode not in ("inference", "end-to-end")]:
            raise ConfigError(f"`modes` of runs and exported files are inference and end-to-end, found {unfit[0]!r}")
        if self.device not in ("auto", "cpu"):
            raise ConfigError(f'exported files are measured on the CPU, found `device="{self.device}"`; leave it out')

    def _check_runtime(self) -> None:
        """Raise ConfigError for settings that the runtime does not support."""
        supported = PRECISIONS[self.runtime]
        for precision in self.precision:
            if precision not in supported:
                raise ConfigError(f"`precision` of {self.runtime} must be {' or '.join(supported)}, found {precision}")
        if self.runtime == "torch":
            return
        in_timm = self.facts is not None and self.facts.in_timm
        if not in_timm or self.measured_modes != ("inference",) or self.compile or self.roofline:
            raise ConfigError(
                f'`runtime="{self.runtime}"` measures exported classifiers beside timm\'s; set `modes=("inference",)`, '
                "without `task`, `compile` or `roofline`; for others name a run and its exported files"
            )
        if self.device not in ("auto", "cpu"):
            raise ConfigError(f'`runtime="{self.runtime}"` runs on CPUs, found `device="{self.device}"`; leave it out')
        if set(self.peers) - {"timm"}:
            peers = " ".join(self.peers)
            raise ConfigError(f'`runtime="{self.runtime}"` compares only with `against=("timm",)`, found {peers}')

    def _check_shapes(self) -> None:
        """Raise ConfigError for sizes, batches or tasks that a mode does not support."""
        if self.task == FEATURES and self.measured_modes != ("inference",):
            raise ConfigError(
                'a backbone alone has no loss and no predictions: `task="features"` needs `modes=("inference",)`'
            )
        smallest_side = min(side for size in self.sizes for side in shape_of(size))
        batch_norm = self.facts is not None and "norm" in self.facts.network_settings
        head = self.facts.heads.get(self.head) if self.facts else None
        trains_single_image = batch_norm and "training" in self.measured_modes and min(self.batches) == 1
        if trains_single_image and ((head and head.pools) or smallest_side < 64):
            raise ConfigError(
                "a training step of upernet, or of a dense network at a size below 64, needs `batch=(2,)` or more, "
                "found 1: batch norm has no statistics of a single value"
            )
        file_modes = [mode for mode in self.measured_modes if mode in ("end-to-end", "loading")]
        oblong = [size for size in self.sizes if len(set(shape_of(size))) > 1]
        if not self.saved and self.facts is not None and self.facts.one_shape and file_modes and oblong:
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
            '`modes=("inference",)`': "inference" in self.measured_modes,
            "`batch=(1,)`": 1 in self.batches,
            f'`size=("{REPORTED_SIZE}",)`, where top-1 is reported': REPORTED_SIZE in self.sizes,
        }
        for setting, is_set in needed.items():
            if not is_set:
                raise ConfigError(f"`budget` looks at images one at a time and needs {setting}")
