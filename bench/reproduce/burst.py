"""A burst second by second: the coder scenario at one rate on each system, with TTFT over its SLO along the way.

While plain schedulers queue everything behind the burst, slosgate keeps the guarantees it gave and serves the rest as
best effort, so that its p99 of guaranteed requests stays near the SLO.
"""

from __future__ import annotations

from rich.console import Console

from slosgate.bench import results, running
from slosgate.bench.results import Result
from slosgate.bench.running import Experiment

SYSTEMS = ("vllm", "sarathi", "slosgate-ar", "slosgate")
HARDWARE = "h200-opt-13b"
RATE_RPS = 4.0  # vLLM itself was measured at this rate on a real H200: 80.3 % attained


def run(console: Console, seed: int) -> Result:
    experiments = [Experiment("coder", system, RATE_RPS, hardware=HARDWARE, seed=seed) for system in SYSTEMS]
    load, profile = running.prepare(experiments[0])
    running.announce(load, console, experiments[0])
    config = {"scenario": "coder", "rate": RATE_RPS, "systems": SYSTEMS}
    result = results.begin("reproduce burst", config, seed=seed, hardware=HARDWARE)
    result.rows += [running.measure(one, load, profile, console) for one in experiments]
    console.print(running.table(result.rows))
    return result
