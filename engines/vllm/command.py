"""`slosgate engine vllm`: one real replica on this machine.

    slosgate engine vllm --model facebook/opt-13b --profile h200-opt-13b --redis redis://127.0.0.1:6379
    slosgate engine vllm --model ./llama --profile ./measured.json --max-model-len 8192 --enable-prefix-caching

Options that are not named below go to `vllm serve` as they are.
"""

from __future__ import annotations

import os
from typing import Annotated

import typer

from slosgate.engines.vllm import launch
from slosgate.engines.vllm.settings import BadSettings, ReplicaSettings
from slosgate.engines.vllm.versions import UnsupportedVllm

CONTEXT_SETTINGS = {"allow_extra_args": True, "ignore_unknown_options": True}


def vllm(
    context: typer.Context,
    model: Annotated[str, typer.Option(help="Model name or folder, as `vllm serve` takes it.")],
    profile: Annotated[str, typer.Option(help="Hardware profile: a shipped one's name, or a JSON file.")],
    redis: Annotated[str | None, typer.Option(help="Redis or Valkey to register in; without it: no gateway.")] = None,
    name: Annotated[str, typer.Option(help="The replica's name, unique among the replicas of one Redis.")] = "",
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 takes a free one.")] = 0,
    url: Annotated[
        str, typer.Option(help="Address that gateways reach this replica at, if not http://HOST:PORT.")
    ] = "",
    iteration_log: Annotated[str | None, typer.Option(help="File that gets one JSON line per iteration.")] = None,
) -> None:
    """Serve a model with vLLM, scheduled by slosgate (other options go to `vllm serve`)."""
    port = port or launch.free_port(host)
    settings = ReplicaSettings(
        profile=profile,
        redis_url=redis,
        replica=name or f"vllm-{port}",
        url=url or f"http://{host}:{port}",
        iteration_log=iteration_log,
    )
    try:
        code = launch.serve(model, settings, host=host, port=port, options=context.args, environment=os.environ)
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
