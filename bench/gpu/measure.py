"""Measure real vLLM on a GPU: the same loads on stock `vllm serve`, on the plug-in alone and on slosgate as it ships.

    python -m slosgate.bench.gpu.measure vllm vllm-best plug-in slosgate --rates 8,12,16 --out out/gpu
    python -m slosgate.bench.gpu.measure slosgate --model opt-13b --scenario coder --rates 4,6 --out out/gpu
    python -m slosgate.bench.gpu.measure vllm slosgate --load tool-calling=2,4@40 --load reasoning=1,2

    python -m slosgate.bench.gpu.measure vllm-router vllm-router-round-robin slosgate in-turn --replicas 2

Systems are measured one after the other. Clients state a cap, and nothing but the engine's model knows how long an
answer gets (`lengths.py`); they ask for usage once, at the end; `/health` is probed all the while. No profile is given:
a replica of ours measures itself before it registers. A rate is shared equally by the scenario's classes. Sessions go
on as in `slosbench run --mode live`, and rows say how much of their prompts was cached, by the engine's own usage.

A call that is repeated with the same --out measures only what is missing there, so that a table can be put together
from calls of limited length. Writes OUT/LABEL.json (a result file), OUT/LABEL-iterations-N.jsonl (what every iteration
did and took), the servers' logs, and prints one table at the end. Needs a machine with vLLM; weights are random.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import shutil
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import httpx
import msgspec
import typer
from rich import box
from rich.console import Console
from rich.table import Table

from slosgate.bench import failures, results
from slosgate.bench.attainment import collect
from slosgate.bench.errors import RunError, choose
from slosgate.bench.gpu import launches
from slosgate.bench.gpu.asking import Capped
from slosgate.bench.gpu.dummy_model import write_model
from slosgate.bench.gpu.hits import Expectations
from slosgate.bench.gpu.loads import Offering, equal_parts, read
from slosgate.bench.gpu.silence import Silence, probed
from slosgate.bench.gpu.systems import MODELS, SYSTEMS, Engines, Running, Setting, System, running
from slosgate.bench.live import Target, replay
from slosgate.bench.load import Load
from slosgate.bench.results import Row
from slosgate.bench.summary import prompts, summarize
from slosgate.engines import profiles
from slosgate.engines.options import taking
from slosgate.engines.vllm import kept
from slosgate.engines.vllm.launch import GRAPH_TOKENS
from slosgate.planner.profile import HardwareProfile

SCENARIO = str(Path(__file__).with_name("coder-chatbot.toml"))
LONE_PROMPTS = (64, 256, 1024, 2048, 4096, 7000)
LONE_TIMES = 5
CAPTURE = "--max-cudagraph-capture-size"

app = typer.Typer(add_completion=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What one run measures."""

    systems: Annotated[list[str], typer.Argument(help=f"{', '.join(SYSTEMS)}: one after the other.")]
    rates: Annotated[str, typer.Option(help="Requests per second, for each GPU; several with commas.")] = "8,12,16"
    model: Annotated[str, typer.Option(help=f"The model's shape: {', '.join(MODELS)}.")] = "llama-3.1-8b"
    scenario: Annotated[str, typer.Option(help="A scenario's name or file.")] = SCENARIO
    load: Annotated[
        list[str] | None,
        typer.Option(help="SCENARIO=RATE,RATE[@SECONDS], in place of --scenario and --rates; several are possible."),
    ] = None
    seconds: Annotated[float | None, typer.Option(help="Arrivals of a rate last so long at most.")] = 60.0
    drain: Annotated[
        float, typer.Option(help="Seconds; answers that take longer after the last arrival, pauses aside, are missed.")
    ] = 12.0
    cap: Annotated[int, typer.Option(help="max_tokens of every request.")] = 2048
    window: Annotated[int, typer.Option(help="The model's window in tokens; 0: as it is measured by default.")] = 0
    gpu: Annotated[int, typer.Option(help="First GPU to use.")] = 0
    replicas: Annotated[int, typer.Option(help="Replicas on GPUs of their own; without a gateway in turn.")] = 1
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0
    runs: Annotated[int, typer.Option(help="Runs of every load, each with the next seed.")] = 1
    out: Annotated[Path, typer.Option(help="Folder for results and logs.")] = Path("out/gpu")
    option: Annotated[list[str] | None, typer.Option(help="A further option for `vllm serve`, NAME=VALUE.")] = None
    label: Annotated[str, typer.Option(help="Goes behind the systems' names in results.")] = ""
    minutes: Annotated[float, typer.Option(help="Nothing is started that would end later.")] = 8.8

    @property
    def offerings(self) -> list[Offering]:
        """What is offered, in this order. Ends the program where that makes no sense."""
        return [read(text, self.seconds) for text in self.load or [f"{self.scenario}={self.rates}"]]

    @property
    def max_model_tokens(self) -> int:
        return self.window or MODELS[self.model].window

    @property
    def engine_options(self) -> tuple[str, ...]:
        """Further arguments of `vllm serve`."""
        return tuple(part for each in self.option or [] for part in each.split("=", 1))

    @property
    def record(self) -> Row:
        """What stands of it in result files."""
        return {
            "model": self.model, "loads": [(Path(o.scenario).name, o.rates_rps, o.seconds) for o in self.offerings],
            "drain": self.drain, "cap": self.cap, "window": self.max_model_tokens, "replicas": self.replicas,
            "seed": self.seed, "runs": self.runs, "options": self.engine_options,
        }  # fmt: skip


@app.command()
@taking(Plan)
def measure(plan: Plan) -> None:
    """Start the systems in turn, offer each every load, write what became of the requests.

    Systems that stand beside each other and have the same engines are measured on the same processes.
    """
    choose("model", plan.model, MODELS)
    for system in plan.systems:
        choose("system", system, SYSTEMS)
    plan.out.mkdir(parents=True, exist_ok=True)
    console = Console(width=180)
    ends_s = time.monotonic() + plan.minutes * 60
    setting = Setting(
        write_model(plan.model, plan.out / "model", words=True), plan.model, plan.max_model_tokens,
        sorted({name for offering in plan.offerings for name in offering.loaded.classes}), plan.engine_options,
        plan.out, plan.gpu, plan.replicas,
    )  # fmt: skip
    rows: list[Row] = []
    failed = False
    for engines, names in itertools.groupby(plan.systems, lambda name: SYSTEMS[name].engines):
        systems = list(names)
        try:
            for found in _on_engines(plan, engines, systems, setting, console, ends_s):
                rows += found
        except (RunError, httpx.HTTPError) as error:
            failed = True
            console.print(f"[bold red]{' '.join(systems)} failed:[/] {error}", markup=True, highlight=False)
    console.print(table(rows))
    raise typer.Exit(int(failed))


def _on_engines(
    plan: Plan, engines: Engines, systems: list[str], setting: Setting, console: Console, ends_s: float
) -> Iterator[list[Row]]:
    """The rows of systems that share engines, system by system."""
    started_s = time.monotonic()
    with running(engines, systems[0] + plan.label, setting) as found:
        start_s = time.monotonic() - started_s
        console.print(f"{found.label}: engines up after {start_s:.0f} s")
        _tell_measured(found, console)
        for name in systems:
            yield _measure(plan, Measured(name + plan.label, SYSTEMS[name], found, start_s), console, ends_s)


@dataclass(frozen=True, slots=True)
class Measured:
    """One system on engines that run."""

    label: str
    system: System
    running: Running
    start_s: float  # seconds that the engines took to start


def _measure(plan: Plan, measured: Measured, console: Console, ends_s: float) -> list[Row]:
    """One system at every point that its result file doesn't have yet; writes the file after each."""
    system, on = measured.system, measured.running
    file = plan.out / f"{measured.label}.json"
    result = _begun(plan, measured, file)
    done = {(row["scenario"], row["rate_rps"], row["seed"]) for row in result.rows}
    points = [point for point in _points(plan) if (point.scenario, point.rate_rps, point.seed) not in done]
    if not points:
        return result.rows
    with on.fronted(system, measured.label) as urls:
        target = Target(
            tuple(urls), plan.model, slo_headers=system.gateway,
            slo_args=system.engines.ours and not system.gateway,
            asking=Capped(plan.cap, by_deadline=system.by_deadline),
        )  # fmt: skip
        lone = _lone_prompts(urls[0], plan, ours=system.engines.ours)
        console.print(f"{measured.label}: zero-load TTFT, ms: {lone}")
        told = {
            "start_s": round(measured.start_s, 1), "zero_load_ms": lone,
            **_for_the_simulation(plan, ours=system.engines.ours),
        }  # fmt: skip
        for point in points:
            if time.monotonic() + point.load.seconds + plan.drain > ends_s:
                console.print(f"no time left for {measured.label} with {point.scenario} at {point.rate_rps:g}")
                continue
            row = told | _row(plan, measured, point, target)
            result.rows.append(row)
            results.write(result, file)
            console.print(table([row]))
    if system.engines.ours and result.rows:
        result.rows[-1]["launches"] = _launches(on, console)
        results.write(result, file)
    return result.rows


def _begun(plan: Plan, measured: Measured, file: Path) -> results.Result:
    """A result without rows, or the one that an earlier call with the same options left in its folder."""
    options = measured.running.setting.engine_options(measured.running.engines)
    config = {**plan.record, "system": measured.label, "engine_options": options}
    hardware = _reference(plan, plan.offerings[0]).name
    new = results.begin("gpu-measure", config, seed=plan.seed, hardware=hardware)
    if not file.exists():
        return new
    old = results.read(file)
    same = old.commit == new.commit and _but_loads(old.config) == _but_loads(config)
    return old if same else new


def _but_loads(config: Row) -> Row:
    """As JSON has it: what was offered may grow from call to call."""
    plain: Row = msgspec.to_builtins(config)
    return {name: value for name, value in plain.items() if name not in ("loads", "runs")}


@dataclass(frozen=True, slots=True)
class Point:
    """One load, over all replicas."""

    scenario: str
    rate_rps: float
    seed: int
    load: Load


def _points(plan: Plan) -> Iterator[Point]:
    """The loads of one system, by run, scenario and rate: when time runs out, every load has been offered once."""
    for seed in range(plan.seed, plan.seed + plan.runs):
        for offering in plan.offerings:
            reference = _reference(plan, offering)
            for rate_rps in (rate * plan.replicas for rate in offering.rates_rps):
                load = equal_parts(offering, reference, rate_rps, seed=seed, cap=plan.cap)
                yield Point(offering.loaded.name, rate_rps, seed, load)


def _reference(plan: Plan, offering: Offering) -> HardwareProfile:
    """What SLOs that are slowdowns refer to, with this run's window."""
    profile = profiles.load(offering.loaded.hardware)
    return msgspec.structs.replace(profile, max_model_tokens=plan.max_model_tokens - plan.cap)


def _row(plan: Plan, measured: Measured, point: Point, target: Target) -> Row:
    """Offer one load and sum up what became of it."""
    load, log = point.load, measured.running.gateway_log(measured.label)
    expected = Expectations(log) if measured.system.gateway else None
    with contextlib.ExitStack() as probing:
        silences = [probing.enter_context(probed(url)) for url in {*measured.running.setting.urls, *target.urls}]
        used_s = time.process_time()
        live = asyncio.run(replay(load, target, seed=point.seed, drain_s=plan.drain))
        used_s = time.process_time() - used_s
    return {
        "scenario": point.scenario, "rate_rps": point.rate_rps, "seed": point.seed,
        "system": measured.label, "hardware": plan.model, "replicas": plan.replicas, "mode": "live",
        "trace_source": load.trace_source, "load": load.record, "client_cpu_s": round(used_s, 1),
        **_silence(silences), **summarize(collect(live.outcomes), load.seconds), **live.schedule(),
        **prompts(live.outcomes), **failures.counted(live.outcomes), **(expected.row() if expected else {}),
    }  # fmt: skip


def _silence(silences: list[Silence]) -> Row:
    return {
        "silent_longest_s": round(max(s.longest_s for s in silences), 3),
        "silent_over_250_ms": sum(s.over_250_ms for s in silences),
        "probes": sum(s.probes for s in silences),
    }


def _lone_prompts(url: str, plan: Plan, *, ours: bool) -> dict[str, list[float]]:
    """Medians of lone requests, in ms; beside them what the replica's own profile predicts, if it has one."""
    found: dict[str, list[float]] = {}
    predicting = _measured_profile() if ours else None
    with httpx.Client(base_url=url, timeout=60.0, trust_env=False) as client:
        for n, tokens in enumerate(t for t in LONE_PROMPTS if t < plan.max_model_tokens):
            took_s = []
            for again in range(LONE_TIMES + 1):
                prompt = [3000 + (7919 * (n * LONE_TIMES + again) + 31 * i) % 20_000 for i in range(tokens)]
                body = {"model": plan.model, "prompt": prompt, "max_tokens": 1, "ignore_eos": True}
                begun_s = time.perf_counter()
                client.post("/v1/completions", json=body).raise_for_status()
                took_s.append(time.perf_counter() - begun_s)
            found[str(tokens)] = [round(statistics.median(took_s[1:]) * 1e3, 1)]
            if predicting is not None:
                found[str(tokens)].append(round(predicting.zero_load_ttft_s(tokens) * 1e3, 1))
    return found


def _measured_profile() -> HardwareProfile | None:
    """What a replica on this machine measured of itself last."""
    files = sorted(kept.folder().glob("*.json"), key=lambda file: file.stat().st_mtime)
    return profiles.load(str(files[-1])) if files else None


def _for_the_simulation(plan: Plan, *, ours: bool) -> Row:
    """What `bench.gpu.beside` must know of a row to simulate it."""
    known: Row = {"window": plan.max_model_tokens, "cap": plan.cap}
    profile = _measured_profile() if ours else None
    return known | ({"profile": msgspec.to_builtins(profile)} if profile else {})


def _tell_measured(running: Running, console: Console) -> None:
    """Say and keep what the replicas measured of themselves."""
    if not running.engines.ours:
        return
    for n in range(running.setting.replicas):
        for line in running.said(n):
            console.print(f"  {line}", markup=False, highlight=False)
    for file in kept.folder().glob("*.json"):
        shutil.copy(file, running.setting.out / f"{running.label}-profile-{file.name}")


def _launches(running: Running, console: Console) -> list[Row]:
    """Launch times by kind of iteration since the engines started, also onto the screen."""
    options = running.setting.engine_options(running.engines)
    captured = int(options[options.index(CAPTURE) + 1]) if CAPTURE in options else GRAPH_TOKENS
    shown = Table(box=box.SIMPLE_HEAD, padding=0, title=f"launches of {running.label}, ms")
    found: list[Row] = []
    for n in range(running.setting.replicas):
        log = running.iteration_log(n)
        found += launches.summary(log, captured) if log.exists() else []
    for name in found[0] if found else ():
        shown.add_column(name.removesuffix("_ms").replace("_", " "), justify="right")
    for row in found:
        shown.add_row(*map(str, row.values()))
    console.print(shown)
    return found


def table(rows: list[Row]) -> Table:
    """The points of all systems, for people."""
    shown = Table(box=box.SIMPLE_HEAD, padding=0, caption="attained: of all offered, by the paper's rule")
    heads = (
        "system", "scenario", "req/s", "offered", "attained", "95 % CI", "by class", "kept", "of",
        "TTFT ms p50/p95/p99", "TPOT ms p50/p99", "cached", "likely", "twice", "silent s", "errors",
    )  # fmt: skip
    for head in heads:
        shown.add_column(head, justify="left" if head in ("system", "scenario") else "right", no_wrap=True)
    for row in rows:
        classes = [f"{each['slo_class']} {each['attainment']:.1%}" for each in row["classes"]]
        kept_share = row["guaranteed_attainment"]
        shown.add_row(
            row["system"], row["scenario"], f"{row['offered_rps']:.3g}", str(row["offered"]),
            f"{row['attainment']:.1%}", f"{row['ci_low'] * 100:.1f}-{row['ci_high'] * 100:.1f}",
            " ".join(classes) if len(classes) > 1 else "", "" if kept_share is None else f"{kept_share:.1%}",
            str(row["guaranteed"]), _ms(row["ttft_p50_s"], row["ttft_p95_s"], row["ttft_p99_s"]),
            _ms(row["tpot_p50_s"], row["tpot_p99_s"]), _share(row, "cached_tokens", "prompt_tokens"),
            _share(row, "likely_cached_tokens", "told_prompt_tokens"),
            f"{row['computed_twice']:.1%}" if "computed_twice" in row else "", f"{row['silent_longest_s']:.2f}",
            " ".join(f"{k}:{v}" for k, v in row["errors"].items()),
        )  # fmt: skip
    return shown


def _share(row: Row, part: str, whole: str) -> str:
    return f"{row[part] / row[whole]:.1%}" if row.get(whole) else ""


def _ms(*seconds: float | None) -> str:
    return "/".join("–" if each is None else f"{each * 1e3:.0f}" for each in seconds)


if __name__ == "__main__":
    app()
