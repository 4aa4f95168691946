"""Session files with block identities, as Weka's kv-cache-tester publishes them: one JSON object a file, or a folder.

{"id", "block_size", "requests": [{"t", "in", "out", "hash_ids"}]}: seconds since the session's start, prompt and output
tokens, and the identity of each block of the prompt within its session. Quirks: a request may stand there twice (once
streamed, once not, with equal hash_ids), of which the second is left out; a request may hold `requests` of its own (a
subagent's), which take their place in time. A prompt's leading blocks that its session had before are cached. Nobody
says how long an answer took: the gap is the time from a call's start to the next one's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from zlib import crc32

import msgspec

from slosgate.traces.errors import TraceError, malformed
from slosgate.traces.formats.base import Format, Reading
from slosgate.traces.records import Stage, TraceRequest
from slosgate.traces.rows import field, open_text, seconds, tokens

Row = Mapping[str, Any]


def read(path: Path, reading: Reading) -> Iterator[TraceRequest]:
    """A request for each session, of one stage a call; all at 0 s."""
    files = sorted(path.glob("*.json")) if path.is_dir() else [path]
    if not files:
        raise TraceError(f"{path}: no session files (*.json) in this folder")
    for file in files:
        stages = tuple(_stages(_session(file), file, reading))
        if stages:
            yield TraceRequest(arrival_s=0.0, stages=stages)
        else:
            reading.dropped["no calls"] += 1


def is_session(row: Row) -> bool:
    """Whether an object is such a file's."""
    return isinstance(row.get("requests"), list) and "block_size" in row


def _session(file: Path) -> Row:
    with open_text(file) as text:
        try:
            found = msgspec.json.decode(text.read())
        except (msgspec.DecodeError, RecursionError) as error:
            raise malformed(file, 1, f"not a JSON object: {error}") from None
    if not isinstance(found, dict) or not is_session(found):
        raise malformed(file, 1, "a session needs the fields block_size and requests")
    return found


def _flat(rows: list[Any], file: Path) -> Iterator[Row]:
    for row in rows:
        if not isinstance(row, dict):
            raise malformed(file, 1, "requests must be objects")
        if "in" in row:
            yield row
        if isinstance(row.get("requests"), list):
            yield from _flat(row["requests"], file)


def _stages(session: Row, file: Path, reading: Reading) -> Iterator[Stage]:
    size = tokens(session["block_size"], "block_size", file, 1)
    own = crc32(str(session.get("id", file.stem)).encode()) << 32  # identities are the session's own
    rows = sorted(_flat(session["requests"], file), key=lambda row: seconds(field(row, "t", file, 1), "t", file, 1))
    calls: list[tuple[float, Stage]] = []
    known: set[int] = set()
    before: tuple[int, ...] | None = None
    for row in rows:
        prompt, output = (tokens(field(row, name, file, 1), name, file, 1) for name in ("in", "out"))
        ids = row.get("hash_ids") or []
        if not isinstance(ids, list) or not all(type(block) is int for block in ids):
            raise malformed(file, 1, "hash_ids must be a list of whole numbers")
        blocks = tuple(own + block for block in ids)
        if prompt == 0 or output == 0 or blocks == before:
            reading.dropped["no prompt, no output, or the same prompt again"] += 1
            continue
        before = blocks
        hits = next((i for i, block in enumerate(blocks) if block not in known), len(blocks))
        known.update(blocks)
        cached = min(hits * size, prompt - 1)
        stage = Stage(
            prompt_tokens=prompt - cached, cached_tokens=cached, output_tokens=output, block_ids=blocks, id_tokens=size
        )
        calls.append((float(row["t"]), stage))
    for (at_s, stage), (next_s, _) in zip(calls, [*calls[1:], calls[-1]] if calls else [], strict=True):
        yield msgspec.structs.replace(stage, gap_s=max(0.0, next_s - at_s))


FORMAT = Format(
    name="weka",
    columns="id, block_size, requests[t, in, out, hash_ids]",
    timed=False,
    licence="Apache-2.0",
    citation="callanjfox/kv-cache-tester, 2026",
    read=read,
)
