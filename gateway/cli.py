"""slosgate: the gateway's command line.

slosgate serve                              # a private Valkey, replicas join by its address
slosgate serve --config slosgate.toml --redis redis://10.0.0.5:6379/0 --port 8000
slosgate check-config slosgate.toml
slosgate warm-up                            # in an image's build, say
"""

from __future__ import annotations

import signal
import socket
import ssl
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, get_args

import msgspec
import typer
import uvicorn

from slosgate import planner
from slosgate.engines import profiles, secrets
from slosgate.engines.addresses import local_url
from slosgate.engines.fleet import command as fleet
from slosgate.engines.options import listening_port, taking, version_of
from slosgate.engines.profiles.command import app as profile_app
from slosgate.engines.sim import policies, warmup
from slosgate.engines.sim.command import sim
from slosgate.engines.store import url_problem
from slosgate.engines.vllm.command import CONTEXT_SETTINGS, vllm
from slosgate.gateway import describing, reference, reloading
from slosgate.gateway import workers as together
from slosgate.gateway.app import create_app
from slosgate.gateway.config import Config, ConfigError, LogConfig, problem_at
from slosgate.gateway.decisions import reach
from slosgate.gateway.http.protocol import limited, limits_of
from slosgate.gateway.http.server import Server, raise_file_limit
from slosgate.gateway.reports import events, greeting, logs
from slosgate.gateway.reports.logs import Unhurried
from slosgate.gateway.state import valkey

KEEP_ALIVE_S = 75  # longer than any client keeps an idle connection, so that none meets one that is just closing
LONG_S = 3.0  # of compiling, until that is said

app = typer.Typer(no_args_is_help=True, help="SLO-guaranteed serving in front of vLLM.")
engine_app = typer.Typer(no_args_is_help=True, help="Run a replica.")
app.add_typer(engine_app, name="engine")
app.add_typer(profile_app, name="profile")
engine_app.command("sim")(sim)
engine_app.command("vllm", context_settings=CONTEXT_SETTINGS)(vllm)
fleet.add_to(app, valkey.start)


@app.callback()
def slosgate(
    version: Annotated[
        bool,
        typer.Option("--version", callback=version_of("slosgate"), is_eager=True, help="Show the version and exit."),
    ] = False,
) -> None:
    """SLO-guaranteed serving in front of vLLM."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeOptions:
    """The options of `slosgate serve`."""

    config: Annotated[Path | None, typer.Option(help="Configuration file (TOML).")] = None
    redis: Annotated[
        str | None, typer.Option(help="Redis or Valkey; without one a private one is started.", envvar=secrets.REDIS)
    ] = None
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None
    port: Annotated[int | None, typer.Option(help="Port to listen on.", min=0, max=65535)] = None
    ssl_certfile: Annotated[Path | None, typer.Option(help="Certificate (chain) to serve TLS with; PEM.")] = None
    ssl_keyfile: Annotated[Path | None, typer.Option(help="Its private key; by default in the same file.")] = None
    log_format: Annotated[str | None, typer.Option(help="Lines of the log: text or json.")] = None
    log_level: Annotated[str | None, typer.Option(help="Least level in the log: info, warning or error.")] = None
    workers: Annotated[int, typer.Option(help="Processes that serve the address together.", min=1, max=1024)] = 1
    fd: Annotated[
        int | None, typer.Option(help="A listening socket that was inherited, to accept from.", hidden=True)
    ] = None
    pages: Annotated[Path | None, typer.Option(help="Folder for a socket with this process's pages.", hidden=True)] = (
        None
    )


@app.command()
@taking(ServeOptions)
def serve(options: ServeOptions) -> None:
    """Serve the OpenAI API in front of the replicas that register in Redis."""
    _check_certificate(options.ssl_certfile, options.ssl_keyfile)
    read = _read(options.config) if options.config else Config()
    settings = _with_options(read, options)
    if settings.redis.url and (problem := url_problem(settings.redis.url)):
        raise typer.BadParameter(problem, param_hint="--redis")
    if options.fd is None:
        _check_addresses(settings)
    sys.stdout, sys.stderr = Unhurried(1), Unhurried(2)
    logs.set_up(settings.log.format, settings.log.level)
    if problem := raise_file_limit():
        events.say(events.FewFiles(problem=problem))
    # uvicorn drains on SIGTERM and then raises it again: by then it means a good end, with Valkey stopped too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    _warm_up()  # before uvicorn takes the signals: compiling may take a minute, and must be ended by one
    with _redis_url(settings) as url:
        if options.workers > 1:
            _serve_together(options, settings, url)
            return
        greet = partial(_greet, settings, url, shares=options.fd is not None)
        sockets = None if options.fd is None else [socket.socket(fileno=options.fd)]
        hangup = reloading.Reloading(options.config, read)
        server = _server_config(options, settings, url)
        Server(server, notice_s=settings.drain.notice_s, on_started=greet, on_hangup=hangup).run(sockets)


def _warm_up() -> None:
    """Have the planner compiled, and say so where that takes long."""
    notice = threading.Timer(LONG_S, events.say, [events.Compiling()])
    notice.daemon = True
    notice.start()
    try:
        planner.warm_up()
    finally:
        notice.cancel()


def _serve_together(options: ServeOptions, settings: Config, url: str) -> None:
    given = {
        "--config": options.config, "--ssl-certfile": options.ssl_certfile, "--ssl-keyfile": options.ssl_keyfile,
        "--log-format": settings.log.format, "--log-level": settings.log.level,
    }  # fmt: skip
    arguments = [text for name, value in given.items() if value is not None for text in (name, str(value))]

    def listening(port: int) -> None:
        _greet(settings, url, local_url(settings.server.host, port, tls=options.ssl_certfile is not None))

    together.serve(options.workers, settings.server, url, arguments, listening)


@app.command("warm-up")
def warm_up() -> None:
    """Compile the planner ahead, once for an installation: else the first start of each program does, for a minute."""
    planner.warm_up()
    for policy in policies.names():
        warmup.warm_up(profiles.load("h200-opt-13b"), policies.load(policy))


@app.command("check-config")
def check_config(
    file: Annotated[Path, typer.Argument(help="Configuration file (TOML).")],
    show: Annotated[bool, typer.Option("--show", help="Print all that holds, defaults too.")] = False,
    profile: Annotated[
        list[str] | None, typer.Option(help="Hardware of replicas that register, to hold SLOs against: name or file.")
    ] = None,
) -> None:
    """Say what a configuration means, or line by line why it can't be used."""
    settings, registering = _read(file), profile or []
    try:
        for path, message in reach.warnings(settings, registering):
            typer.echo(f"{file}: warning: {problem_at(file.read_text(encoding='utf-8'), path, message)}", err=True)
    except profiles.UnknownProfile as error:
        raise typer.BadParameter(str(error), param_hint="--profile") from None
    if note := reach.unchecked(settings, registering):
        typer.echo(f"{file}: {note}", err=True)
    if show:
        typer.echo(reference.effective(settings), nl=False)
        return
    for line in describing.lines(settings):
        typer.echo(line)
    typer.echo(f"{file}: good; {len(settings.keys)} keys, {len(settings.replicas)} configured replicas")


def main() -> None:
    sys.argv[1:] = fleet.with_ray_address(sys.argv[1:])
    secrets.hide_password()
    app()


def _read(path: Path) -> Config:
    """The configuration in a file; ends the program with what is wrong with it."""
    try:
        return reloading.checked(path)
    except ConfigError as exc:
        for problem in exc.problems:
            typer.echo(f"{path}: {problem}", err=True)
        raise typer.Exit(2) from None
    except (OSError, ValueError) as exc:
        typer.echo(f"{path}: {exc}", err=True)
        raise typer.Exit(2) from None


def _greet(config: Config, redis_url: str, address: str, *, shares: bool = False) -> None:
    """It listens: say so in the log, and where that is read by people, what to do next; one who shares the address
    leaves both to its parent."""
    if shares:
        return
    started = greeting.started(config, redis_url, address, tls=address.startswith("https:"))
    events.say(started)
    if config.log.format == "text":
        print(greeting.greeting(started), end="", flush=True)  # noqa: T201


def _log_options(config: LogConfig, form: str | None, level: str | None) -> LogConfig:
    """The configuration's, with what the options say instead. Raises BadParameter."""
    for name, value, accepted in (("format", form, get_args(logs.Format)), ("level", level, get_args(logs.Level))):
        if value is not None and value not in accepted:
            said = f"must be one of {', '.join(accepted)}, not {value!r}"
            raise typer.BadParameter(said, param_hint=f"--log-{name}")
    given = {name: value for name, value in (("format", form), ("level", level)) if value is not None}
    return msgspec.structs.replace(config, **given)


def _with_options(config: Config, options: ServeOptions) -> Config:
    """The configuration with what the options say instead. Raises BadParameter."""
    server = config.server
    if options.host is not None:
        server = msgspec.structs.replace(server, host=options.host)
    if options.port is not None:
        server = msgspec.structs.replace(server, port=options.port)
    state = config.redis if options.redis is None else msgspec.structs.replace(config.redis, url=options.redis)
    log = _log_options(config.log, options.log_format, options.log_level)
    return msgspec.structs.replace(config, server=server, redis=state, log=log)


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


def _check_addresses(config: Config) -> None:
    """Ends the program where one can't be listened on."""
    listening_port(config.server.host, config.server.port)
    if config.admin.address:
        host, _, port = config.admin.address.rpartition(":")
        listening_port(host.strip("[]"), int(port), key="[admin] address")


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


def _server_config(options: ServeOptions, config: Config, redis_url: str) -> uvicorn.Config:
    gateway = create_app(config, redis_url, pages=options.pages)
    return uvicorn.Config(
        gateway,
        host=config.server.host,
        port=config.server.port,
        http=limited(limits_of(config.server), lambda code: gateway.state.gateway.metrics.refused(code)),
        ws="none",
        lifespan="on",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        log_config=None,
        backlog=4096,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=int(config.server.drain_s),
        ssl_certfile=options.ssl_certfile,
        ssl_keyfile=options.ssl_keyfile,
    )
