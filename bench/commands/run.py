"""slosbench run: one scenario at one rate on one system, in virtual time or over real HTTP.

slosbench run --scenario coder --system vllm --rate 2
slosbench run --scenario coder --system slosgate-ar --rate 4 --replicas 2 --mode live --json result.json
slosbench run --scenario chatbot --system mine --rate 3 --mode live --url http://localhost:8000 --api-key-env KEY
slosbench run --scenario chatbot --system mine --rate 3 --mode live --url http://localhost:8000 --slo-class interactive
slosbench run --scenario coder --system my_module:MyPolicy --rate 2 --csv result.csv
slosbench run --scenario coder --system slosgate --rate 2 --goodput ttft:400 tpot:50 --requests requests.parquet
slosbench run --scenario tool-calling --system slosgate --concurrency 8 --think-time 2 --seconds 120
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from slosgate.bench import running
from slosgate.bench.errors import InputError, choose, positive
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
    rate: Annotated[float | None, typer.Option(help="Requests per second over all replicas.")] = None
    concurrency: Annotated[
        int | None,
        typer.Option(help="Instead of --rate, users at a time: each sends its next request when the last has ended."),
    ] = None
    think_time: Annotated[float, typer.Option(help="Seconds between a user's requests, with --concurrency.")] = 0.0
    replicas: Annotated[int, typer.Option(help="Replicas.")] = 1
    hardware: Annotated[
        str, typer.Option(help="Hardware profile: a name or a .json file; by default the scenario's own.")
    ] = ""
    mode: Annotated[str, typer.Option(help="sim: virtual time. live: real HTTP.")] = "sim"
    seconds: Annotated[
        float | None, typer.Option(help="How long requests arrive; by default the scenario's slice once.")
    ] = None
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0
    json: Annotated[Path | None, typer.Option(help="Result file to write.")] = None
    csv: Annotated[Path | None, typer.Option(help="Table of the result to write.")] = None
    requests: Annotated[
        Path | None, typer.Option(help="Table of single requests to write: a .csv or .parquet file.")
    ] = None
    goodput: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY:MS...",
            help="Also count requests/s within these limits, as vllm bench serve does: ttft:400 tpot:50 e2el:9000.",
        ),
    ] = None
    url: Annotated[str, typer.Option(help="live: an OpenAI-compatible server that runs already.")] = ""
    api_key_env: Annotated[str, typer.Option(help="live: environment variable with the API key for --url.")] = ""
    slo_class: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="live: class to ask --url for instead of the scenario's: NAME, none, or CLASS=NAME,CLASS=NAME.",
        ),
    ] = ""
    scaling: Annotated[str, typer.Option(help="stretch, thin, superpose or resample the trace.")] = "stretch"
    acceptance: Annotated[float, typer.Option(help="sim: chance that a drafted token is accepted.")] = 0.7


@taking(RunOptions)
def run(options: RunOptions) -> None:
    """Offer a scenario's requests to a system and count those that attain their SLOs."""
    _check(options)
    asked = {**asdict(options), "system": systems.canonical(options.system), "goodput": tuple(options.goodput or ())}
    outputs = running.Outputs(*(asked.pop(name) for name in ("json", "csv", "requests")))
    running.run(running.Experiment(**asked), Console(), outputs)


def _check(options: RunOptions) -> None:
    """Raises InputError for what can't be, or makes no sense together."""
    if (options.rate is None) == (options.concurrency is None):
        raise InputError("give either --rate or --concurrency, not both and not neither")
    for name in ("rate", "concurrency", "replicas", "seconds"):
        value = getattr(options, name)
        if value is not None:
            positive(f"--{name}", value)
    if not 0 <= options.think_time < math.inf:
        raise InputError(f"--think-time must be 0 or more seconds, not {options.think_time:g}")
    if options.think_time and options.concurrency is None:
        raise InputError("--think-time belongs to --concurrency: with --rate requests arrive when the trace says")
    if not 0 <= options.acceptance <= 1:
        raise InputError(f"--acceptance must be between 0 and 1, not {options.acceptance:g}")
    choose("mode", options.mode, MODES)
    if options.mode != "live" and (options.url or options.api_key_env or options.slo_class):
        raise InputError("--url, --api-key-env and --slo-class belong to --mode live")
    if options.api_key_env and not options.url:
        raise InputError("--api-key-env belongs to --url: what is started for the run needs no key")
    if options.slo_class and not options.url:
        raise InputError("--slo-class belongs to --url: what is started for the run has the scenario's classes")
