"""The command line: help of every verb, errors in one sentence with exit code 2, and all recipes build."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from functools import cache
from importlib import import_module

import pytest
import torch
import yaml

import twins
from twins.bench import counts
from twins.cli.main import VERBS, main
from twins.cli.options import options_of
from twins.cli.parse import parse
from twins.cli.screens import SCREENS
from twins.tasks.default_recipe import CHOSEN
from twins.tasks.recipes import all_recipes


def run(capsys, *arguments: str) -> tuple[int, str, str]:
    code = main(list(arguments))
    out, err = capsys.readouterr()
    return code, out, err


@pytest.fixture(params=[80, 100])
def columns(request, monkeypatch):
    """Width of the terminal."""
    monkeypatch.setenv("COLUMNS", str(request.param))
    return request.param


@pytest.mark.parametrize("verb", sorted(VERBS))
def test_the_first_page_of_help_fits_a_screen(capsys, verb, columns):
    code, out, _ = run(capsys, verb, "--help")
    lines = out.splitlines()
    assert code == 0
    assert f"usage: twins {verb} " in out
    assert len(lines) <= 40
    assert max(map(len, lines)) <= columns
    assert "\033" not in out
    assert run(capsys, verb, "-h")[1] == out
    if f"all options: twins {verb} --help-all" not in lines:
        assert run(capsys, verb, "--help-all")[1].count("\n  --") == out.count("\n  --")


@pytest.mark.parametrize("verb", sorted(VERBS))
def test_all_options_are_listed_once_with_a_text(capsys, verb, columns):
    out = run(capsys, verb, "--help-all")[1]
    assert max(map(len, out.splitlines())) <= columns
    assert not re.search(r"None|STR|INT|MISSING|dataclass", out)
    for option in options_of(import_module(f"twins.cli.{verb}").ARGS):
        assert option.text
        if not option.positional:
            assert len(re.findall(rf"^  {re.escape(option.spellings[option.default is True])}( |$)", out, re.M)) == 1


@pytest.mark.parametrize("command", [command for verb in VERBS for command, _ in SCREENS[verb].examples])
def test_the_examples_of_help_are_valid_commands(command):
    _, verb, *arguments = shlex.split(command.partition(" >")[0])
    arguments = [word.replace("*", "1") for word in arguments]
    assert parse(import_module(f"twins.cli.{verb}").ARGS, verb, arguments)


def test_every_verb_has_two_to_four_examples():
    assert {verb for verb in VERBS if 2 <= len(SCREENS[verb].examples) <= 4} == set(VERBS)


@pytest.mark.parametrize(
    ("verb", "usage"),
    [
        ("train", "[OPTIONS]"),
        ("check", "DATA [OPTIONS]"),
        ("predict", "MODEL IMAGE... [OPTIONS]"),
        ("convert", "IN OUT --to twins|timm|reference [OPTIONS]"),
        ("bench", "[MODEL...] [OPTIONS]"),
    ],
)
def test_help_shows_the_usage(capsys, verb, usage):
    assert f"usage: twins {verb} {usage}\n" in run(capsys, verb, "--help")[1]


def test_help_has_placeholders_for_files_folders_runs_and_numbers(capsys):
    predict, train = (run(capsys, verb, "--help-all")[1] for verb in ("predict", "train"))
    assert all(option in predict for option in ("--out DIR", "--json FILE", "--top N", "--score X"))
    assert all(option in train for option in ("--data DATA", "--out RUN", "--resume RUN", "--optimizer.lr X"))
    assert "--device auto|cpu|cuda|mps" in train


def test_help_of_train_says_what_the_recipe_chooses(capsys):
    text = " ".join(run(capsys, "train", "--help-all")[1].split())
    assert "--size N Side in pixels of the square input; for dense tasks the shorter side of validation" in text
    assert text.count("(chosen from the data)") == len(CHOSEN)
    assert "(default: 224)" not in text
    assert "ignored if --steps or --minutes is set" in text


def test_help_is_bold_on_a_terminal_only(capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert "\033[1m" in run(capsys, "check", "--help")[1]
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\033" not in run(capsys, "check", "--help")[1]


def test_help_imports_no_torch():
    code = "import sys; from twins.cli.main import main; main(sys.argv[1:]); sys.exit('torch' in sys.modules)"
    for arguments in (["train", "--help-all"], ["completion", "bash"]):
        assert subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True).returncode == 0


@pytest.mark.parametrize("word", ["-V", "--version", "version"])
def test_the_version_is_printed_and_help_has_the_flag(capsys, word):
    assert run(capsys, word)[:2] == (0, f"twins {twins.__version__}\n")
    assert word in run(capsys, "--help")[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tain"], "did you mean train"),
        (["train", "--data", "digits", "--epoch", "3"], "did you mean --epochs"),
        (["train", "--data", "digits", "--epochs", "many"], "--epochs"),
        (["train", "--data", "digits", "--epochs", "-1"], "--epochs"),
        (["train", "--data", "nowhere", "--model", "twins_svt_nano"], "nowhere does not exist"),
        (["train", "--data", "digits", "--model", "twins_svt_nan"], "did you mean twins_svt_nano"),
        (["train", "--data", "digits", "--recipe", "finetun"], "did you mean finetune"),
        (["train", "--resume", "nowhere"], "nowhere"),
        (["train", "--data", "digits", "--device", "gpu"], "--device must be one of 'auto', 'cpu', 'cuda', 'mps'"),
        (["train", "--data", "digits", "--patience", "many"], "--patience takes a whole number, found many"),
        (["train"], "--data"),
        (["train", "--data", "digits", "--quiet", "--verbose"], "--quiet and --verbose contradict each other"),
        (["train", "--out"], "--out lacks its value: it takes RUN, found nothing; see twins train --help"),
        (["train", "--data", "digits", "--lr", "0.1"], "twins train has no --lr; did you mean --optimizer.lr?"),
        (["check", "digits", "--json=3"], "--json is a switch and takes no value, found '3'"),
        (["predict"], "twins predict needs MODEL; see twins predict --help"),
        (["predict", "nowhere.pth"], "no image is named; give files, folders or globs after the model"),
        (["check"], "twins check needs DATA; see twins check --help"),
        (["convert", "a.pth"], "twins convert needs OUT and --to; see twins convert --help"),
        (["eval", "nowhere.safetensors", "--data", "digits"], "no weight file nowhere.safetensors"),
        (["eval", "runs/nowhere", "--data", "digits"], "no run folder or weight file runs/nowhere"),
        (["eval", "runs/nowhere"], "no run folder or weight file runs/nowhere"),
        (["eval", "twins_svt_small"], "is of no run and does not know its data; give the data set as --data"),
        (["eval", "r.json", "--task", "detection"], "give the COCO file with the true objects as --data"),
        (["recipes", "retinanet", "adek"], "no recipe matches 'retinanet adek'"),
        (["predict", "nowhere.pth", "a.jpg"], "no weight file nowhere.pth"),
        (["convert", "a.pth", "b.pth", "--to", "mmseg"], "mmseg"),
        (["check", "nowhere"], "nowhere does not exist"),
        (["check", "digits", "--task", "clasification"], "did you mean classification"),
        (["bench", "twins_svt_smal"], "did you mean twins_svt_small"),
        (["bench", "--rounds", "1"], "--rounds"),
        (["bench", "--against", "tim"], "did you mean timm"),
        (["bench", "--size", "224", "twins_svt_smal"], "name networks first, in MODEL"),
        (["bench", "--modes", "trainin"], "--modes"),
        (["bench", "--budget", "50", "--batch", "8"], "needs --batch 1"),
        (["bench", "--json", "nowhere/rows.json"], "there is no folder nowhere"),
        (["bench", "--plot", "nowhere/rows.png"], "there is no folder nowhere"),
        (["demo", "--task", "semantics"], "no task is called 'semantics'"),
        (["models", "--size", "16"], "at least 32"),
        (["models", "--size", "-4"], "at least 32"),
        (["train", "coco"], "twins train has no place for 'coco'; the data set is given with --data"),
        (["train", "--data", "x" * 300, "--model", "twins_svt_nano"], "does not exist"),
        (
            ["train", "--data", "digits", "--model", "twins_svt_nano", "--weights", "x" * 300],
            "does not exist; check the path",
        ),
        (["train", "--resume", "x" * 300], "give a run folder"),
        (["check", ""], "the path of the data is empty"),
        (["check", "x" * 300], "does not exist"),
        (["check", "x" * 300, "--task", "detection"], "does not exist"),
        (["check", "digits", "--task", "semantic", "--masks.classes", "x" * 300], "does not exist"),
        (["eval", "", "--data", "digits"], "is empty"),
        (["eval", "x" * 300, "--data", "digits"], "there is no run folder or weight file"),
        (["predict", "x" * 300, "a.png"], "there is no run folder or weight file"),
        (["predict", "nowhere.pth", "a.png", "--scales", "100"], "--scales must list numbers above 0 and at most 10,"),
        (["eval", "r.json", "--data", "t.json", "--task", "detection", "--out", "r.json"], "is the results file"),
        (["eval", "r.json", "--data", "t.json", "--task", "detection", "--out", "t.json"], "the file with the truth"),
        (
            ["eval", "r.json", "--data", "t.json", "--task", "detection", "--out", "nowhere/x.json"],
            "there is no folder nowhere",
        ),
    ],
)
def test_a_user_error_gives_one_sentence_and_exit_code_2(capsys, arguments, message):
    code, _, err = run(capsys, *arguments)
    assert code == 2
    assert message in err
    assert err.startswith("twins: ")
    assert err.count("\n") == 1
    assert "Traceback" not in err


def test_unavailable_published_weights_are_never_replaced_by_random_ones(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("TWINS_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
    code, _, err = run(capsys, "train", "--data", "digits", "--model", "twins_svt_small", "--recipe", "finetune")
    assert code == 2
    assert "--weights PATH" in err
    assert "--model twins_svt_nano" in err
    assert "--weights none" in err
    assert not list(tmp_path.iterdir())


def test_outputs_of_eval_are_checked_before_anything_is_computed(capsys, tmp_path, monkeypatch):
    import twins.evaluation

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("something was computed")

    monkeypatch.setattr(twins.evaluation, "model_from_checkpoint", fail)
    run_folder, data = tmp_path / "run", tmp_path / "data"
    truth = data / "annotations" / "instances_train.json"
    for path in (run_folder / "best.safetensors", run_folder / "config.yaml", truth):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text('{"images": []}')
    for flags, message in (
        (["--results", str(truth)], "--results .* is a file of --data"),
        (["--out", str(truth)], "--out .* is a file of --data"),
        (["--out", str(run_folder / "best.safetensors")], "is the network's weights|is the run's best.safetensors"),
        (["--out", str(run_folder / "config.yaml")], "is the run's config.yaml"),
        (
            ["--out", str(tmp_path / "s.json"), "--results", str(tmp_path / "s.json")],
            "--results .* is what --out names",
        ),
        (["--out", str(tmp_path / "nodir" / "x.json")], "there is no folder .*nodir"),
        (["--out", str(data)], "is a folder"),
        (["--results", str(tmp_path / "nodir" / "x.json")], "there is no folder .*nodir"),
        (["--workers", "-1"], "--workers must be at least 0, found -1"),
    ):
        code, _, err = run(capsys, "eval", str(run_folder), "--data", str(data), *flags)
        assert code == 2
        assert re.search(message, err), err
        assert err.count("\n") == 1
    assert truth.read_text() == '{"images": []}'
    assert not (tmp_path / "s.json").exists()


def test_bench_takes_networks_after_its_flags(capsys, tmp_path):
    flags = "--modes inference --rounds 3 --warmup 1 --no-memory --batch 1 --against none --size 32x64"
    file, plot = tmp_path / "rows.json", tmp_path / "rows.svg"
    code, out, _ = run(capsys, "bench", "--json", str(file), "--plot", str(plot), *flags.split(), "twins_svt_nano")
    assert code == 0
    assert "| twins_svt_nano | inference | fp32 | 1 | 32x64 |" in out
    (row,) = json.loads(file.read_text())["rows"]
    assert {"images_per_s", "p50_ms", "p90_ms", "p99_ms"} <= set(row["twins"])
    assert "SVT-nano" in plot.read_text()


def test_check_exits_with_0_for_clean_data_and_1_for_problems(capsys, tmp_path):
    from PIL import Image

    assert run(capsys, "check", "digits")[0] == 0
    for name, count in (("a", 4), ("b", 4)):
        (tmp_path / name).mkdir()
        for index in range(count):
            Image.new("RGB", (40, 40), (index * 20, 0, 0 if name == "a" else 90)).save(tmp_path / name / f"{index}.png")
    (tmp_path / "b" / "9.png").write_bytes(b"")
    code, out, _ = run(capsys, "check", str(tmp_path), "--json")
    assert code == 1
    assert any("9.png is empty" in problem for problem in json.loads(out)["problems"])


def test_recipes_are_listed_on_a_screen_filtered_by_words_and_shown_by_name(capsys):
    out = run(capsys, "recipes")[1]
    assert len(out.splitlines()) <= 40
    assert "  upernet_VARIANT " in out
    assert "  detection_finetune " in out
    filtered = [line.split()[0] for line in run(capsys, "recipes", "SVT", "RetinaNet", "1x")[1].splitlines()[1:4]]
    assert filtered == [f"retinanet_1x_svt_{size}" for size in ("small", "base", "large")]
    out = run(capsys, "recipes", "upernet_svt_small")[1]
    settings = yaml.safe_load(out.partition("differ from the defaults:\n")[2])
    assert "Expected: mIoU 46.2 %" in out
    assert settings["optimizer"]["lr"] == all_recipes()["upernet_svt_small"].build().optimizer.lr
    assert "recipe" not in settings


def test_doctor_prints_the_essentials_and_with_all_the_rest(capsys):
    short, full = run(capsys, "doctor")[1], run(capsys, "doctor", "--all")[1]
    assert len(short.splitlines()) <= 12
    assert torch.__version__.partition("+")[0] in short
    assert "inductor cache" in full
    assert "inductor cache" not in short


@pytest.fixture(scope="module")
def counted_once():
    """Count the parameters of each network once for all tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(counts, "model_counts", cache(counts.model_counts))
        yield


@pytest.mark.usefixtures("counted_once")
def test_models_prints_parameters_and_published_numbers(capsys):
    code, out, _ = run(capsys, "models", "--json")
    rows = {row["name"]: row for row in json.loads(out)}
    assert code == 0
    assert list(rows) == twins.list_models()
    assert rows["twins_svt_small"]["params"] == 24_060_776
    assert rows["twins_svt_small"]["top1"] == 81.7
    dense = rows["twins_svt_small"]["semantic"]
    millions = {head: (round(dense[head]["params"] / 1e6, 2), dense[head]["published_millions"]) for head in dense}
    assert millions | {"semantic_fpn": (27.80, 28.3), "upernet": (53.86, 54.4)} == millions
    assert all(head["published_millions"] is None for head in rows["twins_svt_nano"]["semantic"].values())


@pytest.mark.usefixtures("counted_once")
def test_models_prints_dense_networks_with_published_numbers_in_100_columns(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    code, out, _ = run(capsys, "models")
    assert code == 0
    assert max(map(len, out.splitlines())) <= 100
    lines = [line.split() for line in out.partition("Semantic segmentation")[2].splitlines()]
    starts = [line[:5] for line in lines]
    assert ["twins_svt_large", "102.74", "103.7", "132.78", "133"] in starts
    assert ["twins_svt_nano", "2.76", "-", "3.17", "-"] in starts
    assert ["twins_svt_large", "118.65", "119.7"] in starts


@pytest.mark.parametrize("name", all_recipes())
def test_every_recipe_builds_its_config_and_its_network(name):
    config = all_recipes()[name].build()
    assert config.recipe == name
    assert type(config).from_yaml(config.to_yaml()) == config
    with torch.device("meta"):
        twins.create_model(config.model, task=config.task, head=config.head, drop_path_rate=config.drop_path)


def test_help_ends_quietly_when_its_reader_closes_the_pipe():
    command = [sys.executable, "-m", "twins", "bench", "--help-all"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 0
