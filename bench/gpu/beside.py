"""A GPU's results beside the simulation of the same load, with the profile that the replica made of itself.

    python -m slosgate.bench.gpu.beside out/gpu/slosgate.json
    python -m slosgate.bench.gpu.beside bench/results/h200-llama-8b.json --profile h200-llama-3.1-8b

Takes the rows that `bench.gpu.measure` wrote, makes their loads again and serves them in virtual time. Says of each how
far the simulation is off: in the share attained, the median TTFT and the guarantees kept. Rows of systems that are not
simulated are left out, and so are rows whose load can't be made again. Ends with 1 where a figure is off by more than
is accepted, with 2 for bad input or where nothing is left to compare.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich import box
from rich.console import Console
from rich.table import Table

from slosgate.bench import results, scenarios, virtual
from slosgate.bench.attainment import collect
from slosgate.bench.errors import InputError
from slosgate.bench.gpu.launches import KINDS
from slosgate.bench.gpu.loads import Offering, equal_parts
from slosgate.bench.hardware import hardware_profile
from slosgate.bench.load import Load
from slosgate.bench.results import Row
from slosgate.bench.summary import summarize
from slosgate.engines.sim.systems import Settings
from slosgate.engines.vllm.launch import GRAPH_TOKENS
from slosgate.planner.profile import HardwareProfile, Launches

SIMULATED = {"slosgate": "slosgate-ar", "vllm": "vllm"}  # what stands for a measured system
# How far the simulation may be off: attained and kept in shares of 1, the TTFT's median relative.
WITHIN = {"attained": 0.05, "ttft_p50": 0.10, "kept": 0.02}
FIGURES = {"attained": "attainment", "ttft_p50": "ttft_p50_s", "kept": "guaranteed_attainment"}  # and where they stand
WINDOW, CAP = 16384, 2048  # of measurements that don't tell theirs

app = typer.Typer(add_completion=False)


@app.command()
def beside(
    files: Annotated[list[Path], typer.Argument(help="Result files of bench.gpu.measure.")],
    profile: Annotated[str, typer.Option(help="For rows that don't tell their own: a profile's name or file.")] = "",
    slos_by: Annotated[str, typer.Option(help="Profile that slowdowns referred to; the scenario's by default.")] = "",
    seed: Annotated[int, typer.Option(help="Seed of the simulation.")] = 0,
    json: Annotated[Path | None, typer.Option(help="Result file to write.")] = None,
) -> None:
    """Simulate what was measured and say how far the two are apart."""
    try:
        result = _compare(files, profile, slos_by, seed, json)
    except InputError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(2) from None
    if not result.rows:
        raise typer.Exit(2)
    raise typer.Exit(0 if all(row["holds"] for row in result.rows) else 1)


def _compare(files: list[Path], profile: str, slos_by: str, seed: int, json: Path | None) -> results.Result:
    """All rows of the files; shown, and written where that is asked for. Raises InputError."""
    results.check(json)
    console = Console(width=150)
    given, slos = (hardware_profile(name) if name else None for name in (profile, slos_by))
    config = {"files": [str(file) for file in files], "profile": profile, "slos_by": slos_by, "within": WITHIN}
    result = results.begin("gpu-beside", config, seed=seed, hardware=given.name if given else "as measured")
    for file in files:
        measured = results.read(file)
        for row in measured.rows:
            try:
                result.rows += compared(row, given, slos, seed)
            except InputError as error:
                console.print(f"left out: {row['system']}, {row['scenario']} at {row['rate_rps']:g}: {error}")
    console.print(table(result.rows))
    results.keep(result, console, json)
    return result


def compared(row: Row, given: HardwareProfile | None, slos: HardwareProfile | None, seed: int) -> list[Row]:
    """One row for each figure. Raises InputError when the row can't be simulated."""
    if row["system"] not in SIMULATED:
        raise InputError(f"{row['system']} is not simulated; accepted: {', '.join(SIMULATED)}")
    window, cap = int(row.get("window", WINDOW)), int(row.get("cap", CAP))
    profile = msgspec.structs.replace(_profile(row, given), max_model_tokens=window)
    load = again(row, slos, window, cap)
    run = virtual.simulate(load, SIMULATED[row["system"]], Settings(profile, replicas=row["replicas"], seed=seed))
    simulated = summarize(collect(run.outcomes), load.seconds)
    told = ("system", "scenario", "rate_rps", "offered", "unfinished", "commit")
    which = {key: row[key] for key in told if key in row}
    return [
        which | _figure(name, row[key], simulated[key])
        for name, key in FIGURES.items()
        if row[key] is not None and simulated[key] is not None
    ]


def _profile(row: Row, given: HardwareProfile | None) -> HardwareProfile:
    """What the replica measured of itself, with the launches that were seen, or the profile that was given."""
    profile = msgspec.convert(row["profile"], HardwareProfile) if "profile" in row else given
    if profile is None:
        raise InputError("it doesn't tell the profile that was measured; name one with --profile")
    seen = {each["kind"]: each["launch_p75_ms"] / 1e3 for each in row.get("launches", ())}
    if seen.keys() < set(KINDS):
        return profile
    decodes_s, captured_s, beyond_s = (seen[kind] for kind in KINDS)
    captured_tokens = profile.launches.captured_tokens if profile.launches else GRAPH_TOKENS
    launches = Launches(
        decodes_s=decodes_s, captured_s=captured_s, beyond_s=beyond_s, captured_tokens=captured_tokens
    )  # fmt: skip
    return msgspec.structs.replace(profile, launches=launches)


def again(row: Row, slos: HardwareProfile | None, window: int, cap: int) -> Load:
    """The load of a measured row. Raises InputError when it is another one now."""
    scenario = _scenario_file(row["scenario"])
    seconds = row["load"]["parts"][0]["achieved"]["span_s"]
    offering = Offering(str(scenario), (row["rate_rps"],), seconds)
    reference = slos or hardware_profile(offering.loaded.hardware)
    reference = msgspec.structs.replace(reference, max_model_tokens=window - cap)
    load = equal_parts(offering, reference, row["rate_rps"], seed=row["load"]["parts"][0]["seed"], cap=cap)
    if len(load.requests) != row["offered"]:
        now = f"{len(load.requests)} requests now, of {load.trace_source}"
        raise InputError(f"its load has {now}, not the {row['offered']} that were offered")
    return load


def _scenario_file(name: str) -> str | Path:
    """The file of GPU measurements that holds the scenario, else its name."""
    folder = Path(__file__).parent
    return next((file for file in folder.glob("*.toml") if scenarios.load(str(file)).name == name), name)


def _figure(name: str, measured: float, simulated: float) -> Row:
    off = simulated / measured - 1 if name == "ttft_p50" else simulated - measured
    within = WITHIN[name]
    return {
        "figure": name, "measured": measured, "simulated": simulated, "off": round(off, 4), "within": within,
        "holds": abs(off) <= within,
    }  # fmt: skip


def table(rows: list[Row]) -> Table:
    """For people: a line for each figure."""
    shown = Table(box=box.SIMPLE_HEAD, padding=0, caption="off: simulated less measured, relative for the median TTFT")
    for head in ("system", "scenario", "req/s", "requests", "figure", "measured", "simulated", "off", "accepted"):
        shown.add_column(head, justify="left" if head in ("system", "scenario", "figure") else "right", no_wrap=True)
    for row in rows:
        shown.add_row(
            row["system"], row["scenario"], f"{row['rate_rps']:g}", str(row["offered"]), row["figure"],
            f"{row['measured']:.4g}", f"{row['simulated']:.4g}", f"{row['off']:+.1%}",
            f"{row['within']:.0%}" if row["holds"] else f"[bold red]{row['within']:.0%}[/]",
        )  # fmt: skip
    return shown


if __name__ == "__main__":
    app()
