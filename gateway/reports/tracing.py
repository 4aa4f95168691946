"""OpenTelemetry: a span for each request, with its admission and each attempt at an answer beneath it (extra `otel`).

    chat facebook/opt-13b          SERVER    beneath the client's; GenAI conventions, and slosgate's numbers
    ├── admission                  INTERNAL  what was decided, where, why, and the predicted TTFT
    ├── replica a                  CLIENT    from dispatch to the end; error.type says why it gave no answer,
    └── replica b                  CLIENT    and so another one was asked; with an event at the first token

A provider outside, to which a class overflows, is `overflow NAME`.

Replicas are told the request's span in `traceparent`, so that what they trace hangs beneath it. Spans hold no prompt,
no answer, and nothing that a replica said. They leave in batches, from a thread of their own, over OTLP and HTTP.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from slosgate import __version__
from slosgate.gateway.config import Config
from slosgate.gateway.promises.exchange import Exchange
from slosgate.gateway.promises.tries import Try

PROVIDER = "vllm"  # what answers, as the conventions ask; they know no name for it
_OPERATIONS = {"chat": "chat", "completions": "text_completion"}
_PARENTS = ("traceparent", "tracestate")


def problems(config: Config) -> Iterator[tuple[tuple[str, ...], str]]:
    """What stands in the way of tracing as configured, as (path, message)."""
    if config.tracing.endpoint and not all(map(_installed, ("opentelemetry.sdk", "opentelemetry.exporter.otlp"))):
        yield ("tracing", "endpoint"), "needs the OpenTelemetry packages: pip install 'slosgate[otel]'"


def _installed(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ModuleNotFoundError:  # nor is the package around it
        return False


class Tracing:
    """Without an endpoint it does nothing. Times are seconds of the wall clock."""

    def __init__(self, config: Config) -> None:
        self._spans: dict[str, Any] = {}  # of requests under way
        self._provider: Any = _provider(config) if config.tracing.endpoint else None
        if self._provider is not None:
            self._trace = import_module("opentelemetry.trace")
            self._propagator = import_module(
                "opentelemetry.trace.propagation.tracecontext"
            ).TraceContextTextMapPropagator()
            self._tracer = self._provider.get_tracer("slosgate", __version__)

    def begin(self, exchange: Exchange) -> None:
        """A request has been understood; its replica will be told of its span."""
        if self._provider is None:
            return
        operation = _OPERATIONS[exchange.completion.kind]
        parent = {name: value for name, value in exchange.tracing.items() if name in _PARENTS}
        span = self._tracer.start_span(
            f"{operation} {exchange.completion.model}", context=self._propagator.extract(parent),
            kind=self._trace.SpanKind.SERVER, start_time=_ns(exchange.arrival_s),
            attributes=_known({
                "gen_ai.operation.name": operation,
                "gen_ai.provider.name": PROVIDER,
                "gen_ai.request.model": exchange.completion.model,
                "gen_ai.request.max_tokens": exchange.completion.max_tokens,
                "slosgate.request_id": exchange.request_id,
                "slosgate.slo_class": exchange.contract.slo_class,
                "slosgate.ttft_slo_ms": exchange.ttft_s * 1000,
                "slosgate.tpot_slo_ms": exchange.contract.tpot_s * 1000,
            }),
        )  # fmt: skip
        self._spans[exchange.request_id] = span
        told: dict[str, str] = {}
        self._propagator.inject(told, context=self._trace.set_span_in_context(span))
        exchange.tracing = {**exchange.tracing, **told}

    def admitted(self, exchange: Exchange, began_s: float, now_s: float) -> None:
        """It has been decided about, well or not."""
        if exchange.request_id in self._spans:
            self._child(exchange, "admission", "INTERNAL", began_s, now_s, _decision(exchange))

    def ended(self, exchange: Exchange, now_s: float, error: Exception | None) -> None:
        """It is over: answered, refused or failed."""
        span = self._spans.get(exchange.request_id)
        if span is None:
            return
        for number, one in enumerate(exchange.tries):
            self._attempt(exchange, number, one)
        span.set_attributes(_known(_outcome(exchange, error)))
        if error is not None or exchange.failure:
            span.set_status(self._trace.StatusCode.ERROR)
        span.end(_ns(now_s))
        del self._spans[exchange.request_id]

    def close(self) -> None:
        """Send what is left. Blocks for as long as the collector takes, some seconds at most."""
        if self._provider is not None:
            self._provider.shutdown()

    def _attempt(self, exchange: Exchange, number: int, one: Try) -> None:
        trouble = str(one.status) if one.status >= 400 else one.trouble
        attributes = {
            f"slosgate.{one.kind}": one.server,
            "server.address": one.address or None,
            "http.response.status_code": one.status or None,
            "http.request.resend_count": number or None,
            "error.type": trouble or None,
        }
        first_s = exchange.first_token_s if one.began_s <= exchange.first_token_s <= one.ended_s else None
        self._child(exchange, f"{one.kind} {one.server}", "CLIENT", one.began_s, one.ended_s, attributes, first_s)

    def _child(
        self, exchange: Exchange, name: str, kind: str, began_s: float, now_s: float, attributes: Mapping[str, Any],
        first_token_s: float | None = None,
    ) -> None:  # fmt: skip
        above = self._trace.set_span_in_context(self._spans[exchange.request_id])
        child = self._tracer.start_span(
            name, context=above, kind=getattr(self._trace.SpanKind, kind), start_time=_ns(began_s),
            attributes=_known(attributes),
        )  # fmt: skip
        if first_token_s is not None:
            child.add_event("first token", timestamp=_ns(first_token_s))
        if attributes.get("error.type"):
            child.set_status(self._trace.StatusCode.ERROR)
        child.end(_ns(now_s))


def _provider(config: Config) -> Any:
    sdk, resources = import_module("opentelemetry.sdk.trace"), import_module("opentelemetry.sdk.resources")
    sampling, export = (
        import_module("opentelemetry.sdk.trace.sampling"),
        import_module("opentelemetry.sdk.trace.export"),
    )
    exporter = import_module("opentelemetry.exporter.otlp.proto.http.trace_exporter").OTLPSpanExporter
    resource = resources.Resource.create({"service.name": "slosgate", "service.version": __version__})
    sampler = sampling.ParentBased(sampling.TraceIdRatioBased(config.tracing.sample_ratio))
    provider = sdk.TracerProvider(resource=resource, sampler=sampler, shutdown_on_exit=False)
    endpoint = f"{config.tracing.endpoint.rstrip('/')}/v1/traces"
    provider.add_span_processor(export.BatchSpanProcessor(exporter(endpoint=endpoint)))
    return provider


def _decision(exchange: Exchange) -> dict[str, Any]:
    if not exchange.attempts:
        return {"slosgate.admission": "overflow" if exchange.overflow else "refused"}
    placed = exchange.placement
    return {
        "slosgate.admission": exchange.admission,
        "slosgate.reason": placed.reason,
        "slosgate.replica": placed.replica.name,
        "slosgate.predicted_ttft_ms": placed.predicted_ttft_s * 1000,
        "slosgate.planned_output_tokens": exchange.output_tokens,
    }


def _outcome(exchange: Exchange, error: Exception | None) -> dict[str, Any]:
    ttft_s = exchange.first_token_s - exchange.arrival_s
    return {
        "gen_ai.usage.input_tokens": exchange.prompt_tokens,
        "gen_ai.usage.output_tokens": exchange.tokens,
        "slosgate.admission": exchange.admission if exchange.attempts else None,
        "slosgate.attained": exchange.attained if exchange.contract.has_slo else None,
        "slosgate.ttft_ms": ttft_s * 1000,
        "error.type": getattr(error, "code", None) or (exchange.outcome if exchange.failure else None),
    }


def _known(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Without those that have no value."""
    return {
        name: value
        for name, value in attributes.items()
        if value is not None and not (isinstance(value, float) and not math.isfinite(value))
    }


def _ns(seconds: float) -> int:
    return int(seconds * 1e9)
