"""SIGHUP: a changed file holds for what comes next, a bad one for nothing, and no stream notices."""

from __future__ import annotations

import signal
from hashlib import sha256
from pathlib import Path

import aiohttp

from slosgate.bench.processes import SLOSGATE, started
from slosgate.gateway.config import parse
from slosgate.gateway.reloading import differing, taken_over
from tests.gateway.conftest import eventually, until_known
from tests.gateway.scripted import MODEL, good, scripted_replica
from tests.processes import free_port, running_gateway, wait_for

CLASSES = "[classes.calm]\nttft_ms = 5000\n"


def with_key(name: str, key: str, more: str = "") -> str:
    return f'[keys.{name}]\nsha256 = "{sha256(key.encode()).hexdigest()}"\n{more}\n'


async def test_classes_and_keys_change_under_a_stream(
    client: aiohttp.ClientSession, redis_url: str, tmp_path: Path
) -> None:
    file = tmp_path / "slosgate.toml"
    file.write_text(CLASSES + with_key("old", "one"))

    async def status(key: str, slo_class: str = "calm") -> int:
        body = {"model": MODEL, "prompt": [1], "max_tokens": 1}
        headers = {"authorization": f"Bearer {key}", "x-slo-class": slo_class}
        async with client.post(f"{gateway.url}/v1/completions", json=body, headers=headers) as answer:
            return answer.status

    async def reloaded(text: str, said: str) -> None:
        file.write_text(text)
        gateway.popen.send_signal(signal.SIGHUP)
        await eventually(lambda: said in gateway.log.read_text())

    with running_gateway(redis_url, options=["--config", str(file)]) as gateway:
        async with scripted_replica(redis_url, "reloaded", good(token_s=0.1)) as replica:
            await until_known(client, gateway.url, replica.name)
            body = {"model": MODEL, "prompt": [1], "max_tokens": 40, "stream": True}
            headers = {"authorization": "Bearer one", "x-slo-class": "calm"}
            async with client.post(f"{gateway.url}/v1/completions", json=body, headers=headers) as stream:
                assert (await status("one"), await status("two"), await status("one", "brisk")) == (200, 401, 400)
                changed = "[classes.brisk]\nttft_ms = 4000\n" + with_key("new", "two") + "[redis]\ntimeout_s = 3\n"
                await reloaded(changed, "read again: classes, keys changed; a restart is needed for redis.timeout_s")
                assert (await status("one", "brisk"), await status("two", "brisk")) == (401, 200)
                assert await status("two", "calm") == 400
                await reloaded("[classes.brisk]\nttft_ms = -1\n", "line 2: classes.brisk.ttft_ms")
                assert "the configuration stays as it is" in gateway.log.read_text()
                assert await status("two", "brisk") == 200
                assert (await stream.text()).endswith("data: [DONE]\n\n")


async def test_a_key_that_stays_has_used_what_it_has(
    client: aiohttp.ClientSession, redis_url: str, tmp_path: Path
) -> None:
    """Its minute does not begin anew, and its new limit holds."""
    file = tmp_path / "slosgate.toml"
    file.write_text(with_key("k", "one", "requests_per_minute = 2"))

    async def status() -> int:
        headers, body = {"authorization": "Bearer one"}, {"model": MODEL, "prompt": [1], "max_tokens": 1}
        async with client.post(f"{gateway.url}/v1/completions", json=body, headers=headers) as answer:
            return answer.status

    with running_gateway(redis_url, options=["--config", str(file)]) as gateway:
        async with scripted_replica(redis_url, "limited", good(token_s=0.0)) as replica:
            await until_known(client, gateway.url, replica.name)
            assert [await status() for _ in range(3)] == [200, 200, 429]
            file.write_text(with_key("k", "one", "requests_per_minute = 3"))
            gateway.popen.send_signal(signal.SIGHUP)
            await eventually(lambda: "read again: keys changed" in gateway.log.read_text())
            assert await status() == 429


def test_without_a_file_it_is_told_what_to_do_instead(redis_url: str) -> None:
    port = free_port()
    command = [*SLOSGATE, "serve", "--redis", redis_url, "--port", str(port), "--log-format", "json"]
    with started(command, port) as gateway:
        gateway.wait_until_up()
        gateway.popen.send_signal(signal.SIGHUP)
        wait_for(lambda: "nothing_to_reload" in gateway.log.read_text())
        [line] = [line for line in gateway.log.read_text().splitlines() if "nothing_to_reload" in line]
    assert '"level":"warning"' in line
    assert "started with --config FILE it takes over" in line


def test_what_needs_a_restart_is_told_and_not_taken_over() -> None:
    running = parse("[server]\nport = 1\nmax_body_bytes = 10\n")
    read = parse("[server]\nport = 2\nmax_body_bytes = 20\n[admission]\npatience_s = 9\n[classes.a]\n")
    assert differing(running, read) == {
        "server.port", "server.max_body_bytes", "admission.patience_s", "classes",
    }  # fmt: skip
    taken = taken_over(running, read)
    assert (taken.server.port, taken.server.max_body_bytes) == (1, 20)
    assert taken.admission == running.admission
    assert "a" in taken.classes
