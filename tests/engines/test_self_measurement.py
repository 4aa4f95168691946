"""A replica that measures itself, against a small HTTP server that notes iterations as vLLM's scheduler does."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
from aiohttp import web

from slosgate.engines import profiles
from slosgate.engines.vllm import kept
from slosgate.engines.vllm.self_measurement import ITERATIONS, RESULT, TASK, Task, at_start
from slosgate.planner.perf_model import PerfModel, Term, pairs_of
from slosgate.planner.profile import HardwareProfile

TRUE = PerfModel(
    (
        Term(per_new_token_s=2e-6, per_context_token_s=2e-7, constant_s=0.004),
        Term(per_new_token_s=2e-5, per_context_token_s=2e-7, constant_s=0.001),
    )
)
DERIVED = msgspec.structs.replace(
    profiles.load("h200-opt-13b"), model="mine", kv_blocks=4000, max_model_tokens=4096, max_sequences=64
)

CHUNK = 8192
FIRST_ONES = 5  # requests before those that count


class Engine:
    """Answers at once, and says of every token how long TRUE takes for it."""

    def __init__(
        self,
        folder: Path,
        status: int = 200,
        noted: int = 1_000_000,
        slow_from: int = 1 << 30,
        truth: PerfModel = TRUE,
        unseen_one_in: int = 1 << 30,
    ) -> None:
        self.unseen_one_in = (
            unseen_one_in  # iterations whose end was not seen, and that are guessed to have taken no time
        )
        self.truth = truth
        self.prefixes: set[tuple[int, ...]] = set()  # that it has cached
        self.iterations = folder / ITERATIONS
        self.ran = 0
        self.slow_from = slow_from  # longer prompts take forever
        self.status = status
        self.noted = noted  # so many iterations at most
        self.asked: list[tuple[int, str | None]] = []
        self.iterations.touch()

    async def complete(self, request: web.Request) -> web.Response:
        body = await request.json()
        prompt, output = len(body["prompt"]), body["max_tokens"]
        self.asked.append((prompt, request.headers.get("authorization")))
        if prompt > self.slow_from and len(self.asked) > FIRST_ONES:
            await asyncio.sleep(3600)
        steps = [*self.chunks(body["prompt"]), *((1, prompt + n, 0.0) for n in range(1, output))][: self.noted]
        self.noted -= len(steps)
        with self.iterations.open("a") as file:
            for new, context, pairs in steps:
                ms = self.truth.iteration_s(new, context, 1, 0, pairs) * 1e3
                self.ran += 1
                line = {"new_tokens": new, "context_tokens": context, "sequences": 1, "pairs": pairs, "ms": ms}
                if self.ran % self.unseen_one_in == 0:
                    line |= {"ms": 0.0, "assumed": True}
                file.write(json.dumps(line) + "\n")
        return web.json_response({}, status=self.status)

    def chunks(self, prompt: list[int]) -> list[tuple[int, int, float]]:
        """The iterations of a prompt behind what is cached of it: new tokens, context, pairs."""
        cached = max((len(known) for known in self.prefixes if tuple(prompt[: len(known)]) == known), default=0)
        if len(prompt) > 4 * CHUNK:
            self.prefixes.add(tuple(prompt[:-16]))
        begins = range(cached, len(prompt), CHUNK)
        ends = [min(begin + CHUNK, len(prompt)) for begin in begins]
        return [(end - begin, end, pairs_of(begin, end - begin)) for begin, end in zip(begins, ends, strict=True)]


@asynccontextmanager
async def serving(engine: Engine) -> AsyncIterator[str]:
    async def health(_request: web.Request) -> web.Response:
        return web.Response()

    app = web.Application(client_max_size=1 << 24)
    app.add_routes([web.get("/health", health), web.post("/v1/completions", engine.complete)])
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=1.0)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def asks(folder: Path, derived: HardwareProfile = DERIVED) -> None:
    task = Task(profile=derived, key="k", vocabulary=32_000)
    (folder / TASK).write_bytes(msgspec.json.encode(task))


async def test_what_is_measured_is_fitted_handed_over_and_kept(tmp_path: Path) -> None:
    asks(tmp_path)
    engine, said = Engine(tmp_path), list[str]()
    async with serving(engine) as url:
        await at_start(tmp_path, url, {"Authorization": "Bearer abc"}, said.append)
    found = profiles.load(str(tmp_path / RESULT))
    for new, context in ((1, 500), (64, 64), (1024, 1024), (3000, 3000)):
        assert found.perf.iteration_s(new, context, 1) == pytest.approx(TRUE.iteration_s(new, context, 1), rel=0.05)
    assert found == kept.find("k")
    assert {key for _, key in engine.asked} == {"Bearer abc"}
    assert engine.asked[-1][0] == 1  # wakes the engine, so that it looks for the result
    assert re.search(r"predicted within 0\.[01]%", said[0])  # not quite, for what was derived counts a little


async def test_a_long_window_is_measured_at_its_depth(tmp_path: Path) -> None:
    derived = profiles.load("h200-llama-3.1-8b")
    truth = PerfModel(
        tuple(msgspec.structs.replace(t, per_context_token_s=4.2e-8, per_pair_s=1.1e-9) for t in derived.perf.terms)
    )
    asks(tmp_path, derived)
    async with serving(Engine(tmp_path, truth=truth)) as url:
        await at_start(tmp_path, url, {}, lambda _: None)
    found = profiles.load(str(tmp_path / RESULT)).perf
    for tokens, before in ((64, 0), (8192, 0), (1024, 60_000), (8192, 90_000)):
        assert found.chunk_s(tokens, before) == pytest.approx(truth.chunk_s(tokens, before), rel=0.05)
    for decodes in (1, 10):
        size = decodes, decodes * 60_000, decodes
        assert found.iteration_s(*size) == pytest.approx(truth.iteration_s(*size), rel=0.1)


async def test_iterations_whose_end_nobody_saw_are_left_out(tmp_path: Path) -> None:
    asks(tmp_path)
    engine = Engine(tmp_path, unseen_one_in=7)
    async with serving(engine) as url:
        await at_start(tmp_path, url, {}, lambda _: None)
    found = profiles.load(str(tmp_path / RESULT))
    assert found.source.startswith("measured by the replica itself")
    assert found.perf.iteration_s(1024, 1024, 1) == pytest.approx(TRUE.iteration_s(1024, 1024, 1), rel=0.05)


async def test_few_iterations_scale_what_was_derived(tmp_path: Path) -> None:
    asks(tmp_path)
    async with serving(Engine(tmp_path, noted=40)) as url:
        await at_start(tmp_path, url, {}, lambda _: None)
    found = profiles.load(str(tmp_path / RESULT))
    ratios = {f.constant_s / d.constant_s for f, d in zip(found.perf.terms, DERIVED.perf.terms, strict=True)}
    assert max(ratios) == pytest.approx(min(ratios))
    assert max(ratios) < 1.0


async def test_a_slow_engine_is_measured_by_what_it_did_in_time(tmp_path: Path) -> None:
    asks(tmp_path)
    started_s, said = time.monotonic(), list[str]()
    async with serving(Engine(tmp_path, slow_from=1500)) as url:
        await at_start(tmp_path, url, {}, said.append)
    assert time.monotonic() - started_s < 30.0
    assert profiles.load(str(tmp_path / RESULT)).source.startswith("measured by the replica itself")


async def test_an_engine_that_answers_with_an_error_serves_with_its_derived_profile(tmp_path: Path) -> None:
    asks(tmp_path)
    said: list[str] = []
    async with serving(Engine(tmp_path, status=500)) as url:
        await at_start(tmp_path, url, {}, said.append)
    assert profiles.load(str(tmp_path / RESULT)) == DERIVED
    assert kept.find("k") is None
    assert "could not measure itself" in said[0]
    assert "registers once it has served a request" in said[1]


async def test_an_engine_that_asks_for_nothing_is_left_alone(tmp_path: Path) -> None:
    engine = Engine(tmp_path)
    async with serving(engine) as url:
        await at_start(tmp_path, url, {}, lambda _: None)
    assert not engine.asked
    assert not (tmp_path / RESULT).exists()
