"""The paper's headline: capacity of six scenarios on each system, and the gain over the best baseline.

The comparison is the paper's own: baselines without speculation, each at its best setting, against slosgate with it.
The paper reports a gain of 2.2 x over the best baseline, averaged over the scenarios.
"""

from __future__ import annotations

from rich.console import Console

from bench.reproduce.searches import SCENARIOS, capacity, geometric_mean, questions, searched
from bench.results import Result

TARGET = 0.9
BASELINES = ("vllm", "vllm-v0", "sarathi", "distserve")
OURS = "slos-serve"
PAPER_GAIN = 2.2


def run(console: Console, seed: int) -> Result:
    asked = questions(SCENARIOS, (*BASELINES, "slos-serve-ar", OURS))
    result = searched("headline", asked, TARGET, console, seed)
    gains = {}
    for scenario in SCENARIOS:
        best = max(capacity(result.rows, scenario=scenario, system=b) for b in BASELINES)
        gains[scenario] = capacity(result.rows, scenario=scenario, system=OURS) / best if best else 0.0
    for row in result.rows:
        if row["system"] == OURS:
            row["gain_over_best_baseline"] = round(gains[row["scenario"]], 3)
    mean = geometric_mean(list(gains.values()))
    result.config |= {"gains": gains, "geometric_mean_gain": round(mean, 3), "paper_gain": PAPER_GAIN}
    for scenario, gain in gains.items():
        console.print(f"{scenario}: {gain:.2f} x the best baseline")
    console.print(f"geometric mean: {mean:.2f} x (the paper: {PAPER_GAIN} x)")
    return result
