"""Azure LLM inference trace 2023: one hour of two services, a chat and a code completion service.

Columns TIMESTAMP (UTC, 100 ns ticks), ContextTokens, GeneratedTokens. Quirks: CRLF ends, no line end after the last
row, seven digits of a second. The clock starts at the first row. The same trace also goes around as arrival_s,
prompt_tokens, output_tokens (see plain.py); both forms are read.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from slosgate.traces.errors import malformed
from slosgate.traces.formats import plain
from slosgate.traces.formats.base import Dataset, Format, Reading
from slosgate.traces.records import Stage, TraceRequest
from slosgate.traces.rows import Clock, csv_header, csv_rows, tokens

COLUMNS = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
REPOSITORY = "https://raw.githubusercontent.com/Azure/AzurePublicDataset/b469a113cedca53ddc3bdea71a143dc4b7d8700c/data"


def read(path: Path, reading: Reading) -> Iterator[TraceRequest]:
    """Requests of one stage. Rows without prompt or output tokens are counted and left out."""
    if csv_header(path)[: len(plain.TIMED)] == plain.TIMED:
        yield from plain.read(path, reading)
        return
    moments = _Moments(path)
    for line, (timestamp, context, generated) in csv_rows(path, COLUMNS):
        arrival_s = moments.since_first(timestamp, line)
        prompt = tokens(context, "ContextTokens", path, line)
        output = tokens(generated, "GeneratedTokens", path, line)
        if prompt == 0 or output == 0:
            reading.dropped["no prompt or no output tokens"] += 1
            continue
        yield TraceRequest(arrival_s=arrival_s, stages=(Stage(prompt_tokens=prompt, output_tokens=output),))


class _Moments:
    """Timestamps to seconds since the first one, to the tick: a float of the epoch would lose the last digit."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._clock = Clock(path, "TIMESTAMP")
        self._text, self._whole_s = "", 0  # the last second that was parsed: rows come many to a second
        self._first: tuple[int, float] | None = None

    def since_first(self, timestamp: str, line: int) -> float:
        moment, _, fraction = timestamp.removesuffix("+00:00").partition(".")
        if moment != self._text:
            self._whole_s, self._text = self._parse(moment, timestamp, line), moment
        try:
            fraction_s = float(f"0.{fraction or 0}")
        except ValueError:
            raise self._bad(timestamp, line) from None
        whole_0, fraction_0 = self._first = self._first or (self._whole_s, fraction_s)
        return self._clock.check(round(self._whole_s - whole_0 + (fraction_s - fraction_0), 7), line)

    def _parse(self, moment: str, timestamp: str, line: int) -> int:
        try:
            return int(datetime.fromisoformat(moment).replace(tzinfo=UTC).timestamp())
        except ValueError:
            raise self._bad(timestamp, line) from None

    def _bad(self, timestamp: str, line: int) -> ValueError:
        return malformed(self._path, line, f"TIMESTAMP must read like 2023-11-16 18:17:03.9799600, not {timestamp!r}")


FORMAT = Format(
    name="azure-2023",
    columns=", ".join(COLUMNS),
    timed=True,
    licence="CC-BY-4.0",
    citation="Patel et al., Splitwise: Efficient generative LLM inference using phase splitting, ISCA 2024",
    read=read,
)
DATASETS = (
    Dataset(
        name="azure-code-2023",
        title="Azure code completion, 2023-11-16, one hour, 8,819 requests in bursts",
        format=FORMAT,
        files=("AzureLLMInferenceTrace_code.csv", "AzureLLMInferenceTrace_code_2023.csv", "azure_code_2023.csv"),
        published=2,
        url=f"{REPOSITORY}/AzureLLMInferenceTrace_code.csv",
        sha256="54e9a6d2a4bd06ba1e060304b900abbc74cbea53de96506e60fe5bb4f2277fb6",
        megabytes=0.3,
        automatic=True,
        generator="azure-code-2023",
    ),
    Dataset(
        name="azure-conv-2023",
        title="Azure conversation, 2023-11-16, one hour, 19,366 requests",
        format=FORMAT,
        files=("AzureLLMInferenceTrace_conv.csv", "AzureLLMInferenceTrace_conv_2023.csv", "azure_conv_2023.csv"),
        published=2,
        url=f"{REPOSITORY}/AzureLLMInferenceTrace_conv.csv",
        sha256="2f1e5b666d4e3055fdbba98598ce2ec307767b9064e03e2fa46676dbcc7d0bf8",
        megabytes=0.7,
        automatic=True,
        generator="azure-conv-2023",
    ),
)
