"""Azure LLM inference trace 2023: one hour of two services, a chat and a code completion service.

Columns TIMESTAMP (UTC unless it has an offset, 100 ns ticks), ContextTokens, GeneratedTokens. Quirks: CRLF ends, no
line end after the last row, seven digits of a second. The clock starts at the first row. The same trace also
goes around as arrival_s, prompt_tokens, output_tokens (see plain.py); both forms are read.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from slosgate.traces.formats import plain
from slosgate.traces.formats.base import Dataset, Format, Reading
from slosgate.traces.records import TraceRequest
from slosgate.traces.rows import csv_header, csv_rows, tokens
from slosgate.traces.times import Moments

COLUMNS = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
REPOSITORY = "https://raw.githubusercontent.com/Azure/AzurePublicDataset/b469a113cedca53ddc3bdea71a143dc4b7d8700c/data"


def read(path: Path, reading: Reading) -> Iterator[TraceRequest]:
    """Requests of one stage. Rows without prompt or output tokens are counted and left out."""
    if csv_header(path)[: len(plain.TIMED)] == plain.TIMED:
        yield from plain.read(path, reading)
        return
    moments = Moments(path, "TIMESTAMP")
    for line, (timestamp, context, generated) in csv_rows(path, COLUMNS):
        arrival_s = moments.arrival_s(timestamp, line)
        prompt = tokens(context, "ContextTokens", path, line)
        output = tokens(generated, "GeneratedTokens", path, line)
        yield from reading.single(arrival_s, prompt, output)


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
