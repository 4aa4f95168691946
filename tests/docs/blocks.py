"""The blocks of code of README and docs, and what they say they need.

A block of commands that can't be run here says so in its title:

    ```sh title="Needs a GPU"

A block of another language whose title is a file's name is that file: later commands of the page find it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SHELL = "sh"
NEEDS = "Needs "
_FENCE = re.compile(r'^```(?P<language>[\w-]*)(?: title="(?P<title>[^"]*)")?$')


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block: its language, its title or "", what stands in it, and its first line's number."""

    language: str
    title: str
    text: str
    line: int

    @property
    def needs(self) -> str:
        """What it needs beyond this machine; "" for nothing."""
        return self.title.removeprefix(NEEDS) if self.title.startswith(NEEDS) else ""

    @property
    def file(self) -> str:
        """The name of the file that it is; "" for commands, and for what only shows something."""
        return self.title if re.fullmatch(r"[\w.-]+\.\w+", self.title) else ""

    @property
    def commands(self) -> list[str]:
        """Its commands, one a line, without comments."""
        lines = self.text.replace("\\\n", " ").splitlines()
        return [found for line in lines if (found := re.sub(r"(^|\s{2,})#.*$", "", line).strip())]


def blocks(page: Path) -> Iterator[Block]:
    """All of a page, in order. Raises ValueError for a fence that says something else than these here understand."""
    lines = iter(enumerate(page.read_text(encoding="utf-8").splitlines(), 1))
    for number, line in lines:
        if not line.lstrip().startswith("```"):
            continue
        found = _FENCE.match(line)
        if found is None:
            raise ValueError(f'{page.name}:{number}: {line!r} is no fence of the form ```sh title="..."')
        inside: list[str] = []
        for _, content in lines:
            if content == "```":
                break
            inside.append(content)
        yield Block(found["language"], found["title"] or "", "\n".join(inside) + "\n", number)


def titled(page: Path, title: str) -> str:
    """The text of a page's only block with this title."""
    (found,) = (block.text for block in blocks(page) if block.title == title)
    return found
