"""Prometheus metrics of one gateway.

What OpenTelemetry's GenAI conventions name has that name and those attributes (`gen_ai.server.time_to_first_token` is
gen_ai_server_time_to_first_token_seconds); the rest is slosgate's own, with vLLM's label for the model.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections import Counter as Counts
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from slosgate import __version__
from slosgate.gateway.decisions.drafts import Drafts
from slosgate.gateway.promises.exchange import Exchange
from slosgate.gateway.replicas.fleet import Fleet, Replica
from slosgate.gateway.replicas.mirror import Mirror
from slosgate.gateway.reports import pages
from slosgate.gateway.reports.explaining import is_broken
from slosgate.gateway.reports.history import MOST_REASONS, Bounded
from slosgate.gateway.reports.logs import kind_of

MOST_MODELS = 64  # label values; a client that invents names must not fill the memory of whoever scrapes
TTFT_BUCKETS_S = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 15.0, 20.0, 30.0, 60.0,
)  # fmt: skip
TPOT_BUCKETS_S = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
DURATION_BUCKETS_S = tuple(0.01 * 2**k for k in range(14))
ERROR_BUCKETS_S = (-5.0, -1.0, -0.5, -0.2, -0.1, -0.05, -0.02, 0.0, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0)
PLANNER_BUCKETS_S = (0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1)
ADMISSION_BUCKETS_S = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0)
USED_BUCKETS = (0.1, 0.25, 0.5, 0.75, 0.9, 1.0, 1.05, 1.25, 1.5, 2.0, 4.0)
LAUNCH_KINDS = ("decodes", "captured", "beyond")


@dataclass(frozen=True, slots=True)
class Short:
    """What is missing of one model."""

    wanted: int  # replicas
    classes: dict[str, int] = field(default_factory=dict)  # headroom; below 0: so many were not promised their SLO


class Metrics:
    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._models = Bounded(MOST_MODELS)
        self._reasons = Bounded(MOST_REASONS)
        self._count_requests()
        self._measure_requests()
        self._show_replicas()
        self._state = self._gauge("state_available", "1 while Redis answers.")
        self._events = self._counter("events", "Events in the log.", "event")
        self._gauge("build_info", "1, with the version.", "version").labels(__version__).set(1)
        self.tally = Tally(self._events)

    def _count_requests(self) -> None:
        by_class = ("model_name", "slo_class")
        self._requests = self._counter("requests", "Requests by how they ended.", *by_class, "admission", "outcome")
        self._offered = self._counter("slo_offered", "Requests with an SLO, refused ones too.", *by_class, "admission")
        self._attained = self._counter("slo_attained", "Answers that kept their SLO.", *by_class, "admission")
        self._guarantees = self._counter(
            "guarantees", "Guarantees given, by whether kept or broken.", *by_class, "result"
        )
        self._unmet = self._counter("slo_unmet", "Requests with an SLO that was not guaranteed.", "slo_class", "reason")
        self._refused = self._counter("refused_requests", "Requests refused, by reason.", "code")
        self._through = self._counter(
            "handed_through", "Requests that nothing is planned for, as embeddings.", "resource", "status"
        )
        self._prompt = self._counter("prompt_tokens", "Prompt tokens of answered requests.", "model_name")
        self._cached = self._counter(
            "cached_prompt_tokens", "Of those, as counted on, and as replicas counted.", "model_name", "by"
        )
        self._generated = self._counter("generation_tokens", "Output tokens of answered requests.", "model_name")
        self._plans = self._counter("plans_published", "Plans this gateway has published.")

    def _measure_requests(self) -> None:
        by_class = ("model_name", "slo_class")
        gen_ai = ("gen_ai_request_model", "gen_ai_operation_name", "slo_class")
        self._used = self._histogram(
            "slosgate_time_to_first_token_slo_ratio", "Time to first token over its SLO.", USED_BUCKETS, *by_class
        )
        self._ttft = self._histogram(
            "gen_ai_server_time_to_first_token_seconds", "Time to first token.", TTFT_BUCKETS_S, *gen_ai
        )
        self._tpot = self._histogram(
            "gen_ai_server_time_per_output_token_seconds", "Time per token after the first.", TPOT_BUCKETS_S, *gen_ai
        )
        self._duration = self._histogram(
            "gen_ai_server_request_duration_seconds", "Arrival to end.", DURATION_BUCKETS_S, *gen_ai, "error_type"
        )
        self._predicted = self._histogram(
            "slosgate_predicted_time_to_first_token_seconds", "As predicted at admission.", TTFT_BUCKETS_S, *by_class
        )
        self._error = self._histogram(
            "slosgate_ttft_prediction_error_seconds", "Actual less predicted TTFT.", ERROR_BUCKETS_S, *by_class
        )
        self._decision = self._histogram(
            "slosgate_admission_seconds", "From a parsed request to its place, Redis included.", ADMISSION_BUCKETS_S
        )
        self._planner = self._histogram(
            "slosgate_planner_seconds",
            "Time of a planner call: place or plan.",
            PLANNER_BUCKETS_S,
            "call",
        )

    def _show_replicas(self) -> None:
        self._replicas = self._gauge("replicas", "Living replicas.", "model_name")
        self._headroom = self._gauge(
            "headroom_requests", "How many more requests like the recent ones could be guaranteed now.", "model_name"
        )
        self._class_headroom = self._gauge(
            "class_headroom_requests",
            "The same of one class; below 0: so many of the last minute were not guaranteed.",
            "model_name", "slo_class",
        )  # fmt: skip
        self._wanted = self._gauge(
            "replicas_wanted", "Replicas on which the last minute's requests could be guaranteed.", "model_name"
        )
        self._acceptance = self._gauge(
            "draft_acceptance_ratio", "Drafted tokens accepted, as planned with.", "model_name", "slo_class"
        )
        self._in_flight = self._gauge("requests_in_flight", "Requests on a replica.", "replica")
        self._passage = self._gauge(
            "replica_request_overhead_seconds",
            "From a port to its scheduler and back, as planned.",
            "replica",
        )
        self._launch = self._gauge(
            "replica_launch_seconds", "How long launching an iteration takes, as planned.", "replica", "kind"
        )
        self._breaker = self._gauge(
            "replica_breaker_state", "Circuit breaker: 0 closed, 1 half-open, 2 open.", "replica"
        )
        self._plan_age = self._gauge(
            "replica_plan_age_seconds", "For how long no newer plan has reached it.", "replica"
        )
        self._free = self._gauge("replica_kv_free_ratio", "Share of its KV blocks that are free.", "replica")
        self._gain = self._gauge(
            "replica_recalibration_ratio", "How long its iterations take, as learned, over what its profile says.",
            "replica",
        )  # fmt: skip
        self._breaks = self._gauge("replica_breaks", "Times that a replica's breaker has opened.")
        self._ran = _RanByReplica(self.registry)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"slosgate_{name}", text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"slosgate_{name}", text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(name, text, labels, buckets=buckets, registry=self.registry)

    def handed_through(self, resource: str, status: int) -> None:
        """Note the answer to a request that nothing was planned for, by the first word of its path after /v1."""
        self._through.labels(resource, f"{status // 100}xx").inc()

    def refused(self, code: str) -> None:
        self._refused.labels(code).inc()

    def refused_slo(self, exchange: Exchange, reason: str) -> None:
        if exchange.contract.has_slo:
            self._offered.labels(*self._class(exchange), "refused").inc()
            self._unmet.labels(exchange.contract.slo_class, self._reasons.of(reason)).inc()

    def decided(self, seconds: float) -> None:
        self._decision.observe(seconds)

    def planner_call(self, call: str) -> AbstractContextManager[object]:
        """Times one call of the planner: `place`, `promote` or `plan`."""
        return self._planner.labels(call).time()

    def published(self) -> None:
        self._plans.inc()

    def ended(self, exchange: Exchange, now_s: float) -> None:
        """Count an exchange that was admitted and has ended, well or not."""
        labels = self._class(exchange)
        outcome = exchange.outcome or "failed"
        admission = "overflow" if exchange.overflow else exchange.admission
        self._requests.labels(*labels, admission, outcome).inc()
        if exchange.contract.has_slo:
            self._offered.labels(*labels, admission).inc()
            self._attained.labels(*labels, admission).inc(exchange.attained)
            self._promise(exchange, labels)
        self._generated.labels(labels[0]).inc(exchange.tokens)
        self._prompt.labels(labels[0]).inc(exchange.prompt_tokens)
        self._cached.labels(labels[0], "gateway").inc(exchange.cached.sure)
        self._cached.labels(labels[0], "replica").inc(exchange.cached_tokens or 0)
        gen_ai = (labels[0], "chat" if exchange.completion.kind == "chat" else "text_completion", labels[1])
        error = "" if outcome == "completed" else outcome
        self._duration.labels(*gen_ai, error).observe(now_s - exchange.arrival_s)
        if not math.isfinite(exchange.first_token_s):
            return
        ttft_s = exchange.first_token_s - exchange.arrival_s
        self._ttft.labels(*gen_ai).observe(ttft_s)
        if math.isfinite(exchange.ttft_s):
            self._used.labels(*labels).observe(ttft_s / exchange.ttft_s)
        if math.isfinite(exchange.predicted_ttft_s):
            self._predicted.labels(*labels).observe(exchange.predicted_ttft_s)
            self._error.labels(*labels).observe(ttft_s - exchange.predicted_ttft_s)
        if exchange.tokens > 1:
            tpot_s = (exchange.last_token_s - exchange.first_token_s) / (exchange.tokens - 1)
            self._tpot.labels(*gen_ai).observe(tpot_s)

    def _promise(self, exchange: Exchange, labels: tuple[str, str]) -> None:
        if not exchange.guaranteed and exchange.attempts:
            self._unmet.labels(labels[1], self._reasons.of(exchange.placement.reason)).inc()
        elif exchange.attained:
            self._guarantees.labels(*labels, "kept").inc()
        elif is_broken(exchange):
            self._guarantees.labels(*labels, "broken").inc()

    def _class(self, exchange: Exchange) -> tuple[str, str]:
        return self._models.of(exchange.completion.model), exchange.contract.slo_class

    def page(
        self, fleet: Fleet, drafts: Drafts, now_s: float, headroom: dict[str, int], shortage: dict[str, Short], *,
        state_available: bool,
    ) -> bytes:  # fmt: skip
        """The text for /metrics."""
        by_replica = (
            self._in_flight, self._breaker, self._passage, self._launch, self._plan_age, self._free, self._gain,
        )  # fmt: skip
        by_model = self._replicas, self._headroom, self._class_headroom, self._wanted, self._acceptance
        for gauge in (*by_replica, *by_model):
            _empty(gauge)
        self._ran.replicas = {replica.name: replica.mirror for replica in fleet.living() if replica.mirror}
        # Set, not added up: what gateways that share an address keep in files outlives `clear`.
        for model, count in Counts(self._models.of(replica.model) for replica in fleet.living()).items():
            self._replicas.labels(model).set(count)
        for replica in fleet.living():
            self._replica(replica, now_s)
        room = Counts[str]()
        for model, requests in headroom.items():
            room[self._models.of(model)] += requests
        for model, total in room.items():
            self._headroom.labels(model).set(total)
        self._missing(shortage)
        for model, slo_class, acceptance in drafts:
            self._acceptance.labels(self._models.of(model), slo_class).set(acceptance)
        self._breaks.set(fleet.breaks)
        self._state.set(state_available)
        return pages.of(self.registry)

    def _missing(self, shortage: dict[str, Short]) -> None:
        for model, short in shortage.items():
            name = self._models.of(model)
            self._wanted.labels(name).set(short.wanted)
            for slo_class, requests in short.classes.items():
                self._class_headroom.labels(name, slo_class).set(requests)

    def _replica(self, replica: Replica, now_s: float) -> None:
        self._in_flight.labels(replica.name).set(replica.under_way)
        self._breaker.labels(replica.name).set(replica.breaker.state(now_s))
        if replica.mirror is None:
            return
        mirror, profile = replica.mirror, replica.mirror.profile
        self._passage.labels(replica.name).set(profile.request_overhead_s)
        self._free.labels(replica.name).set(mirror.free_blocks / profile.kv_blocks)
        self._gain.labels(replica.name).set(mirror.recalibration)
        if replica.follows_plans:
            self._plan_age.labels(replica.name).set(max(0.0, replica.plan_age_s(now_s)))
        if profile.launches is not None:
            for kind, seconds in zip(LAUNCH_KINDS, profile.launches.by_kind, strict=True):
                self._launch.labels(replica.name, kind).set(seconds)


class _RanByReplica(Collector):
    """Iterations of the living replicas: how many, how long they took, and how long they were planned to."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.replicas: dict[str, Mirror] = {}
        registry.register(self)

    def collect(self) -> Iterator[CounterMetricFamily]:
        counted = CounterMetricFamily("slosgate_replica_iterations", "Iterations that ran.", labels=["replica"])
        took = CounterMetricFamily("slosgate_replica_iteration_seconds", "How long they took.", labels=["replica"])
        planned = CounterMetricFamily(
            "slosgate_replica_planned_iteration_seconds", "How long they were planned to take.", labels=["replica"]
        )
        for name, mirror in self.replicas.items():
            counted.add_metric([name], mirror.iterations.count)
            took.add_metric([name], mirror.iterations.took_s)
            planned.add_metric([name], mirror.iterations.planned_s)
        yield from (counted, took, planned)


def _empty(gauge: Gauge) -> None:
    """Forget all its series. Where processes share a page, prometheus_client warns that their files stay, from which no
    gauge is read (see `pages`)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        gauge.clear()


class Tally(logging.Handler):
    """Counts the events in the log by their kind, those too that are held back as repeats."""

    def __init__(self, counter: Counter) -> None:
        super().__init__()
        self._counter = counter

    def emit(self, record: logging.LogRecord) -> None:
        self._counter.labels(kind_of(record)).inc()
