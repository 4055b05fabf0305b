"""What is measured: our network and a peer's with the same weights, as plain steps to call."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from twins.errors import ConfigError
from twins.factory import create_model
from twins.weights.dialects import from_twins

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
Step = Callable[[], Tensor]


def networks(name: str, against: str, device: torch.device, precision: str) -> dict[str, nn.Module]:
    """Return `twins`, and with a peer `timm` and `timm again`, with equal weights: the last shows timm's own spread.

    Raises:
        ConfigError: the peer has no network of this name.
    """
    torch.manual_seed(0)
    ours = create_model(name, padding="unmasked" if against == "timm" else "exact")
    found: dict[str, nn.Module] = {"twins": ours}
    if against == "timm":
        import timm

        if not timm.is_model(ours.info.model):
            raise ConfigError(f"timm has no {ours.info.model}; compare the six published variants")
        state = from_twins(ours.state_dict(), "timm")
        for label in ("timm", "timm again"):
            peer = timm.create_model(ours.info.model)
            peer.load_state_dict(state)
            found[label] = peer
    return {label: network.to(device, DTYPES[precision]) for label, network in found.items()}


def inference_step(network: nn.Module, images: Tensor) -> Step:
    """Return a call of the forward pass alone."""
    network.eval()

    def step() -> Tensor:
        with torch.inference_mode():
            return network(images)

    return step


def training_step(network: nn.Module, images: Tensor) -> Step:
    """Return a call of forward, cross-entropy, backward and an AdamW step."""
    network.train()
    targets = torch.arange(len(images), device=images.device) % 1000
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-5, foreach=True)

    def step() -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        loss = F.cross_entropy(network(images).float(), targets)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return loss.detach()

    return step


STEPS: dict[str, Callable[[nn.Module, Tensor], Step]] = {"inference": inference_step, "training": training_step}


def images_for(batch: int, size: int, device: torch.device, precision: str) -> Tensor:
    """Return a normalised-looking batch `(batch, 3, size, size)`, the same each time."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(batch, 3, size, size, generator=generator).to(device, DTYPES[precision])
