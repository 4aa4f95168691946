"""Every command in README and docs runs here as it stands, or says what it needs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.docs.blocks import NEEDS, PAGES, ROOT, SHELL, Block, blocks
from tests.docs.playing import Player

# What CI runs by another way: where, and by what words there.
ELSEWHERE = {
    "make test": (".ci/run", "make test\n"),
    "make lint": (".ci/run", "make lint\n"),
    "make test-browser": (".ci/run", "make test-browser\n"),
    "make test-vllm": (".ci/run", "make test-vllm\n"),
    "slosgate up examples/local.toml": ("tests/engines/fleet/test_fleet.py", '"examples" / "local.toml"'),
    "slosgate status": ("tests/engines/fleet/test_fleet.py", 'command("status")'),
    "slosgate down": ("tests/engines/fleet/fleets.py", 'command("down")'),
}
NEWCOMERS = ("start.md", "classes.md")  # a newcomer's hour plays them (tests/browser/test_newcomer.py)


def runs_here(block: Block) -> bool:
    return block.language == SHELL and not block.needs and not set(block.commands) <= set(ELSEWHERE)


PLAYED = [page for page in PAGES if page.name not in NEWCOMERS and any(map(runs_here, blocks(page)))]


@pytest.mark.timeout(400)  # as many programs as the page starts
@pytest.mark.parametrize("page", PLAYED, ids=lambda page: str(page.name))
def test_the_commands_of_a_page_run_as_they_stand(page: Path, tmp_path: Path) -> None:
    with Player(tmp_path) as player:
        player.play(block for block in blocks(page) if block.file or runs_here(block))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.name))
def test_commands_stand_in_fences_that_say_what_they_need(page: Path) -> None:
    """Nothing that looks like a command hides in a block that nobody runs."""
    text = page.read_text(encoding="utf-8")
    outside = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    assert not re.findall(r"^ {4,}\S.*$", outside, re.MULTILINE), "a block of code has a fence"
    for block in blocks(page):
        assert block.language, f"{page.name}:{block.line}: a fence has a language; text for what is only shown"
        if block.language == SHELL:
            assert not block.title or block.needs, f'{page.name}:{block.line}: the title of commands is "{NEEDS}..."'
        else:
            typed = [line for line in block.text.splitlines() if line.startswith(("$ ", "slosgate ", "slosbench "))]
            assert not [line for line in typed if not line.startswith("slosgate 0.")], f"{page.name}:{block.line}"


def test_what_runs_elsewhere_is_there() -> None:
    for file, words in ELSEWHERE.values():
        assert words in (ROOT / file).read_text(encoding="utf-8"), (file, words)
