"""What slosgate adds to vLLM's `schedule()`: both schedulers step side by side, without a model.

    python -m bench.gpu.overhead --running 256 --steps 2000

Needs vLLM, but no GPU. Times are of one call in milliseconds; `added` is the difference of the percentiles.
"""

from __future__ import annotations

import gc
import os
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.scheduler import Scheduler

from bench import results
from bench.gpu.dummy_model import write_model
from bench.gpu.fake_engine import FakeEngine, make_scheduler
from engines.vllm.scheduler import SloScheduler
from engines.vllm.settings import PROFILE

PROMPT_TOKENS = 200
WARM_UP_STEPS = 200

app = typer.Typer(add_completion=False)


class Timed:
    """A scheduler whose `schedule` is timed; everything else passes through."""

    def __init__(self, scheduler: Any) -> None:
        self._schedule = scheduler.schedule
        self.seconds: list[float] = []
        scheduler.schedule = self

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        begun = time.perf_counter()
        output = self._schedule(*args, **kwargs)
        self.seconds.append(time.perf_counter() - begun)
        return output


@app.command()
def overhead(
    running: Annotated[int, typer.Option(help="Requests that decode.")] = 256,
    steps: Annotated[int, typer.Option(help="Iterations that are timed.")] = 1500,
    json: Annotated[Path | None, typer.Option(help="Result file to write.")] = None,
) -> None:
    """Time schedule() of vLLM's own scheduler and of slosgate's."""
    os.environ.setdefault(PROFILE, "h200-opt-13b")
    result = results.begin("vllm-overhead", {"running": running, "steps": steps}, seed=0, hardware="cpu")
    table = Table("scheduling", "p50 vLLM", "p50 slosgate", "p99 vLLM", "p99 slosgate", "added p50", "added p99")
    with tempfile.TemporaryDirectory() as folder:
        model = write_model("tiny-llama", Path(folder))
        for asynchronous in (False, True):
            stock, ours = _side_by_side(model, running, steps, asynchronous)
            row = _row(stock, ours)
            result.rows.append({"scheduling": "async" if asynchronous else "sync", "running": running, **row})
            table.add_row("async" if asynchronous else "sync", *(f"{value:.3f}" for value in row.values()))
    Console().print(table)
    if json:
        results.write(result, json)


def _side_by_side(model: Path, running: int, steps: int, asynchronous: bool) -> tuple[list[float], list[float]]:
    """Seconds of every timed call, vLLM's and ours; the two take turns, so that the machine treats them alike."""
    classes = (AsyncScheduler if asynchronous else Scheduler, SloScheduler)
    engines = [_filled(each, model, running, steps, asynchronous) for each in classes]
    for engine in engines:
        for _ in range(WARM_UP_STEPS):
            engine.step()
    timed = [Timed(engine.scheduler) for engine in engines]
    gc.collect()
    gc.freeze()  # as vLLM's engine does once it has started
    for _ in range(steps):
        for engine in engines:
            engine.step()
    return timed[0].seconds, timed[1].seconds


def _filled(scheduler_class: Any, model: Path, running: int, steps: int, asynchronous: bool) -> FakeEngine:
    output = steps + WARM_UP_STEPS + 100
    blocks = running * (-(-(PROMPT_TOKENS + output) // 16) + 1) + 1
    scheduler = make_scheduler(
        scheduler_class, model, asynchronous=asynchronous, blocks=blocks, token_budget=8192, max_sequences=running
    )
    engine = FakeEngine(scheduler, asynchronous=asynchronous)
    for n in range(running):
        slo = {"slo_ttft_ms": 60_000, "slo_tpot_ms": (50, 100)[n % 2], "slo_guaranteed": 1}
        engine.add(f"r{n}", PROMPT_TOKENS, min(output, 2048 - PROMPT_TOKENS), **slo)
    return engine


def _row(stock: list[float], ours: list[float]) -> dict[str, float]:
    (p50, p99), (our_p50, our_p99) = (np.percentile(np.array(each) * 1e3, (50, 99)) for each in (stock, ours))
    return {
        "vllm_p50_ms": round(float(p50), 4),
        "slosgate_p50_ms": round(float(our_p50), 4),
        "vllm_p99_ms": round(float(p99), 4),
        "slosgate_p99_ms": round(float(our_p99), 4),
        "added_p50_ms": round(float(our_p50 - p50), 4),
        "added_p99_ms": round(float(our_p99 - p99), 4),
    }


if __name__ == "__main__":
    app()
