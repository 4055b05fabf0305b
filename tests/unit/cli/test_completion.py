"""The scripts of `twins completion` complete commands in real shells."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from twins.cli.main import VERBS, main
from twins.tasks.recipes import all_recipes

BASH = """
source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(($#-1)); _twins 2>/dev/null
printf '%s\\n' "${COMPREPLY[@]}"
"""
CASES = [
    (("tr",), {"train"}),
    (("",), {*VERBS, "--help", "--version"}),
    (("train", "--optimizer.lr"), {"--optimizer.lr", "--optimizer.lr-batch"}),
    (("train", "--device", ""), {"auto", "cpu", "cuda", "mps"}),
    (("eval", "run", "--part", "t"), {"test"}),
    (("train", "--recipe", "upernet_svt"), {name for name in all_recipes() if name.startswith("upernet_svt")}),
    (("train", "--data", "digits", "--model", "twins_svt_n"), {"twins_svt_nano"}),
    (("check", "sc"), {"scenes", "scan 1"}),
    (("predict", "run", "--out", "sca"), {"scan 1"}),
    (("completion", "z"), {"zsh"}),
]


@pytest.fixture(scope="module")
def scripts(tmp_path_factory):
    """Folder with the script of each shell, and a file."""
    folder = tmp_path_factory.mktemp("completion")
    with pytest.MonkeyPatch.context() as patch:
        for shell in ("bash", "zsh", "fish"):
            lines: list[str] = []
            patch.setattr("builtins.print", lambda text, lines=lines: lines.append(text))
            assert main(["completion", shell]) == 0
            (folder / shell).write_text("\n".join(lines) + "\n")
    (folder / "scan 1").touch()
    return folder


@pytest.mark.parametrize(("words", "expected"), CASES)
def test_bash_completes(scripts, words, expected):
    command = ["bash", "--norc", "-c", BASH, "bash", "./bash", "twins", *words]
    output = subprocess.run(command, cwd=scripts, capture_output=True, text=True, check=True).stdout
    assert set(output.splitlines()) - {""} == expected


@pytest.mark.parametrize(("words", "expected"), CASES[2:7])
def test_fish_completes(scripts, words, expected):
    if shutil.which("fish") is None:
        pytest.skip("there is no fish")
    line = " ".join(["twins", *words])
    command = ["fish", "--no-config", "-c", f'source ./fish; complete -C "{line}"']
    output = subprocess.run(command, cwd=scripts, capture_output=True, text=True, check=True).stdout
    assert {line.partition("\t")[0] for line in output.splitlines()} == expected


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_scripts_are_valid(scripts, shell):
    if shutil.which(shell) is None:
        pytest.skip(f"there is no {shell}")
    subprocess.run([shell, "-n", shell], cwd=scripts, check=True)
