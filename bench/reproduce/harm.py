"""Do no harm: slosgate beside each scenario's best-tuned baselines, on several kinds of hardware, at 90 and 99 %.

For each case the baselines' capacity is searched with every setting there is to tune, first without speculation, then
with it. slosgate then serves the highest load that the best of them sustains, on as many GPUs: first without
speculation, then with it. It does no harm where it sustains that load, too. DistServe, which needs several
GPUs, is a case of its own. A model whose context is shorter than a scenario's does not serve it; the scenario's own
hardware is measured in any case.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from itertools import chain, product

from rich.console import Console, Group
from rich.table import Table

from slosgate.bench import counts, results, scenarios, sweeps, tuning
from slosgate.bench.attainment import wilson
from slosgate.bench.capacity import STRIDE
from slosgate.bench.questions import Question
from slosgate.bench.reproduce.searches import SCENARIOS
from slosgate.bench.results import Result, Row
from slosgate.bench.show import by_place, plain_table
from slosgate.bench.sweeps import Best
from slosgate.bench.workers import Workers
from slosgate.engines import profiles

HARDWARE = ("a100-opt-13b", "h200-opt-13b", "h200-llama-3.1-8b")
TARGETS = (0.9, 0.99)
RIVALS = tuple(name for name in tuning.BASELINES if name != "distserve"), ("distserve",)  # on one GPU, on several
SEEDS = 1  # loads per rate: some 2,000 simulations as it is
START_RPS = 1.0  # where the first search of each case begins
PLAIN, SPECULATING = "slosgate-ar", "slosgate"


@dataclass(frozen=True, slots=True)
class Case:
    scenario: str
    hardware: str
    target: float


def run(console: Console, seed: int) -> Result:
    places = list(_places())
    config = {"hardware": HARDWARE, "attainment": TARGETS}
    hardware = ", ".join(dict.fromkeys(hardware for _, hardware in places))
    result = results.begin("reproduce harm", config, seed=seed, hardware=hardware)
    with Workers() as workers, ThreadPoolExecutor(workers.searches) as threads:
        cases = [
            threads.submit(_at_targets, *place, rivals, workers, lambda said: console.print(said, style="dim"))
            for place, rivals in product(places, RIVALS)
        ]
        rows = chain.from_iterable(case.result() for case in cases)
        result.rows = sorted(rows, key=lambda row: TARGETS.index(row["attainment_target"]))
    console.print(table(result.rows))
    held = sum(row["holds"] for row in result.rows)
    result.config |= {"held": held, "compared": len(result.rows)}
    console.print(
        f"slosgate is at least as good as the best-tuned baseline in {held} of {len(result.rows)} comparisons"
    )
    return result


def _places() -> Iterator[tuple[str, str]]:
    """Scenarios with the hardware whose model takes their longest requests."""
    for name in SCENARIOS:
        scenario = scenarios.load(name)
        longest = max(kind.window for kind in scenario.classes.values())
        for hardware in dict.fromkeys((*HARDWARE, scenario.hardware)):
            if profiles.load(hardware).max_model_tokens >= longest:
                yield name, hardware


def _at_targets(
    scenario: str, hardware: str, rivals: Sequence[str], workers: Workers, say: Callable[[str], None]
) -> list[Row]:
    """Two rows for each target: without speculation, and with it. What is best at one is tried first at the next."""
    plain = [Question(scenario, name, hardware, seeds=SEEDS) for name in rivals]
    drafting = [replace(one, system=one.system + tuning.SPECULATING) for one in plain]
    rows: list[Row] = []
    start_rps, stride = START_RPS, STRIDE
    likely = likely_drafting = None
    for target in TARGETS:
        case = Case(scenario, hardware, target)
        best = sweeps.best_of(plain, target, workers, start_rps, stride, likely=likely)
        best_of_all = sweeps.best_of(drafting, target, workers, start_rps, stride, best, likely_drafting)
        for one, system in ((best, PLAIN), (best_of_all, SPECULATING)):
            rows.append(_row(case, one, system, workers))
            say(_said(rows[-1]))
        likely, likely_drafting = best.question, best_of_all.question
        start_rps, stride = best.per_gpu_rps or START_RPS, sweeps.NEAR
    return rows


def _said(row: Row) -> str:
    return (
        f"{row['scenario']} on {row['hardware']} at {row['attainment_target']:.0%}: {row['baseline']} sustains "
        f"{row['baseline_rps_per_gpu']:.3g} req/s, there {row['system']} attains {row['attainment']:.1%}"
    )


def _row(case: Case, best: Best, system: str, workers: Workers) -> Row:
    """Our system at the capacity of the best baseline; where no baseline has any, nothing is asked of it."""
    rate_rps, gpus = best.capacity.rate_rps, best.question.replicas
    ours = Question(case.scenario, system, case.hardware, replicas=gpus, seeds=SEEDS)
    count = best.capacity.count
    if rate_rps:
        count = workers.submit(counts.count, ours, rate_rps, case.target, True).result()
    low, high = wilson(count.attained, count.offered)
    return {
        "scenario": case.scenario,
        "hardware": case.hardware,
        "attainment_target": case.target,
        "baseline": best.question.system,
        **asdict(best.question.tuning),
        "gpus": gpus,
        "baseline_rps_per_gpu": round(best.per_gpu_rps, 4),
        "baseline_attainment": round(best.capacity.count.attainment, 5),
        "system": system,
        "attainment": round(count.attainment, 5),
        "ci_low": round(low, 5),
        "ci_high": round(high, 5),
        "holds": not rate_rps or count.attainment >= case.target,
        **counts.source_of(ours),
    }


def table(rows: Sequence[Row]) -> Group:
    """The comparisons, for people; they fit 80 columns."""
    return by_place(rows, _comparisons)


def _comparisons(rows: Sequence[Row]) -> Table:
    heads = "scenario", "best baseline", "GPUs", "req/s\n/GPU", "system", "attains\nthere", ""
    shown = plain_table(heads, texts=len(heads))
    for row in rows:
        shown.add_row(
            row["scenario"],
            row["baseline"],
            str(row["gpus"]),
            f"{row['baseline_rps_per_gpu']:.3g}",
            row["system"],
            f"{row['attainment']:.1%}",
            "holds" if row["holds"] else "short",
        )
    return shown
