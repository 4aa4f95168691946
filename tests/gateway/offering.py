"""Clients that keep asking while something breaks or is replaced, and what each of them saw."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass, field

import aiohttp

from slosgate.bench.attainment import PAPER, RequestOutcome, StageOutcome, attained, collect
from tests.gateway.scripted import MODEL

TOKENS = 30
# Ten times what the replicas need: this machine may be busy with something else, and a test is no benchmark.
TTFT_S, TPOT_S = 3.0, 0.3
SLO = {"x-slo-ttft-ms": f"{TTFT_S * 1000}", "x-slo-tpot-ms": f"{TPOT_S * 1000}"}
PAUSE_S = 0.04


@dataclass
class Ask:
    """One request, and everything that its client saw of it."""

    gateway: str
    slo: bool
    offered_s: float
    replica: str = ""
    guaranteed: bool = False
    token_s: list[float] = field(default_factory=list)
    ends: list[str] = field(default_factory=list)  # must hold exactly one at the end

    @property
    def kept(self) -> bool:
        stage = StageOutcome(self.offered_s, TTFT_S, TPOT_S, TOKENS, self.token_s)
        return bool(attained(collect([RequestOutcome("", self.offered_s, [stage])]), PAPER)[0])


class Load:
    """Clients that ask one gateway after the other, with an SLO and without, until the block ends."""

    def __init__(self, client: aiohttp.ClientSession, gateways: list[str]) -> None:
        self._client = client
        self.gateways = gateways
        self.asked: list[Ask] = []

    async def run(self, tasks: asyncio.TaskGroup, stop: asyncio.Event) -> None:
        while not stop.is_set():
            url = self.gateways[len(self.asked) % len(self.gateways)]
            ask = Ask(url, slo=len(self.asked) % 3 > 0, offered_s=time.time())
            self.asked.append(ask)
            tasks.create_task(self._ask(ask))
            await asyncio.sleep(PAUSE_S)

    async def _ask(self, ask: Ask) -> None:
        body = {"model": MODEL, "prompt": [1] * 100, "max_tokens": TOKENS, "ignore_eos": True, "stream": True}
        try:
            async with self._client.post(
                f"{ask.gateway}/v1/completions", json=body, headers=SLO if ask.slo else {}
            ) as a:
                if a.status != 200:
                    ask.ends.append(str((await a.json())["error"]["code"]))
                    return
                ask.replica = a.headers["x-slo-replica"]
                ask.guaranteed = a.headers["x-slo-admission"] == "guaranteed"
                async for line in a.content:
                    self._take(ask, line)
        except aiohttp.ClientError:
            ask.ends.append("broken")

    def _take(self, ask: Ask, line: bytes) -> None:
        if not line.startswith(b"data: "):
            assert line == b"\n", line
        elif line == b"data: [DONE]\n":
            ask.ends.append("done")
        elif "error" in (event := json.loads(line.removeprefix(b"data: "))):
            ask.ends.append(event["error"]["code"])
        elif event["choices"][0]["text"]:
            assert not ask.ends, "a token after the end"
            ask.token_s.append(time.time())

    def ended(self) -> set[str]:
        """How requests ended; every one must have, once, and with all its tokens where it says that it is done."""
        for ask in self.asked:
            assert len(ask.ends) == 1, ask
            assert ask.ends != ["done"] or len(ask.token_s) == TOKENS, ask
        return {ask.ends[0] for ask in self.asked}

    def guarantees_kept_on(self, *healthy: str, gateway: str = "") -> None:
        promised = [a for a in self.asked if a.guaranteed and a.replica in healthy]
        promised = [a for a in promised if gateway in ("", a.gateway)]
        assert promised
        assert [a for a in promised if not a.kept] == []
