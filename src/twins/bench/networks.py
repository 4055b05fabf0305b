"""The networks that are measured, ours and its peers with the same weights, and the steps that are timed."""

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
    """One combination of settings to measure."""

    task: str
    head: str | None
    """Head of the task; `None` if the task has only one."""
    model: str
    mode: str
    precision: str
    batch: int
    size: int | str
    """Side of the input in pixels, or height and width as in `800x1333`."""
    runtime: str = "torch"
    """Runtime of the networks: `torch`, or `onnxruntime` or `openvino` for exported ones."""

    @property
    def dtype(self) -> torch.dtype:
        """Number format of the PyTorch networks; other runtimes convert float32 to their own."""
        return DTYPES[self.precision] if self.runtime == "torch" else torch.float32


@dataclass(frozen=True, kw_only=True)
class Peer:
    """A network to compare ours with."""

    build: Callable[[Ours, str], nn.Module]
    """Function of our network and a model's name; returns a network with copies of our weights."""
    compiled: bool = False
    """Whether it runs under torch.compile."""
    ours: bool = False
    """Whether it is a form of our network, not timm's."""
    modes: tuple[str, ...] = ("inference", "training", "end-to-end")
    """Modes that it supports."""


def build_networks(case: Case, against: Sequence[str], device: torch.device) -> dict[str, nn.Module]:
    """Return `twins` and its peers by label, with equal weights but no shared parameters.

    The first peer that is not ours is built twice: `timm again`, for example, shows the noise. With such a peer, our
    network computes the same as timm's: without masks at the borders of windows and, in dense networks, without norms
    at the ends of stages.

    Raises:
        ConfigError: a peer has no network of this name, or does not support the mode.
    """
    torch.manual_seed(0)
    peers = {name: check_peer(name, case) for name in against}
    like_timm = any(not peer.ours for peer in peers.values())
    ours = _our_network(case, like_timm=like_timm)
    networks: dict[str, nn.Module] = {"twins": ours}
    for name, peer in peers.items():
        networks[label_of(name)] = peer.build(ours, case.model)
    if (repeated := repeated_peer(against)) is not None:
        networks[f"{label_of(repeated)} again"] = peers[repeated].build(ours, case.model)
    return {label: network.to(device, case.dtype) for label, network in networks.items()}


def _our_network(case: Case, *, like_timm: bool) -> Ours:
    settings: dict[str, Any] = {"padding": "unmasked", "stage_norms": False} if like_timm else {}
    if case.task == FEATURES:
        return create_backbone(case.model, **settings)
    network = create_model(case.model, task=case.task, head=case.head, padding="unmasked" if like_timm else "exact")
    if like_timm and facts_of(case.task).stage_norms:
        network.backbone = create_backbone(case.model, **settings)
    return network


def check_peer(name: str, case: Case) -> Peer:
    """Return a peer; raises ConfigError if it does not support the case."""
    peer = PEERS[name]
    in_timm = case.task != FEATURES and facts_of(case.task).in_timm
    if case.mode not in peer.modes or (case.mode == "end-to-end" and not peer.ours and not in_timm):
        raise ConfigError(f'`against=("{name}",)` has no {case.mode} for {case.task}; leave out one of them')
    return peer


def label_of(peer: str) -> str:
    """Return a peer's label in results, such as `timm compiled`."""
    return peer.replace("-", " ")


def repeated_peer(against: Sequence[str]) -> str | None:
    """Return the peer that is measured twice to show the noise: the first that is not ours."""
    return next((name for name in against if not PEERS[name].ours), None)


def is_compiled(label: str, against: Sequence[str], compile: bool) -> bool:
    """Whether the network with this label is compiled.

    `compile` is the setting. It compiles our network, and timm's too unless `timm-compiled` is among the peers.
    """
    peer = {label_of(name): PEERS[name] for name in against}.get(label.removesuffix(" again"))
    if peer is None:
        return compile
    return peer.compiled or (compile and label.startswith("timm") and "timm-compiled" not in against)


def timm_network(ours: Ours, name: str) -> nn.Module:
    """Return timm's network with copies of our weights: its classifier, or its backbone with a copy of our heads.

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
    """timm's backbone with copies of our backbone's weights, called like ours. Neither has stage norms."""

    def __init__(self, name: str, ours: Twins) -> None:
        super().__init__()
        import timm

        self.strides = ours.strides
        self.features = timm.create_model(name, features_only=True)
        state = {f"backbone.{key}": value for key, value in ours.state_dict().items()}
        self.features.model.load_state_dict(from_twins(state, "timm"))

    def forward(self, images: Tensor, sizes: None = None) -> tuple[Tensor, ...]:
        """Return the maps `(B, C, H / stride, W / stride)` at strides 4, 8, 16, 32; `sizes` must be `None`."""
        return tuple(self.features(images))


def inference_step(network: nn.Module, images: Tensor) -> Step:
    """Return a function that runs the forward pass alone."""
    network.eval()

    def step() -> Tensor | dict[str, Tensor]:
        with torch.inference_mode():
            return network(images)

    return step


def training_step(network: nn.Module, images: Tensor) -> Step:
    """Return a function that runs forward, the task's loss, backward and an AdamW step, and returns the loss."""
    network.train()
    loss_of = _loss_of(network, images)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-5, fused=True)

    def step() -> Tensor:
        """Train on the batch once and return the loss."""
        optimizer.zero_grad(set_to_none=True)
        loss = loss_of()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return loss.detach()

    return step


def _loss_of(network: nn.Module, images: Tensor) -> Callable[[], Tensor]:
    """Return a function that computes the loss: the task's own, or cross-entropy for timm's classifier."""
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
"""Every peer by its name in `twins.bench.config.PEERS`, which `against` can list."""
STEPS: dict[str, Callable[[nn.Module, Tensor], Step]] = {"inference": inference_step, "training": training_step}


def relative_difference(ours: Tensor, theirs: Tensor) -> float:
    """Return the largest difference of two outputs, in units of the second's root mean square."""
    return float((ours - theirs).abs().max() / theirs.square().mean().sqrt())


def images_for(case: Case, device: torch.device) -> Tensor:
    """Return a batch `(B, 3, H, W)` of standard normal noise, the same each time."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(case.batch, 3, *shape_of(case.size), generator=generator)
    return images.to(device, case.dtype)
