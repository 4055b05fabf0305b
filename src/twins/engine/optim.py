"""AdamW with the reference's parameter groups: no weight decay on norms, biases and positions; layer-wise rates."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.optim import AdamW, Optimizer

from twins.engine.config import OptimizerConfig
from twins.errors import ConfigError
from twins.tasks.network import TaskNetwork


def parameter_groups(network: TaskNetwork, config: OptimizerConfig) -> list[dict[str, Any]]:
    """Return the trainable parameters in groups with equal weight decay and equal `lr_scale`.

    Norms and biases (all parameters with one dimension) and `network.no_weight_decay()` have no weight decay. With
    `layer_decay`, the learning rate of a layer is multiplied by `layer_decay` to the power of its distance from the
    head, as in timm, with the network's `group_matcher`.

    Raises:
        ConfigError: every parameter is frozen.
    """
    if config.layer_decay is None:
        groups = _groups_by_decay(network, config.weight_decay)
    else:
        from timm.optim import param_groups_layer_decay

        groups = param_groups_layer_decay(
            network,
            weight_decay=config.weight_decay,
            no_weight_decay_list=network.no_weight_decay(),
            layer_decay=config.layer_decay,
        )
    if not groups:
        raise ConfigError("no parameter is left to train; freeze fewer stages")
    return groups


def _groups_by_decay(network: TaskNetwork, weight_decay: float) -> list[dict[str, Any]]:
    no_decay = network.no_weight_decay()
    decayed: list[nn.Parameter] = []
    not_decayed: list[nn.Parameter] = []
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            (not_decayed if parameter.ndim <= 1 or name in no_decay else decayed).append(parameter)
    groups = [{"params": not_decayed, "weight_decay": 0.0}, {"params": decayed, "weight_decay": weight_decay}]
    return [group for group in groups if group["params"]]


def build_optimizer(network: TaskNetwork, config: OptimizerConfig) -> AdamW:
    """Return fused AdamW over a network's parameter groups; the loop sets the learning rate before each step."""
    groups = parameter_groups(network, config)
    return AdamW(groups, lr=config.lr, betas=config.betas, eps=config.eps, fused=True)


def set_rate(optimizer: Optimizer, rate: float) -> None:
    """Set the learning rate of every group, times its `lr_scale`."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("lr_scale", 1.0)


def train_mode(network: nn.Module) -> None:
    """Put a network in training mode, except modules whose parameters are all frozen: they stay in eval mode."""
    network.train()
    for module in network.modules():
        parameters = list(module.parameters())
        if parameters and not any(parameter.requires_grad for parameter in parameters):
            module.eval()


def all_finite(network: TaskNetwork) -> bool:
    """Return whether every weight and running statistic is a finite number."""
    return all(bool(torch.isfinite(value).all()) for value in network.state_dict().values())
