"""Debian's Prometheus beside a gateway, looking every second, with the alerts of deploy/."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from slosgate.bench.processes import started
from tests.processes import free_port

DEPLOY = Path(__file__).parents[2] / "deploy"
RULES = DEPLOY / "prometheus" / "rules.yml"


@contextmanager
def running_prometheus(gateway_url: str, folder: Path, rules: Path = RULES, key: str = "") -> Iterator[str]:
    """Its address, while it reads the gateway's metrics, with an API key where they ask for one."""
    port = free_port()
    target = {"job_name": "slosgate", "static_configs": [{"targets": [gateway_url.removeprefix("http://")]}]}
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(rules)],
        "scrape_configs": [{**target, **({"authorization": {"credentials": key}} if key else {})}],
    }
    (folder / "prometheus.yml").write_text(json.dumps(config))
    command = [
        "prometheus", f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]  # fmt: skip
    with started(command, port) as process:
        process.wait_until_up("/-/ready")
        yield process.url


def total(url: str, expression: str) -> float:
    """The sum of what a query gives; 0 for nothing."""
    answer = httpx.get(f"{url}/api/v1/query", params={"query": f"sum({expression})"}, trust_env=False).json()
    return sum(float(found["value"][1]) for found in answer["data"]["result"])


def firing(url: str) -> set[str]:
    """The alerts that fire now."""
    alerts = httpx.get(f"{url}/api/v1/alerts", trust_env=False).json()["data"]["alerts"]
    return {alert["labels"]["alertname"] for alert in alerts if alert["state"] == "firing"}
