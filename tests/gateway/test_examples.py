"""The programs that docs/agents.md shows, as they are, against a gateway and simulated replicas."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest

from tests.processes import Process, running_engine, running_gateway

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
EXAMPLE_S = 200.0  # importing a client takes long on a busy machine
pytestmark = pytest.mark.timeout(EXAMPLE_S + 60)


@pytest.fixture(scope="module")
def served(redis_url: str) -> Iterator[Process]:
    with (
        running_gateway(redis_url, wait=False) as gateway,
        running_engine(redis_url, "examples", "--model", "agent", "--thinking", "0.5", wait=False) as engine,
    ):
        engine.wait_until_up()
        gateway.wait_until_up("/ready", needs=["examples"])
        yield gateway


def said(name: str, gateway: Process, key: str = "none") -> str:
    command = [sys.executable, str(EXAMPLES / name), f"{gateway.url}/v1", "agent"]
    environment = {**os.environ, "OPENAI_API_KEY": key}
    done = subprocess.run(command, capture_output=True, text=True, timeout=EXAMPLE_S, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_an_agents_loop_is_promised_its_calls_and_finds_its_prefix(served: Process) -> None:
    lines = said("agent_loop.py", served).splitlines()
    assert len(lines) == 5
    cached = [int(found[1]) for line in lines if (found := re.search(r"(\d+) of \d+ prompt tokens cached", line))]
    assert cached[0] == 0
    assert min(cached[1:]) > 300
    assert all("guaranteed" in line for line in lines)


def test_an_agent_is_told_that_its_key_may_set_no_limit(redis_url: str, served: Process) -> None:
    config = f"""
    [classes.interactive]
    tpot_ms = 100
    [keys.agents]
    sha256 = "{sha256(b"secret").hexdigest()}"
    default_class = "interactive"
    may_set_slo = true
    """
    with running_gateway(redis_url, config, wait=False) as gateway:
        gateway.wait_until_up("/ready", needs=["examples"])
        lines = said("agent_loop.py", gateway, "secret").splitlines()
    assert len(lines) == 5
    assert all("no limit on the loop (the gateway ignored x-slo-session-e2e-ms)" in line for line in lines)


def test_a_reasoning_model_thinks_and_answers(served: Process) -> None:
    assert re.search(r"guaranteed: [1-9]\d* tokens of thinking, [1-9]\d* of the answer", said("thinking.py", served))


def test_langchain_needs_only_headers(served: Process) -> None:
    pytest.importorskip("langchain_openai")
    assert re.findall(r"call (\d)", said("langchain_loop.py", served)) == ["1", "2", "3"]
