"""An open-loop client: it sends each request when the trace says, whatever became of the requests before it. In a
closed loop users send their next request when the last one has ended.

Times are measured here, from the moment a request was *due* to leave, so that a client that falls behind makes its
results worse and never better; how far it fell behind is reported. Prompts are token ids, so that their lengths are
exact. Nothing is parsed per token beyond finding the end of an event.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import json
import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import httpx
import numpy as np

from slosgate.bench import failures
from slosgate.bench.attainment import BEST_EFFORT, GUARANTEED, REJECTED, UNSAID, RequestOutcome, StageOutcome
from slosgate.bench.errors import InputError
from slosgate.bench.load import Load, unserved
from slosgate.bench.results import Row
from slosgate.engines.sim.systems import Call, Offered

LATE_S = 0.010  # a request that leaves later than this after its time counts as late
TOKEN_IDS = (1000, 20_000)  # ordinary tokens of every vocabulary in use
_COUNTED = re.compile(rb'"completion_tokens":\s*(\d+)')
_NO_CHOICES = re.compile(rb'"choices":\s*\[\]')
_IDS = re.compile(rb'"token_ids":\s*\[([\d,\s]*)\]')
_CACHED = re.compile(rb'"cached_tokens":\s*(\d+)')
KEPT_CONTEXTS = 8  # of one session, that later calls may go on from
_ADMISSIONS = {"guaranteed": GUARANTEED, "best-effort": BEST_EFFORT}

Clock = Callable[[], float]


class Asking:
    """How an answer is asked for, and how its tokens are counted: by its length, and by usage in every event."""

    def body(self, request: Offered, call: Call, prompt: list[int]) -> dict[str, Any]:
        """The fields that say what is wanted; `prompt` may be written to."""
        return {
            "prompt": prompt,
            "max_tokens": call.output_tokens,
            "ignore_eos": True,
            "stream_options": {"include_usage": True, "continuous_usage_stats": True},
            **({"return_token_ids": True} if len(request.calls) > 1 else {}),
            # A simulated engine is told what a real one would do by itself.
            **({"vllm_xargs": {"sim_thinking_tokens": call.switch_at}} if call.switch_at else {}),
        }

    def tokens_so_far(self, event: bytes, before: int) -> int:
        """How many output tokens have come with an event: what its usage says, else one more if it has a choice."""
        counted = _COUNTED.search(event)
        if counted:
            return int(counted.group(1))
        return before if _NO_CHOICES.search(event) else before + 1

    def token_ids(self, event: bytes) -> list[int]:
        """The tokens in an event, where the server tells them."""
        ids = _IDS.search(event)
        return [int(token) for token in ids.group(1).split(b",")] if ids and ids.group(1).strip() else []


@dataclass(frozen=True, slots=True)
class Target:
    """Where requests go: in turn over `urls` (a gateway is one address). Base addresses, without /v1."""

    urls: tuple[str, ...]
    model: str
    slo_headers: bool = True
    api_key: str = ""
    classes: Mapping[str, str] = field(default_factory=dict)  # what a class is called there; "": it is not named
    slo_args: bool = False  # tell the engine the SLOs itself, as a gateway would: for engines without one
    asking: Asking = Asking()  # noqa: RUF009  # it has no state


@dataclass(slots=True)
class LiveRun:
    """What became of the requests, and how well the client kept to the schedule."""

    outcomes: list[RequestOutcome]
    delays_s: list[float] = field(default_factory=list)

    def schedule(self) -> Row:
        """How late requests left: percentiles in seconds and the count of late ones."""
        delays = np.array(self.delays_s or [0.0])
        return {
            "late_arrivals": int((delays > LATE_S).sum()),
            "schedule_delay_p50_s": round(float(np.percentile(delays, 50)), 6),
            "schedule_delay_p99_s": round(float(np.percentile(delays, 99)), 6),
        }


async def replay(
    load: Load,
    target: Target,
    *,
    seed: int,
    drain_s: float = 60.0,
    on_done: Callable[[RequestOutcome], None] = lambda _: None,
) -> LiveRun:
    """Send every request when it is due; requests still running `drain_s` after the last arrival, and the pauses of the
    longest, are given up."""
    run = LiveRun([unserved(request) for request in load.requests])
    async with _session(target) as session:
        client = _Client(session, target, np.random.default_rng(seed), time.perf_counter, run)
        await client.play(load, drain_s, on_done)
    return run


@dataclass(frozen=True, slots=True)
class Loop:
    """A closed loop: so many users at a time, each sending its next request `think_s` after its last one has ended.

    They begin within one think time, evenly. `until_s`: when the last request is sent, the requests being taken from
    the start again as long as that takes; inf: each of them once.
    """

    users: int
    think_s: float = 0.0
    until_s: float = math.inf


async def replay_closed(
    load: Load,
    target: Target,
    loop: Loop,
    *,
    seed: int,
    drain_s: float = 60.0,
    on_done: Callable[[RequestOutcome], None] = lambda _: None,
) -> tuple[Load, LiveRun]:
    """Send requests in a closed loop; one that takes longer than `drain_s` and its pauses is given up. The load is
    returned as it was offered."""
    run, sent = LiveRun([]), []
    async with _session(target) as session:
        client = _Client(session, target, np.random.default_rng(seed), time.perf_counter, run)
        sent = await client.loop(load, loop, drain_s, on_done)
        ended_s = client.now_s()
    return load.as_offered(sent, loop.until_s if math.isfinite(loop.until_s) else ended_s), run


def _session(target: Target) -> aiohttp.ClientSession:
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=4.0)
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=10.0)
    return aiohttp.ClientSession(connector=connector, timeout=timeout, headers=_authorization(target.api_key))


def _authorization(api_key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {api_key}"} if api_key else {}


async def model_at(url: str, api_key: str = "") -> str:
    """The first model that a server lists. Raises InputError when it lists none."""
    try:
        async with httpx.AsyncClient(timeout=10.0, headers=_authorization(api_key), trust_env=False) as client:
            response = await client.get(f"{url}/v1/models")
        if response.status_code != httpx.codes.OK:
            raise ValueError(f"it answered {response.status_code}")
        models = response.json()["data"]
        if models == []:
            raise InputError(f"--url {url!r} lists no model: has a replica joined?")
        return str(models[0]["id"])
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, LookupError, TypeError) as error:
        raise InputError(f"--url {url!r} must be the base address of an OpenAI-compatible server: {error}") from None


@dataclass(frozen=True, slots=True)
class _Said:
    """One call, as it is asked."""

    request: Offered
    call: Call
    prompt: list[int]
    session: str  # "": it stands alone


def _tokens_of(block: int, count: int) -> list[int]:
    """The tokens of a block by its identity."""
    ids: list[int] = np.random.default_rng(block).integers(*TOKEN_IDS, size=count).tolist()
    return ids


class _Client:
    """One replay. Times inside are seconds since its start."""

    def __init__(
        self, session: aiohttp.ClientSession, target: Target, rng: np.random.Generator, clock: Clock, run: LiveRun
    ) -> None:
        self._session = session
        self._target = target
        self._rng = rng
        self._clock = clock
        self._run = run
        self._turns = itertools.cycle(target.urls)
        self._ids = itertools.count()
        self._start_s = 0.0
        self._shared: dict[str, list[int]] = {}  # by class: what the first calls of its requests have in common
        self._run_id = f"{rng.integers(1 << 40):x}"

    async def play(self, load: Load, drain_s: float, on_done: Callable[[RequestOutcome], None]) -> None:
        self._start_s = self._clock() + 0.2  # time to get going
        running: set[asyncio.Task[None]] = set()
        for request, outcome in zip(load.requests, self._run.outcomes, strict=True):
            await asyncio.sleep(max(0.0, request.arrival_s - self.now_s()))
            task = asyncio.create_task(self._request(request, outcome))
            running.add(task)
            task.add_done_callback(running.discard)
            task.add_done_callback(lambda _, o=outcome: on_done(o))  # type: ignore[misc]
        if running:
            pauses_s = max(sum(call.gap_s for call in request.calls) for request in load.requests)
            timeout_s = max(0.0, load.seconds - self.now_s()) + pauses_s + drain_s
            await asyncio.wait(set(running), timeout=timeout_s)
        late = list(running)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)

    async def loop(
        self, load: Load, loop: Loop, drain_s: float, on_done: Callable[[RequestOutcome], None]
    ) -> list[Offered]:
        """All users until the end; the requests as they were sent, whose outcomes are the run's."""
        self._start_s = self._clock() + 0.2
        to_come = itertools.cycle(load.requests) if math.isfinite(loop.until_s) else iter(load.requests)
        sent: list[Offered] = []

        async def use(n: int) -> None:
            await asyncio.sleep(n / loop.users * loop.think_s - self.now_s())
            while self.now_s() <= loop.until_s and (request := next(to_come, None)) is not None:
                sent.append(dataclasses.replace(request, arrival_s=self.now_s()))
                outcome = unserved(sent[-1])
                self._run.outcomes.append(outcome)
                async with asyncio.timeout(drain_s + sum(call.gap_s for call in request.calls)):
                    await self._request(sent[-1], outcome)
                on_done(outcome)
                await asyncio.sleep(loop.think_s)

        await asyncio.gather(*(use(n) for n in range(loop.users)))
        return sent

    def now_s(self) -> float:
        """Seconds since the start."""
        return self._clock() - self._start_s

    async def _request(self, request: Offered, outcome: RequestOutcome) -> None:
        """All stages of one request; the first that fails ends it."""
        url = next(self._turns)
        earlier: list[list[int]] = []
        session = f"{self._run_id}-{next(self._ids)}" if len(request.calls) > 1 else ""
        arrival_s = request.arrival_s
        self._run.delays_s.append(self.now_s() - arrival_s)
        try:
            for call, stage in zip(request.calls, outcome.stages, strict=True):
                stage.arrival_s = arrival_s
                prompt = self._prompt(request, call, earlier)
                answer: list[int] = []
                await self._stage(url, _Said(request, call, prompt, session), outcome, stage, answer)
                if outcome.error:
                    return
                untold = self._tokens(max(0, call.output_tokens - len(answer)))
                earlier = [*earlier[-KEPT_CONTEXTS:], [*prompt, *answer[: call.output_tokens], *untold]]
                arrival_s = self.now_s() + call.gap_s
                await asyncio.sleep(call.gap_s)
        except asyncio.CancelledError:
            outcome.error = "unfinished"
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            outcome.error = _kind(error)

    def _tokens(self, count: int) -> list[int]:
        ids: list[int] = self._rng.integers(*TOKEN_IDS, size=count).tolist()
        return ids

    def _prompt(self, request: Offered, call: Call, earlier: Sequence[list[int]]) -> list[int]:
        """The tokens of a call: it goes on from an earlier one's prompt and answer, as far as it says."""
        if call.block_ids:
            blocks = (_tokens_of(block, call.id_tokens) for block in call.block_ids)
            found = list(itertools.chain.from_iterable(blocks))
            return [*found, *self._tokens(call.cached_tokens + call.prompt_tokens)][
                : call.cached_tokens + call.prompt_tokens
            ]
        return [*self._prefix(request, earlier, call.cached_tokens), *self._tokens(call.prompt_tokens)]

    def _prefix(self, request: Offered, earlier: Sequence[list[int]], count: int) -> list[int]:
        """The first `count` tokens of the latest context that is so long; what a first call counts on, all requests of
        its class share."""
        if not earlier:
            shared = self._shared.setdefault(request.slo_class, [])
            shared += self._tokens(count - len(shared))
            return shared[:count]
        history = next((context for context in reversed(earlier) if len(context) >= count), earlier[-1])
        return [*history[:count], *self._tokens(count - len(history[:count]))]

    async def _stage(
        self, url: str, said: _Said, outcome: RequestOutcome, stage: StageOutcome, answer: list[int]
    ) -> None:
        request, call = said.request, said.call
        body = {"model": self._target.model, "stream": True, **self._target.asking.body(request, call, said.prompt)}
        headers = _slo_headers(request, call, self._target.classes) if self._target.slo_headers else {}
        if said.session:
            headers["x-slo-session"] = said.session
        if self._target.slo_args:
            body["vllm_xargs"] = body.get("vllm_xargs", {}) | _slo_args(f"r{next(self._ids)}", request, call)
        async with await self._post(f"{url}/v1/completions", body, headers) as response:
            self._told(response.headers, outcome, stage)
            if response.status != 200:
                outcome.error = f"http {response.status}"
                outcome.admission = REJECTED if response.status in (429, 503) else UNSAID
                outcome.said = what_is_said(await response.read())
                return
            times: list[float] = []
            stage.token_s = times
            outcome.error, outcome.said = await self._read(response, stage, times, answer)
        del times[call.output_tokens :]
        if not outcome.error and len(times) < call.output_tokens:
            outcome.error = "cut short"

    def _told(self, headers: Mapping[str, str], outcome: RequestOutcome, stage: StageOutcome) -> None:
        """What an answer's head says: how it was admitted, by which replica, when its first token should come."""
        outcome.admission = _ADMISSIONS.get(headers.get("x-slo-admission", ""), outcome.admission)
        stage.admission, stage.replica = outcome.admission, headers.get("x-slo-replica", "")
        with contextlib.suppress(ValueError):
            stage.predicted_ttft_s = float(headers.get("x-slo-predicted-ttft-ms", "nan")) / 1e3

    async def _post(self, url: str, body: dict[str, Any], headers: dict[str, str]) -> aiohttp.ClientResponse:
        """Send; once more when a kept connection turns out to have been closed by the server's idle limit."""
        try:
            return await self._session.post(url, json=body, headers=headers)
        except (aiohttp.ServerDisconnectedError, ConnectionResetError):
            return await self._session.post(url, json=body, headers=headers)

    async def _read(
        self, response: aiohttp.ClientResponse, stage: StageOutcome, times: list[float], answer: list[int]
    ) -> tuple[str, str]:
        """Note when each token came, its id where that is told, and how much of the prompt was cached; return the kind
        of failure the stream tells of and what it says, or nothing."""
        asking, rest = self._target.asking, b""
        async for data in response.content.iter_any():
            now_s = self.now_s()
            *events, rest = (rest + data).split(b"\n\n")
            for event in events:
                if event.startswith(b"data: [DONE]"):
                    return "", ""
                if b'"error"' in event[:64]:
                    return "error event", what_is_said(event.partition(b"data:")[2])
                answer.extend(asking.token_ids(event))
                if cached := _CACHED.search(event):
                    stage.cached_tokens = int(cached.group(1))
                times.extend([now_s] * (asking.tokens_so_far(event, len(times)) - len(times)))
        return "", ""


def what_is_said(body: bytes) -> str:
    """The message of an error as OpenAI shapes it, with what it is about where it doesn't name that, else the text."""
    try:
        error = json.loads(body)["error"]
        said, about = str(error["message"]), error.get("param")
    except (ValueError, LookupError, TypeError, AttributeError):
        said, about = body.decode(errors="replace"), None
    named = f" ({about})" if about and str(about) not in said else ""
    return " ".join(said.split())[: failures.LONGEST] + named


def _slo_headers(request: Offered, call: Call, classes: Mapping[str, str]) -> dict[str, str]:
    """Headers of the client's contract; what has no SLO is not stated."""
    slo_class = classes.get(request.slo_class, request.slo_class)
    headers = {"x-slo-class": slo_class} if slo_class else {}
    thinks = call.switch_at > 0
    stated = {
        "x-slo-ttft-ms": call.ttft_slo_s,
        "x-slo-tpot-ms": call.next_tpot_slo_s if thinks else call.tpot_slo_s,
        "x-slo-think-tpot-ms": call.tpot_slo_s if thinks else math.inf,
    }
    for name, value_s in stated.items():
        if math.isfinite(value_s):
            headers[name] = f"{value_s * 1e3:.3f}"
    return headers


def _slo_args(slo_id: str, request: Offered, call: Call) -> dict[str, Any]:
    """The SLO as a gateway passes it on, as best effort: the engine decides which requests it can serve in time."""
    limits_ms = {"slo_ttft_ms": call.ttft_slo_s * 1e3, "slo_tpot_ms": call.tpot_slo_s * 1e3}
    return {
        "slo_id": slo_id,
        "slo_class": request.slo_class,
        **{name: round(value, 3) for name, value in limits_ms.items() if math.isfinite(value)},
    }


def _kind(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "timeout"
    if isinstance(error, aiohttp.ClientConnectorError):
        return "no connection"
    return "connection lost"
