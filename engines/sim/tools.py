"""Tool calls of the simulated model: which tool it calls, and arguments that fit the tool's schema."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import msgspec

from slosgate.engines.sim.prompts import CHARACTERS_PER_TOKEN

MAX_DEPTH = 16  # of a schema: one that refers to itself must end
_PLAIN = {"string": "tok", "integer": 1, "number": 1.0, "boolean": True, "array": [], "null": None}


@dataclass(frozen=True, slots=True)
class ToolCall:
    """What is called instead of saying something."""

    name: str
    arguments: str  # JSON
    named: bool  # the client chose it; else the model did, which its finish_reason says

    @property
    def tokens(self) -> int:
        return math.ceil(len(self.arguments) / CHARACTERS_PER_TOKEN)

    def part(self, number: int) -> str:
        """The text of a token; empty beyond the last that is needed."""
        return self.arguments[number * CHARACTERS_PER_TOKEN : (number + 1) * CHARACTERS_PER_TOKEN]

    def finish_reason(self, reason: str) -> str:
        return "tool_calls" if reason == "stop" and not self.named else reason


def tool_call(tools: Any, choice: Any) -> ToolCall | None:
    """The call that `tool_choice` demands: the first tool if it is "required"; None if it leaves the choice to the
    model, which then says something. Raises ValueError with a sentence that names the field."""
    functions = _functions(tools)
    if choice in (None, "none", "auto"):
        return None
    if not functions:
        raise ValueError("tool_choice needs tools: give a list of at least one")
    if choice == "required":
        name = next(iter(functions))
    elif isinstance(choice, dict) and isinstance(choice.get("function"), dict):
        name = str(choice["function"].get("name"))
    else:
        raise ValueError('tool_choice must be "none", "auto", "required", or a function by its name')
    if name not in functions:
        raise ValueError(f"tool_choice names none of the tools: {name!r}; accepted: {', '.join(functions)}")
    arguments = msgspec.json.encode(_value(functions[name], functions[name], MAX_DEPTH)).decode()
    return ToolCall(name, arguments, named=choice != "required")


def _functions(tools: Any) -> dict[str, dict[str, Any]]:
    """The parameters' schemas, by name."""
    found: dict[str, dict[str, Any]] = {}
    for tool in [] if tools is None else tools if isinstance(tools, list) else [tools]:
        function = tool.get("function") if isinstance(tool, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise ValueError('tools must be a list of {"type": "function", "function": {"name": ...}}')
        schema = function.get("parameters")
        found[function["name"]] = {"type": "object", **(schema if isinstance(schema, dict) else {})}
    return found


def _value(schema: Any, root: dict[str, Any], depth: int) -> Any:
    """A small value that fits a schema, as far as it is one of the usual ones."""
    if not isinstance(schema, dict) or not depth:
        return None
    for name in ("const", "default"):
        if name in schema:
            return schema[name]
    for name in ("enum", "anyOf", "oneOf", "allOf"):
        if isinstance(options := schema.get(name), list) and options:
            return options[0] if name == "enum" else _value(options[0], root, depth - 1)
    if isinstance(reference := schema.get("$ref"), str):
        return _value(_referred(reference, root), root, depth - 1)
    kind = schema.get("type", "object" if "properties" in schema else "string")
    kind = kind[0] if isinstance(kind, list) and kind else kind
    if kind == "object":
        properties = schema.get("properties")
        known = properties if isinstance(properties, dict) else {}
        return {name: _value(known.get(name, {}), root, depth - 1) for name in _required(schema)}
    if kind in ("integer", "number") and isinstance(least := schema.get("minimum"), int | float):
        return least
    return _PLAIN.get(kind if isinstance(kind, str) else "string", "tok")


def _required(schema: dict[str, Any]) -> list[str]:
    names = schema.get("required")
    return [name for name in names if isinstance(name, str)] if isinstance(names, list) else []


def _referred(reference: str, root: dict[str, Any]) -> Any:
    found: Any = root
    for step in reference.removeprefix("#/").split("/"):
        found = found.get(step) if isinstance(found, dict) else None
    return found
