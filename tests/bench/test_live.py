"""The open-loop client against a small streaming server over real HTTP."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web

from slosgate.bench.errors import InputError
from slosgate.bench.live import LiveRun, Target, model_at, replay
from slosgate.bench.load import Load
from slosgate.bench.summary import prompts
from slosgate.engines.sim.systems import Call, Offered

Handler = Callable[[dict[str, Any], web.StreamResponse], Awaitable[None]]


class Server:
    """Answers /v1/completions with what the test wrote; remembers what it was asked."""

    def __init__(self) -> None:
        self.url = ""
        self.asked: list[tuple[dict[str, Any], dict[str, str]]] = []
        self.status = 200
        self.headers: dict[str, str] = {}
        self.write: Handler = tokens_one_by_one

    async def answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.asked.append((body, dict(request.headers)))
        if self.status != 200:
            return web.json_response({"error": {"message": "no"}}, status=self.status)
        response = web.StreamResponse(headers={"content-type": "text/event-stream", **self.headers})
        await response.prepare(request)
        await self.write(body, response)
        return response

    async def models(self, request: web.Request) -> web.Response:
        known = request.headers.get("authorization") == "Bearer secret"
        return web.json_response({"data": [{"id": "m"}]}, status=200 if known else 401)


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    served = Server()
    app = web.Application()
    app.router.add_post("/v1/completions", served.answer)
    app.router.add_get("/v1/models", served.models)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    served.url = f"http://127.0.0.1:{port}"
    yield served
    await runner.cleanup()


async def send(response: web.StreamResponse, event: dict[str, Any]) -> None:
    await response.write(b"data: " + json.dumps(event).encode() + b"\n\n")


async def tokens_one_by_one(body: dict[str, Any], response: web.StreamResponse) -> None:
    for _ in range(body["max_tokens"]):
        await send(response, {"choices": [{"text": "x"}]})
    await send(response, {"choices": [], "usage": {"completion_tokens": body["max_tokens"]}})
    await response.write(b"data: [DONE]\n\n")


def load(*requests: tuple[float, tuple[Call, ...]]) -> Load:
    return Load(tuple(Offered(at, calls, "coder") for at, calls in requests), seconds=0.1, trace_source="by hand")


def call(output: int = 3, **more: Any) -> Call:
    return Call(prompt_tokens=more.pop("prompt", 5), output_tokens=output, ttft_slo_s=0.5, tpot_slo_s=0.05, **more)


async def play(server: Server, offered: Load, drain_s: float = 10.0) -> LiveRun:
    return await replay(offered, Target((server.url,), "m"), seed=0, drain_s=drain_s)


async def test_a_request_states_its_slo_and_its_exact_lengths(server: Server) -> None:
    server.headers = {"x-slo-admission": "guaranteed"}
    run = await play(server, load((0.0, (call(),))))
    body, headers = server.asked[0]
    assert (len(body["prompt"]), body["max_tokens"], body["ignore_eos"]) == (5, 3, True)
    assert (headers["x-slo-ttft-ms"], headers["x-slo-tpot-ms"], headers["x-slo-class"]) == (
        "500.000",
        "50.000",
        "coder",
    )
    outcome = run.outcomes[0]
    assert (outcome.error, outcome.admission, len(outcome.stages[0].token_s)) == ("", "guaranteed", 3)


async def test_an_api_key_goes_with_every_request(server: Server) -> None:
    with pytest.raises(InputError, match="base address of an OpenAI-compatible server: it answered 401"):
        await model_at(server.url)
    target = Target((server.url,), await model_at(server.url, "secret"), api_key="secret")
    await replay(load((0.0, (call(), call()))), target, seed=0)
    assert [headers["Authorization"] for _, headers in server.asked] == ["Bearer secret"] * 2


async def test_an_event_with_several_tokens_counts_them_all(server: Server) -> None:
    async def drafted(body: dict[str, Any], response: web.StreamResponse) -> None:
        for so_far in (1, 4, 6):
            await send(response, {"choices": [{"text": "x"}], "usage": {"completion_tokens": so_far}})
            await asyncio.sleep(0.02)
        await response.write(b"data: [DONE]\n\n")

    server.write = drafted
    run = await play(server, load((0.0, (call(output=6),))))
    times = run.outcomes[0].stages[0].token_s
    assert run.outcomes[0].error == ""
    assert times[1] == times[3] < times[4] == times[5]


async def test_a_slow_answer_does_not_hold_up_the_next_arrival(server: Server) -> None:
    both_here = asyncio.Event()

    async def wait_for_the_other(body: dict[str, Any], response: web.StreamResponse) -> None:
        if len(server.asked) == 2:
            both_here.set()
        await both_here.wait()
        await tokens_one_by_one(body, response)

    server.write = wait_for_the_other
    run = await play(server, load((0.0, (call(),)), (0.05, (call(),))))
    assert [o.error for o in run.outcomes] == ["", ""]
    assert run.schedule()["schedule_delay_p99_s"] >= 0


async def test_the_next_stage_follows_the_last_token_and_repeats_what_is_cached(server: Server) -> None:
    first = call(output=2, gap_s=0.05, prompt=4)
    second = call(output=2, prompt=3, cached_tokens=4)
    run = await play(server, load((0.0, (first, second))))
    one, two = run.outcomes[0].stages
    assert two.arrival_s >= one.token_s[-1] + 0.05
    prompts = [body["prompt"] for body, _ in server.asked]
    assert prompts[1][:4] == prompts[0]
    assert len(prompts[1]) == 7


async def test_a_loop_goes_on_with_what_was_really_answered_and_says_which_loop_it_is(server: Server) -> None:
    async def with_ids(body: dict[str, Any], response: web.StreamResponse) -> None:
        for token in range(body["max_tokens"]):
            await send(response, {"choices": [{"text": "x", "token_ids": [70 + token]}]})
        await response.write(b"data: [DONE]\n\n")

    server.write = with_ids
    calls = (
        call(output=2, prompt=4),
        call(output=1, prompt=3, cached_tokens=6),
        call(output=1, prompt=1, cached_tokens=3),
    )
    run = await play(server, load((0.0, calls), (0.0, (call(),))))
    assert [o.error for o in run.outcomes] == ["", ""]
    loop = [(body["prompt"], headers["x-slo-session"]) for body, headers in server.asked if "x-slo-session" in headers]
    asked = [prompt for prompt, _ in loop]
    assert asked[1][:6] == [*asked[0], 70, 71]
    assert asked[2][:3] == asked[0][:3]
    assert len({session for _, session in loop}) == 1
    assert [body.get("return_token_ids", False) for body, headers in server.asked].count(True) == len(loop) == 3


async def test_what_servers_say_they_had_cached_is_told_of_the_calls_they_served(server: Server) -> None:
    async def with_usage(body: dict[str, Any], response: web.StreamResponse) -> None:
        await send(response, {"choices": [{"text": "x"}]})
        usage: dict[str, Any] = {"completion_tokens": 1}
        if len(body["prompt"]) > 10:  # vLLM says nothing where it had nothing
            usage["prompt_tokens_details"] = {"cached_tokens": 8}
        await send(response, {"choices": [], "usage": usage})
        await response.write(b"data: [DONE]\n\n")

    calls = (call(output=1, prompt=9), call(output=1, prompt=5, cached_tokens=10))
    untold = await play(server, load((0.0, calls)))
    assert prompts(untold.outcomes) == {}
    server.write = with_usage
    run = await play(server, load((0.0, calls)))
    assert prompts(run.outcomes) == {"prompt_tokens": 24, "cached_tokens": 8, "computed_twice": round(2 / 24, 4)}


async def test_first_calls_of_a_class_share_what_they_count_on_and_blocks_have_their_tokens(server: Server) -> None:
    shared = call(output=1, prompt=2, cached_tokens=5)
    blocks = call(output=1, prompt=2, cached_tokens=4, block_ids=(7, 8), id_tokens=3)
    await play(server, load((0.0, (shared,)), (0.1, (shared,)), (0.2, (blocks,)), (0.3, (blocks,))))
    first, second, third, fourth = (body["prompt"] for body, _ in server.asked)
    assert (first[:5], first[5:] != second[5:], len(first)) == (second[:5], True, 7)
    assert (third, len(third)) == (fourth, 6)


async def test_a_call_that_thinks_states_both_paces(server: Server) -> None:
    await play(server, load((0.0, (call(switch_at=1, next_tpot_slo_s=0.2),))))
    body, headers = server.asked[0]
    assert (headers["x-slo-tpot-ms"], body["vllm_xargs"]) == ("200.000", {"sim_thinking_tokens": 1})
    assert float(headers["x-slo-think-tpot-ms"]) < 200


async def cut(body: dict[str, Any], response: web.StreamResponse) -> None:
    await send(response, {"choices": [{"text": "x"}]})


async def error_event(body: dict[str, Any], response: web.StreamResponse) -> None:
    await send(response, {"error": {"message": "replica lost"}})


async def hang(body: dict[str, Any], response: web.StreamResponse) -> None:
    await asyncio.sleep(0.5)


@pytest.mark.parametrize(
    ("write", "kind"),
    [(cut, "cut short"), (error_event, "error event"), (hang, "unfinished")],
    ids=["cut", "error event", "hang"],
)
async def test_a_stream_that_fails_is_an_error_of_its_kind(server: Server, write: Handler, kind: str) -> None:
    server.write = write
    run = await play(server, load((0.0, (call(), call()))), drain_s=0.2)
    assert run.outcomes[0].error == kind
    assert list(run.outcomes[0].stages[1].token_s) == []


async def test_a_rejection_is_counted_as_one(server: Server) -> None:
    server.status = 429
    run = await play(server, load((0.0, (call(),))))
    assert (run.outcomes[0].error, run.outcomes[0].admission) == ("http 429", "rejected")


async def test_a_kept_connection_that_the_server_closed_is_retried_once() -> None:
    body = b'data: {"choices":[{"text":"x"}]}\n\ndata: [DONE]\n\n'
    answer = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body) + body
    connections = 0

    async def one_answer_per_connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await _read_request(reader)
        writer.write(answer)
        await writer.drain()
        await _read_request(reader)  # the next one on this connection gets no answer
        writer.close()

    async with await asyncio.start_server(one_answer_per_connection, "127.0.0.1", 0) as plain:
        port = plain.sockets[0].getsockname()[1]
        target = Target((f"http://127.0.0.1:{port}",), "m")
        run = await replay(load((0.0, (call(output=1),)), (0.1, (call(output=1),))), target, seed=0, drain_s=5.0)
    assert [o.error for o in run.outcomes] == ["", ""]
    assert connections == 2


async def _read_request(reader: asyncio.StreamReader) -> None:
    head = await reader.read(65536)
    while head and b'"continuous_usage_stats"' not in head:
        head += await reader.read(65536)
