"""Draws the pictures of planning.md from what the planner and a simulated replica really do: `make docs`.

python docs/pictures.py docs/images
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from slosgate.bench.report.svg import Drawing, Frame, frame
from slosgate.engines import profiles
from slosgate.engines.messages import SloArgs
from slosgate.engines.sim.policies.base import PolicyFactory
from slosgate.engines.sim.policies.slosgate import SlosgatePolicy
from slosgate.engines.sim.policies.vllm import VllmPolicy
from slosgate.engines.sim.replica import SimReplica
from slosgate.engines.sim.state import EngineRequest
from slosgate.planner.controller import Arrival, Decision, ReplicaState
from slosgate.planner.desk import decide, due_in_s
from slosgate.planner.jobs import JobTable
from slosgate.planner.kernels import token_budget

PROFILE = profiles.load("h200-opt-13b")
WIDTH = 480
TTFT_S, TPOT_S = 0.4, 0.05
# Follows the system's light or dark mode, as the site does. Colours that colour-blind people tell apart, with a
# pattern of widths or a label besides.
STYLE = """<style>
text { font: 14px system-ui, sans-serif; fill: #333; } .small { font-size: 13px; } .strong { font-weight: 600; }
.grid { stroke: #8884; } .axis { stroke: #888; } .late { stroke: #333; stroke-width: 2; stroke-dasharray: 5 4; }
.a { fill: #4477aa; } .b { fill: #66ccee; } .c { fill: #bbbbbb; } .d { fill: #ee9922; }
.line-a, .line-b { fill: none; stroke-width: 3; } .line-a { stroke: #4477aa; } .line-b { stroke: #ee9922; }
.edge { fill: none; stroke: #fff; stroke-width: 1; }
@media (prefers-color-scheme: dark) { text { fill: #ddd; } .late { stroke: #ddd; } .edge { stroke: #222; }
.a { fill: #6699cc; } .line-a { stroke: #6699cc; } }
</style>"""


def svg(drawing: Drawing) -> str:
    """A drawing as a file of its own, with its style."""
    drawing.parts.insert(0, STYLE)
    return drawing.render().replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1) + "\n"


def budgets() -> str:
    """How long an iteration takes over its prompt tokens, and how many fit into 50 ms."""
    shown = Drawing(WIDTH, 320, "Time of an iteration over the prompt tokens in it, and the budgets of 50 ms")
    plot = frame(shown, (0, 1500), (0, 0.09))
    plot.x_axis([(x, f"{x:,}") for x in range(0, 1201, 400)], "prompt tokens in the iteration")
    plot.y_axis([(ms / 1000, f"{ms} ms") for ms in range(0, 76, 25)], "")
    edge = plot.y(TPOT_S)
    shown.line(plot.left, edge, plot.right, edge, "late")
    shown.text(plot.left + 6, edge - 6, "a token is due every 50 ms", "small")
    for css, decodes, name in (("a", 0, "alone"), ("b", 64, "beside 64 decodes")):
        curve_with_budget(plot, css, decodes, name)
    return svg(shown)


def curve_with_budget(plot: Frame, css: str, decodes: int, name: str) -> None:
    context = decodes * 800
    points = [(x, PROFILE.perf.iteration_s(x + decodes, context + x, decodes + 1)) for x in range(0, 1501, 20)]
    plot.curve(points, f"line-{css}", name)
    budget = token_budget(PROFILE.perf.coefficients(), TPOT_S, decodes, context, decodes + 1, 0)
    at = plot.x(budget)
    plot.drawing.line(at, plot.y(TPOT_S), at, plot.bottom, "late")
    plot.drawing.text(at - 5, plot.bottom - 10, f"{name}: {budget:,.0f}", "small strong", "end")


def promises() -> str:
    """Equal requests that come to a replica within one iteration: whose SLO is promised."""
    decisions = asked(14)
    shown = Drawing(WIDTH, 320, "Predicted TTFT of fourteen equal requests, a millisecond apart; which are promised")
    plot = frame(shown, (0.5, len(decisions) + 0.5), (0, 0.6))
    plot.x_axis([(n, str(n)) for n in range(2, len(decisions) + 1, 2)], "requests in the order they came")
    plot.y_axis([(ms / 1000, f"{ms} ms") for ms in range(0, 601, 100)], "")
    for number, decision in enumerate(decisions, 1):
        left, right, top = plot.x(number - 0.4), plot.x(number + 0.4), plot.y(decision.predicted_ttft_s)
        css = "a" if decision.guaranteed else "d"
        shown.rect(left, top, right - left, plot.bottom - top, css)
    line = plot.y(TTFT_S)
    shown.line(plot.left, line, plot.right, line, "late")
    shown.text(plot.left + 6, line - 7, "TTFT SLO", "small")
    legend(shown, {"a": "guaranteed", "d": "best effort"}, plot.left + 6, plot.top + 14)
    return svg(shown)


def asked(count: int) -> list[Decision]:
    """What the desk decides about equal requests, each beside those before it."""
    jobs, decisions = JobTable(), list[Decision]()
    for number in range(count):
        now_s = number / 1000
        replica = ReplicaState("one", PROFILE, jobs, PROFILE.kv_blocks, busy_for_s=count / 1000 - now_s)
        arrival = Arrival(f"r{number}", TTFT_S, TPOT_S, prompt_tokens=900, output_tokens=100)
        decision = decide(arrival, [replica], now_s)
        if not isinstance(decision, Decision):
            raise TypeError("a request that may be best effort is never refused")
        decisions.append(decision)
        jobs.add(
            arrival.request_id, deadline_s=now_s + due_in_s(arrival), tpot_s=TPOT_S, prompt_left=900, output=100,
            guaranteed=decision.guaranteed,
        )  # fmt: skip
    return decisions


@dataclass(frozen=True, slots=True)
class Ran:
    """One iteration: when, and how many tokens of each kind it computed."""

    start_s: float
    end_s: float
    tokens: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Played:
    """What a replica did, and when each request had its first token."""

    iterations: Sequence[Ran]
    first_token_s: Mapping[str, float]


# id, arrival, prompt and output tokens, TTFT SLO: two that run, then two long prompts and a short one in a hurry.
LOAD = (
    ("running 1", 0.0, 20, 40, 0.5),
    ("running 2", 0.0, 20, 40, 0.5),
    ("long 1", 0.1, 1900, 3, 1.0),
    ("long 2", 0.1, 1900, 3, 1.0),
    ("short", 0.1, 200, 3, 0.1),
)
KINDS = {"running": "a", "long 1": "b", "long 2": "c", "short": "d"}
SHOWN_S = (0.08, 0.5)


def iterations() -> str:
    """The same five requests on a replica that schedules as vLLM does, and on one of slosgate's."""
    systems: tuple[tuple[str, PolicyFactory], ...] = (("vLLM", VllmPolicy), ("slosgate", SlosgatePolicy))
    shown = Drawing(WIDTH, 405, "Iterations of two replicas under the same five requests")
    legend(shown, {"a": "decodes", "b": "long 1", "c": "long 2", "d": "short, 100 ms"}, 10, 18)
    for row, (name, policy) in enumerate(systems):
        timeline(shown, 40 + row * 190, name, played(policy))
    return svg(shown)


def timeline(shown: Drawing, top: float, name: str, run: Played) -> None:
    begin_s, end_s = SHOWN_S
    left, width, height = 10.0, WIDTH - 20.0, 84.0

    def x(time_s: float) -> float:
        return left + (min(max(time_s, begin_s), end_s) - begin_s) / (end_s - begin_s) * width

    base = top + 54 + height
    due_s = 0.2
    arrived_ms = (run.first_token_s["short"] - 0.1) * 1000
    shown.text(left, top + 20, name, "strong")
    shown.text(left, top + 38, f"first token of the short request after {arrived_ms:.0f} ms", "small")
    for ran in run.iterations:
        if ran.end_s <= begin_s or ran.start_s >= end_s:
            continue
        slices(shown, x(ran.start_s), x(ran.end_s), base, height, ran)
    shown.line(x(due_s), base - height - 6, x(due_s), base + 6, "late")
    shown.text(x(due_s) + 4, base + 18, "it is due", "small")
    shown.line(left, base, left + width, base, "axis")
    shown.text(left, base + 18, "they arrive", "small")
    shown.text(left + width, base + 18, f"{(end_s - 0.1) * 1000:.0f} ms", "small", "end")


def slices(shown: Drawing, left: float, right: float, base: float, height: float, ran: Ran) -> None:
    """An iteration as a block, cut by the share of its tokens that each kind has; decodes are always seen."""
    total, y = sum(ran.tokens.values()), base
    shares = {kind: max(tokens / total, 0.06) for kind, tokens in ran.tokens.items() if tokens}
    whole = sum(shares.values())
    hint = ", ".join(f"{kind}: {tokens}" for kind, tokens in ran.tokens.items() if tokens)
    for kind, share in shares.items():
        tall = share / whole * height
        y -= tall
        shown.rect(left, y, right - left, tall, KINDS[kind], f"{(ran.end_s - ran.start_s) * 1000:.0f} ms; {hint}")
    shown.rect(left, base - height, right - left, height, "edge")


def played(policy: PolicyFactory) -> Played:
    """The load on one replica, iteration by iteration, in virtual time."""
    replica, now_s, waiting, ran = SimReplica(PROFILE, policy), 0.0, list(LOAD), list[Ran]()
    first_token_s: dict[str, float] = {}
    names: dict[int, str] = {}
    while waiting or replica.requests:
        while waiting and waiting[0][1] <= now_s:
            name, arrival_s, prompt, output, ttft_s = waiting.pop(0)
            left_ms = (ttft_s - (now_s - arrival_s)) * 1000
            slo = SloArgs(slo_id=name, slo_ttft_ms=left_ms, slo_tpot_ms=50.0, slo_guaranteed=1)
            request = EngineRequest(id=name, prompt_tokens=prompt, output_tokens=output, slo=slo)
            names[replica.submit(request, now_s)] = name
        flight = replica.start(now_s)
        if flight is None:
            now_s = waiting[0][1] if waiting else math.inf
            continue
        batch = flight.batch
        tokens = dict.fromkeys(KINDS, 0) | {"running": len(batch.decode)}
        for slot, count in zip(batch.prefill.tolist(), batch.tokens.tolist(), strict=True):
            tokens[names[slot] if names[slot] in KINDS else "running"] += count
        outcome = replica.finish()
        for slot, emitted in zip(outcome.slots.tolist(), outcome.emitted.tolist(), strict=True):
            if emitted:
                first_token_s.setdefault(names[slot], flight.end_s)
        ran.append(Ran(flight.start_s, flight.end_s, tokens))
        now_s = flight.end_s
    return Played(ran, first_token_s)


def legend(shown: Drawing, names: Mapping[str, str], left: float, y: float) -> None:
    for css, name in names.items():
        shown.rect(left, y - 11, 12, 12, css)
        shown.text(left + 17, y, name, "small")
        left += 36 + 7.2 * len(name)


PICTURES = {"budget.svg": budgets, "promises.svg": promises, "iterations.svg": iterations}


def main() -> None:
    folder = Path(sys.argv[1])
    for name, draw in PICTURES.items():
        (folder / name).write_text(draw(), encoding="utf-8")


if __name__ == "__main__":
    main()
