"""Results of other load generators, judged by our rules: `vllm bench serve`, guidellm, aiperf.

Their files say when each request began and its tokens came, but hold no SLO: `--goodput` says one. vLLM's holds every
token's time; of guidellm's and aiperf's requests only the first and the last token's are known, so that tokens between
are taken as evenly spread, and a pace that is only missed within an answer does not show.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from slosgate.bench import results
from slosgate.bench.attainment import Floats, RequestOutcome, StageOutcome, collect
from slosgate.bench.errors import InputError
from slosgate.bench.results import Result
from slosgate.bench.summary import summarize


@dataclass(frozen=True, slots=True)
class Goodput:
    """An SLO, in seconds; inf where none is wanted."""

    ttft_s: float = math.inf
    tpot_s: float = math.inf


def goodput(text: str) -> Goodput | None:
    """What `--goodput` says, in milliseconds as vLLM's own: "ttft:400,tpot:50"; None for nothing. Raises InputError."""
    found: dict[str, float] = {}
    for pair in text.replace(",", " ").split():
        name, _, value = pair.partition(":")
        try:
            found[name] = float(value) / 1000
        except ValueError:
            found[name] = math.nan
        if name not in ("ttft", "tpot") or not 0 < found[name] < math.inf:
            raise InputError(f"--goodput does not take {pair!r}; accepted: ttft:MS and tpot:MS, as ttft:400,tpot:50")
    return Goodput(found.get("ttft", math.inf), found.get("tpot", math.inf)) if found else None


class _VllmBench(msgspec.Struct):
    ttfts: list[float]
    itls: list[list[float]]
    errors: list[str]
    start_times: list[float] | None = None
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


class _Benchmark(msgspec.Struct):
    requests: _Requests


class _GuideLlm(msgspec.Struct):
    benchmarks: list[_Benchmark]


class _Value(msgspec.Struct):
    value: Any = None


class _Metadata(msgspec.Struct):
    request_start_ns: int
    request_end_ns: int


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
            return _result(path, "aiperf", [_aiperf(line) for line in _lines(text)], slo)
        keys = msgspec.json.decode(text, type=dict[str, msgspec.Raw])
        if "benchmarks" in keys:
            return _result(path, "guidellm", _guidellm(text), slo)
        if "itls" in keys or "mean_ttft_ms" in keys:
            return _result(path, "vllm bench", _vllm(path, keys, text), slo)
    except msgspec.MsgspecError as error:
        raise InputError(f"{str(path)!r} is no result that can be read: {error}") from None
    return results.read(path)


def _lines(text: bytes) -> list[_AiPerf]:
    return [msgspec.json.decode(line, type=_AiPerf) for line in text.splitlines() if line.strip()]


@dataclass(frozen=True, slots=True)
class _Seen:
    """One request: when it was sent, when its tokens came, whether it failed."""

    sent_s: float
    token_s: Sequence[float] | Floats
    failed: bool


def _vllm(path: Path, keys: dict[str, msgspec.Raw], text: bytes) -> list[_Seen]:
    if "itls" not in keys or "start_times" not in keys:
        raise InputError(f"{str(path)!r} tells of no single request: run vllm bench serve with --save-detailed")
    found = msgspec.json.decode(text, type=_VllmBench)
    seen = []
    for sent_s, ttft_s, gaps, error in zip(found.start_times or [], found.ttfts, found.itls, found.errors, strict=True):
        tokens = sent_s + ttft_s + np.concatenate([[0.0], np.cumsum(gaps)]) if ttft_s else np.zeros(0)
        seen.append(_Seen(sent_s, tokens, bool(error)))
    return seen


def _guidellm(text: bytes) -> list[_Seen]:
    seen = []
    for benchmark in msgspec.json.decode(text, type=_GuideLlm).benchmarks:
        for request in benchmark.requests.successful:
            times = request.info.timings
            first_s, last_s = times.first_token_iteration, times.last_token_iteration
            tokens = _spread(first_s, last_s, request.output_tokens or 0)
            seen.append(_Seen(times.request_start or 0.0, tokens, failed=False))
        seen += [_Seen(r.info.timings.request_start or 0.0, (), failed=True) for r in benchmark.requests.errored]
    return seen


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


def _result(path: Path, tool: str, seen: list[_Seen], slo: Goodput | None) -> Result:
    if slo is None:
        raise InputError(f"{str(path)!r} is of {tool} and holds no SLO: say one with --goodput ttft:MS,tpot:MS")
    if not seen:
        raise InputError(f"{str(path)!r} holds no request")
    outcomes = [
        RequestOutcome(
            tool, one.sent_s, [StageOutcome(one.sent_s, slo.ttft_s, slo.tpot_s, max(1, len(one.token_s)), one.token_s)],
            error="failed" if one.failed or not len(one.token_s) else "",
        )
        for one in seen
    ]  # fmt: skip
    first_s = min(one.sent_s for one in seen)
    seconds = max(1e-3, max(one.sent_s for one in seen) - first_s)
    for outcome in outcomes:  # from the first request on, as our own runs count
        outcome.arrival_s -= first_s
        stage = outcome.stages[0]
        stage.arrival_s -= first_s
        stage.token_s = np.asarray(stage.token_s) - first_s
    result = results.begin(tool, {"file": path.name}, seed=0, hardware="not told")
    result.rows = [{
        "scenario": tool, "system": path.stem, "rate_rps": round(len(seen) / seconds, 3), "mode": "live",
        "trace_source": f"{tool}'s own prompts", **summarize(collect(outcomes), seconds),
    }]  # fmt: skip
    return result
