"""Measure real vLLM on a GPU: the same loads on stock `vllm serve`, on the plug-in alone and on slosgate as it ships.

    python -m slosgate.bench.gpu.measure vllm vllm-best plug-in slosgate --rates 8,12,16 --out out/gpu
    python -m slosgate.bench.gpu.measure slosgate --model opt-13b --scenario coder --rates 4,6 --out out/gpu

Systems are measured one after the other. Clients state a cap, and nothing but the engine's model knows how long an
answer gets (`lengths.py`); they ask for usage once, at the end; `/health` is probed all the while. No profile is given:
a replica of ours measures itself before it registers. A rate is shared equally by the scenario's classes.

Writes OUT/LABEL.json (a result file), OUT/LABEL-iterations-N.jsonl (what every iteration did and took), the servers'
logs, and prints one table at the end. Needs a machine with vLLM; weights are random.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import httpx
import msgspec
import typer
from rich import box
from rich.console import Console
from rich.table import Table

from slosgate.bench import results, scenarios
from slosgate.bench.attainment import collect
from slosgate.bench.errors import RunError, choose
from slosgate.bench.gpu import launches
from slosgate.bench.gpu.asking import Capped
from slosgate.bench.gpu.dummy_model import write_model
from slosgate.bench.gpu.silence import Silence, probed
from slosgate.bench.gpu.systems import MODELS, SYSTEMS, Servers
from slosgate.bench.live import Target, replay
from slosgate.bench.load import Load, offer
from slosgate.bench.results import Row
from slosgate.bench.summary import summarize
from slosgate.engines import profiles
from slosgate.engines.options import taking
from slosgate.engines.vllm import kept
from slosgate.engines.vllm.launch import GRAPH_TOKENS
from slosgate.planner.profile import HardwareProfile

SCENARIO = str(Path(__file__).with_name("coder-chatbot.toml"))
DRAIN_S = 12.0  # answers that take longer than this after the last arrival count as missed
LONE_PROMPTS = (64, 256, 1024, 2048, 4096, 7000)
LONE_TIMES = 5
CAPTURE = "--max-cudagraph-capture-size"

app = typer.Typer(add_completion=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What one run measures."""

    systems: Annotated[list[str], typer.Argument(help="vllm, vllm-best, plug-in, slosgate: one after the other.")]
    rates: Annotated[str, typer.Option(help="Requests per second, for each GPU; several with commas.")] = "8,12,16"
    model: Annotated[str, typer.Option(help=f"The model's shape: {', '.join(MODELS)}.")] = "llama-3.1-8b"
    scenario: Annotated[str, typer.Option(help="A scenario's name or file.")] = SCENARIO
    seconds: Annotated[float | None, typer.Option(help="Arrivals of a rate last so long at most.")] = 60.0
    cap: Annotated[int, typer.Option(help="max_tokens of every request.")] = 2048
    gpu: Annotated[int, typer.Option(help="First GPU to use.")] = 0
    replicas: Annotated[int, typer.Option(help="Replicas on GPUs of their own; without a gateway in turn.")] = 1
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0
    out: Annotated[Path, typer.Option(help="Folder for results and logs.")] = Path("out/gpu")
    option: Annotated[list[str] | None, typer.Option(help="A further option for `vllm serve`, NAME=VALUE.")] = None
    label: Annotated[str, typer.Option(help="Goes behind the systems' names in results.")] = ""
    minutes: Annotated[float, typer.Option(help="Nothing is started that would end later.")] = 8.8

    @property
    def rates_rps(self) -> tuple[float, ...]:
        """Ends the program where one is no number."""
        try:
            return tuple(float(rate) for rate in self.rates.split(","))
        except ValueError:
            raise typer.BadParameter("numbers with commas between them", param_hint="--rates") from None

    @property
    def engine_options(self) -> tuple[str, ...]:
        """Further arguments of `vllm serve`."""
        return tuple(part for each in self.option or [] for part in each.split("=", 1))

    @property
    def record(self) -> Row:
        """What stands of it in result files."""
        return {
            "model": self.model, "scenario": Path(self.scenario).name, "rates": self.rates_rps,
            "seconds": self.seconds, "cap": self.cap, "replicas": self.replicas, "seed": self.seed,
            "options": self.engine_options,
        }  # fmt: skip


@app.command()
@taking(Plan)
def measure(plan: Plan) -> None:
    """Start the systems in turn, offer each every load, write what became of the requests."""
    choose("model", plan.model, MODELS)
    plan.rates_rps  # noqa: B018
    for system in plan.systems:
        choose("system", system, SYSTEMS)
    plan.out.mkdir(parents=True, exist_ok=True)
    console = Console(width=128)
    ends_s = time.monotonic() + plan.minutes * 60
    rows: list[Row] = []
    failed = False
    folder = write_model(plan.model, plan.out / "model", words=True)
    for system in plan.systems:
        name = system + plan.label
        servers = Servers(SYSTEMS[system], name, folder, plan.model, plan.engine_options, plan.out, plan.gpu)
        try:
            rows += _measure(plan, servers, console, ends_s)
        except (RunError, httpx.HTTPError) as error:
            failed = True
            console.print(f"[bold red]{name} failed:[/] {error}", markup=True, highlight=False)
    console.print(table(rows))
    raise typer.Exit(int(failed))


def _measure(plan: Plan, servers: Servers, console: Console, ends_s: float) -> list[Row]:
    """One system at every rate; writes its result file after each."""
    config = {**plan.record, "system": servers.label, "engine_options": servers.engine_options}
    reference = _reference(plan)
    result = results.begin("gpu-measure", config, seed=plan.seed, hardware=reference.name)
    started_s = time.monotonic()
    with servers.serving(plan.replicas) as urls:
        begun_s = time.monotonic()
        console.print(f"{servers.label}: up after {begun_s - started_s:.0f} s")
        _tell_measured(servers, console)
        target = Target(
            tuple(urls), plan.model, slo_headers=servers.system.gateway,
            slo_args=servers.system.ours and not servers.system.gateway,
            asking=Capped(plan.cap, by_deadline=servers.system.by_deadline),
        )  # fmt: skip
        lone = _lone_prompts(urls[0], plan, reference if servers.system.ours else None)
        console.print(f"  zero-load TTFT, ms: {lone}")
        for rate in plan.rates_rps:
            load = equal_parts(plan, reference, rate * plan.replicas)
            if time.monotonic() + load.seconds + DRAIN_S > ends_s:
                console.print(f"no time left for {servers.label} at {rate:g}")
                continue
            row = _row(plan, servers, rate * plan.replicas, load, target)
            result.rows.append({**row, "start_s": round(begun_s - started_s, 1), "zero_load_ms": lone})
            results.write(result, servers.out / f"{servers.label}.json")
            console.print(table([row]))
    if servers.system.ours:
        _tell_launches(result, servers, plan, console)
    return result.rows


def _reference(plan: Plan) -> HardwareProfile:
    """What SLOs that are slowdowns refer to, with this run's window; a replica's own measurement, once there is one."""
    profile = profiles.load(scenarios.load(plan.scenario).hardware)
    return msgspec.structs.replace(profile, max_model_tokens=MODELS[plan.model].window - plan.cap)


def equal_parts(plan: Plan, profile: HardwareProfile, rate_rps: float) -> Load:
    """The scenario's load, every class at the same rate."""
    scenario = scenarios.load(plan.scenario)
    loads = [
        offer(
            msgspec.structs.replace(scenario, classes={name: kind}),
            profile,
            rate_rps / len(scenario.classes),
            seed=plan.seed,
            seconds=plan.seconds,
        )
        for name, kind in scenario.classes.items()
    ]
    seconds = min(load.seconds for load in loads)
    requests = sorted((r for load in loads for r in load.requests if r.arrival_s < seconds), key=lambda r: r.arrival_s)
    return Load(
        tuple(requests), seconds, ", ".join(load.trace_source for load in loads), {"parts": [x.record for x in loads]}
    )


def _row(plan: Plan, servers: Servers, rate: float, load: Load, target: Target) -> Row:
    """Offer one load and sum up what became of it."""
    with contextlib.ExitStack() as probing:
        silences = [probing.enter_context(probed(url)) for url in {*servers.engine_urls, *target.urls}]
        used_s = time.process_time()
        live = asyncio.run(replay(load, target, seed=plan.seed, drain_s=DRAIN_S))
        used_s = time.process_time() - used_s
    return {
        "scenario": scenarios.load(plan.scenario).name, "system": servers.label, "rate_rps": rate,
        "hardware": plan.model, "replicas": plan.replicas, "mode": "live", "seed": plan.seed,
        "trace_source": load.trace_source, "load": load.record, "client_cpu_s": round(used_s, 1),
        **_silence(silences), **summarize(collect(live.outcomes), load.seconds), **live.schedule(),
    }  # fmt: skip


def _silence(silences: list[Silence]) -> Row:
    return {
        "silent_longest_s": round(max(s.longest_s for s in silences), 3),
        "silent_over_250_ms": sum(s.over_250_ms for s in silences),
        "probes": sum(s.probes for s in silences),
    }


def _lone_prompts(url: str, plan: Plan, profile: HardwareProfile | None) -> dict[str, list[float]]:
    """Medians of lone requests, in ms; beside them what the replica's own profile predicts, if it has one."""
    found: dict[str, list[float]] = {}
    predicting = _measured_profile() if profile else None
    with httpx.Client(base_url=url, timeout=60.0, trust_env=False) as client:
        for n, tokens in enumerate(t for t in LONE_PROMPTS if t < MODELS[plan.model].window):
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


def _tell_measured(servers: Servers, console: Console) -> None:
    """Say and keep what the replicas measured of themselves."""
    if not servers.system.ours:
        return
    for n in range(len(servers.engine_urls)):
        for line in servers.said(n):
            console.print(f"  {line}", markup=False, highlight=False)
    for file in kept.folder().glob("*.json"):
        shutil.copy(file, servers.out / f"{servers.label}-profile-{file.name}")


def _tell_launches(result: results.Result, servers: Servers, plan: Plan, console: Console) -> None:
    """Launch times by kind of iteration, into the result and onto the screen."""
    options = servers.engine_options
    captured = int(options[options.index(CAPTURE) + 1]) if CAPTURE in options else GRAPH_TOKENS
    shown = Table(box=box.SIMPLE_HEAD, padding=0, title=f"launches of {servers.label}, ms")
    found: list[Row] = []
    for n in range(plan.replicas):
        log = servers.iteration_log(n)
        found += launches.summary(log, captured) if log.exists() else []
    for name in found[0] if found else ():
        shown.add_column(name.removesuffix("_ms").replace("_", " "), justify="right")
    for row in found:
        shown.add_row(*map(str, row.values()))
    console.print(shown)
    if result.rows:
        result.rows[-1]["launches"] = found
        results.write(result, servers.out / f"{servers.label}.json")


def table(rows: list[Row]) -> Table:
    """The points of all systems, for people."""
    shown = Table(box=box.SIMPLE_HEAD, padding=0, caption="attained: of all offered, by the paper's rule")
    heads = (
        "system", "req/s", "offered", "attained", "95 % CI", "coder", "chatbot", "kept", "of", "TTFT ms p50/p99",
        "TPOT ms p50/p99", "silent s", "errors",
    )  # fmt: skip
    for head in heads:
        shown.add_column(head, justify="left" if head == "system" else "right", no_wrap=True)
    for row in rows:
        classes = {each["slo_class"]: f"{each['attainment']:.1%}" for each in row["classes"]}
        kept_share = row["guaranteed_attainment"]
        shown.add_row(
            row["system"], f"{row['offered_rps']:.3g}", str(row["offered"]), f"{row['attainment']:.1%}",
            f"{row['ci_low'] * 100:.1f}-{row['ci_high'] * 100:.1f}", classes.get("coder", ""),
            classes.get("chatbot", ""), "" if kept_share is None else f"{kept_share:.1%}", str(row["guaranteed"]),
            _ms(row["ttft_p50_s"], row["ttft_p99_s"]), _ms(row["tpot_p50_s"], row["tpot_p99_s"]),
            f"{row['silent_longest_s']:.2f}", " ".join(f"{k}:{v}" for k, v in row["errors"].items()),
        )  # fmt: skip
    return shown


def _ms(*seconds: float | None) -> str:
    return "/".join("–" if each is None else f"{each * 1e3:.0f}" for each in seconds)


if __name__ == "__main__":
    app()
