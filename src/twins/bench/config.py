"""Settings of a benchmark. Nothing here imports torch."""

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
"""The task of a backbone alone: images to its four maps."""
FEATURES_SIZE = "800x1333"
"""Size of the input that a backbone alone is measured at, in pixels."""
PEERS = ("timm", "timm-compiled", "twins-compiled", "twins-fused", "twins-fused-compiled")
"""Peers that our network can be compared with; `twins.bench.subjects.PEERS` says how each is built."""
DEFAULT = ("twins_svt_small", "twins_pcpvt_small")
"""Networks that are measured where none are named."""
PICTURES = (".png", ".svg", ".pdf")
"""Endings of the files that a plot can be written to."""
REPORTED_AT = "224"
"""Size of the input that the variants' accuracy is reported at."""
PRECISIONS = {"torch": ("fp32", "bf16"), "onnxruntime": ("fp32",), "openvino": ("fp32", "bf16", "int8")}
"""Number formats of each runtime."""


def shape_of(size: int | str) -> tuple[int, int]:
    """Return height and width of a size: one side of a square, or both as in `800x1333`.

    Raises:
        ConfigError: it says neither, or a side below 32.
    """
    sides = str(size).lower().split("x")
    if len(sides) > 2 or not all(side.isdecimal() and int(side) >= 32 for side in sides):
        word = not any(side[:1].isdecimal() for side in sides)
        hint = "; name networks first, in `models`" if word else ""
        raise ConfigError(f"`size` must be a side of at least 32, or two as in 800x1333, found {size!r}{hint}")
    return int(sides[0]), int(sides[-1])


@dataclass(frozen=True, kw_only=True)
class BenchConfig:
    """Measure speed and memory on this machine; peers run interleaved with ours, with the same weights."""

    models: Annotated[tuple[str, ...], Positional, arg(metavar="[MODEL...]")] = ()
    """Networks; `all` means the six published, the default is twins_svt_small and twins_pcpvt_small."""
    task: str = "classification"
    """Task of the networks: `classification`, `semantic`, `detection`, `instance`, or `features`, a backbone's maps."""
    head: str | None = None
    """Head of a dense network, such as `upernet` or `faster_rcnn`; unset is the task's default."""
    against: tuple[str, ...] = ()
    """Peers to compare with in the same rounds: `timm` (of a dense network its backbone, below the very same head),
    `timm-compiled`, and of ours `twins-compiled`, `twins-fused`, its inference form, and `twins-fused-compiled`; `none`
    compares with nobody."""
    modes: tuple[Mode, ...] = ("inference", "training")
    """Forward pass alone; a training step: forward, the task's loss, backward, AdamW; `end-to-end`: from image files to
    predictions; `loading`: the data loader without a network, on one core, in training and in evaluation."""
    precision: tuple[Literal["fp32", "bf16", "int8"], ...] = ("fp32",)
    """Number formats: weights and images alike; `int8`, by post-training quantisation, with `--runtime openvino`."""
    batch: tuple[int, ...] = (8,)
    """Images per batch."""
    size: Annotated[tuple[str, ...], arg(metavar="N|HxW...")] = ()
    """Sizes of the input in pixels, a square's side or height and width as in `800x1333`; the default is
    224, for semantic 512, for detectors and features 800x1333."""
    runtime: Literal["torch", "onnxruntime", "openvino"] = "torch"
    """Runtime of all networks. `onnxruntime` and `openvino` run exported classifiers: inference on CPUs, no memory."""
    images: Annotated[str | None, arg(metavar="DIR")] = None
    """Folder of images to load; unset is two photographs of 640 x 427 that come with scikit-learn."""
    compile: bool = False
    """Compile our network with torch.compile, and timm's too unless timm-compiled is among the peers."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Device to compute on."""
    threads: int | None = None
    """CPU threads; unset is torch's choice."""
    rounds: int = 20
    """Timed rounds, every subject once in each; medians are reported."""
    warmup: int = 3
    """Rounds before the timed ones."""
    memory: bool = True
    """Also measure peak memory, each subject in a process of its own."""
    percentiles: bool = False
    """Also show our latency's median, 90th and 99th percentile; the 99th of fewer than 100 rounds is the longest."""
    roofline: bool = False
    """Also count operations and bytes, measure this machine's peak of each, and show the share that is reached."""
    budget: float | None = None
    """Milliseconds an image may take: answer with the published variant of the highest reported top-1 within them."""
    json: Annotated[str | None, arg(metavar="FILE")] = None
    """File to write the result to, after each row."""
    plot: Annotated[str | None, arg(metavar="FILE")] = None
    """File to draw the result in after each row: .png, .svg or .pdf."""

    @property
    def sizes(self) -> tuple[str, ...]:
        """Sizes of the input in pixels; the task's own by default."""
        return self.size or (FEATURES_SIZE if self.facts is None else self.facts.bench_size,)

    @property
    def facts(self) -> TaskFacts | None:
        """What is true of the task; `None` of a backbone alone."""
        return None if self.task == FEATURES else facts_of(self.task)

    @property
    def names(self) -> tuple[str, ...]:
        """Canonical names of the networks, each once; raises NotFoundError where no model is called so."""
        given = [name for word in self.models for name in (sorted(PUBLISHED) if word == "all" else (word,))]
        return tuple(dict.fromkeys(resolve_name(name) for name in given or DEFAULT))

    @property
    def peers(self) -> tuple[str, ...]:
        """Peers to compare with, each once."""
        return tuple(dict.fromkeys(peer for peer in self.against if peer != "none"))

    @property
    def place(self) -> str:
        """Device to compute on; runtimes of exported networks use the CPU."""
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
        for name, least in (("rounds", 3), ("warmup", 1), ("threads", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ConfigError(f"`{name}` must be at least {least}, found {value}")

    def _check_runtime(self) -> None:
        """Raise ConfigError for settings that a runtime does not support."""
        known = PRECISIONS[self.runtime]
        for precision in self.precision:
            if precision not in known:
                raise ConfigError(f"`precision` of {self.runtime} must be {' or '.join(known)}, found {precision}")
        if self.runtime == "torch":
            return
        exportable = self.facts is not None and self.facts.exportable
        if not exportable or self.modes != ("inference",) or self.compile or self.roofline:
            raise ConfigError(
                f'`runtime="{self.runtime}"` measures classifiers that were exported; say `modes=("inference",)`, '
                "without `task`, `compile` or `roofline`"
            )
        if self.device not in ("auto", "cpu"):
            raise ConfigError(f'`runtime="{self.runtime}"` runs on CPUs, found `device="{self.device}"`; leave it out')
        if set(self.peers) - {"timm"}:
            found = " ".join(self.peers)
            raise ConfigError(f'`runtime="{self.runtime}"` compares with `against=("timm",)` alone, found {found}')

    def _check_shapes(self) -> None:
        """Raise ConfigError for sizes, batches or tasks that a mode does not support."""
        if self.task == FEATURES and self.modes != ("inference",):
            raise ConfigError(
                'a backbone alone has no loss and no predictions: `task="features"` needs `modes=("inference",)`'
            )
        least = min(side for size in self.sizes for side in shape_of(size))
        batch_norm = self.facts is not None and "norm" in self.facts.network_settings
        head = self.facts.heads.get(self.head) if self.facts else None
        alone = batch_norm and "training" in self.modes and min(self.batch) == 1
        if alone and ((head and head.pools) or least < 64):
            raise ConfigError(
                "a training step of upernet, or of a dense network at a size below 64, needs `batch=(2,)` or more, "
                "found 1: batch norm has no statistics of a single value"
            )
        files = [mode for mode in self.modes if mode in ("end-to-end", "loading")]
        oblong = [size for size in self.sizes if len(set(shape_of(size))) > 1]
        if self.facts is not None and self.facts.one_shape and files and oblong:
            raise ConfigError(
                f'classifiers see squares of an image file, so `modes=("{files[0]}",)` takes no `size=("{oblong[0]}",)`'
            )

    def _check_results(self) -> None:
        """Raise ConfigError for a plot or a budget that this run cannot serve."""
        if self.plot is not None and Path(self.plot).suffix.lower() not in PICTURES:
            raise ConfigError(f"`plot` must end in {', '.join(PICTURES)}, found {self.plot!r}")
        if self.budget is None:
            return
        if not 0 < self.budget < float("inf"):
            raise ConfigError(f"`budget` must be milliseconds above 0, found {self.budget:g}")
        needed = {
            '`task="classification"`': self.facts is not None and "top1" in self.facts.metrics,
            '`modes=("inference",)`': "inference" in self.modes,
            "`batch=(1,)`": 1 in self.batch,
            f'`size=("{REPORTED_AT}",)`, where top-1 is reported': REPORTED_AT in self.sizes,
        }
        for setting, holds in needed.items():
            if not holds:
                raise ConfigError(f"`budget` looks at images one at a time and needs {setting}")
