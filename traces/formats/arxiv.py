"""arXiv summarization: lengths of articles and their abstracts, tokenized with Llama 2's tokenizer.

Vidur's table has num_prefill_tokens, num_decode_tokens, num_total_tokens, pd_ratio and keeps totals up to 4096; the
original (JSON lines with article and abstract) is counted by the tokenizer given. Lengths only: no arrivals.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from slosgate.traces.formats import plain
from slosgate.traces.formats.base import Dataset, Format, Reading
from slosgate.traces.formats.text import read_pairs
from slosgate.traces.records import TraceRequest
from slosgate.traces.rows import csv_header, open_text

VIDUR = ("num_prefill_tokens", "num_decode_tokens")


def read(path: Path, reading: Reading) -> Iterator[TraceRequest]:
    """Requests of one stage: the article is the prompt, the abstract the output."""
    with open_text(path) as text:
        if text.read(1) == "{":
            return read_pairs(path, "article", "abstract", reading)
    return plain.read_lengths(path, VIDUR if VIDUR[0] in csv_header(path) else plain.LENGTHS, reading)


FORMAT = Format(
    name="arxiv-summarization",
    columns=", ".join(VIDUR),
    timed=False,
    licence="MIT (Vidur's table of lengths)",
    citation="Cohan et al., A discourse-aware attention model for abstractive summarization of long "
    "documents, NAACL 2018; lengths from Agrawal et al., Vidur, MLSys 2024",
    read=read,
)
DATASETS = (
    Dataset(
        name="arxiv-summarization",
        title="arXiv summarization, lengths up to 4096 tokens, 28,257 articles",
        format=FORMAT,
        files=(
            "arxiv_summarization_stats_llama2_tokenizer_filtered_v2.csv",
            "arxiv_summarization_4k_llama2_lengths.csv",
            "arxiv_summarization.jsonl",
        ),
        url="https://raw.githubusercontent.com/microsoft/vidur/7d47513363ec447a741ac5e47241580b47724fbf/data/"
        "processed_traces/arxiv_summarization_stats_llama2_tokenizer_filtered_v2.csv",
        megabytes=0.9,
        automatic=True,
        generator="arxiv-summarization",
    ),
)
