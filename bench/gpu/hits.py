"""How much of prompts a gateway expected replicas to have cached, and what they had: from its decision records."""

from __future__ import annotations

from pathlib import Path

import msgspec

from slosgate.bench.results import Row

BEGINS = b'{"request_id"'  # a line of the log that is a record


class _Record(msgspec.Struct):
    prompt_tokens: int
    likely_cached_tokens: int
    expected_cached_tokens: int
    cached_tokens: int | None


class Expectations:
    """Reads a gateway's log from where it ends now."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._from = log.stat().st_size

    def row(self) -> Row:
        """Sums over the calls since of which a replica has told how much it had."""
        with self._log.open("rb") as lines:
            lines.seek(self._from)
            found = [msgspec.json.decode(line, type=_Record) for line in lines if line.startswith(BEGINS)]
        told = [record for record in found if record.cached_tokens is not None]
        return {
            "told_calls": len(told),
            "told_prompt_tokens": sum(record.prompt_tokens for record in told),
            "told_cached_tokens": sum(record.cached_tokens or 0 for record in told),
            "likely_cached_tokens": sum(record.likely_cached_tokens for record in told),
            "expected_cached_tokens": sum(record.expected_cached_tokens for record in told),
        }
