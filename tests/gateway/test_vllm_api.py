"""Whatever vLLM's schema allows is served, and what it forbids is refused or served, never failed of."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import Case, GenerationMode
from schemathesis.config import SchemathesisConfig

from tests.gateway import vllm_api
from tests.processes import running_engine, running_gateway, running_valkey

MOST_EVENTS = 10_000  # of a stream that schemathesis reads
MODEL = "facebook/opt-13b"
EXAMPLES = settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate, Phase.shrink],
    suppress_health_check=list(HealthCheck),
)
GENERATION = vllm_api.generation(MODEL)
OTHERS = vllm_api.others(MODEL)


class Answering(BaseHTTPRequestHandler):
    """A replica that answers whatever it is asked."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer(b'{"object": "list", "data": [{"id": "facebook/opt-13b"}]}')

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self._answer(b'{"answered": true}')

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


@contextmanager
def answering() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Answering) as server:
        server.daemon_threads = True
        Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


@pytest.fixture(scope="module")
def simulated() -> Iterator[str]:
    """A gateway before `slosgate engine sim`."""
    with ExitStack() as stack:
        redis = stack.enter_context(running_valkey())
        gateway = stack.enter_context(running_gateway(redis.url, wait=False))
        stack.enter_context(running_engine(redis.url, "sim", "--model", MODEL, "--speed", "20", wait=False))
        gateway.wait_until_up("/ready", needs=["sim"])
        yield gateway.url


@pytest.fixture(scope="module")
def through() -> Iterator[str]:
    """A gateway before a server that answers on every path."""
    with ExitStack() as stack:
        redis = stack.enter_context(running_valkey())
        replica = stack.enter_context(answering())
        gateway = stack.enter_context(running_gateway(redis.url, f'[[replicas]]\nurl = "{replica}"\n', wait=False))
        gateway.wait_until_up("/ready", needs=[MODEL])
        yield gateway.url


def bodies(document: dict[str, Any], path: str, mode: GenerationMode) -> st.SearchStrategy[Case[Any]]:
    config = SchemathesisConfig.from_dict({"max-stream-events": MOST_EVENTS})
    methods = schemathesis.openapi.from_dict(document, config=config)[path]
    return st.one_of([methods[method].as_strategy(generation_mode=mode) for method in document["paths"][path]])


@pytest.mark.parametrize("path", GENERATION["paths"])
def test_what_vllm_allows_is_served(simulated: str, path: str) -> None:
    @EXAMPLES
    @given(bodies(GENERATION, path, GenerationMode.POSITIVE))
    def served(case: Case[Any]) -> None:
        answer = case.call(base_url=simulated)
        assert answer.status_code == 200, answer.text
        assert isinstance(case.body, dict)
        whole = answer.text.endswith("data: [DONE]\n\n") if case.body.get("stream") else "usage" in answer.json()
        assert whole, (case.body, answer.text)

    served()


@pytest.mark.parametrize("path", GENERATION["paths"])
def test_what_vllm_forbids_fails_nothing(simulated: str, path: str) -> None:
    @EXAMPLES
    @given(bodies(GENERATION, path, GenerationMode.NEGATIVE))
    def refused(case: Case[Any]) -> None:
        answer = case.call(base_url=simulated)
        assert answer.status_code < 500, answer.text
        assert answer.status_code == 200 or answer.json()["error"]["message"]

    refused()


def test_what_vllm_allows_elsewhere_is_handed_through(through: str) -> None:
    @EXAMPLES
    @given(st.one_of([bodies(OTHERS, path, GenerationMode.POSITIVE) for path in OTHERS["paths"]]))
    def served(case: Case[Any]) -> None:
        answer = case.call(base_url=through)
        assert answer.status_code == 200, (case.path, answer.text)

    served()


def test_what_vllm_forbids_elsewhere_fails_nothing(through: str) -> None:
    @EXAMPLES
    @given(st.one_of([bodies(OTHERS, path, GenerationMode.NEGATIVE) for path in OTHERS["paths"] if path != "/health"]))
    def refused(case: Case[Any]) -> None:
        assert case.call(base_url=through).status_code < 500

    refused()
