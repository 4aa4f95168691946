"""`slosgate up`, `status` and `down` on this machine, as their user sees them."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from openai import AsyncOpenAI

from tests.engines.fleet.fleets import FleetUnderTest, alive, fleet
from tests.processes import wait_for

EXAMPLE = (Path(__file__).parents[3] / "examples" / "local.toml").read_text(encoding="utf-8")
MODELS = EXAMPLE[EXAMPLE.index("[models.chat]") :]
MODEL = "facebook/opt-13b"


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FleetUnderTest]:
    """The fleet of examples/local.toml, on a free port."""
    with fleet(tmp_path_factory.mktemp("fleet"), MODELS) as found:
        yield found


async def test_the_example_serves_an_openai_client(local: FleetUnderTest) -> None:
    async with AsyncOpenAI(base_url=f"{local.url}/v1", api_key="none", max_retries=0) as client:
        answer = await client.chat.completions.with_raw_response.create(
            model=MODEL,
            messages=[{"role": "user", "content": "Count."}],
            max_tokens=5,
            extra_headers={"x-slo-ttft-ms": "5000", "x-slo-tpot-ms": "500"},
        )
    assert answer.headers["x-slo-admission"] == "guaranteed"
    assert answer.headers["x-slo-replica"] in ("test-chat-1", "test-chat-2")
    usage = answer.parse().usage
    assert usage is not None
    assert usage.completion_tokens >= 1


def test_status_is_a_table_of_80_columns(local: FleetUnderTest) -> None:
    wait_for(lambda: local.status().groups[0].attained == 1.0)
    done = local.command("status")
    assert done.exit_code == 0
    assert all(len(line) <= 80 for line in done.stdout.splitlines())
    rows = {line.split()[0]: line.split() for line in done.stdout.splitlines()}
    assert rows["chat"][1:6] == ["(facebook/opt-13b)", "2", "of", "2", "ready"]
    assert rows["chat"][-4:] == ["100.0", "%", "100.0", "%"]
    assert rows["test-chat-1"][1:] == ["ready", "0"]
    assert rows["test-gateway-1"][1:] == ["ready"]


def test_a_replica_that_is_killed_is_started_again(local: FleetUnderTest) -> None:
    victim = local.members("chat")[0]
    os.kill(victim.pid, signal.SIGKILL)
    wait_for(lambda: local.members("chat")[0].failures == 1 and local.status().whole, 60)
    found = local.members("chat")[0]
    assert (found.name, found.why) == (victim.name, "ended by SIGKILL")
    assert found.pid != victim.pid


def test_a_crash_loop_is_told_and_the_other_replicas_are_left_as_they_are(local: FleetUnderTest) -> None:
    before = {member.pid for member in local.members("chat")}
    local.write(MODELS.replace("h200-opt-13b", "no-such-profile"))
    done = local.up()
    assert done.exit_code == 1
    assert "keeps ending" in done.stderr
    assert "no-such-profile" in done.stderr
    shown = local.command("status").stdout
    assert "crash loop" in shown
    ready = {member.pid for member in local.members("chat") if member.state == "ready"}
    assert ready == before
    local.write(MODELS)
    done = local.up()
    assert (done.exit_code, {member.pid for member in local.members("chat")}) == (0, before), done.stderr


def test_more_and_fewer_replicas(local: FleetUnderTest) -> None:
    kept = {member.pid for member in local.members("chat")}
    local.write(MODELS.replace("replicas = 2", "replicas = 3"))
    assert local.up().exit_code == 0
    assert kept < {member.pid for member in local.members("chat")}
    assert len(local.members("chat")) == 3
    local.write(MODELS.replace("replicas = 2", "replicas = 1"))
    assert local.up().exit_code == 0
    [left] = local.members("chat")
    wait_for(lambda: list(httpx.get(f"{local.url}/ready").json()["replicas"]) == [left.name])


def test_down_leaves_nothing_behind(local: FleetUnderTest) -> None:
    before = local.processes()
    assert len(before) == 4  # supervisor, Valkey, gateway, replica
    done = local.command("down")
    assert (done.exit_code, done.stdout) == (0, "test is down\n")
    wait_for(lambda: not alive(before), 10)
    assert local.processes() == set()
    assert local.command("status").exit_code == 1
    assert "no fleet runs here" in local.command("down").stderr


def test_a_supervisor_that_is_killed_takes_the_fleet_with_it(local: FleetUnderTest) -> None:
    local.write(MODELS.replace("replicas = 2", "replicas = 1"))
    local.start()
    before = local.processes()
    [supervisor] = [pid for pid in before if _is_supervisor(pid)]
    os.kill(supervisor, signal.SIGKILL)
    wait_for(lambda: not alive(before), 60)


def _is_supervisor(pid: int) -> bool:
    return b"--foreground" in Path(f"/proc/{pid}/cmdline").read_bytes()
