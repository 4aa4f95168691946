"""A run from what is asked to its result: what `slosbench run` and the demo share."""

from __future__ import annotations

import asyncio
import dataclasses
import math
import os
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from slosgate.bench import failures, goodput, requests, results, scenarios, stack, tuning, virtual
from slosgate.bench.attainment import RequestOutcome, collect
from slosgate.bench.classes import named
from slosgate.bench.errors import InputError, RunError
from slosgate.bench.hardware import hardware_profile
from slosgate.bench.live import LiveRun, Loop, Target, model_at, replay, replay_closed
from slosgate.bench.load import GENERATED, Load, offer
from slosgate.bench.results import Result, Row
from slosgate.bench.show import plain_table
from slosgate.bench.summary import prompts, summarize
from slosgate.engines.sim.cluster import Users
from slosgate.engines.sim.systems import Settings
from slosgate.planner.profile import HardwareProfile

RATE_OFF = 0.1  # of the asked rate, by which the offered one may differ without a word


@dataclass(frozen=True, slots=True)
class Experiment:
    """One run. `hardware` empty: the scenario's own; `seconds` None: its slice once."""

    scenario: str
    system: str
    rate: float | None  # requests per second; None in a closed loop
    replicas: int = 1
    hardware: str = ""
    mode: str = "sim"
    seconds: float | None = None
    seed: int = 0
    url: str = ""
    api_key_env: str = ""  # live: the environment variable with the API key
    slo_class: str = ""  # live: what the classes are called at `url`, as `classes.named` reads it
    scaling: str = "stretch"
    acceptance: float = 0.7
    concurrency: int | None = None  # users of a closed loop
    think_time: float = 0.0  # s, from the end of a user's request to the next one
    goodput: tuple[str, ...] = ()  # as vllm bench spells it
    drain_s: float = virtual.DRAIN_S  # live: how long after the last arrival answers are waited for


@dataclass(frozen=True, slots=True)
class Outputs:
    """Files to write, where they are asked for."""

    json: Path | None = None
    csv: Path | None = None  # the result's rows
    requests: Path | None = None  # a row for each call, as CSV or Parquet


NOTHING = Outputs()


@dataclass(frozen=True, slots=True)
class Measured:
    """What was offered, what became of it, and the row that says it."""

    load: Load
    outcomes: list[RequestOutcome]
    row: Row


def run(experiment: Experiment, console: Console, outputs: Outputs = NOTHING) -> Result:
    """Run once, show the table, write what is asked for. Raises InputError, and RunError when every request failed."""
    limits = goodput.goodput(experiment.goodput)
    if outputs.requests is not None:
        requests.check(outputs.requests)
    results.check(outputs.json, outputs.csv, outputs.requests)
    load, profile = prepare(experiment)
    announce(load, console, experiment)
    if experiment.rate is not None and (off := rate_problem(load, experiment.rate)):
        console.print(f"[bold yellow]RATE[/]: {off}")
    result = results.begin("run", dataclasses.asdict(experiment), seed=experiment.seed, hardware=profile.name)
    measured = serve(experiment, load, profile, console)
    result.rows.append(measured.row)
    console.print(table(result.rows))
    if limits:
        console.print(goodput_said(measured.row), highlight=False)
    results.keep(result, console, outputs.json, outputs.csv)
    if outputs.requests is not None:
        rows = requests.rows(experiment.scenario, measured.load.requests, measured.outcomes, limits)
        requests.write(rows, outputs.requests)
        console.print(f"wrote {outputs.requests}")
    failures.check(measured.row)
    return result


def goodput_said(row: Row) -> str:
    """What `--goodput` asked for and gave, in words."""
    limits = ", ".join(f"{name} {value:g} ms" for name, value in row["goodput_slo_ms"].items())
    return (
        f"goodput as vllm bench counts it ({limits}): {row['request_goodput']:.3g} requests/s, "
        f"{row['good']} of {row['offered']}"
    )


def prepare(experiment: Experiment) -> tuple[Load, HardwareProfile]:
    """The load and the hardware of a run. Raises InputError for anything unknown."""
    scenario = scenarios.load(experiment.scenario)
    if not experiment.url:
        tuning.check(experiment.system)
    profile = hardware_profile(experiment.hardware or scenario.hardware)
    load = offer(
        scenario,
        profile,
        experiment.rate,
        seed=experiment.seed,
        seconds=None if _closed(experiment) else experiment.seconds,
        scaling=experiment.scaling,
    )
    if not load.requests:
        at = f" at {experiment.rate:g} requests/s" if experiment.rate else ""
        raise InputError(f"no request arrives within {load.seconds:g} s{at}: ask for more")
    return load, profile


def announce(load: Load, console: Console, experiment: Experiment) -> None:
    """Say where the load comes from, loudly when it is not a real trace."""
    if experiment.concurrency is not None:
        many = f"for {experiment.seconds:g} s" if experiment.seconds else f"{len(load.requests)} requests"
        think = f" with {experiment.think_time:g} s between" if experiment.think_time else ""
        console.print(f"{experiment.concurrency} users, {many}{think}, from {load.trace_source}")
    else:
        rate_rps = len(load.requests) / load.seconds
        console.print(
            f"{len(load.requests)} requests over {load.seconds:.0f} s ({rate_rps:.3g}/s) from {load.trace_source}"
        )
    for sentence in load.left_out:
        console.print(sentence, style="yellow", markup=False, highlight=False)
    if load.generated:
        console.print(GENERATED, style="bold yellow")


def rate_problem(load: Load, asked_rps: float) -> str:
    """How far the load is from the rate that was asked for; empty when that is near. A short run holds but a part of
    the trace, and what outgrows a window is dropped."""
    offered_rps = len(load.requests) / load.seconds
    if abs(offered_rps / asked_rps - 1) <= RATE_OFF:
        return ""
    return f"{offered_rps:.3g} requests/s arrive instead of {asked_rps:g}; a longer --seconds comes closer"


def measure(experiment: Experiment, load: Load, profile: HardwareProfile, console: Console) -> Row:
    """Serve the load; the row that says what came of it. Raises RunError when every request failed."""
    row = serve(experiment, load, profile, console).row
    failures.check(row)
    return row


def serve(experiment: Experiment, load: Load, profile: HardwareProfile, console: Console) -> Measured:
    """Serve the load in virtual time, or over HTTP."""
    if experiment.mode == "sim":
        load, outcomes, more = _virtual(experiment, load, profile, console)
    else:
        load, live = asyncio.run(_live(experiment, load, console))
        outcomes = live.outcomes
        more = ({} if experiment.concurrency else live.schedule()) | prompts(outcomes) | failures.counted(outcomes)
    if not outcomes:
        raise RunError("no request was sent: ask for more --seconds")
    served, limits = collect(outcomes), goodput.goodput(experiment.goodput)
    summary = summarize(served, load.seconds)
    row = {
        "scenario": experiment.scenario,
        "system": experiment.system,
        "rate_rps": summary["offered_rps"] if experiment.rate is None else experiment.rate,
        "hardware": profile.name,
        "replicas": experiment.replicas,
        "mode": experiment.mode,
        "seed": experiment.seed,
        "trace_source": load.trace_source,
        **_loop_said(experiment),
        **summary,
        **(goodput.goodput_row(served, limits) if limits else {}),
        **more,
        **load.counted,
        "load": load.record,
    }
    if said := failures.said(row):
        console.print(said, style="bold yellow", markup=False, highlight=False)
    return Measured(load, outcomes, row)


def _loop_said(experiment: Experiment) -> Row:
    if experiment.concurrency is None:
        return {}
    return {"concurrency": experiment.concurrency, "think_time_s": experiment.think_time}


def _closed(experiment: Experiment) -> bool:
    return experiment.concurrency is not None


def _virtual(
    experiment: Experiment, load: Load, profile: HardwareProfile, console: Console
) -> tuple[Load, list[RequestOutcome], Row]:
    replicas, tuned = tuning.settings(experiment.system, experiment.replicas)[0]
    settings = Settings(profile, replicas, experiment.seed, **dataclasses.asdict(tuned))
    with console.status(f"{experiment.system} in virtual time"):
        if experiment.concurrency is None:
            served = virtual.simulate(load, experiment.system, settings, acceptance=experiment.acceptance)
        else:
            users = Users(experiment.concurrency, experiment.think_time, experiment.seconds or math.inf)
            load, served = virtual.closed(load, experiment.system, settings, users, acceptance=experiment.acceptance)
    return load, served.outcomes, {"replica_totals": served.replicas}


async def _live(experiment: Experiment, load: Load, console: Console) -> tuple[Load, LiveRun]:
    """Replay over HTTP, against a server that runs or one that is started for it."""
    if experiment.url:
        url, key = experiment.url.rstrip("/").removesuffix("/v1"), _api_key(experiment.api_key_env)
        classes = named(experiment.slo_class, tuple(scenarios.load(experiment.scenario).classes))
        target = Target((url,), await model_at(url, key), api_key=key, classes=classes)
        return await _replay(experiment, load, target, console)
    with console.status(f"starting {experiment.system}"):
        deployment = stack.Deployment(
            system=experiment.system,
            hardware=experiment.hardware or scenarios.load(experiment.scenario).hardware,
            replicas=experiment.replicas,
            classes=tuple(sorted({r.slo_class for r in load.requests})),
            seed=experiment.seed,
        )
        running = stack.start(deployment)
    with running as target:
        return await _replay(experiment, load, target, console)


def _api_key(variable: str) -> str:
    """The API key in an environment variable; "" without one named."""
    if variable and not os.environ.get(variable):
        raise InputError(f"--api-key-env names {variable!r}, which is not set: put the API key into it")
    return os.environ[variable] if variable else ""


async def _replay(experiment: Experiment, load: Load, target: Target, console: Console) -> tuple[Load, LiveRun]:
    known = experiment.concurrency is None or experiment.seconds is None
    with Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=console
    ) as progress:
        task = progress.add_task(experiment.system, total=len(load.requests) if known else None)

        told: set[str] = set()

        def on_done(outcome: RequestOutcome) -> None:
            progress.advance(task)
            if outcome.said and outcome.error not in told:  # at once: a long run may be in vain
                told.add(outcome.error)
                first = failures.in_words(outcome.error, outcome.said)
                console.print(f"a first request failed: {first}", style="yellow", markup=False, highlight=False)

        if experiment.concurrency is not None:
            loop = Loop(experiment.concurrency, experiment.think_time, experiment.seconds or math.inf)
            return await replay_closed(
                load, target, loop, seed=experiment.seed, drain_s=experiment.drain_s, on_done=on_done
            )
        live = await replay(load, target, seed=experiment.seed, drain_s=experiment.drain_s, on_done=on_done)
    said = live.schedule()
    console.print(
        f"schedule delay p50 {said['schedule_delay_p50_s'] * 1e3:.1f} ms, "
        f"p99 {said['schedule_delay_p99_s'] * 1e3:.1f} ms, {said['late_arrivals']} of {len(load.requests)} left late"
    )
    return load, live


def table(rows: list[Row]) -> Table:
    """Rows of runs, for people; it fits 80 columns."""
    shown = plain_table(
        (
            "system", "req/s", "offer-\ned", "attain-\ned", "95 % CI", "strict", "TTFT s\np50/p99",
            "TPOT ms\np50/p99",
        ),
        texts=1,
        caption="attained: of all offered, by the paper's rule; strict: every token in time",
    )  # fmt: skip
    for row in rows:
        shown.add_row(row["system"], f"{row['rate_rps']:.4g}", str(row["offered"]), *_cells(row))
        for each in row["classes"] if len(row["classes"]) > 1 else []:
            shown.add_row(f"  {each['slo_class']}", "", str(each["offered"]), *_cells(each), style="dim")
    return shown


def _cells(row: Row) -> list[str]:
    cells = [
        f"{row['attainment']:.1%}",
        f"{row['ci_low'] * 100:.1f}-{row['ci_high'] * 100:.1f}",
        f"{row['attainment_strict']:.1%}",
    ]
    if "ttft_p50_s" in row:
        tpot = [None if v is None else v * 1e3 for v in (row["tpot_p50_s"], row["tpot_p99_s"])]
        cells += [_pair(row["ttft_p50_s"], row["ttft_p99_s"]), _pair(*tpot)]
    return cells


def _pair(first: float | None, second: float | None) -> str:
    return "/".join("–" if v is None else f"{v:.2g}" if v < 100 else f"{v:.0f}" for v in (first, second))
