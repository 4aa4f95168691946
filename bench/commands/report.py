"""slosbench report RESULT.json... --out report.html"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from slosgate.bench import report as pages
from slosgate.bench import results


def report(
    files: Annotated[
        list[Path], typer.Argument(metavar="RESULT.json...", help="Result files of any slosbench command.")
    ],
    out: Annotated[Path, typer.Option(help="The page to write.")] = Path("report.html"),
    title: Annotated[str, typer.Option(help="The page's headline.")] = "slosbench report",
) -> None:
    """Draw result files as one HTML page that opens offline."""
    loaded = [(file.name, results.read(file)) for file in files]
    pages.write(loaded, title, out)
    typer.echo(f"wrote {out}")
