"""Results of other load generators, judged by our rules: `vllm bench serve`, guidellm, aiperf.

Their files say when each request began and its tokens came, but hold no SLO: `--goodput` says one. vLLM's holds every
token's time, unless events hold several; of guidellm's and aiperf's requests only the first and the last token's are
known, so that tokens between are taken as evenly spread, and a pace that is only missed within an answer does not show.
What guidellm or aiperf cut short or sent to warm up does not count; each of guidellm's benchmarks is a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from slosgate.bench import failures, results
from slosgate.bench.attainment import Floats, RequestOutcome, StageOutcome, collect
from slosgate.bench.errors import InputError
from slosgate.bench.goodput import Goodput, goodput_row
from slosgate.bench.results import Result, Row
from slosgate.bench.summary import summarize


class _VllmBench(msgspec.Struct):
    ttfts: list[float]
    itls: list[list[float]]
    errors: list[str]
    start_times: list[float] | None = None
    output_lens: list[int] | None = None
    model_id: str = ""
    duration: float = 0.0


class _Timings(msgspec.Struct):
    request_start: float | None = None
    first_token_iteration: float | None = None
    last_token_iteration: float | None = None


class _Info(msgspec.Struct):
    timings: _Timings


class _Request(msgspec.Struct):
    info: _Info
    output_tokens: int | None = None


class _Requests(msgspec.Struct):
    successful: list[_Request] = []
    errored: list[_Request] = []


class _Strategy(msgspec.Struct):
    streams: int | None = None


class _Config(msgspec.Struct):
    strategy: _Strategy = msgspec.field(default_factory=_Strategy)


class _Benchmark(msgspec.Struct):
    requests: _Requests
    config: _Config = msgspec.field(default_factory=_Config)


class _GuideLlm(msgspec.Struct):
    benchmarks: list[_Benchmark]


class _Value(msgspec.Struct):
    value: Any = None


class _Metadata(msgspec.Struct):
    request_start_ns: int
    request_end_ns: int
    benchmark_phase: str = ""
    was_cancelled: bool = False

    @property
    def counts(self) -> bool:
        """Whether the request is one of those that were to be measured, and was let go on to its end."""
        return self.benchmark_phase != "warmup" and not self.was_cancelled


class _AiPerf(msgspec.Struct):
    metadata: _Metadata
    metrics: dict[str, _Value] = {}
    error: Any = None


def read(path: Path, slo: Goodput | None) -> Result:
    """A result file of slosbench as it is, another generator's as a run. Raises InputError."""
    try:
        text = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read the result {str(path)!r}: {error.strerror}") from None
    try:
        if path.suffix == ".jsonl":
            lines = [line for line in _lines(text) if line.metadata.counts]
            return _result(path, "aiperf", [_Run([_aiperf(line) for line in lines])], slo)
        keys = msgspec.json.decode(text, type=dict[str, msgspec.Raw])
        if "benchmarks" in keys:
            benchmarks = msgspec.json.decode(text, type=_GuideLlm).benchmarks
            return _result(path, "guidellm", [_guidellm(one) for one in benchmarks], slo)
        if "itls" in keys or "mean_ttft_ms" in keys:
            return _result(path, "vllm bench", [_Run(_vllm(path, keys, text))], slo)
    except msgspec.MsgspecError as error:
        raise InputError(f"{str(path)!r} is no result that can be read: {error}") from None
    if "aiperf_version" in keys:
        raise InputError(f"{str(path)!r} tells of no single request: aiperf writes those into a .jsonl file beside it")
    return results.read(path)


def _lines(text: bytes) -> list[_AiPerf]:
    return [msgspec.json.decode(line, type=_AiPerf) for line in text.splitlines() if line.strip()]


@dataclass(frozen=True, slots=True)
class _Seen:
    """One request: when it was sent, when its tokens came, whether it failed and what is told of that."""

    sent_s: float
    token_s: Sequence[float] | Floats
    failed: bool
    said: str = ""


@dataclass(frozen=True, slots=True)
class _Run:
    """Requests that were offered together, by so many users where that is told."""

    seen: list[_Seen]
    users: int | None = None


def _vllm(path: Path, keys: dict[str, msgspec.Raw], text: bytes) -> list[_Seen]:
    if "itls" not in keys or "start_times" not in keys:
        raise InputError(f"{str(path)!r} tells of no single request: run vllm bench serve with --save-detailed")
    found = msgspec.json.decode(text, type=_VllmBench)
    lengths = found.output_lens or [len(gaps) + 1 for gaps in found.itls]
    each = zip(found.start_times or [], found.ttfts, found.itls, lengths, found.errors, strict=True)
    return [
        _Seen(sent_s, _vllm_tokens(sent_s, ttft_s, gaps, n), bool(error), _last_line(error))
        for sent_s, ttft_s, gaps, n, error in each
    ]


def _last_line(error: str) -> str:
    """What a traceback ends with."""
    return next((line.strip()[: failures.LONGEST] for line in reversed(error.splitlines()) if line.strip()), "")


def _vllm_tokens(sent_s: float, ttft_s: float, gaps: list[float], tokens: int) -> Floats:
    """When the tokens came. The gaps are between events, and where events hold several tokens, which holds how many
    isn't told."""
    if not ttft_s:
        return np.zeros(0)
    came_s: Floats = sent_s + ttft_s + np.concatenate([[0.0], np.cumsum(gaps)])
    return came_s if tokens <= len(came_s) else _spread(came_s[0], came_s[-1], tokens)


def _guidellm(benchmark: _Benchmark) -> _Run:
    seen = []
    for request in benchmark.requests.successful:
        times = request.info.timings
        first_s, last_s = times.first_token_iteration, times.last_token_iteration
        tokens = _spread(first_s, last_s, request.output_tokens or 0)
        seen.append(_Seen(times.request_start or 0.0, tokens, failed=False))
    failed = [r for r in benchmark.requests.errored if r.info.timings.request_start is not None]
    seen += [_Seen(r.info.timings.request_start or 0.0, (), failed=True) for r in failed]
    return _Run(seen, benchmark.config.strategy.streams)


def _aiperf(line: _AiPerf) -> _Seen:
    sent_s, ended_s = line.metadata.request_start_ns / 1e9, line.metadata.request_end_ns / 1e9
    ttft_ms, tokens = (
        line.metrics.get(name, _Value()).value for name in ("time_to_first_token", "output_sequence_length")
    )
    first_s = None if ttft_ms is None else sent_s + float(ttft_ms) / 1000
    return _Seen(sent_s, _spread(first_s, ended_s, int(tokens or 0)), line.error is not None)


def _spread(first_s: float | None, last_s: float | None, tokens: int) -> Floats:
    if first_s is None or last_s is None:
        return np.zeros(0)
    return np.linspace(first_s, last_s, max(1, tokens))


def _result(path: Path, tool: str, runs: list[_Run], slo: Goodput | None) -> Result:
    if slo is None:
        raise InputError(f"{str(path)!r} is of {tool} and holds no SLO: say one with --goodput ttft:MS tpot:MS")
    told = [run for run in runs if run.seen]
    if not told:
        raise InputError(f"{str(path)!r} holds no request")
    result = results.begin(tool, {"file": path.name}, seed=0, hardware="not told")
    result.rows = [_row(path, tool, run, slo) for run in told]
    return result


def _row(path: Path, tool: str, run: _Run, slo: Goodput) -> Row:
    first_s = min(one.sent_s for one in run.seen)
    seconds = max(1e-3, max(one.sent_s for one in run.seen) - first_s)
    outcomes = [_outcome(tool, one, slo, first_s) for one in run.seen]
    served = collect(outcomes)
    return {
        "scenario": tool,
        "system": path.stem,
        "rate_rps": round(len(run.seen) / seconds, 3),
        **({"concurrency": run.users} if run.users else {}),
        "mode": "live",
        "trace_source": f"{tool}'s own prompts",
        **summarize(served, seconds),
        **goodput_row(served, slo),
        **failures.counted(outcomes),
    }


def _outcome(tool: str, seen: _Seen, slo: Goodput, first_s: float) -> RequestOutcome:
    """A request by its SLO, in seconds since the first one was sent, as our own runs count."""
    sent_s, tokens = seen.sent_s - first_s, np.asarray(seen.token_s) - first_s
    stage = StageOutcome(sent_s, slo.ttft, slo.tpot, max(1, len(tokens)), tokens, e2e_slo_s=slo.e2el)
    error = "failed" if seen.failed else "" if len(tokens) else "no token"
    return RequestOutcome(tool, sent_s, [stage], error=error, said=seen.said)
