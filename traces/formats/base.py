"""What every trace format gives: how to read it, and what its publishers ask for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from slosgate.traces.records import Stage, TraceRequest

CountTokens = Callable[[str], int]


def about_four_characters(text: str) -> int:
    """A token count without a tokenizer: four characters a token, the usual rule of thumb for English."""
    return max(1, len(text) // 4)


@dataclass
class Reading:
    """One pass over a file: what it may draw on, and what it leaves out.

    `dropped` counts rows left out, by reason; it is filled while the rows are read.
    """

    rng: np.random.Generator
    count_tokens: CountTokens = about_four_characters
    end_s: float = float("inf")  # no row from this time on is asked for; formats that generate need to know
    dropped: Counter[str] = field(default_factory=Counter)

    def single(
        self, arrival_s: float, prompt_tokens: int, output_tokens: int, lacks: str = "no prompt or no output tokens"
    ) -> Iterator[TraceRequest]:
        """The request of one stage; none, but a row that was left out, when it has no prompt or no output."""
        if prompt_tokens and output_tokens:
            stage = Stage(prompt_tokens=prompt_tokens, output_tokens=output_tokens)
            yield TraceRequest(arrival_s=arrival_s, stages=(stage,))
        else:
            self.dropped[lacks] += 1


@dataclass(frozen=True)
class Format:
    """A trace format. `read` yields requests by arrival (0 s for all when not `timed`) and reads lazily."""

    name: str
    columns: str  # for people
    timed: bool
    licence: str
    citation: str
    read: Callable[[Path, Reading], Iterator[TraceRequest]]


@dataclass(frozen=True)
class Dataset:
    """A public trace by name: where it lies, how it is recognised, and what stands in for it."""

    name: str
    title: str
    format: Format
    files: tuple[str, ...]  # names it goes by, each with or without .gz; a download gets the first
    published: int = 1  # how many of `files`, from the first, are names of the publisher's own bytes
    url: str = ""  # empty: no single file to fetch, see `home`
    home: str = ""  # where to get it by hand
    sha256: str = ""  # of the file behind `url`; empty: recorded at the first fetch
    megabytes: float = 0.0  # to be expected of a download
    automatic: bool = False  # small and openly licensed: a run that misses it may fetch it unasked
    generator: str = ""  # a fit in traces/fits
