"""The configuration's keys for people and editors, from the records themselves: their types, defaults and comments.

python -m slosgate.gateway.reference docs      writes docs/configuration.md and docs/slosgate.schema.json
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
import tokenize
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from slosgate.engines.store import without_password
from slosgate.gateway.config import TABLES, Config

HEAD = """# Configuration

`slosgate serve --config slosgate.toml` reads one TOML file. Every unknown key and every value out of range is refused
with its line; `slosgate check-config slosgate.toml` says what it means, or all that is wrong with it at once. `--show`
prints all that holds, defaults too; `--profile NAME` holds SLOs against the hardware on which replicas register.
Options of the command line (`--redis`, `--host`, `--port`, `--log-format`, `--log-level`) come before the file.

On SIGHUP the gateway reads its file again and takes over `[classes]`, `[keys]`, `admission.default_class`,
`server.max_body_bytes` and `server.body_timeout_s`, for the requests that come from then on: no stream is touched. A
file that can't be used changes nothing, and the log says which line is wrong. What takes a restart is named there, too.

Editors that know JSON schemas for TOML complete and check the file by `docs/slosgate.schema.json`: begin it with a
line `#:schema` and the schema's path.

This page is made from the source by `make docs`.
"""


class Key(Struct, frozen=True):
    name: str
    kind: str
    default: str
    meaning: str


def keys(record: type[Struct]) -> list[Key]:
    """The keys of one table, in their order."""
    meanings, schema = _comments(record), _properties(record)
    return [
        Key(f.name, _kind(schema[f.name]), "required" if f.required else _toml(f.default), meanings.get(f.name, ""))
        for f in msgspec.structs.fields(record)
    ]


def markdown() -> str:
    """The reference as a page."""
    return HEAD + "".join(_section(title, record) for title, record in TABLES.items())


def schema() -> dict[str, Any]:
    """A JSON schema of the file, with each key's meaning."""
    found = msgspec.json.schema(Config)
    for record in TABLES.values():
        for name, meaning in _comments(record).items():
            found["$defs"][record.__name__]["properties"][name]["description"] = meaning
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "slosgate", **found}


def effective(config: Config) -> str:
    """All that holds, as a file that would say the same. Keys without a value are left out, passwords too."""
    redis = msgspec.structs.replace(config.redis, url=without_password(config.redis.url))
    lines: list[str] = []
    for name, value in msgspec.structs.asdict(msgspec.structs.replace(config, redis=redis)).items():
        if isinstance(value, Struct):
            lines += _table(f"[{name}]", value)
        elif isinstance(value, dict):
            for key, entry in value.items():
                lines += _table(f"[{name}.{_quoted(key)}]", entry)
        else:
            for entry in value:
                lines += _table(f"[[{name}]]", entry)
    return "\n".join(lines).lstrip("\n") + "\n"


def _section(title: str, record: type[Struct]) -> str:
    about = inspect.getdoc(record) if "__doc__" in record.__dict__ and record.__doc__ else ""
    rows = "".join(f"| `{k.name}` | {k.kind} | {k.default} | {k.meaning} |\n" for k in keys(record))
    return f"\n## {title}\n\n{about}\n\n| key | type | default | meaning |\n|---|---|---|---|\n{rows}"


def _comments(record: type[Struct]) -> dict[str, str]:
    """What the source says beside each field, or above it."""
    source = inspect.getsource(record)
    said = {t.start[0]: t.string.lstrip("# ") for t in _tokens(source) if t.type == tokenize.COMMENT}
    alone = {line for line in said if source.splitlines()[line - 1].lstrip().startswith("#")}
    body = ast.parse(source).body[0]
    assert isinstance(body, ast.ClassDef)
    found = {}
    for field in body.body:
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            above = field.lineno - 1
            while above in alone:
                above -= 1
            beside = [said[field.lineno]] if field.lineno in said else []
            text = " ".join([*(said[line] for line in range(above + 1, field.lineno)), *beside])
            found[field.target.id] = text[:1].upper() + text[1:].replace("|", "\\|")
    return found


def _tokens(source: str) -> Iterator[tokenize.TokenInfo]:
    return tokenize.generate_tokens(StringIO(source).readline)


def _properties(record: type[Struct]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = msgspec.json.schema(record)["$defs"][record.__name__]["properties"]
    return found


def _kind(schema: dict[str, Any]) -> str:
    """A type in words, with its range."""
    if "anyOf" in schema:
        return " or ".join(_kind(one) for one in schema["anyOf"] if one.get("type") != "null")
    if "enum" in schema:
        return " or ".join(f'`"{value}"`' for value in schema["enum"])
    if schema["type"] == "array":
        return "list of strings"
    bounds = {"minimum": ">=", "maximum": "<=", "exclusiveMinimum": ">", "exclusiveMaximum": "<"}
    limits = ", ".join(f"{sign} {schema[name]:g}" for name, sign in bounds.items() if name in schema)
    return f"{schema['type']} {limits}".rstrip()


def _table(title: str, record: Struct) -> list[str]:
    fields = msgspec.structs.asdict(record).items()
    return ["", title, *(f"{name} = {_toml(value)}" for name, value in fields if value is not None)]


def _toml(value: object) -> str:
    if value is None:
        return "none"
    if isinstance(value, tuple):
        return f"[{', '.join(_toml(one) for one in value)}]"
    return msgspec.json.encode(value).decode()


def _quoted(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else _toml(key)


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    (folder / "configuration.md").write_text(markdown(), encoding="utf-8")
    described = msgspec.json.format(msgspec.json.encode(schema()), indent=1)
    (folder / "slosgate.schema.json").write_bytes(described + b"\n")
