"""Decision records: what was predicted, decided, and what happened, one per request, for whoever must explain it."""

from __future__ import annotations

import math
import os
import queue
import sys
import threading
from collections import OrderedDict, deque
from contextlib import suppress
from typing import Protocol

import msgspec

from slosgate.gateway.errors import GatewayError
from slosgate.gateway.promises.exchange import Exchange
from slosgate.gateway.reports.explaining import is_broken

LOG_LINES = 10_000  # that may wait for a slow reader
MOST_BROKEN = 50  # the newest broken guarantees
MOST_SLOW = 15
SLOW_FOR_S = 600.0  # how long a slow request stays among the slowest


class Attempt(msgspec.Struct, frozen=True):
    replica: str
    guaranteed: bool
    predicted_ttft_ms: float | None
    reason: str


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """No prompt and no answer is in it. Milliseconds; times of day are wall clock in seconds."""

    request_id: str
    key: str
    model: str
    slo_class: str
    arrival_s: float
    stream: bool
    prompt_tokens: int
    likely_cached_tokens: int  # of the prompt, where it went
    expected_cached_tokens: int  # of those, what was counted on
    cached_tokens: int | None  # as the replica has counted; None: it has not
    planned_output_tokens: int
    planned_acceptance: float  # of drafted tokens; 0: no drafts were planned
    output_tokens: int
    thinking_tokens: int  # of those
    ttft_slo_ms: float | None
    tpot_slo_ms: float | None
    attempts: tuple[Attempt, ...]
    overflow: str  # the provider outside that answered; empty when a replica did
    outcome: str
    error: str  # why there was no answer, or what is wrong with it
    ttft_ms: float | None
    tpot_ms: float | None
    duration_ms: float
    attained: bool | None  # None: there was no SLO
    explanation: str  # why it did not attain its SLO; empty where there is nothing to explain


class Log(Protocol):
    def write(self, line: bytes) -> None: ...


class Records:
    """The newest records, and if wanted a line of JSON for each."""

    def __init__(self, limit: int, log: Log | None = None) -> None:
        self._limit = limit
        self._log = log
        self._records: OrderedDict[str, Record] = OrderedDict()
        self._broken: deque[Record] = deque(maxlen=MOST_BROKEN)
        self._slowest: list[tuple[float, Record]] = []  # (TTFT over its SLO, record), the worst first

    def get(self, request_id: str) -> Record | None:
        return self._records.get(request_id)

    def newest(self, count: int) -> list[Record]:
        return [self._records[i] for i, _ in zip(reversed(self._records), range(count), strict=False)]

    def broken(self) -> list[Record]:
        """The newest broken guarantees, the newest first."""
        return list(reversed(self._broken))

    def slowest(self, now_s: float) -> list[Record]:
        """Those of the last ten minutes that were nearest to their TTFT SLO, or furthest past it, the worst first."""
        self._slowest = [(used, r) for used, r in self._slowest if now_s - r.arrival_s < SLOW_FOR_S]
        return [record for _, record in self._slowest]

    def keep(self, exchange: Exchange, now_s: float, error: GatewayError | None = None, explanation: str = "") -> None:
        record = record_of(exchange, now_s, error, explanation)
        self._records[record.request_id] = record
        if len(self._records) > self._limit:
            self._records.popitem(last=False)
        if is_broken(exchange):
            self._broken.append(record)
        if record.ttft_ms is not None and record.ttft_slo_ms:
            self._rank(record.ttft_ms / record.ttft_slo_ms, record, now_s)
        if self._log is not None:
            self._log.write(msgspec.json.encode(record) + b"\n")

    def _rank(self, used: float, record: Record, now_s: float) -> None:
        if len(self.slowest(now_s)) < MOST_SLOW or used > self._slowest[-1][0]:
            self._slowest.append((used, record))
            self._slowest.sort(key=lambda one: -one[0])
            del self._slowest[MOST_SLOW:]


def record_of(exchange: Exchange, now_s: float, error: GatewayError | None, explanation: str) -> Record:
    contract = exchange.contract
    return Record(
        request_id=exchange.request_id,
        key=exchange.key,
        model=exchange.completion.model,
        slo_class=contract.slo_class,
        arrival_s=exchange.arrival_s,
        stream=exchange.completion.stream,
        prompt_tokens=exchange.prompt_tokens,
        likely_cached_tokens=exchange.cached.likely,
        expected_cached_tokens=exchange.cached.sure,
        cached_tokens=exchange.cached_tokens,
        planned_output_tokens=exchange.output_tokens,
        planned_acceptance=round(exchange.acceptance, 3),
        output_tokens=exchange.tokens,
        thinking_tokens=exchange.thinking_tokens,
        ttft_slo_ms=_ms(exchange.ttft_s),
        tpot_slo_ms=_ms(contract.tpot_s),
        attempts=tuple(
            Attempt(p.replica.name, p.guaranteed, _ms(p.predicted_ttft_s), p.reason) for p in exchange.attempts
        ),
        overflow=exchange.overflow,
        outcome=exchange.outcome or ("refused" if error else "failed"),
        error=error.message if error else exchange.failure,
        ttft_ms=_ms(exchange.first_token_s - exchange.arrival_s),
        tpot_ms=_ms((exchange.last_token_s - exchange.first_token_s) / max(1, exchange.tokens - 1)),
        duration_ms=(now_s - exchange.arrival_s) * 1000,
        attained=exchange.attained if contract.has_slo else None,
        explanation=explanation,
    )


def _ms(seconds: float) -> float | None:
    return round(seconds * 1000, 3) if math.isfinite(seconds) else None


class BackgroundLog:
    """Lines to a file descriptor, written by a thread: a pipe that nobody reads or a full disk holds up no request.

    Lines that come while LOG_LINES others wait, and those that can't be written, are lost.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._lines: queue.Queue[bytes] = queue.Queue(LOG_LINES)
        threading.Thread(target=self._run, name="log", daemon=True).start()

    def write(self, line: bytes) -> None:
        with suppress(queue.Full):
            self._lines.put_nowait(line)

    def _run(self) -> None:
        while True:
            line = self._lines.get()
            with suppress(OSError):
                while line:
                    line = line[os.write(self._descriptor, line) :]


def log_stream(wanted: bool) -> Log | None:
    """Where lines go when the configuration wants them."""
    return BackgroundLog(sys.stderr.fileno()) if wanted else None
