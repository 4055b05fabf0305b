from __future__ import annotations

import torch

from twins.engine.config import OptimizerConfig
from twins.engine.optim import build_optimizer, parameter_groups, set_rate, train_mode
from twins.factory import create_model

PLAIN = OptimizerConfig(layer_decay=None, weight_decay=0.05)


def _names(network: torch.nn.Module, group: dict[str, object]) -> set[str]:
    ids = {id(parameter) for parameter in group["params"]}  # type: ignore[attr-defined]
    return {name for name, parameter in network.named_parameters() if id(parameter) in ids}


def test_norms_biases_and_positions_have_no_weight_decay_and_every_parameter_is_in_one_group() -> None:
    network = create_model("twins_svt_nano", num_classes=3)
    groups = parameter_groups(network, PLAIN)
    not_decayed = set().union(*(_names(network, group) for group in groups if group["weight_decay"] == 0))
    decayed = set().union(*(_names(network, group) for group in groups if group["weight_decay"] == 0.05))
    assert not_decayed | decayed == {name for name, _ in network.named_parameters()}
    assert not not_decayed & decayed
    assert all(".position." in name or "norm" in name or name.endswith("bias") for name in not_decayed)
    assert "backbone.stages.0.position.conv.weight" in not_decayed
    assert not any("norm" in name or "position" in name or name.endswith("bias") for name in decayed)


def test_layer_decay_gives_early_layers_smaller_rates_and_the_head_the_full_rate() -> None:
    network = create_model("twins_svt_nano", num_classes=3)
    optimizer = build_optimizer(network, OptimizerConfig(layer_decay=0.5))
    set_rate(optimizer, 1.0)
    rate = {name: group["lr"] for group in optimizer.param_groups for name in _names(network, group)}
    assert set(rate) == {name for name, _ in network.named_parameters()}
    assert rate["head.weight"] == 1.0
    order = ["stages.0.patch_embed.proj", "stages.0.blocks.1.attn.q", "stages.2.blocks.0.mlp.fc1"]
    rates = [rate[f"backbone.{name}.weight"] for name in order]
    assert rates == sorted(rates)
    assert rates[0] < rates[-1] < 1.0
    positions = [group for group in optimizer.param_groups if _names(network, group) & network.no_weight_decay()]
    assert all(group["weight_decay"] == 0 for group in positions)


def test_frozen_modules_are_not_trained_and_stay_in_eval_mode() -> None:
    network = create_model("twins_svt_nano", num_classes=3, drop_path_rate=0.5)
    network.backbone.stages[0].requires_grad_(False)
    trained = set().union(*(_names(network, group) for group in parameter_groups(network, PLAIN)))
    assert not any("stages.0." in name for name in trained)
    train_mode(network)
    assert not network.backbone.stages[0].blocks[1].training
    assert network.backbone.stages[1].blocks[1].training
