"""Making the fits of traces/fits from real traces.

python -m slosgate.traces.fitting azure-code-2023     # reads the real trace, writes traces/fits/azure-code-2023.json
"""

from __future__ import annotations

import itertools
import math
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from slosgate.traces import fit, sources
from slosgate.traces.arrivals import Bursts, Drifting
from slosgate.traces.burstiness import Burstiness, Times, burstiness
from slosgate.traces.fit import Fit, Loops
from slosgate.traces.lengths import QUANTILES, LengthGrid, fit_grid
from slosgate.traces.records import Stage, Trace, TraceRequest
from slosgate.traces.rows import csv_rows
from slosgate.traces.windows import arrival_times

FIT_SEEDS = range(1000, 1080)  # others than those of any check


def fit_bursts(times: Times, span_s: float, *, gap_s: float = 2.0) -> Bursts:
    """A gap of more than `gap_s` ends a burst. What moves inside bursts is found by simulated moments.

    The moments are rate, CV, the 1 s and 10 s peaks and the IDC over 10 s; the inner parameters are the best of a
    coarse grid.
    """
    ends = np.flatnonzero(np.diff(times) > gap_s)
    firsts, lasts = np.concatenate([[0], ends + 1]), np.concatenate([ends, [len(times) - 1]])
    sizes, lasting_s = lasts - firsts + 1, times[lasts] - times[firsts]
    long = sizes > 5  # a rate of fewer requests is mostly noise
    rates = (sizes[long] - 1) / lasting_s[long]
    tie = np.corrcoef(sizes[long].argsort(kind="stable").argsort(), rates.argsort().argsort())[0, 1]
    size, rate, silence = (
        tuple(np.percentile(values, QUANTILES).round(4).tolist()) for values in (sizes, rates, np.diff(times)[ends])
    )
    real = burstiness(times, span_s)

    def candidate(log_sd: float, ar1: float, gamma_k: float) -> Bursts:
        return Bursts(
            size=size,
            rate_rps=rate,
            silence_s=silence,
            size_rate_spearman=round(float(tie), 3),
            log_sd=log_sd,
            ar1=ar1,
            gamma_k=gamma_k,
        )

    grid = itertools.product((0.6, 0.7, 0.8, 0.9), (0.85, 0.9, 0.95), (0.6, 0.8, 1.0))
    return min((candidate(*point) for point in grid), key=lambda bursts: _misfit(bursts, real))


def fit_drifting(times: Times, span_s: float, *, step_s: float = 30.0) -> Drifting:
    """The log rate per step gives the AR(1), once the counting noise is taken out; gaps over the local rate give k."""
    counts = np.bincount((times // step_s).astype(np.int64))[: int(span_s // step_s)]
    rates = np.maximum(counts, 0.5) / step_s
    logs = np.log(rates) - np.log(rates).mean()
    lag_one = float((logs[1:] * logs[:-1]).mean())
    variance = max(float(logs.var()) - float((1 / np.maximum(counts, 1)).mean()), 1e-6)
    gaps = np.diff(times)
    local = rates[np.minimum((times[:-1] // step_s).astype(np.int64), len(rates) - 1)]
    scaled = gaps * local
    return Drifting(
        rate_rps=round(len(times) / span_s, 4),
        step_s=step_s,
        log_sd=round(math.sqrt(variance), 4),
        ar1=round(min(0.99, max(0.0, lag_one / variance)), 4),
        gamma_k=round(float(scaled.mean() ** 2 / scaled.var()), 4),
    )


def _misfit(bursts: Bursts, real: Burstiness) -> float:
    drawn = [burstiness(bursts.draw(real.span_s, np.random.default_rng(seed)), real.span_s) for seed in FIT_SEEDS]
    moments = ("rate_rps", "iat_cv", "peak_1s", "peak_10s", "idc_10s")
    means = {m: np.mean([getattr(one, m) for one in drawn]) for m in moments}
    return float(sum(math.log(means[m] / getattr(real, m)) ** 2 for m in moments))


def fit_lengths(requests: Sequence[TraceRequest]) -> LengthGrid:
    """Of requests of one stage, or of a thinking and an answering one."""
    prompts, *outputs = _columns(request.stages for request in requests)
    names = ("think_tokens", "answer_tokens") if len(outputs) == 2 else ("output_tokens",)
    return fit_grid({"prompt_tokens": prompts} | dict(zip(names, outputs, strict=True)))


def fit_loops(requests: Sequence[TraceRequest], calls: Counter[int]) -> Loops:
    """Of tool loops and how many calls tasks take. A tool's result is what is new in a call's prompt."""
    pauses_s = [stage.gap_s for request in requests for stage in request.stages[:-1]]
    return Loops(
        pause_s=_grid(pauses_s) if any(pauses_s) else (),
        calls={str(count): tasks for count, tasks in sorted(calls.items())},
        first_prompt=_grid([request.stages[0].prompt_tokens for request in requests]),
        output=_grid([stage.output_tokens for request in requests for stage in request.stages[:-1]]),
        answer=_grid([request.stages[-1].output_tokens for request in requests]),
        tool_result=_grid([stage.prompt_tokens for request in requests for stage in request.stages[1:]]),
    )


def _columns(rows: Iterable[tuple[Stage, ...]]) -> tuple[NDArray[np.int64], ...]:
    """The first stage's prompt, then each stage's output."""
    table = [(stages[0].prompt_tokens, *(stage.output_tokens for stage in stages)) for stages in rows]
    return tuple(np.array(table, dtype=np.int64).T)


def _grid(values: Sequence[float]) -> tuple[float, ...]:
    return tuple(np.percentile(values, QUANTILES).round(1).tolist())


ARRIVALS: dict[str, Callable[[Times, float], Bursts | Drifting]] = {
    "azure-code-2023": fit_bursts,
    "azure-conv-2023": fit_drifting,
}


def fit_trace(name: str, trace: Trace, calls: Counter[int]) -> Fit:
    """The fit of a whole real trace; `calls` is empty unless its requests are tool loops."""
    times = arrival_times(trace.requests)
    span_s = float(times[-1])
    loops = fit_loops(trace.requests, calls) if calls else None
    process = ARRIVALS.get(name)
    return Fit(
        name=name,
        fitted_to=f"{len(trace.requests):,} requests of {trace.provenance.detail.split(', ')[0]}",
        arrivals=process(times, span_s) if process else None,
        lengths=None if loops else fit_lengths(trace.requests),
        loops=loops,
        real=burstiness(times, span_s) if process else None,
    )


def _calls(name: str, trace: Trace, folder: Path | None) -> Counter[int]:
    """How many calls loops have; none for other traces."""
    if name == "agentic-coding":
        return Counter(len(request.stages) for request in trace.requests)
    return _tool_calls(folder) if name == "toolbench" else Counter()


def _tool_calls(folder: Path | None) -> Counter[int]:
    """Calls of 600 tasks: many more than have published token counts."""
    assert folder is not None
    rows = csv_rows(folder / "toolbench_gpt35cot_calls.csv.gz", ("calls",))
    return Counter(int(calls) for _, (calls,) in rows)


def main() -> None:
    places = sources.Places.from_env()
    for name in sys.argv[1:]:
        trace = sources.load(name, places)
        assert trace.provenance.source != "generated", f"{name}: a fit needs the real trace"
        fitted = fit_trace(name, trace, _calls(name, trace, places.folder))
        text = msgspec.json.format(msgspec.json.encode(fitted), indent=1)
        (fit.FOLDER / f"{name}.json").write_bytes(text + b"\n")


if __name__ == "__main__":
    main()
