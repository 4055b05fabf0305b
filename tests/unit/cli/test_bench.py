"""`twins bench`: networks anywhere in the command line, and checks before anything is measured."""

from __future__ import annotations

from twins.cli.bench import networks_first
from twins.cli.main import main


def test_networks_may_follow_flags_that_take_several_values():
    line = "--size 224 800x1333 twins_svt_small --batch 1 Twins-SVT-B --json all --against timm all --device cpu"
    moved = " ".join(networks_first(line.split(" ")))
    assert moved.startswith("twins_svt_small Twins-SVT-B all --size 224 800x1333 --batch 1 --json all")
    assert moved.endswith("--against timm --device cpu")


def test_files_may_follow_such_flags_too():
    assert networks_first(["--batch", "1", "8", "runs/a", "net.onnx"]) == ["runs/a", "net.onnx", "--batch", "1", "8"]


def test_a_plot_in_a_missing_folder_is_refused_before_anything_is_measured(capsys):
    assert main(["bench", "--plot", "nowhere/plot.png"]) == 2
    assert "--plot nowhere/plot.png: there is no folder nowhere" in capsys.readouterr().err


def test_error_messages_spell_the_settings_as_flags(capsys):
    assert main(["bench", "--runtime", "openvino", "--modes", "training", "--device", "cpu"]) == 2
    assert (
        "--runtime openvino measures exported classifiers beside timm's; set --modes inference, without --task, "
        "--compile or --roofline; for others name a run and its exported files" in capsys.readouterr().err
    )
    assert main(["bench", "--budget", "50", "--size", "64", "--batch", "1"]) == 2
    assert "--budget looks at images one at a time and needs --size 224, where top-1" in capsys.readouterr().err
