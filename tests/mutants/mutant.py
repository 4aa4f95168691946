"""A bug that someone might put in, and the tests that ought to notice it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Package = Literal["planner", "engines", "gateway", "bench", "traces"]


class NoLongerApplies(ValueError):
    """The text that a mutant replaces is not in its file exactly once."""


@dataclass(frozen=True, slots=True)
class Mutant:
    """`old` stands exactly once in `file` and is replaced by `new`; `tests` are pytest's node ids.

    They run the kernels as plain Python (see `tests.mutants.plain`), so they should be small, and start no servers that
    need kernels.
    """

    package: Package
    breaks: str  # what, in one sentence
    file: str  # relative to the checkout
    old: str
    new: str
    tests: tuple[str, ...]

    def applied(self, root: Path) -> str:
        """The file's text with the bug in it. Raises NoLongerApplies."""
        path = root / self.file
        text = path.read_text() if path.exists() else ""
        if (found := text.count(self.old)) != 1:
            raise NoLongerApplies(f"{self.file}: {self.old!r} occurs {found} times, not once")
        return text.replace(self.old, self.new)
