"""`slosgate engine sim`: a replica to try things on.

slosgate engine sim --hardware h200-opt-13b --port 8001 --redis redis://127.0.0.1:6379/0
slosgate engine sim --policy vllm --port 8002 --profile ./derived.json
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

from slosgate.engines import addresses, profiles
from slosgate.engines.options import listening_port, registered_url, taking
from slosgate.engines.secrets import REDIS
from slosgate.engines.sim import policies
from slosgate.engines.sim.server import ServerConfig, serve
from slosgate.engines.store import without_password
from slosgate.planner.profile import HardwareProfile


@dataclass(frozen=True, slots=True)
class SimOptions:
    """The options of `slosgate engine sim`."""

    hardware: Annotated[
        str, typer.Option("--hardware", "--profile", help="Hardware profile, by name or file: how fast it is.")
    ] = "h200-opt-13b"
    model: Annotated[str, typer.Option(help="Name of the model it serves; the profile's by default.")] = ""
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1"
    port: Annotated[int, typer.Option(help="Port to listen on; 0 takes a free one.", min=0, max=65535)] = 0
    url: Annotated[
        str | None, typer.Option(help="Where gateways reach it; by default HOST, or this machine's address.")
    ] = None
    policy: Annotated[str, typer.Option(help="Scheduler: sarathi, slosgate, vllm or vllm-v0.")] = "slosgate"
    redis: Annotated[
        str | None, typer.Option(help="Redis to register in; without it the server stands alone.", envvar=REDIS)
    ] = None
    name: Annotated[str, typer.Option(help="Name of the replica; this machine's and the port by default.")] = ""
    seed: Annotated[int, typer.Option(help="Seed of output lengths, noise and draft verdicts.")] = 0
    noise: Annotated[float, typer.Option(help="Relative deviation of iteration times.", min=0, max=0.5)] = 0.0
    acceptance: Annotated[
        float, typer.Option(help="Chance that a drafted token is accepted; 0: there is no draft model.", min=0, max=1)
    ] = 0.0
    thinking: Annotated[
        float, typer.Option(help="Share of a chat's answer that is thinking; 0: the model doesn't think.", min=0, max=1)
    ] = 0.0
    speed: Annotated[float, typer.Option(help="Run iterations this many times as fast.", min=0.01, max=1000)] = 1.0
    slowdown: Annotated[
        float, typer.Option(help="Take this many times as long as the profile says.", min=0.1, max=10)
    ] = 1.0
    drain_s: Annotated[float, typer.Option(help="How long what runs at a signal to stop may go on.", min=0)] = 60.0


@taking(SimOptions)
def sim(options: SimOptions) -> None:
    """Serve the OpenAI API with a simulated replica, in real time."""
    port = listening_port(options.host, options.port)
    url = registered_url(options.host, port, options.url, options.redis)
    config = ServerConfig(
        profile=_profile(options.hardware),
        model=options.model,
        host=options.host,
        port=port,
        policy=_policy(options.policy),
        name=options.name,
        redis=options.redis,
        url=url,
        seed=options.seed,
        noise=options.noise,
        acceptance=options.acceptance,
        thinking=options.thinking,
        speed=options.speed,
        slowdown=options.slowdown,
        drain_s=options.drain_s,
    )
    serve(config, lambda: typer.echo(_greeting(config, url)))


def _greeting(config: ServerConfig, url: str) -> str:
    """What it serves, where, and who is told of it."""
    model, name = config.model or config.profile.model, config.name or addresses.default_name(config.port)
    state = f"registers in {without_password(config.redis)}" if config.redis else "stands alone"
    return f"slosgate: {model} on simulated {config.profile.name} at {url}; replica {name} {state}"


def _profile(name: str) -> HardwareProfile:
    try:
        return profiles.load(name)
    except profiles.UnknownProfile as error:
        raise typer.BadParameter(str(error), param_hint="--hardware") from None


def _policy(name: str) -> str:
    try:
        policies.load(name)
    except policies.UnknownPolicy as error:
        raise typer.BadParameter(str(error), param_hint="--policy") from None
    return name
