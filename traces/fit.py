"""Fits: what is kept of a real trace so that it can be generated where the trace itself is absent.

A fit holds an arrival process, lengths, and the real trace's own figures, against which `check` holds what it draws.
traces/fitting.py makes them.
"""

from __future__ import annotations

from itertools import accumulate
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from slosgate.traces.arrivals import Process
from slosgate.traces.burstiness import Burstiness, Times, burstiness
from slosgate.traces.errors import TraceError
from slosgate.traces.formats.reasoning import think_then_respond
from slosgate.traces.formats.toolbench import loop
from slosgate.traces.lengths import QUANTILES, LengthGrid
from slosgate.traces.records import Stage, TraceRequest
from slosgate.traces.windows import Slice, likest

FOLDER = Path(__file__).parent / "fits"
SEARCHED_S = 3600.0  # how long a draw is searched for the likest window


class Loops(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Loops: how many calls; tokens of the first prompt, of the calls' outputs, of the answer, of what is new in later
    prompts; and the time before each of those."""

    calls: dict[str, int]  # calls -> tasks seen with that many
    first_prompt: tuple[float, ...]  # at QUANTILES, as the next three
    output: tuple[float, ...]
    answer: tuple[float, ...]
    tool_result: tuple[float, ...]
    pause_s: tuple[float, ...] = ()  # none

    def draw(self, count: int, rng: np.random.Generator) -> list[tuple[Stage, ...]]:
        """The stages of `count` loops."""
        seen = np.array(list(self.calls.values()))
        calls = rng.choice([int(c) for c in self.calls], size=count, p=seen / seen.sum())
        shape = (count, int(calls.max(initial=1)))
        firsts, answers = _sample(self.first_prompt, (count,), rng), _sample(self.answer, (count,), rng)
        outputs, results = _sample(self.output, shape, rng), _sample(self.tool_result, shape, rng)
        loops = [
            _loop(first, [*output[: n - 1], answer], result)
            for n, first, answer, output, result in zip(
                calls.tolist(), firsts.tolist(), answers.tolist(), outputs.tolist(), results.tolist(), strict=True
            )
        ]
        return [self._with_pauses(stages, rng) for stages in loops] if self.pause_s else loops

    def _with_pauses(self, stages: tuple[Stage, ...], rng: np.random.Generator) -> tuple[Stage, ...]:
        pauses_s = np.interp(100 * rng.random(len(stages)), QUANTILES, self.pause_s).round(3)
        pauses_s[-1] = 0.0
        replace = msgspec.structs.replace
        return tuple(replace(stage, gap_s=s) for stage, s in zip(stages, pauses_s.tolist(), strict=True))


def _sample(grid: tuple[float, ...], shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.int64]:
    return np.maximum(1, np.rint(np.interp(100 * rng.random(shape), QUANTILES, grid))).astype(np.int64)


def _loop(first_prompt: int, outputs: list[int], results: list[int]) -> tuple[Stage, ...]:
    """Each prompt is all that was before it and the tool's result."""
    grown = accumulate(
        (output + result for output, result in zip(outputs, results, strict=False)), initial=first_prompt
    )
    return loop(list(zip(grown, outputs, strict=False)))


class Fit(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True, forbid_unknown_fields=True):
    """Draws requests like those of one trace. Exactly one of `lengths` and `loops` is given."""

    name: str
    fitted_to: str  # rows and file
    arrivals: Process | None = None
    lengths: LengthGrid | None = None
    loops: Loops | None = None
    real: Burstiness | None = None  # of the trace that was fitted

    def times(self, part: Slice, rng: np.random.Generator, *, lengths_only: int) -> Times:
        """Arrivals for a slice; so many zeros where the real trace has no arrivals either."""
        if self.arrivals is None or self.real is None:
            return np.zeros(lengths_only)
        if part.rate_rps is not None:
            return likest(self.arrivals.draw(SEARCHED_S + part.span_s, rng), part)
        return self.arrivals.draw(min(part.span_s, self.real.span_s), rng)

    def requests(self, times: Times, rng: np.random.Generator) -> tuple[TraceRequest, ...]:
        """One request for each arrival time."""
        stages = self.loops.draw(len(times), rng) if self.loops else self._draw_lengths(len(times), rng)
        return tuple(TraceRequest(arrival_s=float(t), stages=s) for t, s in zip(times, stages, strict=True))

    def _draw_lengths(self, count: int, rng: np.random.Generator) -> list[tuple[Stage, ...]]:
        assert self.lengths is not None
        drawn = {name: values.tolist() for name, values in self.lengths.draw(count, rng).items()}
        if "think_tokens" in drawn:
            rows = zip(drawn["prompt_tokens"], drawn["think_tokens"], drawn["answer_tokens"], strict=True)
            return [think_then_respond(*row) for row in rows]
        pairs = zip(drawn["prompt_tokens"], drawn["output_tokens"], strict=True)
        return [(Stage(prompt_tokens=prompt, output_tokens=output),) for prompt, output in pairs]


def load(name: str) -> Fit:
    """The fit kept under traces/fits. Raises TraceError."""
    path = FOLDER / f"{name}.json"
    if not path.exists():
        raise TraceError(f"no generator is fitted for {name!r}; there are {', '.join(names())}")
    return msgspec.json.decode(path.read_bytes(), type=Fit)


def names() -> list[str]:
    """Fits by name."""
    return sorted(path.stem for path in FOLDER.glob("*.json"))


def check(fit: Fit, seeds: range) -> list[Burstiness]:
    """The burstiness of one generated trace a seed, as long as the real one, to be held against `fit.real`."""
    if fit.arrivals is None or fit.real is None:
        raise TraceError(f"{fit.name} has lengths only: there are no arrivals to check")
    span_s = fit.real.span_s
    return [burstiness(fit.arrivals.draw(span_s, np.random.default_rng(seed)), span_s) for seed in seeds]
