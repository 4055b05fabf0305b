"""Old names still work with a warning that says what to do, and none outlives the version it announces."""

from __future__ import annotations

import ast
import inspect
import warnings
from dataclasses import dataclass, fields
from pathlib import Path

import pytest

import twins
from twins.deprecation import TwinsDeprecationWarning, rename_key, renamed_argument, warn_deprecated
from twins.errors import ConfigError

HELPERS = {"warn_deprecated", "rename_key", "renamed_argument"}


@renamed_argument("colour", "color", since="0.2", removed_in="0.4")
def paint(shape: str, *, color: str = "red") -> str:
    return f"{color} {shape}"


@renamed_argument("rate", "lr", since="0.2", removed_in="0.4")
@dataclass(frozen=True, kw_only=True)
class Settings:
    lr: float = 0.1


def old_function() -> int:
    warn_deprecated("`old_function`", since="0.2", removed_in="0.4", instead="`new_function`")
    return 1


def test_an_old_argument_works_and_the_warning_says_since_when_and_what_to_use():
    sentence = "`colour` is deprecated since twins 0.2 and will be removed in 0.4; use `color` instead"
    with pytest.warns(TwinsDeprecationWarning) as caught:
        assert paint("box", colour="blue") == "blue box"
    assert [str(warning.message) for warning in caught] == [sentence]


def test_an_old_config_field_works_and_the_class_stays_a_dataclass():
    with pytest.warns(TwinsDeprecationWarning, match="use `lr` instead"):
        assert Settings(rate=0.5) == Settings(lr=0.5)
    assert [field.name for field in fields(Settings)] == ["lr"]
    assert list(inspect.signature(Settings).parameters) == ["lr"]


def test_an_old_name_in_a_file_of_settings_is_moved():
    values = {"rate": 0.5, "steps": 3}
    with pytest.warns(TwinsDeprecationWarning):
        rename_key(values, "rate", "lr", since="0.2", removed_in="0.4")
    assert values == {"lr": 0.5, "steps": 3}


@pytest.mark.parametrize(
    "deprecated",
    [old_function, lambda: paint("box", colour="blue"), lambda: Settings(rate=0.5)],
    ids=["function", "argument", "field"],
)
def test_a_warning_points_at_the_line_that_users_wrote_and_is_shown_by_default(deprecated):
    with warnings.catch_warnings(record=True) as caught:
        warnings.resetwarnings()
        deprecated()
    assert [warning.filename for warning in caught] == [__file__]
    assert issubclass(caught[0].category, FutureWarning)
    line = Path(__file__).read_text().splitlines()[caught[0].lineno - 1]
    assert "deprecated()" in line or "lambda" in line


def test_new_names_do_not_warn():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert paint("box", color="blue") == "blue box"
        assert Settings(lr=0.5).lr == 0.5


def test_both_names_at_once_are_refused():
    with pytest.raises(ConfigError, match="`rate` is the old name of `lr`, and both have a value"):
        Settings(rate=0.5, lr=0.5)


def outlived(source: str, version: str) -> list[str]:
    """The deprecations in a source text that the package's version should no longer have."""
    overdue = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in HELPERS:
            (end,) = (ast.literal_eval(word.value) for word in node.keywords if word.arg == "removed_in")
            if release(version) >= release(end):
                overdue.append(f"{ast.unparse(node.args[0])} was to go in {end}")
    return overdue


def release(version: str) -> tuple[int, ...]:
    """`0.4.0rc1` as (0, 4, 0): a release candidate already counts as its release."""
    numbers = version.partition("rc")[0].partition(".dev")[0].split(".")
    return tuple(int(number) for number in [*numbers, "0", "0"][:3])


@pytest.mark.parametrize(
    ("version", "overdue"), [("0.3.9", 0), ("0.4.0rc1", 1), ("0.4.0", 1), ("0.10.0", 1), ("1.0", 1)]
)
def test_a_deprecation_is_overdue_from_the_first_candidate_of_its_version_on(version, overdue):
    source = 'deprecation.rename_key(values, "rate", "lr", since="0.2", removed_in="0.4")'
    assert len(outlived(source, version)) == overdue


def test_no_deprecation_outlives_the_version_that_it_announces():
    helper = Path(inspect.getfile(warn_deprecated))
    for path in sorted(set(Path(twins.__file__).parent.rglob("*.py")) - {helper}):
        assert not outlived(path.read_text(), twins.__version__), f"{path}: remove it, or announce a later version"
