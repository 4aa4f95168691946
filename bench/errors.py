"""What a command line may say about bad input."""

from __future__ import annotations

import difflib
import importlib.util
from collections.abc import Iterable


class InputError(ValueError):
    """Bad input. Its message is one sentence that names the value and the accepted values; commands exit with 2."""


class RunError(RuntimeError):
    """Something that a run needs failed. Its message says what; commands exit with 1."""


def choose(what: str, value: str, accepted: Iterable[str]) -> str:
    """`value`, if it is one of `accepted`. Raises InputError."""
    choices = list(accepted)
    if value not in choices:
        raise InputError(f"unknown {what} {value!r}: choose one of {', '.join(choices)}{meant(value, choices)}")
    return value


def meant(value: str, accepted: Iterable[str]) -> str:
    """The end of a sentence that asks for the name next to a misspelt one; empty where none is near."""
    near = difflib.get_close_matches(value, list(accepted), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def positive(what: str, value: float) -> float:
    """`value`, if it is a number above 0. Raises InputError."""
    if not 0 < value < float("inf"):
        raise InputError(f"{what} must be a number above 0, not {value:g}")
    return value


def require(module: str, what: str) -> None:
    """Check that an optional module is there. Raises InputError that says which extra installs it."""
    if importlib.util.find_spec(module) is None:
        raise InputError(f"{what} needs {module}, which is not installed: pip install 'slosgate[bench]'")
