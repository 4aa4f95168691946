"""What slosgate adds to vLLM's `schedule()`: both schedulers step side by side, without a model.

    python -m slosgate.bench.gpu.overhead --running 256 --steps 2000

Needs vLLM, but no GPU. Times are of one call in milliseconds, by the clock and in CPU time (which a busy machine does
not lengthen); `added` is the difference of the percentiles. Prompts differ in length, as they do in any real load:
equal ones would make all requests ask for their next block in the same iteration.
"""

from __future__ import annotations

import gc
import os
import random
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.scheduler import Scheduler

from slosgate.bench import results
from slosgate.bench.gpu.dummy_model import write_model
from slosgate.bench.gpu.fake_engine import FakeEngine, make_scheduler
from slosgate.engines.vllm.scheduler import SloScheduler
from slosgate.engines.vllm.settings import PROFILE

PROMPT_TOKENS = (100, 300)
WARM_UP_STEPS = 200

Seconds = NDArray[np.float64]  # shape (calls, 2)

app = typer.Typer(add_completion=False)


class Timed:
    """A scheduler whose `schedule` is timed; everything else passes through."""

    def __init__(self, scheduler: Any) -> None:
        self._schedule = scheduler.schedule
        self.seconds: list[tuple[float, float]] = []  # by the clock, and of CPU time
        scheduler.schedule = self

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        begun, cpu_begun = time.perf_counter(), time.thread_time()
        output = self._schedule(*args, **kwargs)
        cpu_s = time.thread_time() - cpu_begun
        self.seconds.append((time.perf_counter() - begun, cpu_s))
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
    table = Table("scheduling", "time", "p50 vLLM", "slosgate", "added", "p99 vLLM", "slosgate", "added")
    with tempfile.TemporaryDirectory() as folder:
        model = write_model("tiny-llama", Path(folder))
        for asynchronous in (False, True):
            stock, ours = _side_by_side(model, running, steps, asynchronous)
            for n, measured in enumerate(("clock", "cpu")):
                row = _row(stock[:, n], ours[:, n])
                mode = "async" if asynchronous else "sync"
                result.rows.append({"scheduling": mode, "time": measured, "running": running, **row})
                table.add_row(mode, measured, *(f"{value:.3f}" for value in row.values()))
    Console().print(table)
    if json:
        results.write(result, json)


def _side_by_side(model: Path, running: int, steps: int, asynchronous: bool) -> tuple[Seconds, Seconds]:
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
            engine.steps.clear()  # vLLM's engine does not keep them either: garbage collection would take ever longer
    return np.array(timed[0].seconds), np.array(timed[1].seconds)


def _filled(scheduler_class: Any, model: Path, running: int, steps: int, asynchronous: bool) -> FakeEngine:
    output = steps + WARM_UP_STEPS + 100
    blocks = running * (-(-(PROMPT_TOKENS[1] + output) // 16) + 1) + 1
    scheduler = make_scheduler(
        scheduler_class, model, asynchronous=asynchronous, blocks=blocks, token_budget=8192, max_sequences=running
    )
    engine = FakeEngine(scheduler, asynchronous=asynchronous)
    lengths = random.Random(0)
    for n in range(running):
        slo = {"slo_ttft_ms": 60_000, "slo_tpot_ms": (50, 100)[n % 2], "slo_guaranteed": 1}
        engine.add(f"r{n}", lengths.randint(*PROMPT_TOKENS), min(output, 2048 - PROMPT_TOKENS[1]), **slo)
    return engine


def _row(stock: Seconds, ours: Seconds) -> dict[str, float]:
    row = {}
    for percent in (50, 99):
        vllm_ms, our_ms = (float(np.percentile(each, percent)) * 1e3 for each in (stock, ours))
        row[f"vllm_p{percent}_ms"] = round(vllm_ms, 4)
        row[f"slosgate_p{percent}_ms"] = round(our_ms, 4)
        row[f"added_p{percent}_ms"] = round(our_ms - vllm_ms, 4)
    return row


if __name__ == "__main__":
    app()
