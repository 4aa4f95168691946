"""slosbench report RESULT.json... --out report.html
slosbench report vllm-bench.json benchmarks.json profile_export.jsonl --goodput ttft:400 tpot:50
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from slosgate.bench import foreign, results
from slosgate.bench import goodput as limits
from slosgate.bench import report as pages


def report(
    files: Annotated[
        list[Path],
        typer.Argument(metavar="RESULT.json...", help="Results of slosbench, vllm bench, guidellm, aiperf."),
    ],
    out: Annotated[Path, typer.Option(help="The page to write.")] = Path("report.html"),
    title: Annotated[str, typer.Option(help="The page's headline.")] = "slosbench report",
    goodput: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY:MS...", help="SLO that other generators' requests are judged by: ttft:400 tpot:50 e2el:9000."
        ),
    ] = None,
) -> None:
    """Draw result files as one HTML page that opens offline."""
    results.check(out)
    slo = limits.goodput(goodput or ())
    loaded = [(file.name, foreign.read(file, slo)) for file in files]
    pages.write(loaded, title, out)
    typer.echo(f"wrote {out}")
