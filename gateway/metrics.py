"""Prometheus metrics of one gateway; names follow vLLM's and the OpenTelemetry GenAI conventions."""

from __future__ import annotations

import math

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from gateway.exchange import Exchange
from gateway.fleet import Fleet

TTFT_BUCKETS_S = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 15.0, 20.0, 30.0, 60.0,
)  # fmt: skip
TPOT_BUCKETS_S = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
ERROR_BUCKETS_S = (-5.0, -1.0, -0.5, -0.2, -0.1, -0.05, -0.02, 0.0, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0)


class Metrics:
    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        r = self.registry
        labels = ("model", "slo_class")
        self._requests = Counter(
            "slosgate_requests", "Requests by how they ended.", (*labels, "admission", "outcome"), registry=r
        )
        self._attained = Counter("slosgate_slo_attained", "Answers that kept their SLO.", labels, registry=r)
        self._offered = Counter(
            "slosgate_slo_offered", "Requests with an SLO, refused ones included.", labels, registry=r
        )
        self._ttft = Histogram(
            "slosgate_time_to_first_token_seconds", "Time to first token.", labels, buckets=TTFT_BUCKETS_S, registry=r
        )
        self._tpot = Histogram(
            "slosgate_time_per_output_token_seconds", "Time per token after the first.", labels,
            buckets=TPOT_BUCKETS_S, registry=r,
        )  # fmt: skip
        self._error = Histogram(
            "slosgate_ttft_prediction_error_seconds", "Actual minus predicted time to first token.", labels,
            buckets=ERROR_BUCKETS_S, registry=r,
        )  # fmt: skip
        self._tokens = Counter("slosgate_tokens", "Tokens of answered requests.", ("model", "kind"), registry=r)
        self._refused = Counter("slosgate_refused_requests", "Requests refused, by reason.", ("code",), registry=r)
        self._decision = Histogram(
            "slosgate_admission_seconds", "From a parsed request to its place, Redis included.",
            buckets=(0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0), registry=r,
        )  # fmt: skip
        self._replicas = Gauge("slosgate_replicas", "Living replicas.", ("model",), registry=r)
        self._in_flight = Gauge("slosgate_requests_in_flight", "Requests on a replica.", ("replica",), registry=r)
        self._breaker = Gauge(
            "slosgate_replica_breaker_state",
            "Circuit breaker: 0 closed, 1 half-open, 2 open.",
            ("replica",),
            registry=r,
        )
        self._breaks = Gauge("slosgate_replica_breaks", "Times that a replica's breaker has opened.", registry=r)
        self._state = Gauge("slosgate_state_available", "1 while Redis answers.", registry=r)
        self._plans = Gauge("slosgate_plans_published", "Plans this gateway has published.", registry=r)
        self._planning = Gauge("slosgate_planning_seconds", "Time this gateway has spent planning.", registry=r)

    def refused(self, code: str) -> None:
        self._refused.labels(code).inc()

    def refused_slo(self, exchange: Exchange) -> None:
        if exchange.contract.has_slo:
            self._offered.labels(exchange.completion.model, exchange.contract.slo_class).inc()

    def decided(self, seconds: float) -> None:
        self._decision.observe(seconds)

    def ended(self, exchange: Exchange) -> None:
        labels = (exchange.completion.model, exchange.contract.slo_class)
        admission = "overflow" if exchange.overflow else exchange.admission
        self._requests.labels(*labels, admission, exchange.outcome or "failed").inc()
        if exchange.contract.has_slo:
            self._offered.labels(*labels).inc()
            self._attained.labels(*labels).inc(exchange.attained)
        self._tokens.labels(labels[0], "output").inc(exchange.tokens)
        self._tokens.labels(labels[0], "prompt").inc(exchange.prompt_tokens)
        if not math.isfinite(exchange.first_token_s):
            return
        ttft_s = exchange.first_token_s - exchange.arrival_s
        self._ttft.labels(*labels).observe(ttft_s)
        if math.isfinite(exchange.predicted_ttft_s):
            self._error.labels(*labels).observe(ttft_s - exchange.predicted_ttft_s)
        if exchange.tokens > 1:
            self._tpot.labels(*labels).observe((exchange.last_token_s - exchange.first_token_s) / (exchange.tokens - 1))

    def page(self, fleet: Fleet, now_s: float, *, planned: int, planning_s: float) -> bytes:
        """The text for /metrics."""
        self._replicas.clear()
        self._in_flight.clear()
        self._breaker.clear()
        for replica in fleet.living():
            self._replicas.labels(replica.model).inc()
            self._in_flight.labels(replica.name).set(len(replica.mirror.jobs) if replica.mirror else len(replica.own))
            self._breaker.labels(replica.name).set(replica.breaker.state(now_s))
        self._breaks.set(fleet.breaks)
        self._state.set(fleet.ledger.available)
        self._plans.set(planned)
        self._planning.set(planning_s)
        return generate_latest(self.registry)
