"""What traces may say about bad data: one sentence that names the file, the line and the rule."""

from __future__ import annotations

from pathlib import Path


class TraceError(ValueError):
    """Bad trace data, or a request that a trace cannot answer. The message is meant for the person at the keyboard."""


def malformed(path: Path, line: int, rule: str) -> TraceError:
    """The error for one line of a file; lines are counted from 1."""
    return TraceError(f"{path}, line {line}: {rule}")
