"""Numbers and truth values as pydantic reads them, and so vLLM: what it accepts is not refused here.

https://docs.pydantic.dev/latest/concepts/conversion_table/
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

_TRUE = frozenset({"1", "on", "t", "true", "y", "yes"})
_FALSE = frozenset({"0", "off", "f", "false", "n", "no"})


def laxly(fields: Mapping[str, Any], integers: Collection[str], truths: Collection[str]) -> dict[str, Any]:
    """The fields with those of these names as plain integers and truth values, where they can be read as such."""
    read = dict(fields)
    for name in integers:
        if name in read:
            read[name] = _integer(read[name])
    for name in truths:
        if name in read:
            read[name] = _truth(read[name])
    return read


def _integer(value: object) -> object:
    if isinstance(value, bool):
        return int(value)
    return value.strip() if isinstance(value, str) else value


def _truth(value: object) -> object:
    if isinstance(value, int | float) and value in (0, 1):
        return bool(value)
    if isinstance(value, str) and value.lower() in _TRUE | _FALSE:
        return value.lower() in _TRUE
    return value
