"""What a scenario's classes are called at a server that has classes of its own.

--slo-class interactive                     all of them
--slo-class chatbot=interactive,coder=ide   each by itself; one that isn't named keeps its name
--slo-class none                            no class is named: the API key's, or the server's default, holds
"""

from __future__ import annotations

from collections.abc import Sequence

from slosgate.bench.errors import InputError

NONE = "none"


def named(text: str, classes: Sequence[str]) -> dict[str, str]:
    """The names by the scenario's, "" for none. Raises InputError."""
    if not text:
        return {}
    if "=" not in text:
        return dict.fromkeys(classes, _name(text, text))
    found: dict[str, str] = {}
    for pair in text.split(","):
        known, _, name = (part.strip() for part in pair.partition("="))
        if known not in classes:
            raise InputError(f"--slo-class names {known!r}, and the scenario's classes are {', '.join(classes)}")
        found[known] = _name(name, pair)
    return found


def _name(name: str, text: str) -> str:
    """A class as a header can name it."""
    name = name.strip()
    if not name or not name.isprintable() or not name.isascii() or "," in name:
        raise InputError(f"--slo-class takes NAME, none, or CLASS=NAME separated by commas, not {text!r}")
    return "" if name == NONE else name
