"""Replicas that can't be reached for a moment."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress

import aiohttp

from slosgate.engines.cancelling import ended
from tests.gateway.conftest import until_known
from tests.gateway.scripted import MODEL, ScriptedReplica, good, scripted_replica
from tests.processes import free_port, running_gateway

CONNECT_S = 3.0


class Door:
    """A port before a replica. While it is jammed, connections to it are neither made nor refused."""

    def __init__(self) -> None:
        self.port = free_port()
        self.replica: ScriptedReplica | None = None
        self._server: asyncio.Server | None = None
        self._held: list[socket.socket] = []
        self._through: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        for held in self._held:
            held.close()
        self._server = await asyncio.start_server(self._forward, "127.0.0.1", self.port)

    async def jam(self) -> None:
        assert self._server is not None
        self._server.close()
        await ended(self._through)
        listener = socket.create_server(("127.0.0.1", self.port), backlog=0)
        self._held = [listener]
        for _ in range(3):  # the queue of those who wait is full
            waits = socket.socket()
            waits.setblocking(False)
            waits.connect_ex(("127.0.0.1", self.port))
            self._held.append(waits)

    async def close(self) -> None:
        await ended(self._through)
        if self._server is not None:
            self._server.close()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert self.replica is not None
        task = asyncio.current_task()
        assert task is not None
        self._through.add(task)
        there = await asyncio.open_connection("127.0.0.1", int(self.replica.url.rpartition(":")[2]))
        try:
            await asyncio.gather(_copy(reader, there[1]), _copy(there[0], writer))
        finally:
            self._through.discard(task)
            there[1].close()
            writer.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while part := await reader.read(65536):
            writer.write(part)
            await writer.drain()
    writer.close()


async def test_the_only_replica_is_tried_again_while_it_can_not_have_seen_the_request(
    client: aiohttp.ClientSession, redis_url: str
) -> None:
    door = Door()
    with running_gateway(redis_url, f"[server]\nconnect_timeout_s = {CONNECT_S}\n") as gateway:
        async with scripted_replica(redis_url, "jammed", good(), url=f"http://127.0.0.1:{door.port}") as replica:
            door.replica = replica
            await door.open()
            await until_known(client, gateway.url, "jammed")
            await door.jam()
            body = {"model": MODEL, "prompt": [1], "max_tokens": 2}
            asked = asyncio.create_task(client.post(f"{gateway.url}/v1/completions", json=body).__aenter__())
            await asyncio.sleep(CONNECT_S + 1)
            assert not asked.done()
            await door.open()
            async with await asked as answer:
                assert (answer.status, answer.headers["x-slo-replica"]) == (200, "jammed"), await answer.text()
            assert len(replica.calls) == 1
            await door.close()
