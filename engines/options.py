"""What command lines share: options as a record, and what servers make of `--host`, `--port`, `--redis` and `--url`."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar, get_type_hints

import typer

from slosgate import __version__
from slosgate.engines import addresses
from slosgate.engines.store import url_problem

T = TypeVar("T")


def taking(record: type[T]) -> Callable[[Callable[[T], None]], Callable[..., None]]:
    """Make a typer command of a function that takes a record: the fields of its class are the options."""
    hints = get_type_hints(record, include_extras=True)
    parameters = [
        parameter.replace(annotation=hints[name]) for name, parameter in inspect.signature(record).parameters.items()
    ]

    def command_of(function: Callable[[T], None]) -> Callable[..., None]:
        @functools.wraps(function)
        def command(**options: Any) -> None:
            function(record(**options))

        # What typer reads a command's options from.
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        command.__annotations__ = hints
        return command

    return command_of


def version_of(program: str) -> Callable[[bool], None]:
    """What `--version` does."""

    def show(wanted: bool) -> None:
        if wanted:
            typer.echo(f"{program} {__version__}")
            raise typer.Exit

    return show


def listening_port(host: str, port: int, *, key: str = "") -> int:
    """The port to listen on; for 0 a free one. Ends the program where that can't be; `key` is where the configuration
    says it, if no option does."""
    try:
        return addresses.free_port(host, port)
    except addresses.CantListen as error:
        typer.echo(f"Error: {error}; {f'change {key}' if key else f'use {error.option}'}", err=True)
        raise typer.Exit(2) from None


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
