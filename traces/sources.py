"""Where traces come from, in order: $SLOSBENCH_TRACES, the cache, a download, a generator. Every trace says which."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from slosgate.traces import fetch, fit
from slosgate.traces.errors import TraceError
from slosgate.traces.formats import own
from slosgate.traces.formats.base import Dataset, Format, Reading
from slosgate.traces.manifest import dataset
from slosgate.traces.records import Provenance, Trace
from slosgate.traces.windows import WHOLE, Slice, between

FOLDER_VARIABLE = "SLOSBENCH_TRACES"
CACHE_VARIABLE = "SLOSBENCH_CACHE"
OFFLINE_VARIABLE = "SLOSBENCH_OFFLINE"
OWN_FILE = "file"  # the source of a trace of one's own
FILES = ".csv", ".jsonl", ".json", ".gz"  # what ends so is no known trace's name
LENGTHS_DRAWN = 5000  # from a fit without arrivals
CHECKED_BYTES = 64 << 20
FAILURE_HOLDS_S = 600.0
AUTOMATIC_TIMEOUT_S = 5.0  # a run should not wait long for a network that is not there


@dataclass(frozen=True)
class Places:
    """Where to look."""

    folder: Path | None  # $SLOSBENCH_TRACES
    cache: Path
    offline: bool = False  # never download unasked

    @classmethod
    def from_env(cls, environ: Mapping[str, str] = os.environ) -> Places:
        """$SLOSBENCH_TRACES, $SLOSBENCH_CACHE (else slosgate/traces in the user's cache folder), $SLOSBENCH_OFFLINE."""
        home = environ.get("XDG_CACHE_HOME") or str(Path(environ.get("HOME", "~")).expanduser() / ".cache")
        folder = environ.get(FOLDER_VARIABLE, "")
        if folder and not Path(folder).is_dir():
            raise TraceError(f"${FOLDER_VARIABLE} is {folder!r}, which is not a folder")
        return cls(
            folder=Path(folder) if folder else None,
            cache=Path(environ.get(CACHE_VARIABLE) or Path(home) / "slosgate" / "traces"),
            offline=environ.get(OFFLINE_VARIABLE, "") not in ("", "0"),
        )

    def locate(self, known: Dataset) -> tuple[Path, str] | None:
        """Where a trace lies on this machine, and what that place is called; None when it doesn't."""
        for folder, source in ((self.folder, f"${FOLDER_VARIABLE}"), (self.cache, "cache")):
            path = fetch.locate(known, folder) if folder else None
            if path is not None:
                return path, source
        return None


def load(
    name: str,
    places: Places,
    *,
    seed: int = 0,
    part: Slice = WHOLE,
    generated: bool = False,
) -> Trace:
    """The trace called `name` in the manifest, or the file of one's own at that path.

    Without arrivals all requests stand at 0 s. `generated` skips the real trace. Raises TraceError: unknown name,
    malformed file, or nothing to be had.
    """
    reading = Reading(rng=np.random.default_rng(seed), end_s=part.end_s)
    if "/" in name or Path(name).is_file():
        return _read(Found(name, Path(name), OWN_FILE, own.FORMAT), reading, part)
    if Path(name).suffix in FILES:
        raise TraceError(f"{name}: no such file")
    known = dataset(name)
    found = "asked for" if generated else find(known, places)
    if isinstance(found, str):
        return generate(known, seed=seed, part=part, because=found)
    return _read(found, reading, part)


@dataclass(frozen=True)
class Found:
    """A real trace on this machine."""

    name: str
    path: Path
    source: str
    form: Format
    published_sha256: str = ""


def find(known: Dataset, places: Places) -> Found | str:
    """The real trace, downloaded if it may be; or the reason why there is none."""

    here = places.locate(known)
    if here is None:
        missing = f"not in ${FOLDER_VARIABLE} nor in the cache"
        if places.offline or not known.automatic:
            how = "" if known.url else " --from DIR"
            return f"{missing}; `slosbench traces fetch {known.name}{how}` puts it there"
        try:
            here = _fetch_unasked(known, places.cache), "fetched"
        except (TraceError, OSError) as error:
            return f"{missing}; {error}"
    return Found(known.name, *here, known.format, known.sha256)


def _fetch_unasked(known: Dataset, cache: Path) -> Path:
    """A failure is remembered for a while: a search that runs a hundred loads should not wait a hundred times."""
    failure = cache / f"{known.name}.failed"
    if failure.exists() and time.time() - failure.stat().st_mtime < FAILURE_HOLDS_S:
        raise TraceError(failure.read_text())
    try:
        return fetch.download(known, cache, timeout_s=AUTOMATIC_TIMEOUT_S, resume=False)
    except TraceError as error:
        failure.write_text(str(error))
        raise


def generate(known: Dataset, *, seed: int, part: Slice, because: str) -> Trace:
    """Requests from the data set's fit. Raises TraceError when there is none."""
    if not known.generator:
        raise TraceError(f"{known.name}: {because}; no generator is fitted to it")
    fitted = fit.load(known.generator)
    rng = np.random.default_rng(seed)
    requests = fitted.requests(fitted.times(part, rng, lengths_only=LENGTHS_DRAWN), rng)
    detail = f"generator fitted to {fitted.fitted_to}, seed {seed}; the real trace: {because}"
    return Trace(requests=requests, provenance=_provenance(known.name, "generated", detail, known.format))


def _read(found: Found, reading: Reading, part: Slice) -> Trace:
    if not found.path.exists():
        raise TraceError(f"{found.path}: no such file")
    requests = tuple(between(found.form.read(found.path, reading), part))
    if not requests:
        when = "" if part == WHOLE else f" that arrive between {part.start_s:g} s and {part.end_s:g} s"
        left_out = _left_out(reading)
        raise TraceError(f"{found.path}: has no requests{when}{left_out and f'; {left_out}'}")
    provenance = _provenance(found.name, found.source, _detail(found), found.form, _left_out(reading))
    return Trace(requests=requests, provenance=provenance)


def _detail(found: Found) -> str:
    """The file with its checksum, unless it is too large to read whole for that."""
    if not found.path.is_file() or found.path.stat().st_size > CHECKED_BYTES:
        return found.path.name
    sha256 = fetch.sha256_of(found.path)
    as_published = found.published_sha256 in (sha256, fetch.sha256_of(found.path, unpacked=True))
    return f"{found.path.name}, sha256 {sha256}{', the bytes as published' if as_published else ''}"


def _left_out(reading: Reading) -> str:
    return "; ".join(
        f"{count:,} {'row' if count == 1 else 'rows'} left out: {reason}"
        for reason, count in sorted(reading.dropped.items())
    )


def _provenance(name: str, source: str, detail: str, form: Format, left_out: str = "") -> Provenance:
    return Provenance(
        name=name, source=source, detail=detail, left_out=left_out, licence=form.licence, citation=form.citation
    )
