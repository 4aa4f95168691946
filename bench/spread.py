"""Options that take several values after one name, as `vllm bench serve --goodput ttft:400 tpot:50` does."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from typer.core import TyperCommand

SPREAD = "--goodput"
_VALUE = re.compile(r"[a-z0-9]+:[\d.]+(,.*)?$")


class Spreading(TyperCommand):
    """A command in which `--goodput a:1 b:2` means `--goodput a:1 --goodput b:2`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, list(_spread(args)))


def _spread(args: Sequence[str]) -> Iterator[str]:
    """The arguments, with the option's name before each of its values."""
    within = False
    for before, arg in zip(["", *args], args, strict=False):
        if within and before != SPREAD and _VALUE.match(arg):
            yield SPREAD
        elif before != SPREAD:
            within = arg == SPREAD or arg.startswith(SPREAD + "=")
        yield arg
