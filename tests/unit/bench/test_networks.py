"""Our network and its peers compute the same with the same weights, and share no parameters."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch

import twins
from twins.bench.compare import run_bench
from twins.bench.config import FEATURES, BenchConfig, shape_of
from twins.bench.measure import _difference
from twins.bench.networks import Case, build_networks, images_for, training_step
from twins.errors import ConfigError
from twins.tasks.table import TASKS, facts_of

CPU = torch.device("cpu")
COMBINATIONS = [(task, head) for task in TASKS for head in facts_of(task).heads]


def case(task: str, head: str | None, *, model: str = "twins_svt_nano", batch: int = 2, size: str = "64") -> Case:
    return Case(task=task, head=head, model=model, mode="training", precision="fp32", batch=batch, size=size)


@pytest.mark.slow
@pytest.mark.usefixtures("timms_nano")
@pytest.mark.parametrize(("task", "head"), COMBINATIONS, ids=[head or task for task, head in COMBINATIONS])
def test_outputs_and_losses_equal_timms_and_a_training_step_changes_one_network_alone(task, head):
    chosen = case(task, head)
    networks, images = build_networks(chosen, ("timm",), CPU), images_for(chosen, CPU)
    for one, other in combinations(networks.values(), 2):
        assert not {p.data_ptr() for p in one.parameters()} & {p.data_ptr() for p in other.parameters()}
    assert _difference(networks, images) < 1e-4
    losses = []
    for label, network in networks.items():
        before = {name: [x.clone() for x in other.state_dict().values()] for name, other in networks.items()}
        step = training_step(network, images)
        torch.manual_seed(0)  # the same dropout
        losses.append(float(step()))
        changed = {
            name
            for name, other in networks.items()
            if not all(map(torch.equal, other.state_dict().values(), before[name]))
        }
        assert changed == {label}
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-4)


@pytest.mark.slow
@pytest.mark.usefixtures("timms_nano")
def test_outputs_equal_timms_at_sizes_that_windows_and_patches_do_not_divide():
    networks = build_networks(case("semantic", "semantic_fpn"), ("timm",), CPU)
    for size in ("96", "130", "66x141"):
        images = images_for(case("semantic", "semantic_fpn", batch=1, size=size), CPU)
        assert _difference(networks, images) < 1e-4, size


@pytest.mark.usefixtures("timms_nano")
def test_dense_networks_have_as_many_parameters_as_timms_and_without_peers_ours_is_the_published_one():
    chosen = case("semantic", "upernet")
    ours, theirs, _ = build_networks(chosen, ("timm",), CPU).values()
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())
    with torch.device("meta"):
        published = twins.create_model("twins_svt_nano", task="semantic", head="upernet")
    alone = build_networks(chosen, (), CPU)["twins"]
    assert alone.state_dict().keys() == published.state_dict().keys()
    assert alone.info == published.info


@pytest.mark.slow
@pytest.mark.usefixtures("timms_nano")
def test_rows_have_task_and_head_and_compare_with_timm():
    config = BenchConfig(
        models=("twins_svt_nano",),
        task="semantic",
        against=("timm",),
        modes=("training",),
        batch=(1,),
        size=("64",),
        rounds=3,
        warmup=1,
        memory=False,
    )
    lines: list[str] = []
    (row,) = run_bench(config, show=lines.append)["rows"]
    assert (row["task"], row["head"], row["mode"], row["size"]) == ("semantic", "semantic_fpn", "training", 64)
    assert row["difference"] < 1e-4
    assert all(row[label]["images_per_s"] > 0 for label in ("twins", "timm", "timm again"))
    assert row["ratio"]["low"] <= row["ratio"]["median"] <= row["ratio"]["high"]
    table = "\n".join(lines)
    assert table.startswith("semantic with semantic_fpn: ")
    assert "| twins_svt_nano | training | fp32 | 1 | 64 |" in table


@pytest.mark.slow
def test_memory_of_a_dense_training_step_includes_gradients_and_adamws_two_moments():
    config = BenchConfig(
        models=("twins_svt_nano",), task="semantic", modes=("training",), batch=(2,), size=("64",), rounds=3, warmup=1
    )
    (row,) = run_bench(config)["rows"]
    assert row["difference"] is None
    params = facts_of("semantic").heads["semantic_fpn"].params["twins_svt_nano"]
    assert row["twins"]["peak_mib"] > 3 * 4 * params / 2**20


def test_sizes_default_to_the_tasks_own():
    sizes = {task: BenchConfig(task=task, modes=("inference",)).sizes for task in (*TASKS, FEATURES)}
    assert sizes == {
        "classification": ("224",),
        "semantic": ("512",),
        "detection": ("800x1333",),
        "instance": ("800x1333",),
        FEATURES: ("800x1333",),
    }
    assert BenchConfig(task="semantic", size=("96", "64x128")).sizes == ("96", "64x128")
    assert (shape_of("96"), shape_of("64x128")) == ((96, 96), (64, 128))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"task": "detecting"}, "`task` of a benchmark must be classification or semantic or .* found 'detecting'"),
        ({"size": ("16",)}, "`size` must be a side of at least 32, or two as in 800x1333, found '16'"),
        ({"size": ("64x64x3",)}, "two as in 800x1333, found '64x64x3'"),
        ({"size": ("wide",)}, "two as in 800x1333, found 'wide'"),
        ({"head": "upernet"}, "classification has one head and takes no name for it"),
        ({"task": "semantic", "head": "upernett"}, "did you mean upernet"),
        ({"task": "semantic", "head": "upernet", "batch": (1, 2)}, r"needs `batch=\(2,\)` or more"),
        ({"task": "semantic", "batch": (1,), "size": ("32",)}, r"needs `batch=\(2,\)` or more"),
        ({"task": "semantic", "models": ("twins_svt_nano",), "against": ("timm",)}, "timm has no twins_svt_nano"),
    ],
)
def test_a_mistake_is_reported_before_anything_is_measured(settings, message):
    with pytest.raises(ConfigError, match=message):
        run_bench(BenchConfig(**settings))
