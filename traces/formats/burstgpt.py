"""BurstGPT: four months of ChatGPT and GPT-4 use at a university, 5.3 million rows.

Columns Timestamp (seconds since midnight of the first day), Session ID, Elapsed time, Model, Request tokens, Response
tokens, Total tokens, Log Type; the first release lacks Session ID and Elapsed time. Quirks: failures stand as rows
with 0 response tokens and are left out here; times have whole seconds or tenths, so that many rows share one. The
clock starts at the first row.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from slosgate.traces.formats.base import Dataset, Format, Reading
from slosgate.traces.records import TraceRequest
from slosgate.traces.rows import csv_rows, tokens
from slosgate.traces.times import SinceFirst

COLUMNS = ("Timestamp", "Request tokens", "Response tokens")
RELEASE = "https://github.com/HPMLL/BurstGPT/releases/download/v1.2"


def read(path: Path, reading: Reading) -> Iterator[TraceRequest]:
    """Requests of one stage."""
    clock = SinceFirst(path, "Timestamp")
    first_s: float | None = None
    for line, (timestamp, request, response) in csv_rows(path, COLUMNS):
        time_s = clock.arrival_s(timestamp, line)
        first_s = time_s if first_s is None else first_s
        prompt = tokens(request, "Request tokens", path, line)
        output = tokens(response, "Response tokens", path, line)
        yield from reading.single(time_s - first_s, prompt, output, "failed: no prompt or no response tokens")


FORMAT = Format(
    name="burstgpt",
    columns=", ".join(COLUMNS),
    timed=True,
    licence="CC-BY-4.0",
    citation="Wang et al., BurstGPT: A real-world workload dataset to optimize LLM serving systems, KDD 2025",
    read=read,
)
DATASETS = tuple(
    Dataset(
        name=f"burstgpt-{part}",
        title=f"BurstGPT part {part}, {title}",
        format=FORMAT,
        files=(f"BurstGPT_{part}.csv", f"BurstGPT_without_fails_{part}.csv"),
        url=f"{RELEASE}/BurstGPT_{part}.csv",
        megabytes=megabytes,
    )
    for part, title, megabytes in (
        (1, "first two months, 1.4 million rows", 50),
        (2, "second two months, 3.9 million rows", 138),
        (3, "another 110 days, 5.3 million rows", 220),
    )
)
