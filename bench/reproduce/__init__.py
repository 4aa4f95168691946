"""The paper's evaluation, one file per table or figure.

Each module has `run(console, seed) -> Result`: it shows its progress and its table on the console and returns rows.
`bench/commands/reproduce.py` lists them by name, writes the result files and draws the reports.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from rich.console import Console

from slosgate.bench.results import Result

Reproduction: TypeAlias = Callable[[Console, int], Result]
"""(where to show progress and tables, seed) -> the result, `command` being "reproduce NAME"."""
