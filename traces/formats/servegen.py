"""ServeGen: workloads of Alibaba Cloud taken apart by client, from which traces are put together.

A folder of clients, each with chunk-N-trace.csv (no header: window start s, rate, CV, Gamma or Weibull, shape, scale;
windows of 600 s, no pattern when silent) and chunk-N-dataset.json (window start -> input_tokens, output_tokens and,
for reasoning models, reason_ratio, each a distribution written as {value: probability}; windows of 6 h). Each client
draws its own arrivals and lengths; a window without lengths takes the latest ones before it. With a reason_ratio the
output falls into thinking and answer. Prompt and output are drawn independently, as the data has no joint counts.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from heapq import merge
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from slosgate.traces.burstiness import Times
from slosgate.traces.errors import TraceError, malformed
from slosgate.traces.formats.base import Dataset, Format, Reading
from slosgate.traces.formats.reasoning import think_then_respond
from slosgate.traces.records import Stage, TraceRequest
from slosgate.traces.rows import Clock, open_text, seconds

Distribution = tuple[NDArray[np.float64], NDArray[np.float64]]  # values, their cumulative probability


@dataclass(frozen=True)
class _Window:
    start_s: float
    rate_rps: float
    pattern: str
    shape: float


@dataclass
class _Client:
    windows: list[_Window]
    lengths_path: Path
    written: dict[int, dict[str, str]]  # window start -> field -> distribution as it stands in the file
    parsed: dict[int, dict[str, Distribution]] = field(default_factory=dict)

    def lengths(self, time_s: float) -> dict[str, Distribution]:
        """The distributions in force, parsed when first needed: a week of them is large."""
        usable = [start for start, fields in self.written.items() if "{}" not in fields.values()]
        if not usable:
            raise malformed(self.lengths_path, 1, "no window has lengths")
        start = max((s for s in usable if s <= time_s), default=min(usable))
        if start not in self.parsed:
            fields = self.written[start].items()
            self.parsed[start] = {name: _distribution(text, name, self.lengths_path) for name, text in fields}
        return self.parsed[start]


def read(path: Path, reading: Reading) -> Iterator[TraceRequest]:
    """The clients of a folder merged by arrival; window by window, so that memory holds one window's requests."""
    clients = [_client(file) for file in sorted(path.glob("chunk-*-trace.csv"))]
    if not clients:
        raise TraceError(f"{path}: no ServeGen clients (chunk-N-trace.csv) in this folder")
    streams = [
        _requests(client, rng, reading) for client, rng in zip(clients, reading.rng.spawn(len(clients)), strict=True)
    ]
    return merge(*streams, key=lambda request: request.arrival_s)


def _requests(client: _Client, rng: np.random.Generator, reading: Reading) -> Iterator[TraceRequest]:
    ends_s = [window.start_s for window in client.windows[1:]] + [math.inf]
    for window, end_s in zip(client.windows, ends_s, strict=True):
        if window.start_s >= reading.end_s:
            return
        if window.rate_rps == 0:
            continue
        last_s = min(end_s, window.start_s + 600, reading.end_s)
        times = _arrivals(window, last_s - window.start_s, rng)
        for time_s, stages in zip(times, _stages(client.lengths(window.start_s), len(times), rng), strict=True):
            if stages:
                yield TraceRequest(arrival_s=float(time_s), stages=stages)
            else:
                reading.dropped["no prompt or no output tokens"] += 1


def _arrivals(window: _Window, span_s: float, rng: np.random.Generator) -> Times:
    """Renewal arrivals with the window's rate and the pattern's shape; the fitted scale is that of the data's rate."""
    batch, found, now_s = max(16, math.ceil(window.rate_rps * span_s)), [], 0.0
    while now_s < span_s:
        if window.pattern == "Gamma":
            gaps = rng.gamma(window.shape, 1 / window.shape, batch)
        else:
            gaps = rng.weibull(window.shape, batch) / math.gamma(1 + 1 / window.shape)
        times = now_s + np.cumsum(gaps / window.rate_rps)
        found.append(times)
        now_s = float(times[-1])
    times = np.concatenate(found)
    return window.start_s + times[times < span_s]


def _stages(lengths: dict[str, Distribution], count: int, rng: np.random.Generator) -> Iterator[tuple[Stage, ...]]:
    drawn = {name: _draw(distribution, count, rng) for name, distribution in lengths.items()}
    prompts, outputs = drawn["input_tokens"].astype(np.int64), drawn["output_tokens"].astype(np.int64)
    thoughts = np.rint(drawn.get("reason_ratio", np.zeros(count)) * outputs).astype(np.int64)
    for prompt, output, think in zip(prompts.tolist(), outputs.tolist(), thoughts.tolist(), strict=True):
        if prompt == 0 or output == 0:
            yield ()
        elif 0 < think < output:
            yield think_then_respond(prompt, think, output - think)
        else:
            yield (Stage(prompt_tokens=prompt, output_tokens=output),)


def _draw(distribution: Distribution, count: int, rng: np.random.Generator) -> NDArray[np.float64]:
    values, cumulative = distribution
    drawn: NDArray[np.float64] = values[np.searchsorted(cumulative, rng.random(count) * cumulative[-1], side="right")]
    return drawn


def _distribution(text: str, name: str, path: Path) -> Distribution:
    """From Python's way to write a dict of numbers."""
    try:
        pairs = np.array(text.strip("{} ").replace(":", ",").split(","), dtype=np.float64).reshape(-1, 2)
    except ValueError:
        raise malformed(path, 1, f"{name} must read like {{12: 0.25, 13: 0.75}}, not {text[:40]!r}") from None
    if (pairs < 0).any() or not pairs[:, 1].sum() > 0:
        raise malformed(path, 1, f"{name} must have values and probabilities from 0, and one above 0")
    return pairs[:, 0], np.cumsum(pairs[:, 1])


def _client(path: Path) -> _Client:
    lengths_path = path.with_name(path.name.replace("-trace.csv", "-dataset.json"))
    with open_text(lengths_path) as text:
        try:
            written = msgspec.json.decode(text.read(), type=dict[int, dict[str, str]])
        except (msgspec.DecodeError, msgspec.ValidationError) as error:
            raise malformed(lengths_path, 1, f"not a ServeGen data set: {error}") from None
    return _Client(list(_windows(path)), lengths_path, written)


def _windows(path: Path) -> Iterator[_Window]:
    clock = Clock(path, "window start")
    with open_text(path) as text:
        for line, fields in enumerate(csv.reader(text), start=1):
            if len(fields) != 6:
                raise malformed(path, line, f"expected 6 fields, found {len(fields)}")
            if fields[3] not in ("", "Gamma", "Weibull"):
                raise malformed(path, line, f"the pattern must be Gamma or Weibull, not {fields[3]!r}")
            start_s = clock.check(seconds(fields[0], "window start", path, line), line)
            rate_rps = seconds(fields[1], "rate", path, line) if fields[3] else 0.0
            yield _Window(start_s, rate_rps, fields[3], seconds(fields[4], "shape", path, line))


FORMAT = Format(
    name="servegen",
    columns="chunk-N-trace.csv and chunk-N-dataset.json",
    timed=True,
    licence="Apache-2.0",
    citation="Xiang et al., ServeGen: Workload characterization and generation of large language model serving in "
    "production, 2025",
    read=read,
)
DATASETS = tuple(
    Dataset(
        name=f"servegen-{model}",
        title=f"ServeGen, {title}",
        format=FORMAT,
        files=(f"servegen-{model}", folder),
        home=f"the folder data/{folder} of the repository alibaba/ServeGen",
    )
    for model, folder, title in (
        ("m-small", "language/m-small", "a small language model's clients"),
        ("m-mid", "language/m-mid", "a mid-sized language model's clients"),
        ("m-large", "language/m-large", "a large language model's clients"),
        ("deepseek-r1", "reason/deepseek-r1", "DeepSeek-R1's clients, thinking and answers"),
    )
)
