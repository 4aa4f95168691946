"""A load generator that costs little itself: raw keep-alive connections, one request under way on each."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import cast

import httptools
import msgspec


@dataclass(slots=True)
class Sample:
    """One answer. Seconds on the client's monotonic clock, counted from when the request was due."""

    status: int
    first_byte_s: float
    end_s: float
    events: int


class _Connection(asyncio.Protocol):
    transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's are no subclass
        self.closed = False
        self._done: asyncio.Future[None] | None = None

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        if self._done is not None and not self._done.done():
            self._done.set_exception(ConnectionError("the server closed the connection"))

    async def ask(self, request: bytes, due_s: float) -> Sample:
        self._parser = httptools.HttpResponseParser(self)
        self._first_s = 0.0
        self._events = 0
        self._done = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        await self._done
        now_s = time.perf_counter()
        return Sample(self._parser.get_status_code(), self._first_s - due_s, now_s - due_s, self._events)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        if not self._first_s:
            self._first_s = time.perf_counter()
        self._events += body.count(b"data: ")

    def on_message_complete(self) -> None:
        assert self._done is not None
        self._done.set_result(None)


@dataclass(slots=True)
class Traffic:
    """What was offered and what came of it."""

    samples: list[Sample] = field(default_factory=list)
    failed: int = 0
    seconds: float = 0.0


def request(host: str, port: int, body: dict[str, object], headers: dict[str, str] | None = None) -> bytes:
    data = msgspec.json.encode(body)
    lines = {"host": f"{host}:{port}", "content-type": "application/json", "content-length": str(len(data))}
    head = "".join(f"{name}: {value}\r\n" for name, value in {**lines, **(headers or {})}.items())
    return f"POST /v1/chat/completions HTTP/1.1\r\n{head}\r\n".encode() + data


class Client:
    """Connections to one address, made as they are needed and used again."""

    def __init__(self, host: str, port: int) -> None:
        self._address = (host, port)
        self._idle: list[_Connection] = []

    async def _ask(self, data: bytes, due_s: float, traffic: Traffic) -> None:
        try:
            connection = await self._connection()
            sample = await connection.ask(data, due_s)
        except (OSError, httptools.HttpParserError):
            traffic.failed += 1
            return
        if sample.status == 200:
            traffic.samples.append(sample)
            self._idle.append(connection)
        else:
            traffic.failed += 1
            connection.transport.close()

    async def _connection(self) -> _Connection:
        while self._idle:
            if not (kept := self._idle.pop()).closed:
                return kept
        _, connection = await asyncio.get_running_loop().create_connection(_Connection, *self._address)
        return connection

    async def closed_loop(self, data: bytes, *, concurrency: int, seconds: float) -> Traffic:
        """Send as many requests as so many clients make that each wait for their answer."""
        traffic = Traffic()
        began_s = time.perf_counter()

        async def one() -> None:
            while time.perf_counter() < began_s + seconds:
                await self._ask(data, time.perf_counter(), traffic)

        await asyncio.gather(*(one() for _ in range(concurrency)))
        traffic.seconds = time.perf_counter() - began_s
        return traffic

    async def open_loop(self, data: bytes, *, rate_rps: float, seconds: float) -> Traffic:
        """Send requests at a fixed rate, whatever becomes of those before; latency counts from when each was due."""
        traffic = Traffic()
        began_s = time.perf_counter()
        asked = []
        for number in range(int(rate_rps * seconds)):
            due_s = began_s + number / rate_rps
            await asyncio.sleep(max(0.0, due_s - time.perf_counter()))
            asked.append(asyncio.create_task(self._ask(data, due_s, traffic)))
        await asyncio.gather(*asked)
        traffic.seconds = time.perf_counter() - began_s
        return traffic

    async def streams(self, data: bytes, *, concurrency: int) -> Traffic:
        """Send `concurrency` requests at once."""
        traffic = Traffic()
        began_s = time.perf_counter()
        await asyncio.gather(*(self._ask(data, time.perf_counter(), traffic) for _ in range(concurrency)))
        traffic.seconds = time.perf_counter() - began_s
        return traffic

    def close(self) -> None:
        for connection in self._idle:
            connection.transport.close()
