"""Print the lowest versions that pyproject.toml allows, as constraints for pip.

`python scripts/lowest_versions.py > lowest.txt`, then `pip install --editable '.[dev]' --constraint lowest.txt`.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"
REQUIREMENT = re.compile(r"([\w.-]+)>=([\d.]+)")


def lowest_versions(pyproject: str) -> list[str]:
    """Return `name==version` for each `name>=version` among the dependencies and extras, sorted."""
    project = tomllib.loads(pyproject)["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    matches = [REQUIREMENT.fullmatch(requirement) for group in groups for requirement in group]
    return sorted({f"{match[1]}=={match[2]}" for match in matches if match})


if __name__ == "__main__":
    print("\n".join(lowest_versions(PYPROJECT.read_text())))
