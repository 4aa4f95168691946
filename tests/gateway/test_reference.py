"""The reference of the configuration is made from its records, and says what they say."""

from __future__ import annotations

import tomllib
from pathlib import Path

import jsonschema
import msgspec
import pytest
from typer.testing import CliRunner

from slosgate.gateway import reference
from slosgate.gateway.cli import app
from slosgate.gateway.config import TABLES, Config, parse

DOCS = Path(__file__).parents[2] / "docs"
FULL = """
[server]
port = 9000
[redis]
url = "redis://:s3cret@10.0.0.5:6379/0"
[classes.interactive]
ttft_ms = 400
service_tiers = ["priority"]
[models."facebook/opt-13b"]
[[replicas]]
url = "http://10.0.0.7:8000"
"""


def test_the_page_and_the_schema_are_those_of_the_source() -> None:
    """make docs writes them."""
    assert (DOCS / "configuration.md").read_text() == reference.markdown()
    assert msgspec.json.decode((DOCS / "slosgate.schema.json").read_bytes()) == msgspec.json.decode(
        msgspec.json.encode(reference.schema())
    )


def test_every_key_has_a_meaning() -> None:
    without = [f"{title} {key.name}" for title, record in TABLES.items() for key in reference.keys(record)
               if not key.meaning]  # fmt: skip
    assert without == []


def test_show_prints_a_file_that_says_the_same(tmp_path: Path) -> None:
    file = tmp_path / "slosgate.toml"
    file.write_text(FULL)
    shown = CliRunner().invoke(app, ["check-config", str(file), "--show"])
    assert shown.exit_code == 0
    assert "s3cret" not in shown.stdout
    assert 'when_full = "best-effort"' in shown.stdout
    expected = parse(FULL.replace(":s3cret@", "***@"))
    assert parse(shown.stdout) == expected


@pytest.mark.parametrize(
    ("text", "good"), [(FULL, True), ("[server]\nport = 70000", False), ("[classes.a]\nttft = 3", False)]
)
def test_the_schema_takes_what_is_a_configuration(text: str, good: bool) -> None:
    found = list(jsonschema.Draft202012Validator(reference.schema()).iter_errors(tomllib.loads(text)))
    assert bool(found) is not good
    assert isinstance(parse(text), Config) if good else True
