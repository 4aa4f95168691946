"""Scenarios: what load is offered and what it is promised. They are data, in bench/scenarios.toml.

`bench/load.py` makes a load of one, at a rate.
"""

from __future__ import annotations

import tomllib
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from slosgate.bench.errors import InputError, choose, meant
from slosgate.planner.profile import HardwareProfile
from slosgate.traces import sources
from slosgate.traces.arrivals import Poisson
from slosgate.traces.burstiness import Times
from slosgate.traces.errors import TraceError
from slosgate.traces.records import Provenance, Stage, TraceRequest
from slosgate.traces.sources import Places
from slosgate.traces.windows import WHOLE, Slice, arrival_times, drop_longer, pair

FILE = Path(__file__).with_name("scenarios.toml")


class StageSlo(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What one stage is promised. Neither a slowdown nor seconds: no TTFT SLO; both: the looser of them."""

    tpot_ms: float
    ttft_slowdown: float | None = None  # TTFT SLO as a multiple of the zero-load TTFT of the stage's prompt
    ttft_ms: float | None = None  # or absolute

    @property
    def tpot_s(self) -> float:
        return self.tpot_ms / 1000

    def ttft_s(self, stage: Stage, profile: HardwareProfile) -> float:
        """The stage's TTFT SLO on that hardware in seconds; inf when it has none.

        T0 is of the tokens that must be computed: an idle replica still has the cached ones, to which those attend.
        """
        said = [] if self.ttft_ms is None else [self.ttft_ms / 1000]
        if self.ttft_slowdown is not None:
            said.append(self.ttft_slowdown * profile.zero_load_ttft_s(stage.prompt_tokens, stage.cached_tokens))
        return max(said, default=float("inf"))


class Like(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    rate_rps: float
    peak_10s: float


class RequestClass(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One kind of load; the fields are explained in scenarios.toml."""

    lengths: str
    arrivals: str | float
    slice_s: tuple[float, float]
    window: int
    slo: StageSlo
    last_slo: StageSlo | None = None
    like: Like | None = None
    most_stages: int | None = None
    longest_gap_s: float | None = None

    def cut(self, request: TraceRequest) -> TraceRequest:
        """As much of a request as is offered."""
        longest_s = float("inf") if self.longest_gap_s is None else self.longest_gap_s
        kept = [msgspec.structs.replace(s, gap_s=min(s.gap_s, longest_s)) for s in request.stages[: self.most_stages]]
        return msgspec.structs.replace(request, stages=tuple(kept))

    def slos(self, stages: int) -> tuple[StageSlo, ...]:
        """One for each of so many stages."""
        last = self.last_slo if self.last_slo is not None and stages > 1 else self.slo
        return (*(self.slo for _ in range(stages - 1)), last)

    @property
    def part(self) -> Slice:
        """The slice of the arrivals."""
        start_s, end_s = self.slice_s
        if self.like is None:
            return Slice(start_s, end_s)
        return Slice(start_s, end_s, self.like.rate_rps, self.like.peak_10s)


class Scenario(msgspec.Struct, frozen=True, kw_only=True):
    """Classes that run together."""

    name: str
    title: str
    hardware: str  # the profile to run on unless told otherwise
    classes: dict[str, RequestClass]


def load(name: str) -> Scenario:
    """A scenario by its name, or the one in a .toml file like scenarios.toml, whose traces may lie beside it. Raises
    InputError."""
    if name.endswith(".toml"):
        return _own(name)
    table = _read_file()
    return _scenario(choose("scenario", name, table["scenario"]), table)


def later(scenario: Scenario, slices: int) -> Scenario:
    """The same scenario on the slices that come so many slices later in the traces; Poisson arrivals have no slice."""
    return msgspec.structs.replace(
        scenario, classes={name: _later(kind, slices) for name, kind in scenario.classes.items()}
    )


def _later(kind: RequestClass, slices: int) -> RequestClass:
    if not isinstance(kind.arrivals, str):
        return kind
    begins_s, ends_s = kind.slice_s
    moved_s = slices * (ends_s - begins_s)
    return msgspec.structs.replace(kind, slice_s=(begins_s + moved_s, ends_s + moved_s))


def longer(scenario: Scenario, slices: int) -> Scenario:
    """The same scenario on so many slices of the traces: its own one, as many as fit before it, and those after."""
    if slices == 1:
        return scenario
    return msgspec.structs.replace(
        scenario, classes={name: _longer(kind, slices) for name, kind in scenario.classes.items()}
    )


def _longer(kind: RequestClass, slices: int) -> RequestClass:
    begins_s, ends_s = kind.slice_s
    whole_s = slices * (ends_s - begins_s)
    first_s = max(0.0, begins_s - slices // 2 * (ends_s - begins_s))
    return msgspec.structs.replace(kind, slice_s=(first_s, first_s + whole_s))


def _own(path: str) -> Scenario:
    """The one scenario of a user's own file, with classes of that file or shipped ones."""
    try:
        own = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        (name,) = own.get("scenario", {})
        classes = {known: _beside(Path(path).parent, table) for known, table in own.get("class", {}).items()}
        return _scenario(name, {"scenario": own["scenario"], "class": _read_file()["class"] | classes})
    except OSError as error:
        raise InputError(f"cannot read the scenario {path!r}: {error.strerror}; {_instead(Path(path))}") from None
    except KeyError as error:
        raise InputError(f"{path!r} is no scenario: {error} is missing") from None
    except ValueError as error:
        raise InputError(f"{path!r} must hold one [scenario.NAME] like those of scenarios.toml: {error}") from None


def _instead(missing: Path) -> str:
    """What may stand for a file that is not there: the shipped scenarios, or another file of its folder."""
    shipped, beside = list(_read_file()["scenario"]), [str(file) for file in missing.parent.glob("*.toml")]
    guess = meant(str(missing), beside) or meant(missing.stem, shipped)
    return f"choose one of {', '.join(shipped)}, or a file like scenarios.toml{guess}"


def _beside(folder: Path, table: dict[str, Any]) -> dict[str, Any]:
    """A class whose traces are named as from its scenario's folder, with their paths from here."""
    found = {key: str(folder / table[key]) for key in ("lengths", "arrivals") if isinstance(table.get(key), str)}
    return table | {key: path for key, path in found.items() if Path(path).is_file()}


def _class(name: str, tables: dict[str, Any]) -> RequestClass:
    if name not in tables:
        raise ValueError(f"there is no [class.{name}]; there are {', '.join(tables)}")
    try:
        return msgspec.convert(tables[name], RequestClass)
    except msgspec.ValidationError as error:
        inner = "slo`" in str(error)
        accepted = StageSlo.__struct_fields__ if inner else RequestClass.__struct_fields__
        raise ValueError(f"[class.{name}]: {error}; accepted: {', '.join(accepted)}") from None


def _scenario(name: str, table: dict[str, Any]) -> Scenario:
    entry = table["scenario"][name]
    classes = {known: _class(known, table["class"]) for known in entry["classes"]}
    return Scenario(name=name, title=entry["title"], hardware=entry["hardware"], classes=classes)


@dataclass(frozen=True)
class Pool:
    """A class's requests before scaling: arrivals in [0, span_s)."""

    name: str
    requests: tuple[TraceRequest, ...]
    lengths: tuple[TraceRequest, ...]  # what the lengths are taken from, within the window
    span_s: float
    window: int  # tokens
    dropped: int  # requests of the lengths that outgrow it
    provenance: tuple[Provenance, ...]

    @property
    def times(self) -> Times:
        return arrival_times(self.requests)


@lru_cache(maxsize=32)
def pool(
    name: str,
    kind: RequestClass,
    seed: int,
    max_model_tokens: int,
    places: Places,
    *,
    generated: bool = False,
) -> Pool:
    """Raises TraceError, also when no request fits the window.

    Remembered: a capacity search asks for the same requests at many rates.
    """
    window = min(kind.window, max_model_tokens)
    own_arrivals = kind.arrivals == kind.lengths
    lengths = sources.load(
        kind.lengths, places, seed=seed, part=kind.part if own_arrivals else WHOLE, generated=generated
    )
    fitting = drop_longer([kind.cut(request) for request in lengths.requests], window)
    if not fitting:
        raise TraceError(
            f"no request of {kind.lengths} fits a window of {window} tokens: choose a model with a longer one"
        )
    times, origins = arrival_times(fitting), [lengths.provenance]
    if not isinstance(kind.arrivals, str):
        times = Poisson(rate_rps=kind.arrivals).draw(kind.part.span_s, drawing(name, seed, "arrivals"))
    elif not own_arrivals:
        arrivals = sources.load(kind.arrivals, places, seed=seed, part=kind.part, generated=generated)
        times = arrival_times(arrivals.requests)
        origins.append(arrivals.provenance)
    return Pool(
        name=name,
        requests=tuple(pair(times, fitting)),
        lengths=tuple(fitting),
        span_s=kind.part.span_s,
        window=window,
        dropped=len(lengths.requests) - len(fitting),
        provenance=tuple(origins),
    )


@contextmanager
def bad_traces_are_bad_input() -> Iterator[None]:
    """A command line shows a trace's complaint like any other bad input."""
    try:
        yield
    except TraceError as error:
        raise InputError(str(error)) from None


def drawing(class_name: str, seed: int, purpose: str) -> np.random.Generator:
    """A class draws the same in every scenario, and for each purpose on its own."""
    return np.random.default_rng([seed, zlib.crc32(f"{class_name} {purpose}".encode())])


def _read_file() -> dict[str, Any]:
    return tomllib.loads(FILE.read_text(encoding="utf-8"))
