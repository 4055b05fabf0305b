"""Renames and removals that users are warned of before they happen; CONTRIBUTING.md shows how to announce one.

The warnings are `FutureWarning`s: Python hides `DeprecationWarning` unless the calling code is `__main__`, and most
calls of this package are made from other modules. `tests/unit/test_deprecation.py` fails once the package reaches the
version that a warning names, so no deprecation outlives its announcement.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

from twins.errors import ConfigError

T = TypeVar("T", bound=Callable[..., Any])


class TwinsDeprecationWarning(FutureWarning):
    """Something that a later version removes; `warnings.simplefilter("ignore", TwinsDeprecationWarning)` hides it."""


def warn_deprecated(old: str, *, since: str, removed_in: str, instead: str, stacklevel: int = 2) -> None:
    """Warn that `old` is deprecated; by default the warning points at the caller of the function that calls this."""
    message = f"{old} is deprecated since twins {since} and will be removed in {removed_in}; use {instead} instead"
    warnings.warn(message, TwinsDeprecationWarning, stacklevel=stacklevel + 1)


def rename_key(values: dict[str, Any], old: str, new: str, *, since: str, removed_in: str, stacklevel: int = 2) -> None:
    """Move the value of an old name, where present, to the new name, in place and with a warning.

    Raises:
        ConfigError: both names have a value.
    """
    if old in values:
        if new in values:
            raise ConfigError(f"`{old}` is the old name of `{new}`, and both have a value; leave `{old}` out")
        warn_deprecated(f"`{old}`", since=since, removed_in=removed_in, instead=f"`{new}`", stacklevel=stacklevel + 1)
        values[new] = values.pop(old)


def renamed_argument(old: str, new: str, *, since: str, removed_in: str) -> Callable[[T], T]:
    """Make a function or a config dataclass accept a keyword by its old name too, with a warning."""

    def decorate(target: T) -> T:
        """Return the function, or the class changed in place, with the old name accepted."""
        call = target.__init__ if isinstance(target, type) else target  # type: ignore[misc]

        @functools.wraps(call)
        def with_old_name(*args: Any, **kwargs: Any) -> Any:
            rename_key(kwargs, old, new, since=since, removed_in=removed_in)
            return call(*args, **kwargs)

        if not isinstance(target, type):
            return with_old_name  # type: ignore[return-value]
        target.__init__ = with_old_name  # type: ignore[misc]
        return target

    return decorate
