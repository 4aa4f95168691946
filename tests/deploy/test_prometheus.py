"""Debian's Prometheus reads a running gateway: every panel of the dashboard has data, alerts come when they should."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from slosgate.planner.profile import Launches
from tests.deploy.prometheus import DEPLOY, RULES, firing, running_prometheus
from tests.gateway.conftest import CONFIG, eventually, until_known
from tests.gateway.scripted import MODEL, good, scripted_replica
from tests.processes import running_engine, running_gateway, running_valkey, wait_for

PANELS = json.loads((DEPLOY / "grafana" / "slosgate.json").read_text())["panels"]
VARIABLES = {"$job": ".*", "$instance": ".*", "$slo_class": ".*", "$__rate_interval": "20s"}

pytestmark = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="needs Debian's prometheus (apt-get install prometheus)"
)


def promtool(*arguments: str, said: str = "") -> str:
    """What it prints; it must find nothing wrong."""
    done = subprocess.run(["promtool", *arguments], input=said, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_each_alert_comes_when_it_should_and_only_then() -> None:
    promtool("test", "rules", str(RULES.parent / "rules_test.yml"))


def test_the_example_configuration_is_good() -> None:
    promtool("check", "config", str(RULES.parent / "prometheus.yml"))


def test_every_alert_has_its_page() -> None:
    """The runbook's heading is where the alert's link leads."""
    headings = {
        line.removeprefix("### ").lower()
        for line in (DEPLOY.parent / "docs" / "operate.md").read_text().splitlines()
        if line.startswith("### ")
    }
    links = [line.partition("runbook: ")[2] for line in RULES.read_text().splitlines() if "runbook: " in line]
    assert len(links) == RULES.read_text().count("- alert: ")
    assert {link.removeprefix("docs/operate.md#") for link in links} <= headings


@pytest.mark.parametrize("workers", [1, 2])
async def test_the_metrics_are_as_prometheus_wants_them(client: aiohttp.ClientSession, workers: int) -> None:
    """Of one process, and merged of several."""
    with running_valkey() as redis, running_gateway(redis.url, CONFIG, options=("--workers", str(workers))) as gateway:
        async with scripted_replica(redis.url, "r", good()):
            await until_known(client, gateway.url, "r")
            body, slo = {"model": MODEL, "prompt": [1] * 50, "max_tokens": 5}, {"x-slo-ttft-ms": "4000"}
            for wanted in (body, {**body, "stream": True}, {**body, "max_tokens": -1}):
                async with client.post(f"{gateway.url}/v1/completions", json=wanted, headers=slo) as answer:
                    await answer.read()
            async with client.get(f"{gateway.url}/metrics") as answer:
                page = await answer.text()
    assert "slosgate_requests_total{" in page
    promtool("check", "metrics", said=page)


async def query(client: aiohttp.ClientSession, url: str, expression: str) -> list[dict[str, Any]]:
    for name, value in VARIABLES.items():
        expression = expression.replace(name, value)
    async with client.get(f"{url}/api/v1/query", params={"query": expression}) as answer:
        found = await answer.json()
    assert found["status"] == "success", (expression, found)
    result: list[dict[str, Any]] = found["data"]["result"]
    return result


@asynccontextmanager
async def asking(client: aiohttp.ClientSession, url: str) -> AsyncIterator[None]:
    """Requests that are guaranteed, that can't be, and that are refused, until the block ends."""

    async def ask() -> None:
        body = {"model": MODEL, "prompt": [1] * 50, "max_tokens": 5, "stream": True}
        while True:
            for wanted in (body, {**body, "n": 2}, {**body, "max_tokens": -1}):
                async with client.post(f"{url}/v1/completions", json=wanted, headers={"x-slo-ttft-ms": "4000"}) as a:
                    await a.read()
            await asyncio.sleep(0.05)

    task = asyncio.create_task(ask())
    try:
        yield
    finally:
        task.cancel()


async def test_every_panel_has_data_and_a_killed_replica_is_told(client: aiohttp.ClientSession, tmp_path: Path) -> None:
    with (
        running_valkey() as redis,
        running_engine(redis.url, "doomed") as engine,
        running_gateway(redis.url, CONFIG) as gateway,
        running_prometheus(gateway.url, tmp_path) as url,
    ):
        async with scripted_replica(redis.url, "measures-launches", good()) as other:
            other.launches = Launches()
            for name in ("doomed", other.name):
                await until_known(client, gateway.url, name)
            async with asking(client, gateway.url):
                for panel in PANELS:
                    for target in panel.get("targets", []):
                        await eventually(partial(query, client, url, target["expr"]))
                async with client.get(f"{gateway.url}/metrics") as answer:
                    promtool("check", "metrics", said=await answer.text())
                assert "SlosgateReplicaLost" not in firing(url)
                engine.kill()
                await asyncio.to_thread(wait_for, lambda: "SlosgateReplicaLost" in firing(url))
