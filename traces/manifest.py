"""Every public trace that is known by name; each format file lists its own."""

from __future__ import annotations

from slosgate.traces.errors import TraceError
from slosgate.traces.formats import (
    agentic,
    arxiv,
    azure_2023,
    azure_2024,
    burstgpt,
    humaneval,
    mooncake,
    reasoning,
    servegen,
    sharegpt,
    toolbench,
)
from slosgate.traces.formats.base import Dataset

DATASETS: dict[str, Dataset] = {
    dataset.name: dataset
    for format_file in (
        azure_2023,
        azure_2024,
        sharegpt,
        humaneval,
        arxiv,
        toolbench,
        agentic,
        reasoning,
        burstgpt,
        mooncake,
        servegen,
    )
    for dataset in format_file.DATASETS
}


def dataset(name: str) -> Dataset:
    """Raises TraceError for an unknown name."""
    if name not in DATASETS:
        raise TraceError(f"unknown trace {name!r}: choose one of {', '.join(sorted(DATASETS))}, or give a file")
    return DATASETS[name]
