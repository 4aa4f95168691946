"""`slosgate engine vllm`: one real replica on this machine.

    slosgate engine vllm --model facebook/opt-13b --redis redis://127.0.0.1:6379
    slosgate engine vllm --model ./llama --profile ./measured.json --max-model-len 8192 --enable-prefix-caching

Options that are not named below go to `vllm serve` as they are.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import partial
from typing import Annotated

import typer

from slosgate.engines import addresses
from slosgate.engines.options import listening_port, registered_url, taking
from slosgate.engines.secrets import REDIS
from slosgate.engines.vllm import launch
from slosgate.engines.vllm.settings import AUTO, BadSettings, ReplicaSettings
from slosgate.engines.vllm.versions import UnsupportedVllm

CONTEXT_SETTINGS = {"allow_extra_args": True, "ignore_unknown_options": True}


@dataclass(frozen=True, slots=True)
class VllmOptions:
    """The options of `slosgate engine vllm`."""

    context: typer.Context  # with those that go to `vllm serve`
    model: Annotated[str, typer.Option(help="Model name or folder, as `vllm serve` takes it.")]
    profile: Annotated[
        str, typer.Option(help="Hardware profile: auto (the replica measures itself), a shipped one's name, or a file.")
    ] = AUTO
    redis: Annotated[
        str | None, typer.Option(help="Redis or Valkey to register in; without it: no gateway.", envvar=REDIS)
    ] = None
    name: Annotated[str, typer.Option(help="The replica's name; this machine's and the port by default.")] = ""
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1"
    port: Annotated[int, typer.Option(help="Port to listen on; 0 takes a free one.", min=0, max=65535)] = 0
    url: Annotated[
        str, typer.Option(help="Address that gateways reach this replica at, if not HOST, or this machine's.")
    ] = ""
    drain_s: Annotated[float, typer.Option(help="How long what runs at a signal to stop may go on.", min=0)] = 60.0
    iteration_log: Annotated[str | None, typer.Option(help="File that gets one JSON line per iteration.")] = None


@taking(VllmOptions)
def vllm(options: VllmOptions) -> None:
    """Serve a model with vLLM, scheduled by slosgate (other options go to `vllm serve`)."""
    host, port = options.host, listening_port(options.host, options.port)
    settings = ReplicaSettings(
        profile=options.profile,
        redis_url=options.redis,
        replica=options.name or addresses.default_name(port),
        url=registered_url(host, port, options.url, options.redis),
        iteration_log=options.iteration_log,
    )
    try:
        code = launch.serve(
            options.model, settings, host=host, port=port, options=options.context.args, environment=os.environ,
            drain_s=options.drain_s, say=partial(typer.echo, err=True),
        )  # fmt: skip
    except (BadSettings, UnsupportedVllm) as error:
        typer.echo(f"Error: {error}", err=True)
        code = 2
    raise typer.Exit(code)


def main() -> None:
    """The command by itself, as `slosgate engine vllm` runs it."""
    app = typer.Typer(add_completion=False)
    app.command(context_settings=CONTEXT_SETTINGS)(vllm)
    app()


if __name__ == "__main__":
    main()
