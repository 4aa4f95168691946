"""Requests that failed: how many, and what their servers said."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from slosgate.bench.attainment import RequestOutcome
from slosgate.bench.errors import RunError
from slosgate.bench.results import Row

LONGEST = 300  # characters of what a server says of a failure that are kept


def counted(outcomes: Iterable[RequestOutcome]) -> Row:
    """The keys of a row: how many failed, and of each kind of failure how many and what servers mostly said. Nothing
    where none did."""
    failed = [outcome for outcome in outcomes if outcome.error]
    if not failed:
        return {}
    messages: dict[str, Counter[str]] = {}
    for outcome in failed:
        messages.setdefault(outcome.error, Counter())[outcome.said] += 1
    kinds = [
        {"error": kind, "requests": found.total(), "message": found.most_common(1)[0][0]}
        for kind, found in messages.items()
    ]
    return {"failed": len(failed), "failures": sorted(kinds, key=lambda kind: -kind["requests"])}


def said(row: Row) -> str:
    """How many requests of a row failed, and why; empty where none did."""
    if not row.get("failed"):
        return ""
    each = "; ".join(f"{one['requests']:,} x {in_words(one['error'], one['message'])}" for one in row["failures"])
    return f"{row['failed']:,} of {row['offered']:,} requests failed: {each}"


def in_words(error: str, message: str) -> str:
    """A kind of failure, and what a server said of it if it said anything."""
    return f"{error}: {message}" if message else error


def check(row: Row) -> None:
    """Whether a row says anything of a system. Raises RunError when every request failed before its first token."""
    if row.get("failed", 0) < row["offered"] or row["output_tokens"]:
        return
    worst = row["failures"][0]
    raise RunError(f"no request was served: {in_words(worst['error'], worst['message'])}{_advice(worst)}")


def _advice(worst: Row) -> str:
    """What to do about a failure of every request, where that is known."""
    if "x-slo-class" in worst["message"]:
        return ". Ask for one of the server's classes with --slo-class NAME, or for none with --slo-class none"
    if worst["error"] in ("http 401", "http 403"):
        return ". --api-key-env names the environment variable that holds the API key"
    return ""
