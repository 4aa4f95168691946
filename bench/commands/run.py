"""slosbench run: one scenario at one rate on one system, in virtual time or over real HTTP.

slosbench run --scenario coder --system vllm --rate 2
slosbench run --scenario coder --system slosgate-ar --rate 4 --replicas 2 --mode live --json result.json
slosbench run --scenario chatbot --system mine --rate 3 --mode live --url http://localhost:8000 --api-key-env KEY
slosbench run --scenario coder --system my_module:MyPolicy --rate 2 --csv result.csv
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from slosgate.bench import running
from slosgate.bench.errors import choose, positive
from slosgate.engines.options import taking
from slosgate.engines.sim import systems

MODES = ("sim", "live")


@dataclass(frozen=True, slots=True)
class RunOptions:
    """The options of `slosbench run`."""

    scenario: Annotated[str, typer.Option(help="What is offered: a scenario's name, or a .toml file with one.")]
    system: Annotated[
        str,
        typer.Option(help="What serves it: a name, or module:Name for a policy of your own; with --url only a label."),
    ]
    rate: Annotated[float, typer.Option(help="Requests per second over all replicas.")]
    replicas: Annotated[int, typer.Option(help="Replicas.")] = 1
    hardware: Annotated[
        str, typer.Option(help="Hardware profile: a name or a .json file; by default the scenario's own.")
    ] = ""
    mode: Annotated[str, typer.Option(help="sim: virtual time. live: real HTTP.")] = "sim"
    seconds: Annotated[float | None, typer.Option(help="How long requests arrive; by default the slice once.")] = None
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0
    json: Annotated[Path | None, typer.Option(help="Result file to write.")] = None
    csv: Annotated[Path | None, typer.Option(help="Table of the result to write.")] = None
    url: Annotated[str, typer.Option(help="live: an OpenAI-compatible server that runs already.")] = ""
    api_key_env: Annotated[str, typer.Option(help="live: environment variable with the API key for --url.")] = ""
    scaling: Annotated[str, typer.Option(help="stretch, thin, superpose or resample the trace.")] = "stretch"
    acceptance: Annotated[float, typer.Option(help="sim: chance that a drafted token is accepted.")] = 0.7


@taking(RunOptions)
def run(options: RunOptions) -> None:
    """Offer a scenario's requests to a system and count those that attain their SLOs."""
    positive("--rate", options.rate)
    positive("--replicas", options.replicas)
    if options.seconds is not None:
        positive("--seconds", options.seconds)
    choose("mode", options.mode, MODES)
    asked = {**asdict(options), "system": systems.canonical(options.system)}
    json, csv = asked.pop("json"), asked.pop("csv")
    running.run(running.Experiment(**asked), Console(), json, csv)
