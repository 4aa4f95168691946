"""The text of /metrics: of one process, or of all that serve one address.

Gateways that share an address are asked for their metrics as one: a scrape reaches any of them. They keep their counts
in files of one folder (`PROMETHEUS_MULTIPROC_DIR`, as prometheus_client does it), which outlive their processes: no
counter ever goes down. Gauges are what the asked one sees: of the same fleet, all see the same.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

FOLDER = "PROMETHEUS_MULTIPROC_DIR"


def of(registry: CollectorRegistry) -> bytes:
    """The page of a process whose metrics are in `registry`."""
    folder = os.environ.get(FOLDER)
    if not folder:
        return generate_latest(registry)
    whole = CollectorRegistry()
    whole.register(_Together(registry, folder))
    return generate_latest(whole)


class _Together:
    def __init__(self, own: CollectorRegistry, folder: str) -> None:
        self._own = own
        self._folder = folder

    def collect(self) -> Iterable[Metric]:
        together = MultiProcessCollector(CollectorRegistry(), self._folder)  # type: ignore[no-untyped-call]
        counted = {metric.name: metric for metric in together.collect() if metric.type != "gauge"}  # type: ignore[no-untyped-call]
        yield from counted.values()
        # Gauges, and what is counted elsewhere than in this process: the replicas' iterations.
        yield from (metric for metric in self._own.collect() if metric.name not in counted)
