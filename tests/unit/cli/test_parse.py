"""Command lines are parsed into dataclasses, and the library's sentences are spelled with a verb's flags."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import Annotated

import pytest
from tyro.conf import Positional, arg

from twins.cli.parse import given_settings, in_flags, parse, stderr_in_flags, value_of, without
from twins.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    """A group whose flags have its name as a prefix."""

    lr: float = 0.1
    """A rate."""
    weight_decay: float = 0.0
    """A factor."""


@dataclass(frozen=True, kw_only=True)
class Look:
    """A group without a prefix."""

    scales: tuple[float, ...] = (1.0,)
    """Several numbers."""
    betas: tuple[float, float] = (0.9, 0.99)
    """Two numbers."""
    flip: bool = False
    """A switch."""


@dataclass(frozen=True, kw_only=True)
class Args:
    """Arguments of a verb."""

    model: Annotated[str, Positional, arg(metavar="MODEL")]
    """A file."""
    images: Annotated[tuple[str, ...], Positional, arg(metavar="IMAGE...")] = ()
    """Several files."""
    task: str = "classification"
    """A name."""
    batch_size: int = 8
    """A number."""
    resume: str | None = None
    """A folder."""
    compile: bool = False
    """A switch."""
    reduce: bool | None = None
    """Yes, no or unset."""
    optimizer: Optimizer = field(default_factory=Optimizer)
    """Settings with a prefix."""
    look: Annotated[Look, arg(name="")] = field(default_factory=Look)
    """Settings without a prefix."""


@pytest.mark.parametrize(
    ("sentence", "spelled"),
    [
        ("`batch_size` must be at least 1, found 0", "--batch-size must be at least 1, found 0"),
        ("neither `task`, `compile` nor `resume`", "neither --task, --compile nor --resume"),
        ("lower `optimizer.lr`, or `optimizer.weight_decay`", "lower --optimizer.lr, or --optimizer.weight-decay"),
        ("`scales` must list numbers", "--scales must list numbers"),
        ("`look.scales` must list numbers", "--scales must list numbers"),
        ("`look` is for others", "--scales, --betas, --flip is for others"),
        ("`optimizer` says how weights move", "--optimizer.* says how weights move"),
        ('say `task="semantic"`', "say --task semantic"),
        ("say `task='semantic'` here", "say --task semantic here"),
        ('go on by `resume="runs/x"`', "go on by --resume runs/x"),
        ('go on by `resume="runs/my run"`', "go on by --resume 'runs/my run'"),
        ("""`resume="the "best" run"`""", """--resume 'the "best" run'"""),
        ("go on by `resume=RUN`", "go on by --resume RUN"),
        ("`scales=(0.5, 1.0)` or `scales=[2]`", "--scales 0.5 1.0 or --scales 2"),
        ("use `batch_size=4`", "use --batch-size 4"),
        ("`compile=True` or `compile=False`", "--compile or --no-compile"),
        ("`reduce=True` or `reduce=False`", "--reduce True or --reduce False"),
        ("`model` knows its own task", "MODEL knows its own task"),
        ("name `images`, `images=('a b.png', 'c.png')`", "name IMAGE, 'a b.png' c.png"),
        ('`model="runs/x"` is no network', "runs/x is no network"),
    ],
)
def test_settings_of_the_verb_become_its_flags(sentence, spelled):
    assert in_flags(sentence, Args) == spelled


@pytest.mark.parametrize(
    ("sentence", "spelled"),
    [
        ("a higher `learning_rate`, or `lr`", "a higher learning_rate, or lr"),
        ('say `head="upernet"`', 'say head="upernet"'),
        ("the names' `areas` and 3 `masks`", "the names' areas and 3 masks"),
        ("one file`s name and `twins check DATA`", "one file`s name and `twins check DATA`"),
        ("see twins check DATA", "see twins check DATA"),
    ],
)
def test_other_names_only_lose_their_backticks(sentence, spelled):
    assert in_flags(sentence, Args) == spelled


def test_text_on_stderr_within_the_context_names_flags(capsys):
    with stderr_in_flags(Args):
        print("note: consider `batch_size=4`", file=sys.stderr, flush=True)
        assert not sys.stderr.isatty()
    print("`batch_size`", file=sys.stderr)
    assert capsys.readouterr().err == "note: consider --batch-size 4\n`batch_size`\n"


def test_text_without_a_setting_is_written_as_it_is_at_no_cost(capsys, monkeypatch):
    """A server's log and progress bars have many such lines."""
    monkeypatch.setattr("twins.cli.parse.spellings", None)
    with stderr_in_flags(Args):
        print('{"model": "batch_size"}', file=sys.stderr)
    assert capsys.readouterr().err == '{"model": "batch_size"}\n'


def test_notes_of_a_run_name_flags(capsys, tmp_path):
    from twins.engine.log import Log

    with stderr_in_flags(Args):
        Log(tmp_path).info("note: consider `optimizer.lr=0.01` [or not]")
    assert capsys.readouterr().err == "note: consider --optimizer.lr 0.01 [or not]\n"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "twins run needs MODEL; see twins run --help"),
        ("--task c", "twins run needs MODEL; see twins run --help"),
        ("a --optimizer.lr high", "--optimizer.lr takes a number, found high; see twins run --help"),
        ("a --batch-size=x", "--batch-size takes a whole number, found x; see"),
        ("a --batch_size x", "--batch-size takes a whole number, found x; see"),
        ("a --scales 1 b --task c", "--scales takes numbers, found 1 b; see"),
        ("a --betas 0.9", "--betas takes two numbers, found 0.9; see"),
        ("a --betas", "--betas lacks its values: it takes two numbers, found nothing; see"),
        ("a --task", "--task lacks its value: it takes NAME, found nothing; see"),
        ("--task --compile", "--task lacks its value: it takes NAME, found nothing; see"),
        ("a --resume", "--resume lacks its value: it takes NAME, found nothing; see"),
        ("a --reduce maybe", "--reduce must be one of 'True', 'False', found 'maybe'; see"),
        ("a --batch-sise 3", "twins run has no --batch-sise; did you mean --batch-size?; see"),
        ("--batch-sise 3", "twins run has no --batch-sise; did you mean --batch-size?; see"),
        ("a --no-compil", "twins run has no --no-compil; did you mean --no-compile?; see"),
        ("a --lr 3", "twins run has no --lr; did you mean --optimizer.lr?; see"),
        ("a -x", "twins run has no -x"),
        ("a b --compile=False", "--compile is a switch and takes no value, found 'False'; see"),
        ("a --no_compile=True b", "--no-compile is a switch and takes no value, found 'True'; see"),
        ("a --scales --task c", "--scales lacks its values: it takes numbers, found nothing; see"),
    ],
)
def test_an_invalid_command_line_is_answered_with_the_expected_usage(line, message):
    with pytest.raises(ConfigError) as caught:
        parse(Args, "run", line.split())
    assert message in str(caught.value)


@pytest.mark.parametrize("words", [["--batch-size", "3"], ["--batch_size", "3"], ["--batch_size=3"]])
def test_a_flag_with_underscores_is_given_as_much_as_one_with_dashes(words):
    assert parse(Args, "train", ["MODEL", *words]).batch_size == 3
    assert given_settings(Args, words) == {"batch_size"}
    assert value_of("--batch-size", words) == "3"
    assert without("--batch-size", ["MODEL", *words, "--flip"]) == ["MODEL", "--flip"]


def test_a_word_like_a_placeholder_is_a_word():
    assert parse(Args, "run", ["a", "IMAGE"]).images == ("IMAGE",)
