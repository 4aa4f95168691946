"""ShareGPT: conversations with ChatGPT. The texts' licence is contested, so only lengths are fetched or committed.

Three forms: Sarathi-Serve's table (num_prefill_tokens, num_decode_tokens: multi-turn prompts, Llama 2's tokenizer,
totals up to 8192); lengths as prompt_tokens, output_tokens; the original JSON array of {"conversations": [{"from",
"value"}]}, one request for each answer, prompted by all turns before it, counted by the tokenizer given. No arrivals.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from slosgate.traces.errors import malformed
from slosgate.traces.formats import plain
from slosgate.traces.formats.base import Dataset, Format, Reading
from slosgate.traces.records import TraceRequest
from slosgate.traces.rows import csv_header, open_text

SARATHI = ("num_prefill_tokens", "num_decode_tokens")
ANSWERS_FROM = {"gpt", "chatgpt", "bard", "assistant"}


class _Turn(msgspec.Struct, rename={"speaker": "from"}):
    speaker: str
    value: str


class _Conversation(msgspec.Struct):
    conversations: list[_Turn]


def read(path: Path, reading: Reading) -> Iterator[TraceRequest]:
    """Requests of one stage, conversation by conversation; answers without a turn before them are left out."""
    with open_text(path) as text:
        if text.read(1) == "[":
            return _from_conversations(path, reading)
    return plain.read_lengths(path, SARATHI if SARATHI[0] in csv_header(path) else plain.LENGTHS, reading)


def _from_conversations(path: Path, reading: Reading) -> Iterator[TraceRequest]:
    with open_text(path) as text:
        try:
            conversations = msgspec.json.decode(text.read(), type=list[_Conversation])
        except (msgspec.DecodeError, msgspec.ValidationError) as error:
            raise malformed(path, 1, f"not a JSON array of ShareGPT conversations: {error}") from None
    for conversation in conversations:
        yield from _answers(conversation.conversations, reading)


def _answers(turns: Sequence[_Turn], reading: Reading) -> Iterator[TraceRequest]:
    before = 0
    for turn in turns:
        count = reading.count_tokens(turn.value) if turn.value else 0
        if turn.speaker in ANSWERS_FROM:
            yield from reading.single(0.0, before, count, "an answer without a prompt, or empty")
        before += count


FORMAT = Format(
    name="sharegpt",
    columns=", ".join(SARATHI),
    timed=False,
    licence="contested (texts); Apache-2.0 (tables of lengths)",
    citation="ShareGPT conversations collected by users; lengths from Agrawal et al., Sarathi-Serve, OSDI 2024, and "
    "Zhu et al., NanoFlow, OSDI 2025",
    read=read,
)
DATASETS = (
    Dataset(
        name="sharegpt",
        title="ShareGPT, multi-turn prompts up to 8192 tokens, 30,731 answers",
        format=FORMAT,
        files=(
            "sharegpt_8k_filtered_stats_llama2_tokenizer.csv",
            "sharegpt_8k_llama2_lengths.csv",
            "ShareGPT_V3_unfiltered_cleaned_split.json",
        ),
        url="https://raw.githubusercontent.com/microsoft/sarathi-serve/72339db5b120614033b317880ad3a05a5e4c9415/data/"
        "processed_traces/sharegpt_8k_filtered_stats_llama2_tokenizer.csv",
        megabytes=1,
        generator="sharegpt",
    ),
    Dataset(
        name="sharegpt-first-turn",
        title="ShareGPT, first turns only, 58,787 conversations",
        format=FORMAT,
        files=("sharegpt_firstturn_longchat_lengths.csv",),
        home="the lengths in datasets/traces of the repository efeslab/Nanoflow",
        generator="sharegpt-first-turn",
    ),
)
