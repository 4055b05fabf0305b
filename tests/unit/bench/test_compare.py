"""A run of the benchmark: several peers, image files, memory, rooflines, budgets, plots and results."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from twins.bench import measure as measuring
from twins.bench.compare import FORMAT, run_bench
from twins.bench.config import PEERS as NAMES
from twins.bench.config import BenchConfig
from twins.bench.files import image_files, loading_step, preprocess_at
from twins.bench.memory import memory_limit
from twins.bench.networks import PEERS, Case, build_networks, images_for, inference_step, is_compiled, training_step
from twins.bench.roofline import Cost, PeakRates, count_costs, roofline
from twins.bench.table import budget_line
from twins.bench.timing import comparisons, speed
from twins.cli import bench as cli
from twins.engine.memory import is_out_of_memory_message
from twins.errors import ConfigError, DataError, NotFoundError
from twins.preprocess import Preprocess
from twins.tasks.table import facts_of

CPU = torch.device("cpu")


def settings(**changed) -> BenchConfig:
    """A configuration that takes a second."""
    quick = {
        "models": ("twins_svt_nano",),
        "modes": ("inference",),
        "batch": (1,),
        "size": ("64",),
        "rounds": 3,
        "warmup": 1,
        "memory": False,
    }
    return BenchConfig(**quick | changed)


def case(**changed) -> Case:
    default = {"task": "classification", "head": None, "model": "twins_svt_nano", "mode": "inference"}
    return Case(**default | {"precision": "fp32", "batch": 2, "size": 64} | changed)


def test_every_named_peer_can_be_built():
    assert tuple(PEERS) == NAMES


@pytest.mark.slow
@pytest.mark.usefixtures("timms_nano")
def test_several_peers_run_in_one_row_and_the_best_of_either_side_are_compared(monkeypatch):
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self: None)  # compiling takes minutes
    lines: list[str] = []
    against = ("none", "timm", "timm-compiled", "twins-compiled")
    (row,) = run_bench(settings(against=against), show=lines.append)["rows"]
    assert set(row["ratios"]) == {"timm", "timm compiled", "twins compiled"}
    assert row["ratio"] == row["ratios"]["timm"]
    assert {"timm again", "timm against itself"} <= set(row)
    assert row["best"]["ours"] in ("twins", "twins compiled")
    assert row["best"]["peer"] in ("timm", "timm compiled")
    assert row["difference"] < 1e-4
    assert {len(line.split(" | ")) for line in lines[0].splitlines()[2:3] + lines[1:]} == {15}


def test_the_best_peer_is_the_fastest():
    times = {"twins": [2.0] * 3, "timm": [4.0] * 3, "timm compiled": [3.0] * 3, "timm again": [4.0] * 3}
    result = comparisons(times, ("timm", "timm-compiled"))
    assert result["best"] == {"ours": "twins", "peer": "timm compiled", "median": 1.5, "low": 1.5, "high": 1.5}
    assert result["ratio"]["median"] == 2.0
    assert comparisons({"twins": [1.0] * 3}, ()) == {}


@pytest.mark.parametrize(
    ("against", "compile", "expected"),
    [
        (("timm",), True, {"twins", "timm", "timm again"}),
        (("timm", "timm-compiled"), True, {"twins", "timm compiled", "timm compiled again"}),
        (("timm", "timm-compiled"), False, {"timm compiled", "timm compiled again"}),
        (("timm-compiled", "twins-compiled"), False, {"timm compiled", "timm compiled again", "twins compiled"}),
    ],
)
def test_compile_is_for_ours_and_for_timm_unless_a_compiled_timm_is_a_peer(against, compile, expected):
    labels = ("twins", "timm", "timm again", "timm compiled", "timm compiled again", "twins compiled")
    present = [
        label for label in labels if label == "twins" or label.removesuffix(" again").replace(" ", "-") in against
    ]
    assert {label for label in present if is_compiled(label, against, compile)} == expected


def test_percentiles_are_nearest_ranks_and_the_99th_of_few_times_is_the_longest():
    few = speed([0.001 * n for n in range(1, 21)], batch=4)
    assert (few["p90_ms"], few["p99_ms"]) == pytest.approx((18, 20))
    assert few["images_per_s"] == pytest.approx(4 / 0.0105)
    many = speed([0.001 * n for n in range(1, 201)], batch=1)
    assert (many["p90_ms"], many["p99_ms"]) == pytest.approx((180, 198))


@pytest.mark.parametrize(("task", "size"), [("classification", "64"), ("semantic", "64"), ("instance", "64x96")])
def test_image_files_are_measured_end_to_end_and_in_the_loader_alone(tmp_path, task, size):
    for number, shape in enumerate([(90, 70), (90, 70), (70, 90)]):
        Image.new("RGB", shape, (number * 60, 90, 30)).save(tmp_path / f"{number}.jpg")
    modes = ("end-to-end", "loading")
    rows = run_bench(settings(task=task, modes=modes, size=(size,), batch=(2,), images=str(tmp_path)))["rows"]
    assert [row["mode"] for row in rows] == ["end-to-end", "loading-train", "loading-eval"]
    assert [row["model"] for row in rows] == ["twins_svt_nano", "any", "any"]
    assert all(row["twins"]["images_per_s"] > 0 for row in rows)


@pytest.mark.slow
@pytest.mark.usefixtures("timms_nano")
def test_end_to_end_measures_timm_too_and_our_network_in_half_precision():
    (row,) = run_bench(settings(modes=("end-to-end",), against=("timm",)))["rows"]
    assert row["ratio"]["median"] > 0
    (row,) = run_bench(settings(modes=("end-to-end",), precision=("bf16",)))["rows"]
    assert row["twins"]["images_per_s"] > 0


def test_loading_returns_full_batches_of_the_size_and_restores_the_number_of_threads():
    with image_files(None) as files:
        assert [Image.open(file).size for file in files] == [(640, 427)] * 2
        for mode in ("loading-train", "loading-eval"):
            step = loading_step(case(mode=mode, batch=3), files)
            assert {tuple(step().images.shape) for _ in range(3)} == {(3, 3, 64, 64)}
    assert not files[0].exists()
    assert preprocess_at(Preprocess(), 96).size == 96
    dense = facts_of("semantic").preprocess
    assert (preprocess_at(dense, "64x256").size, preprocess_at(dense, "64x256").longest) == (64, 256)
    assert preprocess_at(dense, 4096).longest == 4096
    before = torch.get_num_threads()
    run_bench(settings(modes=("loading",)))
    assert torch.get_num_threads() == before


def test_loading_turns_images_by_their_exif_orientation_and_names_an_unreadable_one(tmp_path):
    turned = Image.new("RGB", (80, 60))
    exif = turned.getexif()
    exif[0x0112] = 6  # a quarter turn clockwise
    turned.save(tmp_path / "a.jpg", exif=exif)
    batch = loading_step(case(task="semantic", mode="loading-eval", batch=1, model="any"), [tmp_path / "a.jpg"])()
    assert batch.targets[0].shape == (80, 60)
    (tmp_path / "b.jpg").write_bytes((tmp_path / "a.jpg").read_bytes()[:200])
    for mode in ("loading-train", "loading-eval"):
        step = loading_step(case(mode=mode, model="any"), [tmp_path / "a.jpg", tmp_path / "b.jpg"])
        with pytest.raises(DataError, match=r"b\.jpg is damaged"):
            step()


@pytest.mark.slow
@pytest.mark.usefixtures("timms_nano")
def test_all_maps_of_a_backbone_alone_are_compared():
    (row,) = run_bench(settings(task="features", against=("timm", "twins-fused"), size=("64x96",)))["rows"]
    assert set(row["ratios"]) == {"timm", "twins fused"}
    assert 0 < row["difference"] < 1e-4
    with pytest.raises(ConfigError, match=r"needs `modes=\(\"inference\",\)`"):
        settings(task="features", modes=("training",))


def test_a_folder_without_images_is_refused(tmp_path):
    with pytest.raises(NotFoundError, match=f'`images="{tmp_path}"` leads to no image'):
        run_bench(settings(modes=("loading",), images=str(tmp_path)))


def test_operations_equal_the_models_counts_and_a_training_step_has_three_times_as_many():
    from twins.bench.counts import model_counts

    expected = 2 * model_counts("twins_svt_nano", size=64).gmacs_with_attention
    images = images_for(case(), CPU)
    network = build_networks(case(), (), CPU)["twins"]
    forward = sum(cost.operations for cost in count_costs(inference_step(network, images))) / 1e9
    step = sum(cost.operations for cost in count_costs(training_step(network, images))) / 1e9
    assert forward == pytest.approx(2 * expected, rel=1e-6)  # two images
    assert 2.5 * forward < step < 3.5 * forward


def test_bytes_are_the_reads_and_writes_of_operators_and_views_move_none():
    x, weight = torch.zeros(64, 32), torch.zeros(16, 32)

    def step() -> None:
        y = torch.mm(x, weight.t()).view(-1)  # reads 64 x 32 and 16 x 32, writes 64 x 16
        y.add_(1.0)  # reads and writes 64 x 16

    costs = count_costs(step)
    assert sum(cost.bytes_moved for cost in costs) == 4 * (64 * 32 + 16 * 32 + 3 * 64 * 16)
    assert sum(cost.operations for cost in costs) == 2 * 64 * 32 * 16


def test_attention_counts_two_products_forward_and_five_backward():
    query, key = (torch.zeros(1, 2, n, 8, requires_grad=True) for n in (128, 96))

    def step() -> None:
        torch.nn.functional.scaled_dot_product_attention(query, key, key).sum().backward()

    product = 2 * 2 * 128 * 96 * 8
    with torch.no_grad():
        assert (
            sum(
                cost.operations
                for cost in count_costs(lambda: torch.nn.functional.scaled_dot_product_attention(query, key, key))
            )
            == 2 * product
        )
    assert sum(cost.operations for cost in count_costs(step)) in (6 * product, 7 * product)  # 4 backward if scores kept


def test_the_attainable_time_is_the_longer_of_operations_and_bytes():
    costs = [Cost("mm", 8_000, 100), Cost("add", 0, 300)]
    result = roofline(costs, PeakRates(operations_per_s=4e6, bytes_per_s=1e6), seconds=0.004)
    assert (result["operations_ms"], result["bytes_ms"]) == pytest.approx((2.0, 0.4))
    assert (result["attainable_ms"], result["bound"], result["share"]) == (pytest.approx(2.0), "operations", 0.5)
    assert result["by_operator_ms"] == pytest.approx(2.3)
    assert result["operators"] == pytest.approx({"mm": 2.0 / 2.3, "add": 0.3 / 2.3})


@pytest.mark.slow
def test_a_row_has_its_roofline_and_a_line_below_the_table_explains_it():
    lines: list[str] = []
    (row,) = run_bench(settings(roofline=True, percentiles=True), show=lines.append)["rows"]
    result = row["roofline"]
    assert result["attainable_ms"] == max(result["operations_ms"], result["bytes_ms"])
    assert result["share"] == pytest.approx(result["attainable_ms"] / row["twins"]["p50_ms"])
    assert "twins_svt_nano, inference, fp32, batch 1, size 64: " in lines[-1]
    assert "of the roofline" in lines[0]
    assert "p50 / p90 / p99" in lines[0]


def test_a_row_that_runs_out_of_memory_is_marked_and_the_others_are_measured(monkeypatch, tmp_path, capsys):
    build_networks = measuring.build_networks

    def fail(case: Case, *rest: object) -> object:
        if case.batch == 2:
            raise RuntimeError(
                "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"
            )
        return build_networks(case, *rest)

    monkeypatch.setattr(measuring, "build_networks", fail)
    file = tmp_path / "rows.json"
    arguments = "twins_svt_nano --modes inference --size 64 --batch 1 2 3 --rounds 3 --warmup 1 --no-memory --json"
    assert cli.run([*arguments.split(), str(file)]) == 0
    rows = json.loads(file.read_text())["rows"]
    assert [row.get("failed") for row in rows] == [None, "out of memory", None]
    assert "| twins_svt_nano | inference | fp32 | 2 | 64 | out of memory |" in capsys.readouterr().out


def test_other_errors_are_not_taken_for_out_of_memory(monkeypatch):
    def fail(*_: object) -> None:
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr(measuring, "build_networks", fail)
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        run_bench(settings())


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the limit is for Linux alone")
def test_an_allocation_beyond_the_free_memory_raises_instead_of_killing_the_process():
    with pytest.raises((RuntimeError, MemoryError)) as caught, memory_limit(CPU):
        torch.ones(1 << 44)
    assert is_out_of_memory_message(f"{caught.type.__name__}: {caught.value}")
    torch.ones(1 << 10)


def test_the_result_is_saved_after_each_row():
    row_counts: list[int] = []
    result = run_bench(settings(batch=(1, 2)), save=lambda result: row_counts.append(len(result["rows"])))
    assert row_counts == [1, 2]
    assert result["format"] == FORMAT


def measured(model: str, p90: float, **changed) -> dict:
    row = {"task": "classification", "mode": "inference", "precision": "fp32", "batch": 1, "size": 224, "model": model}
    return row | {"twins": {"p50_ms": p90 - 1, "p90_ms": p90}} | changed


def test_a_budget_is_answered_by_the_most_accurate_measured_variant():
    rows = [
        measured("twins_svt_small", 40.0),
        measured("twins_svt_base", 80.0),
        measured("twins_svt_base", 70.0, precision="bf16"),
        measured("twins_svt_large", 130.0),
        measured("twins_svt_large", 9.0, size=64),
        measured("twins_svt_nano", 5.0),
        {**measured("twins_pcpvt_large", 1.0), "failed": "out of memory"},
    ]
    assert "is twins_svt_base (bf16): 83.2 % top-1 as reported" in budget_line(rows, 90)
    assert "70.0 ms or less in nine rounds of ten" in budget_line(rows, 90)
    assert "Not measured: twins_pcpvt_base, twins_pcpvt_large, twins_pcpvt_small." in budget_line(rows, 90)
    assert "No measured variant keeps to 10 ms an image; the fastest is twins_svt_small (fp32): 40.0 ms" in budget_line(
        rows, 10
    )
    assert "has no answer" in budget_line(rows[-2:], 10)


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["png", "svg", "pdf"])
def test_a_plot_shows_every_model_and_the_machine(tmp_path, ending):
    from twins.bench.plot import write_plot

    rows = [
        measured(f"twins_{name}", p90, size=size, batch=batch)
        for name, p90 in [("svt_small", 40.0), ("svt_large", 130.0), ("pcpvt_small", 45.0)]
        for size in (224, 512)
        for batch in (1, 8)
    ]
    for row in rows:
        row["twins"]["images_per_s"] = 1e3 * row["batch"] / row["twins"]["p50_ms"]
    facts = {"device": "a processor", "threads": 2, "torch": "2", "rounds": 3}
    file = tmp_path / f"plot.{ending}"
    write_plot({"rows": rows, "machine": facts}, file, budget=50.0)
    assert file.stat().st_size > 5000
    if ending == "svg":
        text = file.read_text()
        assert all(name in text for name in ("SVT-S", "SVT-L", "PCPVT-S", "50 ms", "a processor"))


@pytest.mark.parametrize("rows", [[], [{"model": "any", "failed": "out of memory"}]])
def test_a_result_without_numbers_can_be_plotted(tmp_path, rows):
    from twins.bench.plot import write_plot

    facts = {"device": "a processor", "threads": 2, "torch": "2", "rounds": 3}
    write_plot({"rows": rows, "machine": facts}, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").exists()


def test_all_means_the_six_published_networks_and_names_are_resolved_and_unique():
    assert len(BenchConfig(models=("all",)).names) == 6
    assert BenchConfig(models=("Twins-SVT-S", "twins_svt_small")).names == ("twins_svt_small",)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"against": ("tim",)}, "`against` has no peer 'tim'; did you mean timm"),
        (
            {"size": ("224", "twins_svt_smal")},
            "found 'twins_svt_smal'; name networks first, in `models`",
        ),
        ({"plot": "plot.jpg"}, "`plot` must end in .png, .svg, .pdf, found 'plot.jpg'"),
        ({"budget": -1.0}, "`budget` must be milliseconds above 0, found -1"),
        ({"budget": 10.0, "batch": (8,)}, r"needs `batch=\(1,\)`"),
        ({"budget": 10.0, "size": ("64",)}, r"needs `size=\(\"224\",\)`"),
        ({"budget": 10.0, "modes": ("training",)}, r"needs `modes=\(\"inference\",\)`"),
        ({"modes": ("end-to-end",), "size": ("64x96",)}, "classifiers see squares of an image file"),
    ],
)
def test_invalid_settings_are_refused_with_a_message_that_names_them(changed, message):
    with pytest.raises(ConfigError, match=message):
        settings(**changed)


def test_timm_has_no_dense_network_for_end_to_end(capsys):
    with pytest.raises(ConfigError, match=r"`against=\(\"timm\",\)` has no end-to-end for semantic"):
        run_bench(settings(models=("twins_svt_small",), task="semantic", modes=("end-to-end",), against=("timm",)))
