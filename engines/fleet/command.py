"""`slosgate up`, `status` and `down`.

slosgate up fleet.toml                      # returns when the fleet is up; again after a change of the file
slosgate up fleet.toml --foreground         # under systemd, or in a container
slosgate up fleet.toml --ray                # replicas on the Ray cluster of this machine; or --ray ADDRESS
slosgate status
slosgate down
"""

from __future__ import annotations

import asyncio
import logging
import subprocess
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Protocol

import typer
from rich.console import Console

from slosgate.engines import toml
from slosgate.engines.fleet import control, gpus, service
from slosgate.engines.fleet.places import SLOSGATE, Place
from slosgate.engines.fleet.spec import FleetSpec, load
from slosgate.engines.fleet.status import Status, table

POLL_S = 0.2
SUPERVISOR_S = 30.0  # within which a new supervisor answers

Name = Annotated[str | None, typer.Argument(help="The fleet; needed where several run.")]


class Store(Protocol):
    """A Redis that the fleet has for itself."""

    @property
    def url(self) -> str: ...
    def keep_up(self) -> None: ...
    def stop(self) -> None: ...


def add_to(app: typer.Typer, store: Callable[[], Store]) -> None:
    """Add the commands to an app; `store` starts a Redis for a fleet that names none."""

    @app.command()
    def up(
        file: Annotated[Path, typer.Argument(help="The fleet (TOML).")],
        ray: Annotated[
            str | None, typer.Option(help="Run replicas on a Ray cluster: its address, or auto.", metavar="[ADDRESS]")
        ] = None,
        foreground: Annotated[bool, typer.Option(help="Stay, and take the fleet down on SIGTERM.")] = False,
        wait_s: Annotated[float, typer.Option(help="How long to wait until the fleet is up.", min=0)] = 1800.0,
    ) -> None:
        """Start a fleet, or bring about what has changed in its file, replica by replica."""
        spec = _read(file, on_ray=ray is not None)
        folder = control.root() / spec.name
        if foreground:
            _stay(spec, folder, store, ray)
            return
        supervisor = None
        if not control.answers(folder):
            supervisor = _start_supervisor(file, folder, () if ray is None else ("--ray", ray))
        _ask(folder, control.Apply(spec))
        troubles = _wait_until_whole(folder, wait_s)
        for trouble in troubles:
            typer.echo(f"Error: {trouble}", err=True)
        if troubles and supervisor:
            typer.echo(f"Nothing of it stays: it is taken down again. Logs are in {folder}", err=True)
            _take_down(folder)
            supervisor.wait()
        elif troubles:
            typer.echo(f"Logs are in {folder}", err=True)
        raise typer.Exit(1 if troubles else 0)

    @app.command()
    def status(name: Name = None) -> None:
        """Show the fleet's gateways and replicas, and how they fare."""
        Console().print(table(_ask(_folder(name), control.Show())))

    @app.command()
    def down(name: Name = None) -> None:
        """Take the fleet down: everything finishes what it has."""
        folder = _folder(name)
        _take_down(folder)
        typer.echo(f"{folder.name} is down")


def with_ray_address(arguments: Sequence[str]) -> list[str]:
    """A command line in which `--ray` has a value: auto where what follows is none."""
    following = [*arguments[1:], ""]
    return [
        "--ray=auto" if argument == "--ray" and _is_no_address(value) else argument
        for argument, value in zip(arguments, following, strict=True)
    ]


def _is_no_address(argument: str) -> bool:
    return not argument or argument.startswith("-") or argument.endswith(".toml")


def _read(file: Path, *, on_ray: bool) -> FleetSpec:
    """The fleet in a file; ends the program with what is wrong with it."""
    try:
        spec = load(file)
        problems = _ray_problems() if on_ray else _machine_problems(spec)
    except toml.Unusable as error:
        problems = [str(problem) for problem in error.problems]
    except (OSError, UnicodeDecodeError) as error:
        problems = [str(error)]
    if problems:
        for problem in problems:
            typer.echo(f"{file}: {problem}", err=True)
        raise typer.Exit(2)
    if spec.gateways.config:
        checked = subprocess.run([*SLOSGATE, "check-config", spec.gateways.config], capture_output=True, text=True)
        if checked.returncode:
            typer.echo(checked.stderr.strip(), err=True)
            raise typer.Exit(2)
    return spec


def _machine_problems(spec: FleetSpec) -> list[str]:
    wanted = sum(model.most * model.gpus for model in spec.models.values())
    there = len(gpus_of(spec))
    return [f"models: {wanted} GPUs are wanted, and this machine has {there} (machine.gpus)"] if wanted > there else []


def gpus_of(spec: FleetSpec) -> tuple[str, ...]:
    """The GPUs that a fleet may use here."""
    if spec.machine.gpus is None:
        return gpus.found() if any(model.gpus for model in spec.models.values()) else ()
    return tuple(str(gpu) for gpu in spec.machine.gpus)


def _stay(spec: FleetSpec, folder: Path, store: Callable[[], Store], ray: str | None) -> None:
    """Supervise the fleet until it is taken down."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.INFO)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    if control.answers(folder):
        typer.echo(f"Error: {folder.name} is up already: {folder}", err=True)
        raise typer.Exit(2)
    place = None if ray is None else _on_ray(spec, ray)
    own = None if spec.redis.url else store()
    if own is not None:
        own.keep_up()
    try:
        gpus = gpus_of(spec) if place is None else ()
        asyncio.run(service.serve(spec, folder, own.url if own else spec.redis.url, gpus, place))
    finally:
        if own is not None:
            own.stop()


def _ray_problems() -> list[str]:
    return [] if find_spec("ray") else ["--ray needs the ray package: pip install 'slosgate[ray]'"]


def _on_ray(spec: FleetSpec, address: str) -> Place:
    """A Ray cluster; ends the program where there is none, or its nodes would not reach the fleet's Redis."""
    from slosgate.engines.fleet.ray import cluster  # optional, and seconds to import

    try:
        nodes = cluster.connect(address)
    except (ConnectionError, ValueError) as error:
        typer.echo(f"Error: no Ray cluster at {address!r}: {error}", err=True)
        raise typer.Exit(2) from None
    if len(set(nodes)) > 1 and not spec.redis.url:
        typer.echo("Error: redis.url is missing: replicas on other nodes need a Redis that they reach", err=True)
        raise typer.Exit(2)
    return cluster.RayCluster()


def _take_down(folder: Path) -> None:
    """End the fleet in a folder; returns when nothing of it runs."""
    _ask(folder, control.Down())
    while control.answers(folder):
        time.sleep(POLL_S)


def _start_supervisor(file: Path, folder: Path, options: Sequence[str]) -> subprocess.Popen[bytes]:
    """Start one that stays when this program ends; ends it when that fails."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    log = folder / "supervisor.log"
    command = [*SLOSGATE, "up", str(file.resolve()), "--foreground", *options]
    with log.open("wb") as output:
        supervisor = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
    end_s = time.monotonic() + SUPERVISOR_S
    while not control.answers(folder):
        if supervisor.poll() is not None or time.monotonic() > end_s:
            supervisor.kill()  # one that is only slow; what it has started ends with it
            supervisor.wait()
            typer.echo(f"the supervisor did not start:\n{log.read_text(errors='replace')}", err=True)
            raise typer.Exit(1)
        time.sleep(POLL_S)
    return supervisor


def _wait_until_whole(folder: Path, wait_s: float) -> list[str]:
    """Tell each change until the fleet is up, or is in trouble; the troubles. Ends the program when it takes longer."""
    end_s, told = time.monotonic() + wait_s, ""
    while True:
        found = _ask(folder, control.Show())
        if (said := _progress(found)) != told:
            typer.echo(said)
            told = said
        if found.whole:
            typer.echo(f"{found.name} is up: {found.address}/v1")
            return []
        if found.troubles and not found.busy:
            return found.troubles
        if time.monotonic() > end_s:
            typer.echo(f"Error: not up after {wait_s:g} s; it goes on, see slosgate status", err=True)
            raise typer.Exit(1)
        time.sleep(POLL_S)


def _progress(found: Status) -> str:
    return ", ".join(f"{group.name} {group.ready} of {group.wanted}" for group in found.groups)


def _folder(name: str | None) -> Path:
    """The folder of the fleet that is meant; ends the program where that isn't clear."""
    root = control.root()
    if name is not None:
        return root / name
    running = control.names(root)
    if len(running) == 1:
        return root / running[0]
    said = f"several fleets run, name one: {', '.join(running)}" if running else "no fleet runs here"
    typer.echo(f"Error: {said}", err=True)
    raise typer.Exit(2 if running else 1)


def _ask(folder: Path, wish: control.Wish) -> Status:
    try:
        return control.ask(folder, wish)
    except control.NotRunning as error:
        typer.echo(f"Error: {error}", err=True)
        raise typer.Exit(1) from None
