"""`Choice`: a setting that the default recipe chose from the data, with its reason."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A setting of a run that was chosen, not given."""

    setting: str
    """Name of the setting as in `TrainConfig`, dotted for a group: `size`, `optimizer.lr`."""
    value: Any
    """Value that the run uses."""
    reason: str
    """Reason in a few words, such as `half of the objects are below 24 pixels at 320`."""

    def text(self) -> str:
        """Return the setting and its value, such as `optimizer.betas 0.9 0.98`."""
        value = " ".join(map(str, self.value)) if isinstance(self.value, tuple) else self.value
        named = {None: "off", False: "off", True: "on"}
        return f"{self.setting} {named[value] if value is None or isinstance(value, bool) else value}"

    def line(self) -> str:
        """Return the choice in one line."""
        return f"{self.text()}: {self.reason}"
