"""A file with one JSON line per iteration: what it ran and how long that took. Profiles are fitted from such files."""

from __future__ import annotations

import msgspec

from slosgate.engines.messages import IterationReport
from slosgate.engines.vllm.flight import Flight

FLUSH_EVERY = 100


class IterationLog:
    """Appends to a file; lines reach it in bundles and at `close`."""

    def __init__(self, path: str, flush_every: int = FLUSH_EVERY) -> None:
        self._file = open(path, "ab")  # noqa: SIM115  # open as long as the engine runs
        self._lines = 0
        self._flush_every = flush_every

    def write(self, report: IterationReport, flight: Flight, free_blocks: int) -> None:
        line = {
            "new_tokens": report.new_tokens,
            "sequences": report.sequences,
            "context_tokens": report.context_tokens,
            "draft_steps": report.draft_steps,
            "pairs": report.pairs,
            "ms": round(report.duration_s * 1e3, 3),
            "assumed": flight.assumed,
            "expected_ms": round(flight.expected_s * 1e3, 3),
            "free_blocks": free_blocks,
            "put_off": flight.put_off,
            "launch_ms": round(flight.launch_s * 1e3, 3),
            "lead_ms": round(flight.lead_s * 1e3, 3),
        }
        self._file.write(msgspec.json.encode(line) + b"\n")
        self._lines += 1
        if self._lines % self._flush_every == 0:
            self._file.flush()

    def close(self) -> None:
        self._file.close()
