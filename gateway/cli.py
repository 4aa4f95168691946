"""slosgate: the gateway's command line.

slosgate serve                              # a private Valkey, replicas join by its address
slosgate serve --config slosgate.toml --redis redis://10.0.0.5:6379/0 --port 8000
slosgate check-config slosgate.toml
slosgate warm-up                            # in an image's build, say
"""

from __future__ import annotations

import asyncio
import os
import signal
import ssl
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, cast

import msgspec
import typer
import uvicorn

from slosgate import planner
from slosgate.engines import profiles, secrets
from slosgate.engines.options import version_of
from slosgate.engines.profiles.command import app as profile_app
from slosgate.engines.sim import policies, warmup
from slosgate.engines.sim.command import sim
from slosgate.engines.store import url_problem, without_password
from slosgate.engines.vllm.command import CONTEXT_SETTINGS, vllm
from slosgate.gateway import describing
from slosgate.gateway.app import create_app
from slosgate.gateway.config import Config, ConfigError, load, problem_at
from slosgate.gateway.decisions import reach, tokenizing
from slosgate.gateway.http import overflow
from slosgate.gateway.http.protocol import LimitedProtocol, Limits
from slosgate.gateway.http.server import Server, raise_file_limit
from slosgate.gateway.replicas import credentials
from slosgate.gateway.reports.logs import Unhurried
from slosgate.gateway.state import valkey

KEEP_ALIVE_S = 75  # longer than any client keeps an idle connection, so that none meets one that is just closing

app = typer.Typer(add_completion=False, no_args_is_help=True, help="SLO-guaranteed serving in front of vLLM.")
engine_app = typer.Typer(no_args_is_help=True, help="Run a replica.")
app.add_typer(engine_app, name="engine")
app.add_typer(profile_app, name="profile")
engine_app.command("sim")(sim)
engine_app.command("vllm", context_settings=CONTEXT_SETTINGS)(vllm)


@app.callback()
def slosgate(
    version: Annotated[
        bool,
        typer.Option("--version", callback=version_of("slosgate"), is_eager=True, help="Show the version and exit."),
    ] = False,
) -> None:
    """SLO-guaranteed serving in front of vLLM."""


@app.command()
def serve(
    config: Annotated[Path | None, typer.Option(help="Configuration file (TOML).")] = None,
    redis: Annotated[
        str | None, typer.Option(help="Redis or Valkey; without one a private one is started.", envvar=secrets.REDIS)
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on.", min=0, max=65535)] = None,
    ssl_certfile: Annotated[Path | None, typer.Option(help="Certificate (chain) to serve TLS with; PEM.")] = None,
    ssl_keyfile: Annotated[Path | None, typer.Option(help="Its private key; by default in the same file.")] = None,
) -> None:
    """Serve the OpenAI API in front of the replicas that register in Redis."""
    _check_certificate(ssl_certfile, ssl_keyfile)
    if problem := raise_file_limit():
        typer.echo(f"slosgate: {problem}", err=True)
    settings = _with_options(_read(config) if config else Config(), redis, host, port)
    if settings.redis.url and (problem := url_problem(settings.redis.url)):
        raise typer.BadParameter(problem, param_hint="--redis")
    sys.stdout, sys.stderr = Unhurried(1), Unhurried(2)
    # uvicorn drains on SIGTERM and then raises it again: by then it means a good end, with Valkey stopped too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    planner.warm_up()  # before uvicorn takes the signals: compiling may take a minute, and must be ended by one
    with _redis_url(settings) as url:
        shown = without_password(url)
        print(f"slosgate: state in {shown}; add a replica with: slosgate engine sim --redis {shown}", flush=True)  # noqa: T201
        Server(_server_config(settings, url, ssl_certfile, ssl_keyfile), notice_s=settings.drain.notice_s).run()


@app.command("warm-up")
def warm_up() -> None:
    """Compile the planner ahead, once for an installation: else the first start of each program does, for a minute."""
    planner.warm_up()
    for policy in policies.names():
        warmup.warm_up(profiles.load("h200-opt-13b"), policies.load(policy))


@app.command("check-config")
def check_config(file: Annotated[Path, typer.Argument(help="Configuration file (TOML).")]) -> None:
    """Say what a configuration means, or line by line why it can't be used."""
    settings = _read(file)
    for line in describing.lines(settings):
        typer.echo(line)
    for path, message in reach.warnings(settings):
        typer.echo(f"{file}: warning: {problem_at(file.read_text(encoding='utf-8'), path, message)}", err=True)
    typer.echo(f"{file}: good; {len(settings.keys)} keys, {len(settings.replicas)} configured replicas")


def main() -> None:
    secrets.hide_password()
    app()


def _read(path: Path) -> Config:
    """The configuration in a file; ends the program with what is wrong with it."""
    try:
        config = load(path)
        for replica in config.replicas:
            if replica.profile:
                profiles.load(replica.profile)
        found = [
            *overflow.problems(config), *tokenizing.problems(config), *credentials.problems(config, os.environ),
        ]  # fmt: skip
        if found:
            raise ConfigError([problem_at(path.read_text(encoding="utf-8"), *problem) for problem in found])
    except ConfigError as exc:
        for problem in exc.problems:
            typer.echo(f"{path}: {problem}", err=True)
        raise typer.Exit(2) from None
    except (OSError, ValueError) as exc:
        typer.echo(f"{path}: {exc}", err=True)
        raise typer.Exit(2) from None
    return config


def _with_options(config: Config, redis: str | None, host: str | None, port: int | None) -> Config:
    server = config.server
    if host is not None:
        server = msgspec.structs.replace(server, host=host)
    if port is not None:
        server = msgspec.structs.replace(server, port=port)
    state = config.redis if redis is None else msgspec.structs.replace(config.redis, url=redis)
    return msgspec.structs.replace(config, server=server, redis=state)


@contextmanager
def _redis_url(config: Config) -> Iterator[str]:
    """The configured Redis, or a private Valkey for as long as the gateway runs."""
    if config.redis.url:
        yield config.redis.url
        return
    server = valkey.start()
    server.keep_up()
    try:
        yield server.url
    finally:
        server.stop()


def _check_certificate(certfile: Path | None, keyfile: Path | None) -> None:
    """Raises BadParameter when TLS can't be served with these."""
    if certfile is None:
        if keyfile is not None:
            raise typer.BadParameter("needs --ssl-certfile beside it", param_hint="--ssl-keyfile")
        return
    try:
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(certfile, keyfile)
    except (OSError, ValueError) as exc:  # ssl.SSLError is an OSError
        said = f"{certfile} and {keyfile or 'the key in it'} can't be used: {exc}"
        raise typer.BadParameter(said, param_hint="--ssl-certfile") from None


def _server_config(
    config: Config, redis_url: str, certfile: Path | None = None, keyfile: Path | None = None
) -> uvicorn.Config:
    server = config.server
    limits = Limits(server.max_header_bytes, server.header_timeout_s, server.request_timeout_s)
    return uvicorn.Config(
        create_app(config, redis_url),
        host=config.server.host,
        port=config.server.port,
        http=cast(type[asyncio.Protocol], partial(LimitedProtocol, limits=limits)),
        ws="none",
        lifespan="on",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        log_level="warning",
        backlog=4096,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=int(config.server.drain_s),
        ssl_certfile=certfile,
        ssl_keyfile=keyfile,
    )
