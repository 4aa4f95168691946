"""How a vLLM that was told to go finishes what it has: the launcher waits for its requests, the courier tells gateways.

The launcher leaves a mark in the folder that it shares with the engine's processes.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import httpx
from prometheus_client.parser import text_string_to_metric_families

from slosgate.engines.draining import Drain

MARK = "draining"
POLL_S = 0.1
ANSWER_S = 2.0
_COUNTS = ("vllm:num_requests_running", "vllm:num_requests_waiting")


def finish(folder: Path, url: str, drain: Drain, *, given_up: Callable[[], bool]) -> None:
    """Return when the server at `url` has no requests any more, when the bound has passed, or it was given up."""
    (folder / MARK).touch()
    drain.begin()
    with httpx.Client(timeout=ANSWER_S, trust_env=False) as client:
        while not given_up() and not drain.over(requests_on(client, url)):
            time.sleep(POLL_S)


def requests_on(client: httpx.Client, url: str) -> int:
    """How many requests a vLLM server has, 0 for one that can't be reached; one that doesn't answer may have some."""
    try:
        text = client.get(f"{url}/metrics").text
    except httpx.ConnectError:
        return 0
    except httpx.HTTPError:
        return 1
    families = text_string_to_metric_families(text)
    return round(sum(sample.value for family in families for sample in family.samples if sample.name in _COUNTS))


def has_begun(folder: Path | None) -> bool:
    """Whether the launcher has left its mark."""
    return folder is not None and (folder / MARK).exists()
