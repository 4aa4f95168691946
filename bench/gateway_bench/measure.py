"""Direct and through proxies, in one run: what each adds to a request and costs per token."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx

from slosgate.bench import processes
from slosgate.bench.errors import InputError, RunError
from slosgate.bench.gateway_bench import announced
from slosgate.bench.gateway_bench.backend import MODEL
from slosgate.bench.gateway_bench.client import Client, Traffic, request
from slosgate.bench.gateway_bench.proc import cpu_s
from slosgate.bench.results import Row
from slosgate.gateway.state import valkey

PROXIES = ("vllm-router", "litellm")
SLO = {"x-slo-ttft-ms": "5000", "x-slo-tpot-ms": "500"}
RIVAL_S = 90.0  # within which another proxy must have started
QUANTILES = (0.5, 0.95, 0.99)
MESSAGES = [{"role": "user", "content": "What does a guarantee cost? " * 10}]


@dataclass(frozen=True, slots=True)
class Workload:
    """`rate_rps` requests a second for the added latency; `concurrency` clients for throughput; then streams, which
    all begin at once."""

    against: tuple[str, ...] = ()
    rate_rps: float = 50.0
    seconds: float = 10.0
    concurrency: int = 32
    streams: int = 256
    tokens: int = 300
    token_s: float = 0.02
    many_replicas: int = 32  # among which a decision is made, beside the one with one
    workers: int = 2  # of slosgate, whose requests a second are measured beside one's


@dataclass(frozen=True, slots=True)
class Server:
    """Something that answers chat completions, as a process of ours."""

    name: str
    port: int
    pid: int
    headers: dict[str, str]


_Start = Callable[[Server, contextlib.ExitStack], Server]


def run(workload: Workload) -> Iterator[Row]:
    """Rows per target and mode, the direct ones first, what only slosgate has last. Another proxy that does not start
    has one row that says why, and one that does has a last row of mode "ratio": slosgate's values over its own.

    Raises InputError, and RunError when slosgate does not start.
    """
    for name in workload.against:
        if name not in PROXIES:
            raise InputError(f"--against can be {', '.join(PROXIES)}, not {name!r}")
    with contextlib.ExitStack() as ending:
        backend = _backend(workload, ending)
        direct = asyncio.run(_measure(backend, workload))
        yield from direct
        ours = _through(_slosgate, backend, workload, direct)
        yield from ours
        for name in workload.against:
            try:
                theirs = _through({"vllm-router": _vllm_router, "litellm": _litellm}[name], backend, workload, direct)
            except RunError as error:
                yield {"target": name, "mode": "not started", "why": str(error)}
            else:
                yield from theirs
                yield _ratios(name, ours, theirs)
        yield from _decisions(backend, workload)
        yield _together(backend, workload, alone=ours[0])
        yield asyncio.run(_announced_row(workload))


def _decisions(backend: Server, workload: Workload) -> Iterator[Row]:
    """What slosgate takes from a parsed request to its place, Redis included, with one replica and with many."""
    found_ms = []
    for replicas in (1, workload.many_replicas):
        with contextlib.ExitStack() as ending:
            server = _slosgate(backend, ending, replicas=replicas)
            found_ms.append(asyncio.run(_admission_ms(server, workload)))
        ratio = {} if replicas == 1 else {"ratio_to_one": found_ms[-1] / found_ms[0]}
        yield {"target": "slosgate", "mode": f"decision, {replicas} replicas", "mean_ms": found_ms[-1], **ratio}


async def _admission_ms(server: Server, workload: Workload) -> float:
    """The mean, by the gateway's own metric."""
    client, plain = Client("127.0.0.1", server.port), _plain(server.port, server.headers)
    await client.closed_loop(plain, concurrency=1, seconds=1.0)
    before_s, before = await asyncio.to_thread(_admissions, server)
    await client.closed_loop(plain, concurrency=1, seconds=workload.seconds)
    after_s, after = await asyncio.to_thread(_admissions, server)
    client.close()
    return 1000 * (after_s - before_s) / max(1, after - before)


def _admissions(server: Server) -> tuple[float, int]:
    """(seconds of all decisions so far, how many)."""
    page = httpx.get(f"http://127.0.0.1:{server.port}/metrics", trust_env=False).text
    total, count = (
        float(
            next(line for line in page.splitlines() if line.startswith(f"slosgate_admission_seconds_{name} ")).split()[
                1
            ]
        )
        for name in ("sum", "count")
    )
    return total, int(count)


def _together(backend: Server, workload: Workload, *, alone: Row) -> Row:
    """Requests a second of several workers."""
    with contextlib.ExitStack() as ending:
        server = _slosgate(backend, ending, workers=workload.workers)
        rate_rps, failed = asyncio.run(_most_rps(server, workload))
    mode = f"plain, {workload.workers} workers"
    ratio = rate_rps / alone["requests_per_s"]
    return {"target": "slosgate", "mode": mode, "requests_per_s": rate_rps, "ratio_to_one": ratio, "failed": failed}


async def _most_rps(server: Server, workload: Workload) -> tuple[float, int]:
    client, plain = Client("127.0.0.1", server.port), _plain(server.port, server.headers)
    await client.closed_loop(plain, concurrency=workload.concurrency, seconds=1.0)
    full = await client.closed_loop(plain, concurrency=workload.concurrency, seconds=workload.seconds)
    client.close()
    return len(full.samples) / full.seconds, full.failed


def _through(start: _Start, backend: Server, workload: Workload, direct: list[Row]) -> list[Row]:
    """A proxy's rows. Raises RunError when it does not start."""
    with contextlib.ExitStack() as proxy:
        rows = asyncio.run(_measure(start(backend, proxy), workload))
    return [_compared(row, base) for row, base in zip(rows, direct, strict=True)]


def _ratios(name: str, ours: list[Row], theirs: list[Row]) -> Row:
    (our_plain, our_stream), (plain, stream) = ours, theirs
    return {
        "target": name,
        "mode": "ratio",
        **{key: our_plain[key] / plain[key] for key in ("added_p50_ms", "added_p99_ms", "requests_per_s")},
        "cpu_us_per_request": our_plain["cpu_us_per_request"] / plain["cpu_us_per_request"],
        "cpu_us_per_token": our_stream["cpu_us_per_token"] / stream["cpu_us_per_token"],
    }


async def _measure(server: Server, workload: Workload) -> list[Row]:
    """One target: requests at a low rate, as many as it takes, then streams all at once."""
    client = Client("127.0.0.1", server.port)
    plain = _plain(server.port, server.headers)
    asked = {"model": MODEL, "messages": MESSAGES, "max_tokens": workload.tokens, "stream": True}
    stream = request("127.0.0.1", server.port, asked, server.headers)
    await client.closed_loop(plain, concurrency=4, seconds=1.0)
    paced = await client.open_loop(plain, rate_rps=workload.rate_rps, seconds=workload.seconds)
    before_s = cpu_s(server.pid)
    full = await client.closed_loop(plain, concurrency=workload.concurrency, seconds=workload.seconds)
    plain_cpu_s = cpu_s(server.pid) - before_s
    before_s = cpu_s(server.pid)
    streamed = await client.streams(stream, concurrency=workload.streams)
    stream_cpu_s = cpu_s(server.pid) - before_s
    client.close()
    return [_plain_row(server, paced, full, plain_cpu_s), _stream_row(server, streamed, stream_cpu_s)]


def _plain(port: int, headers: dict[str, str]) -> bytes:
    return request("127.0.0.1", port, {"model": MODEL, "messages": MESSAGES, "max_tokens": 8}, headers)


async def _announced_row(workload: Workload) -> Row:
    """How long after a request's first byte at the engine the plug-in has heard of it; negative: before."""
    leads_ms, failed = await announced.lead_ms(
        lambda port: _plain(port, SLO), rate_rps=workload.rate_rps, seconds=workload.seconds
    )
    if not leads_ms:
        raise RunError("the gateway announced no request to its replica")
    return {"target": "slosgate", "mode": "announced", **_quantiles(leads_ms), "failed": failed}


def _quantiles(ascending_ms: Sequence[float]) -> Row:
    """p50, p95 and p99; NaN of nothing."""
    last = len(ascending_ms) - 1
    return {
        f"p{round(100 * q)}_ms": ascending_ms[min(last, int(q * len(ascending_ms)))] if ascending_ms else float("nan")
        for q in QUANTILES
    }


def _plain_row(server: Server, paced: Traffic, full: Traffic, used_s: float) -> Row:
    return {
        "target": server.name,
        "mode": "plain",
        "requests_per_s": len(full.samples) / full.seconds,
        **_quantiles(sorted(1000 * sample.end_s for sample in paced.samples)),
        "cpu_us_per_request": 1e6 * used_s / max(1, len(full.samples)),
        "failed": paced.failed + full.failed,
    }


def _stream_row(server: Server, traffic: Traffic, used_s: float) -> Row:
    tokens = sum(sample.events for sample in traffic.samples)
    return {
        "target": server.name,
        "mode": "stream",
        "requests_per_s": len(traffic.samples) / traffic.seconds,
        **_quantiles(sorted(1000 * sample.first_byte_s for sample in traffic.samples)),
        "tokens_per_s": sum(s.events / max(1e-9, s.end_s - s.first_byte_s) for s in traffic.samples),  # once they flow
        "cpu_us_per_token": 1e6 * used_s / max(1, tokens),
        "failed": traffic.failed,
    }


def _compared(row: Row, direct: Row) -> Row:
    """The row with what the proxy adds to the direct way."""
    added = {f"added_{q}_ms": row[f"{q}_ms"] - direct[f"{q}_ms"] for q in ("p50", "p95", "p99")}
    if "tokens_per_s" in row:
        added["tokens_lost"] = 1 - row["tokens_per_s"] / direct["tokens_per_s"]
    return {**row, **added}


def _backend(workload: Workload, ending: contextlib.ExitStack) -> Server:
    port = processes.free_port()
    command = [sys.executable, "-m", "slosgate.bench.gateway_bench.backend"]
    command += ["--port", str(port), "--token-s", str(workload.token_s)]
    process = ending.enter_context(processes.started(command, port))
    process.wait_until_up("/v1/models")
    return Server("direct", port, process.popen.pid, {})


def _slosgate(backend: Server, ending: contextlib.ExitStack, *, replicas: int = 1, workers: int = 1) -> Server:
    """slosgate with every request under an SLO, so that each is planned, admitted and entered in the ledger; several
    replicas are one backend by several names."""
    redis = valkey.start()
    ending.callback(redis.stop)
    names = [f"replica-{number}" for number in range(replicas)]
    url = f"http://127.0.0.1:{backend.port}"
    config = "".join(
        f'[[replicas]]\nname = "{name}"\nurl = "{url}"\nmodel = "{MODEL}"\nprofile = "h200-opt-13b"\n' for name in names
    )
    port = processes.free_port()
    options = ["--workers", str(workers)] if workers > 1 else []
    process = ending.enter_context(processes.gateway(redis.url, config, port=port, options=options))
    process.wait_until_up("/ready", needs=names)
    return Server("slosgate", port, process.popen.pid, SLO)


def _vllm_router(backend: Server, ending: contextlib.ExitStack) -> Server:
    """vLLM's own router, in Rust; the first on the PATH, since it may live in an environment of its own."""
    port = processes.free_port()
    command = [_program("vllm-router", "vllm-router"), "--host", "127.0.0.1", "--port", str(port)]
    command += ["--worker-urls", f"http://127.0.0.1:{backend.port}", "--prometheus-port", str(processes.free_port())]
    process = ending.enter_context(processes.started(command, port))
    process.wait_until_up("/v1/models", timeout_s=RIVAL_S)
    return Server("vllm-router", port, process.popen.pid, {})


def _program(name: str, package: str) -> str:
    """Raises RunError where it isn't installed."""
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}{os.pathsep}{Path(sys.executable).parent}")
    if found is None:
        raise RunError(f"{name} is not on the PATH: pip install '{package}'")
    return found


def _litellm(backend: Server, ending: contextlib.ExitStack) -> Server:
    """The LiteLLM proxy with one worker; the first on the PATH, since it may live in an environment of its own."""
    program = _program("litellm", "litellm[proxy]")
    config = (
        f"model_list:\n  - model_name: {MODEL}\n    litellm_params:\n      model: openai/{MODEL}\n"
        f"      api_base: http://127.0.0.1:{backend.port}/v1\n      api_key: none\n"
        # Neither proxy checks keys here.
        "general_settings:\n  dangerously_permit_weak_or_unset_master_key: true\n"
    )
    file = Path(ending.enter_context(tempfile.TemporaryDirectory(prefix="slosbench-"))) / "config.yaml"
    file.write_text(config, encoding="utf-8")
    port = processes.free_port()
    command = [program, "--config", str(file), "--host", "127.0.0.1", "--port", str(port)]
    command += ["--num_workers", "1", "--telemetry", "False"]
    process = ending.enter_context(processes.started(command, port))
    process.wait_until_up("/health/liveliness", timeout_s=RIVAL_S)
    return Server("litellm", port, process.popen.pid, {})
