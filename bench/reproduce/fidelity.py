"""Fidelity: simulated vLLM beside the real one on an H200, from an idle replica to well above its capacity.

What was measured on 2026-11-22 with vLLM 0.25.1 and OPT-13B's shape: the zero-load TTFT over HTTP, and the share of
requests that attained their SLOs over the whole slices of the Azure traces, of those that fit 2,000 tokens.
"""

from __future__ import annotations

import msgspec
from rich.console import Console

from slosgate.bench import results, scenarios, virtual
from slosgate.bench.attainment import PAPER, attained, collect
from slosgate.bench.load import Load, offer
from slosgate.bench.results import Result, Row
from slosgate.engines import profiles
from slosgate.engines.sim.systems import Call, Offered, Settings
from slosgate.planner.profile import HardwareProfile

HARDWARE = "h200-opt-13b"
SYSTEM = "vllm"
WINDOW = 2000
TTFT_MS = {64: 14.4, 256: 18.6, 512: 28.0, 1024: 48.7, 1536: 68.9, 1990: 85.1}  # by prompt tokens
ATTAINED = {("coder", 2.5): 0.900, ("coder", 4.0): 0.803, ("chatbot", 6.0): 0.937}  # by scenario and requests/s
TTFT_WITHIN, ATTAINED_WITHIN = 0.05, 0.05


def run(console: Console, seed: int) -> Result:
    profile = profiles.load(HARDWARE)
    config = {"system": SYSTEM, "window": WINDOW, "ttft_within": TTFT_WITHIN, "attained_within": ATTAINED_WITHIN}
    result = results.begin("reproduce fidelity", config, seed=seed, hardware=HARDWARE)
    result.rows = [_zero_load(tokens, measured_ms, profile) for tokens, measured_ms in TTFT_MS.items()]
    result.rows += [_attained(*load, measured, profile, seed) for load, measured in ATTAINED.items()]
    for row in result.rows:
        console.print(
            f"{row['figure']}: measured {row['measured']:g}, simulated {row['simulated']:g} "
            f"({row['off']:+.1%}, {'within' if row['holds'] else 'beyond'} {row['within']:.0%})"
        )
    return result


def _zero_load(prompt_tokens: int, measured_ms: float, profile: HardwareProfile) -> Row:
    alone = Load((Offered(0.0, (Call(prompt_tokens, output_tokens=1),)),), seconds=1.0, trace_source="one request")
    ttft_ms = 1e3 * collect(virtual.simulate(alone, SYSTEM, Settings(profile)).outcomes).token_s[0]
    figure = f"zero-load TTFT of {prompt_tokens} tokens, ms"
    return _row(figure, measured_ms, round(float(ttft_ms), 2), ttft_ms / measured_ms - 1, TTFT_WITHIN)


def _attained(scenario: str, rate_rps: float, measured: float, profile: HardwareProfile, seed: int) -> Row:
    loaded = scenarios.load(scenario)
    classes = {name: msgspec.structs.replace(kind, window=WINDOW) for name, kind in loaded.classes.items()}
    load = offer(msgspec.structs.replace(loaded, classes=classes), profile, rate_rps, seed=seed)
    share = float(attained(collect(virtual.simulate(load, SYSTEM, Settings(profile)).outcomes), PAPER).mean())
    row = _row(
        f"attained, {scenario} at {rate_rps:g} requests/s", measured, round(share, 4), share - measured, ATTAINED_WITHIN
    )
    return row | {"requests": len(load.requests), "trace_source": load.trace_source}


def _row(figure: str, measured: float, simulated: float, off: float, within: float) -> Row:
    return {
        "figure": figure,
        "measured": measured,
        "simulated": simulated,
        "off": round(float(off), 4),
        "within": within,
        "holds": bool(abs(off) <= within),
    }
