"""What the command lines of all replicas make of `--redis`, `--host` and `--url`."""

from __future__ import annotations

import typer

from slosgate.engines import addresses
from slosgate.engines.store import url_problem


def registered_url(host: str, port: int, url: str | None, redis: str | None) -> str:
    """The address that a replica registers. Ends the program for a Redis that can't be used, and where no address can
    be told; warns of one that gateways may not reach."""
    if redis and (problem := url_problem(redis)):
        raise typer.BadParameter(problem, param_hint="--redis")
    try:
        found = url or addresses.reachable_url(host, port, redis)
    except addresses.Unreachable as error:
        raise typer.BadParameter(str(error), param_hint="--host") from None
    if not url and (problem := addresses.reach_problem(found, redis)):
        typer.echo(f"Warning: {problem}", err=True)
    return found
