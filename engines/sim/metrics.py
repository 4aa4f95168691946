"""Prometheus metrics of a simulated replica, under the names that vLLM gives them."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from slosgate.engines.sim.realtime import RealTimeEngine, TokenStream

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
LABELS = ("model_name", "engine")


class Metrics(Collector):
    """Reads counters when scraped; only latencies are noted as they happen, once a request."""

    def __init__(self, engine: RealTimeEngine, model: str) -> None:
        self._engine = engine
        self._labels = (model, "0")
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)
        self._ttft = self._histogram("vllm:time_to_first_token_seconds", "Time to first token.")
        self._tpot = self._histogram("vllm:request_time_per_output_token_seconds", "Mean time per output token.")
        self._latency = self._histogram("vllm:e2e_request_latency_seconds", "End-to-end latency.")
        engine.on_finish.append(self._finished)

    def text(self) -> bytes:
        """The exposition."""
        return generate_latest(self._registry)

    def collect(self) -> Iterable[Metric]:
        replica = self._engine.replica
        running = int((replica.state.sequences["blocks"] > 0).sum())
        pool, counters = replica.state.pool, replica.counters
        yield self._gauge("vllm:num_requests_running", "Requests that hold KV blocks.", running)
        yield self._gauge("vllm:num_requests_waiting", "Requests waiting.", replica.requests - running)
        yield self._gauge("vllm:kv_cache_usage_perc", "Share of KV blocks in use.", 1 - pool.free / pool.total)
        yield self._counter("vllm:prompt_tokens", "Prompt tokens computed.", counters.prompt_tokens)
        yield self._counter("vllm:generation_tokens", "Output tokens emitted.", counters.output_tokens)
        yield self._counter("vllm:request_success", "Requests finished.", counters.finished)
        yield self._counter("vllm:num_preemptions", "Preemptions.", replica.state.preemptions)
        yield self._counter("slosgate_sim_late_seconds", "Time lost for want of CPU.", self._engine.late_s)

    def _finished(self, stream: TokenStream) -> None:
        end_s = self._engine.clock()
        self._ttft.labels(*self._labels).observe(stream.first_s - stream.arrival_s)
        self._latency.labels(*self._labels).observe(end_s - stream.arrival_s)
        if stream.emitted > 1:
            self._tpot.labels(*self._labels).observe((end_s - stream.first_s) / (stream.emitted - 1))

    def _histogram(self, name: str, text: str) -> Histogram:
        return Histogram(name, text, LABELS, buckets=SECONDS, registry=self._registry)

    def _gauge(self, name: str, text: str, value: float) -> Metric:
        family = GaugeMetricFamily(name, text, labels=LABELS)
        family.add_metric(self._labels, value)
        return family

    def _counter(self, name: str, text: str, value: float) -> Metric:
        family = CounterMetricFamily(name, text, labels=LABELS)
        family.add_metric(self._labels, value)
        return family
