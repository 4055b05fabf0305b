"""The files that build, check and describe the package agree with each other."""

from __future__ import annotations

import re
import runpy
import tomllib
from pathlib import Path

import pytest
import yaml

import twins

ROOT = Path(__file__).parents[2]
PYPROJECT = (ROOT / "pyproject.toml").read_text()
PROJECT = tomllib.loads(PYPROJECT)["project"]
GITHUB = sorted((ROOT / ".github").rglob("*.yml"))
WORKFLOWS = [path for path in GITHUB if path.parent.name == "workflows"]
UNBOUND = ("types-PyYAML", "twins-vision[")
"""Requirements without a lowest version: type stubs, and the package's own extras."""


def requirements():
    groups = [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()]
    return [requirement for group in groups for requirement in group if not requirement.startswith(UNBOUND)]


def test_the_lowest_versions_are_those_of_every_requirement():
    lowest = runpy.run_path(str(ROOT / "scripts" / "lowest_versions.py"))["lowest_versions"](PYPROJECT)
    assert lowest == sorted({requirement.replace(">=", "==") for requirement in requirements()})
    assert len({line.partition("==")[0] for line in lowest}) == len(lowest)  # an extra repeats no other bound


def test_requirements_have_a_lowest_version_and_no_highest():
    assert all(re.fullmatch(r"[\w.-]+>=[\d.]+", requirement) for requirement in requirements())


def test_continuous_integration_tests_every_python_that_the_package_names():
    named = re.findall(r"Python :: (3\.\d+)", "\n".join(PROJECT["classifiers"]))
    (tests,) = (path for path in WORKFLOWS if path.name == "ci.yml")
    assert yaml.safe_load(tests.read_text())["jobs"]["test"]["strategy"]["matrix"]["python"] == named
    assert PROJECT["requires-python"] == f">={named[0]}"


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_has_few_permissions_time_limits_and_pinned_actions(path):
    workflow = yaml.safe_load(path.read_text())
    assert workflow["permissions"] == {"contents": "read"}
    assert workflow["concurrency"]
    for job in workflow["jobs"].values():
        assert 0 < job["timeout-minutes"] <= 90
        used = [step["uses"] for step in job["steps"] if "uses" in step]
        assert all(re.fullmatch(r"actions/[\w-]+@v\d+", action) for action in used)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_what_a_workflow_runs_exists(path):
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    assert set(re.findall(r"\bmake ([\w-]+)", path.read_text())) <= set(targets)
    files = re.findall(r"\b(?:scripts|benchmarks|tests)/[\w/.]+", path.read_text())
    assert all((ROOT / file).exists() for file in files)


@pytest.mark.parametrize("path", [path for path in GITHUB if path not in WORKFLOWS], ids=lambda path: path.name)
def test_issue_forms_have_what_the_host_asks_of_them(path):
    form = yaml.safe_load(path.read_text())
    if path.name == "config.yml":
        assert form["blank_issues_enabled"] in (True, False)
        return
    assert form["name"]
    assert form["description"]
    fields = [field for field in form["body"] if field["type"] != "markdown"]
    assert all(field["attributes"]["label"] for field in fields)
    assert len({field["id"] for field in fields}) == len(fields)


def test_commit_hooks_run_the_tools_of_lint_from_the_same_environment():
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    assert [repository["repo"] for repository in config["repos"]] == ["local"]
    entries = [hook["entry"] for hook in config["repos"][0]["hooks"]]
    assert all(entry.startswith(".venv/bin/") for entry in entries)
    lint = re.search(r"^lint:.*\n((?:\t.+\n)+)", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)[1]
    tools = set(re.findall(r"\$\(BIN\)/(\w+(?: format)?)", lint))
    assert tools <= {entry.removeprefix(".venv/bin/").partition(" -")[0].removesuffix(" check") for entry in entries}


def test_the_version_stands_in_the_package_and_the_citation_repeats_it():
    settings = tomllib.loads(PYPROJECT)
    assert PROJECT["dynamic"] == ["version"]
    assert (ROOT / settings["tool"]["hatch"]["version"]["path"]).samefile(ROOT / "src" / "twins" / "__init__.py")
    source = (ROOT / "src" / "twins" / "__init__.py").read_text()
    assert re.findall(r'^__version__ = "(.+)"$', source, flags=re.MULTILINE) == [twins.__version__]
    assert str(yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"]) == twins.__version__


def test_the_changelog_begins_with_unreleased_changes_and_keeps_its_three_headings():
    headings = re.findall(r"^(#+) (.+)$", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
    assert headings[:2] == [("#", "Changelog"), ("##", "Unreleased")]
    versions = [title for level, title in headings[2:] if level == "##"]
    assert all(re.fullmatch(r"\d+\.\d+\.\d+ \(\d{4}-\d{2}-\d{2}\)", title) for title in versions)
    assert {title for level, title in headings if level == "###"} <= {"Added", "Changed", "Fixed"}
