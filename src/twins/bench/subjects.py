"""What is measured: our network and its peers with the same weights, as plain steps to call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from twins.backbone.network import Twins
from twins.bench.config import FEATURES, shape_of
from twins.errors import ConfigError
from twins.factory import create_backbone, create_model
from twins.tasks.contract import spec_of
from twins.tasks.network import TaskNetwork
from twins.tasks.table import facts_of
from twins.weights.dialects import from_twins

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
Step = Callable[[], Any]
Ours = TaskNetwork | Twins
"""A task's network, or a backbone alone."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One combination to measure."""

    task: str
    head: str | None
    """Which of the task's heads; `None` where the task has one."""
    model: str
    mode: str
    precision: str
    batch: int
    size: int | str
    """The input's side in pixels, or its height and width as in `800x1333`."""
    runtime: str = "torch"
    """What runs the networks: `torch`, or `onnxruntime` and `openvino` what is exported of them."""

    @property
    def dtype(self) -> torch.dtype:
        """The networks' number format: runtimes turn float32 into their own."""
        return DTYPES[self.precision] if self.runtime == "torch" else torch.float32


@dataclass(frozen=True, kw_only=True)
class Peer:
    """Something to compare our network with."""

    build: Callable[[Ours, str], nn.Module]
    """Returns a network with copies of our weights, which takes images `(B, 3, H, W)`, of ours and a model's name."""
    compiled: bool = False
    """Whether it runs under torch.compile."""
    ours: bool = False
    """Whether it is a form of our network; beside timm's, ours has to compute what that computes."""
    modes: tuple[str, ...] = ("inference", "training", "end-to-end")
    """What it can do."""


def networks(case: Case, against: Sequence[str], device: torch.device) -> dict[str, nn.Module]:
    """Return `twins` and its peers by label, with equal weights, and `timm again` or its like: a peer's own spread.

    No two share a parameter. Beside timm ours is what timm computes: without masks at the borders of windows, and,
    of dense networks, without norms at the ends of stages.

    Raises:
        ConfigError: a peer has no network of this name, or cannot do what is to be measured.
    """
    torch.manual_seed(0)
    peers = {name: check_peer(name, case) for name in against}
    beside_timm = any(not peer.ours for peer in peers.values())
    ours = _ours(case, beside_timm=beside_timm)
    found: dict[str, nn.Module] = {"twins": ours}
    for name, peer in peers.items():
        found[label_of(name)] = peer.build(ours, case.model)
    if (twice := repeated_peer(against)) is not None:
        found[f"{label_of(twice)} again"] = peers[twice].build(ours, case.model)
    return {label: network.to(device, case.dtype) for label, network in found.items()}


def _ours(case: Case, *, beside_timm: bool) -> Ours:
    alike: dict[str, Any] = {"padding": "unmasked", "stage_norms": False} if beside_timm else {}
    if case.task == FEATURES:
        return create_backbone(case.model, **alike)
    ours = create_model(case.model, task=case.task, head=case.head, padding="unmasked" if beside_timm else "exact")
    if beside_timm and facts_of(case.task).stage_norms:
        ours.backbone = create_backbone(case.model, **alike)
    return ours


def check_peer(name: str, case: Case) -> Peer:
    """Return a peer; raises ConfigError where it cannot do what is to be measured."""
    peer = PEERS[name]
    in_timm = case.task != FEATURES and facts_of(case.task).in_timm
    if case.mode not in peer.modes or (case.mode == "end-to-end" and not peer.ours and not in_timm):
        raise ConfigError(f'`against=("{name}",)` has no {case.mode} for {case.task}; leave out one of them')
    return peer


def label_of(peer: str) -> str:
    """Return what a peer is called in results."""
    return peer.replace("-", " ")


def repeated_peer(against: Sequence[str]) -> str | None:
    """Return the peer that is measured against itself, to show the noise: the first that is not ours."""
    return next((name for name in against if not PEERS[name].ours), None)


def compiled(label: str, against: Sequence[str], ours: bool) -> bool:
    """Whether a subject of `networks` is to be compiled.

    `ours`, the setting `compile`, is for ours, and for timm where `timm-compiled` is not there as well.
    """
    peer = {label_of(name): PEERS[name] for name in against}.get(label.removesuffix(" again"))
    if peer is None:
        return ours
    return peer.compiled or (ours and label.startswith("timm") and "timm-compiled" not in against)


def timm_network(ours: Ours, name: str) -> nn.Module:
    """Return timm's network with copies of our weights: its classifier, or its backbone, below a copy of our heads.

    Raises:
        ConfigError: timm has no network of this name.
    """
    import timm

    if not timm.is_model(name):
        raise ConfigError(f"timm has no {name}; compare the six published variants")
    if isinstance(ours, Twins):
        return TimmBackbone(name, ours)
    if not facts_of(ours.task).in_timm:
        dense = deepcopy(ours)
        dense.backbone = TimmBackbone(name, ours.backbone)
        return dense
    classifier: nn.Module = timm.create_model(name)
    classifier.load_state_dict(from_twins(ours.state_dict(), "timm"))
    return classifier


class TimmBackbone(nn.Module):
    """timm's backbone with copies of the weights of ours, which has no stage norms; called as ours is."""

    def __init__(self, name: str, ours: Twins) -> None:
        super().__init__()
        import timm

        self.strides = ours.strides
        self.features = timm.create_model(name, features_only=True)
        state = {f"backbone.{key}": value for key, value in ours.state_dict().items()}
        self.features.model.load_state_dict(from_twins(state, "timm"))

    def forward(self, images: Tensor, sizes: None = None) -> tuple[Tensor, ...]:
        """Return the maps `(B, C, H / stride, W / stride)` at strides 4, 8, 16, 32; every image fills its batch."""
        return tuple(self.features(images))


def inference_step(network: nn.Module, images: Tensor) -> Step:
    """Return a call of the forward pass alone."""
    network.eval()

    def step() -> Tensor | dict[str, Tensor]:
        with torch.inference_mode():
            return network(images)

    return step


def training_step(network: nn.Module, images: Tensor) -> Step:
    """Return a call of forward, the task's loss, backward and an AdamW step; it returns the loss."""
    network.train()
    loss_of = _loss_of(network, images)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-5, fused=True)

    def step() -> Tensor:
        """Learn from the batch once; return the loss."""
        optimizer.zero_grad(set_to_none=True)
        loss = loss_of()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return loss.detach()

    return step


def _loss_of(network: nn.Module, images: Tensor) -> Callable[[], Tensor]:
    """Return a call of the forward pass and the loss: the task's own, of timm's classifier cross-entropy."""
    if isinstance(network, TaskNetwork):
        targets = spec_of(network.task).synthetic_targets(images, network.num_classes)
        return lambda: torch.stack(list(network.losses(images, targets).values())).sum()
    labels = torch.arange(len(images), device=images.device) % 1000
    return lambda: F.cross_entropy(network(images).float(), labels)


PEERS: dict[str, Peer] = {
    "timm": Peer(build=timm_network),
    "timm-compiled": Peer(build=timm_network, compiled=True),
    "twins-compiled": Peer(build=lambda ours, _: deepcopy(ours), compiled=True, ours=True),
    "twins-fused": Peer(build=lambda ours, _: ours.fuse(), ours=True, modes=("inference", "end-to-end")),
    "twins-fused-compiled": Peer(
        build=lambda ours, _: ours.fuse(), compiled=True, ours=True, modes=("inference", "end-to-end")
    ),
}
"""What `against` can name, by the names in `twins.bench.config.PEERS`."""
STEPS: dict[str, Callable[[nn.Module, Tensor], Step]] = {"inference": inference_step, "training": training_step}


def distance(ours: Tensor, theirs: Tensor) -> float:
    """Return the largest difference of two outputs, in units of the second's root mean square."""
    return float((ours - theirs).abs().max() / theirs.square().mean().sqrt())


def images_for(case: Case, device: torch.device) -> Tensor:
    """Return a normalised-looking batch `(B, 3, H, W)`, the same each time."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(case.batch, 3, *shape_of(case.size), generator=generator)
    return images.to(device, case.dtype)
