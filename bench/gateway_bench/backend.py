"""A mock OpenAI backend that costs next to nothing, so that what is measured is the proxy.

    python -m slosgate.bench.gateway_bench.backend --port 9000 --token-s 0.02

Plain answers come at once; streams send one token every `token_s` seconds. One timer serves all streams.
"""

from __future__ import annotations

import argparse
import asyncio
from typing import cast

import httptools
import msgspec

MODEL = "mock"
_USAGE = {"prompt_tokens": 8, "completion_tokens": 8, "total_tokens": 16}


class _Ask(msgspec.Struct):
    stream: bool | None = None
    max_tokens: int | None = None


class Ticker:
    """Sends every stream its next token, all at once, every `token_s` seconds."""

    def __init__(self, token_s: float) -> None:
        self.token_s = token_s
        self.streams: dict[Connection, int] = {}

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            due += self.token_s
            await asyncio.sleep(max(0.0, due - loop.time()))
            for connection, left in list(self.streams.items()):
                connection.transport.write(TOKEN if left > 1 else TOKEN + LAST)
                if left > 1:
                    self.streams[connection] = left - 1
                else:
                    del self.streams[connection]


class Connection(asyncio.Protocol):
    transport: asyncio.Transport

    def __init__(self, ticker: Ticker) -> None:
        self._ticker = ticker
        self._parser = httptools.HttpRequestParser(self)
        self._path = b""
        self._body = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's are no subclass

    def connection_lost(self, exc: Exception | None) -> None:
        self._ticker.streams.pop(self, None)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_url(self, url: bytes) -> None:
        self._path, self._body = url, b""

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        if not self._path.endswith(b"completions"):
            self.transport.write(MODELS)
            return
        ask = msgspec.json.decode(self._body, type=_Ask)
        if ask.stream:
            self.transport.write(STREAM_HEAD)
            self._ticker.streams[self] = ask.max_tokens or 16
        else:
            self.transport.write(PLAIN)


def _whole(body: object) -> bytes:
    data = msgspec.json.encode(body)
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(data), data)


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def _event(choice: dict[str, object]) -> bytes:
    head = {"id": "chatcmpl-mock", "object": "chat.completion.chunk", "created": 1, "model": MODEL}
    return b"data: " + msgspec.json.encode({**head, "choices": [{"index": 0, **choice}]}) + b"\n\n"


_MESSAGE = {"role": "assistant", "content": "one two three four five six seven eight"}
MODELS = _whole({"object": "list", "data": [{"id": MODEL, "object": "model", "created": 1, "owned_by": "mock"}]})
PLAIN = _whole(
    {
        "id": "chatcmpl-mock",
        "object": "chat.completion",
        "created": 1,
        "model": MODEL,
        "choices": [{"index": 0, "message": _MESSAGE, "finish_reason": "stop"}],
        "usage": _USAGE,
    }
)
STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
TOKEN = _chunk(_event({"delta": {"content": "token "}, "finish_reason": None}))
LAST = _chunk(_event({"delta": {}, "finish_reason": "stop"})) + _chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"


async def serve(port: int, token_s: float) -> None:
    ticker = Ticker(token_s)
    server = await asyncio.get_running_loop().create_server(lambda: Connection(ticker), "127.0.0.1", port, backlog=4096)
    async with server:
        await ticker.run()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--token-s", type=float, default=0.02)
    options = parser.parse_args()
    asyncio.run(serve(options.port, options.token_s))


if __name__ == "__main__":
    main()
