"""README and docs: links lead somewhere, and commands are spelled as the programs take them."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest
from typer.main import get_command

from slosgate import __version__
from slosgate.bench.cli import app as slosbench
from slosgate.gateway.app import EXPOSED_HEADERS
from slosgate.gateway.cli import app as slosgate

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "ARCHITECTURE.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
PROGRAMS = {"slosgate": get_command(slosgate), "slosbench": get_command(slosbench)}
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_COMMAND = re.compile(r"^\s*((?:slosgate|slosbench) .*?)(?:\s{2,}#.*)?$", re.MULTILINE)


def headings(page: Path) -> set[str]:
    """The anchors of a page, as GitHub makes them."""
    found = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in found}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.name))
def test_links_lead_somewhere(page: Path) -> None:
    for link in _LINK.findall(page.read_text(encoding="utf-8")):
        path, _, anchor = link.partition("#")
        if "://" in link:
            continue
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in headings(target), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.name))
def test_commands_and_their_options_exist(page: Path) -> None:
    shell = re.findall(r"^```sh.*?^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    for line in _COMMAND.findall("".join(shell).replace("\\\n", " ")):
        program, *words = shlex.split(line, comments=True)
        command = PROGRAMS[program]
        while isinstance(command, click.Group) and words and not words[0].startswith("-"):
            name = words.pop(0)
            assert name in command.commands, line
            command = command.commands[name]
        accepted = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
        wanted = {word.partition("=")[0] for word in words if word.startswith("--")}
        if not command.allow_extra_args:  # what `engine vllm` doesn't know goes to vLLM
            assert wanted <= accepted | {"--help"}, line


def test_every_header_of_an_answer_is_in_the_table_of_headers() -> None:
    """What scripts of web pages may read is what the gateway says of itself."""
    rows = [row for row in (ROOT / "docs" / "clients.md").read_text(encoding="utf-8").splitlines() if row[:4] == "| `x"]
    documented = set(re.findall(r"`(x-slo-[a-z0-9-]+)`", "".join(row.split("|")[1] for row in rows)))
    assert documented == {name for name in EXPOSED_HEADERS if name.startswith("x-slo-")}


def test_figures_of_the_comparison_are_those_of_the_readme() -> None:
    rows = (ROOT / "docs" / "comparison.md").read_text(encoding="utf-8").splitlines()
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    quoted = [
        row.split("|")[2] for row in rows if row.startswith("|") and row.split("|")[-2].strip().startswith("README")
    ]
    assert quoted
    for number in re.findall(r"\d+\.\d+|\d+(?= %)", " ".join(quoted)):
        assert number in readme, number


def test_the_first_steps_show_this_version() -> None:
    assert f"slosgate {__version__} serves http" in (ROOT / "docs" / "start.md").read_text(encoding="utf-8")
