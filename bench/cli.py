"""slosbench: what SLO planning buys, measured.

    slosbench run --scenario coder --system vllm --rate 2
    slosbench run --scenario coder --system slosgate-ar --rate 2 --mode live --json result.json
    slosbench report result.json --out report.html

Each command lives in bench/commands/ and is registered by one line here.
"""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from slosgate.bench.commands import capacity, gateway_bench, plan_bench, profile, report, reproduce, run, traces
from slosgate.bench.errors import InputError, RunError
from slosgate.bench.spread import Spreading
from slosgate.engines.options import version_of


class _Commands(TyperGroup):
    """Turns bad input, wherever it is found, into one sentence on stderr and exit code 2; a failed run into 1."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except InputError as error:
            typer.echo(f"slosbench: {error}", err=True)
            raise typer.Exit(2) from None
        except RunError as error:
            typer.echo(f"slosbench: {error}", err=True)
            raise typer.Exit(1) from None


app = typer.Typer(
    name="slosbench",
    cls=_Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Measure what SLO planning buys: traces replayed against serving systems, in virtual time or over HTTP.",
)


@app.callback()
def slosbench(
    version: Annotated[
        bool,
        typer.Option("--version", callback=version_of("slosbench"), is_eager=True, help="Show the version and exit."),
    ] = False,
) -> None:
    """Measure what SLO planning buys."""


# One line per command: app.command("NAME")(MODULE.FUNCTION), or app.add_typer(MODULE.app, name="NAME")
app.command("run", cls=Spreading)(run.run)
app.command("capacity")(capacity.capacity)
app.command("reproduce")(reproduce.reproduce)
app.add_typer(traces.app, name="traces")
app.command("report", cls=Spreading)(report.report)
app.command("gateway-bench")(gateway_bench.gateway_bench)
app.command("plan-bench")(plan_bench.plan_bench)
app.add_typer(profile.app, name="profile")


def main() -> None:
    app()


if __name__ == "__main__":
    main()
