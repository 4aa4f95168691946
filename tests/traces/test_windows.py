from pathlib import Path

import numpy as np
import pytest

from slosgate.traces import sources
from slosgate.traces.errors import TraceError
from slosgate.traces.records import Stage, TraceRequest
from slosgate.traces.windows import Slice, between, drop_longer, likest, pair
from tests.traces.real import real_places


def one(arrival_s: float, prompt: int, output: int) -> TraceRequest:
    return TraceRequest(arrival_s=arrival_s, stages=(Stage(prompt_tokens=prompt, output_tokens=output),))


def lengths(requests: list[TraceRequest]) -> list[tuple[int, int]]:
    return [(r.stages[0].prompt_tokens, r.stages[0].output_tokens) for r in requests]


def test_a_slice_counts_from_its_start_and_ends_before_its_end() -> None:
    requests = [one(t, 1, 1) for t in (0.0, 2.0, 3.5, 4.0)]
    assert [r.arrival_s for r in between(requests, Slice(2.0, 4.0))] == [0.0, 1.5]


def test_pairs_of_a_slice_stay_together(tmp_path: Path) -> None:
    places = real_places(tmp_path)
    whole = sources.load("azure-code-2023", places).requests
    part = sources.load("azure-code-2023", places, part=Slice(1786, 2086)).requests
    first = next(i for i, r in enumerate(whole) if r.arrival_s >= 1786)
    assert [r.stages for r in part] == [r.stages for r in whole[first : first + len(part)]]
    assert len(part) == 905


def test_a_window_drops_what_outgrows_it() -> None:
    loop = TraceRequest(
        arrival_s=0,
        stages=(
            Stage(prompt_tokens=10, output_tokens=10),
            Stage(prompt_tokens=10, cached_tokens=20, output_tokens=71),
        ),
    )
    assert drop_longer([one(0, 90, 10), one(1, 91, 10), loop], 100) == [one(0, 90, 10)]


def test_arrivals_take_lengths_row_by_row() -> None:
    pool = [one(0, n, n) for n in (1, 2, 3)]
    times = np.arange(7.0)
    assert [n for n, _ in lengths(pair(times, pool))] == [1, 2, 3, 1, 2, 3, 1]
    with pytest.raises(TraceError, match="no lengths"):
        pair(times, [])


def test_the_likest_window_has_the_rate_that_was_asked_for() -> None:
    times = np.concatenate([np.arange(0, 1000, 2.0), np.arange(1000, 1200, 0.25), np.arange(1200, 2000, 2.0)])
    found = likest(times, Slice(0, 100, rate_rps=4.0, peak_10s=1.0))
    assert len(found) == 400
    assert 0 <= found[0] < found[-1] < 100
