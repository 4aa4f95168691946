"""Getting a data set into the cache: whole and checked, or not at all.

A download goes to NAME.part and is continued from there when it broke off; only a complete file with the right
sha256 (of the data without gzip, unless the publisher's own file is packed) is moved to its place. Where the manifest
knows no sha256, the first one seen is recorded beside the file and holds from then on.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import shutil
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import httpx
import numpy as np

from slosgate.traces.errors import TraceError
from slosgate.traces.formats.base import Dataset, Reading
from slosgate.traces.rows import GZIP_MAGIC, unpacking

CHUNK_BYTES = 1 << 18
Progress = Callable[[int, int | None], None]  # bytes so far, bytes in all if the server says


def ignore_progress(done: int, total: int | None) -> None:
    """For callers that show none."""


def cached_path(dataset: Dataset, cache: Path) -> Path:
    """Where the data set lies in the cache once it was fetched."""
    suffix = ".gz" if dataset.url.endswith(".gz") else ""
    return cache / f"{dataset.files[0]}{suffix}"


def download(
    dataset: Dataset,
    cache: Path,
    *,
    progress: Progress = ignore_progress,
    timeout_s: float = 30.0,
    url: str = "",
    resume: bool = True,
) -> Path:
    """Fetch the data set's file; `url` replaces the manifest's (a mirror).

    Raises TraceError; then the cache is as it was, apart from the .part file that the next try continues. Without
    `resume` several processes may fetch at once, and nothing is kept of a download that breaks off.
    """
    source = url or dataset.url
    if not source:
        raise TraceError(f"{dataset.name} has no single file to download: get {dataset.home} and use --from DIR")
    target = cached_path(dataset, cache)
    part = target.with_name(f"{target.name}.part" if resume else f"{target.name}.{os.getpid()}.part")
    cache.mkdir(parents=True, exist_ok=True)
    try:
        _transfer(source, part, progress, timeout_s)
    except (OSError, httpx.HTTPError, httpx.InvalidURL) as error:
        why, kept = str(error) or type(error).__name__, ""
        if part.exists():
            kept = f"; {part.stat().st_size:,} bytes are kept: fetch again to go on" if resume else ""
        if not resume:
            part.unlink(missing_ok=True)
        raise TraceError(f"{dataset.name}: the download from {source} broke off: {why}{kept}") from None
    return _admit(part, target, dataset, dataset.sha256)


def adopt(dataset: Dataset, folder: Path, cache: Path) -> Path:
    """Copy the data set from a local folder into the cache, checked like a download. Raises TraceError."""
    found = locate(dataset, folder)
    if found is None:
        raise TraceError(f"{dataset.name}: none of {', '.join(dataset.files)} (or with .gz) is in {folder}")
    target = cache / found.relative_to(folder)
    part = target.with_name(f"{target.name}.part")
    target.parent.mkdir(parents=True, exist_ok=True)
    if found.is_dir():
        return _adopt_folder(found, part, target, dataset)
    shutil.copyfile(found, part)
    return _admit(part, target, dataset, _expected(dataset, target))


def _adopt_folder(found: Path, part: Path, target: Path, dataset: Dataset) -> Path:
    """Folders have no checksum; they must be readable as what they claim to be."""
    shutil.rmtree(part, ignore_errors=True)
    shutil.copytree(found, part)
    try:
        _try_reading(part, dataset)
    except TraceError:
        shutil.rmtree(part)
        raise
    shutil.rmtree(target, ignore_errors=True)
    return part.rename(target)


def locate(dataset: Dataset, folder: Path) -> Path | None:
    """The data set's file (or folder) in a folder of traces, under any name it goes by."""
    candidates = (folder / name for file in dataset.files for name in (file, f"{file}.gz"))
    return next((path for path in candidates if path.exists()), None)


def sha256_of(path: Path, *, unpacked: bool = False) -> str:
    """Of the file's bytes as they lie there, or without gzip. Raises TraceError when that is damaged."""
    with path.open("rb") as file:
        if not (unpacked and file.read(2) == GZIP_MAGIC):
            file.seek(0)
            return hashlib.file_digest(file, "sha256").hexdigest()
    digest = hashlib.sha256()
    with unpacking(path), gzip.open(path, "rb") as packed:
        while block := packed.read(CHUNK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def _transfer(url: str, part: Path, progress: Progress, timeout_s: float) -> None:
    """Raises httpx.HTTPError, also when the server closes before it has sent what it announced."""
    have = part.stat().st_size if part.exists() else 0
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    with httpx.stream("GET", url, headers=headers, timeout=timeout_s, follow_redirects=True) as response:
        if have and response.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
            return  # nothing follows: the part is complete
        if not response.is_success:
            raise OSError(f"the server answered {response.status_code} {response.reason_phrase}")
        if response.status_code != httpx.codes.PARTIAL_CONTENT:  # the server knows no ranges: start over
            have = 0
        length = response.headers.get("Content-Length")
        total = have + int(length) if length else None
        with part.open("ab" if have else "wb") as file:
            progress(have, total)
            for block in response.iter_raw():
                file.write(block)
                have += len(block)
                progress(have, total)


def _expected(dataset: Dataset, target: Path) -> str:
    """The manifest's sha256 if it speaks of that file, packed or not; other forms of a data set have none."""
    names = dataset.files[: dataset.published]
    packed = tuple(f"{name}.gz" for name in names)
    covered = packed if dataset.url.endswith(".gz") else names + packed
    return dataset.sha256 if target.name in covered else ""


def _admit(part: Path, target: Path, dataset: Dataset, published: str) -> Path:
    """Move a complete part to its place if it is what it should be; remove it otherwise."""
    record = target.with_name(f"{target.name}.sha256")
    expected = published or (record.read_text().split()[0] if record.exists() else "")
    try:
        found = sha256_of(part, unpacked=not dataset.url.endswith(".gz"))
        if expected and found != expected:
            raise TraceError(
                f"{dataset.name}: wrong checksum: {target.name} should have sha256 {expected}, but has {found}; "
                "it is refused and the cache is unchanged"
            )
        _try_reading(part, dataset)
    except TraceError:
        part.unlink()
        raise
    record.write_text(f"{found}  {target.name}\n")
    os.replace(part, target)
    return target


def _try_reading(path: Path, dataset: Dataset) -> None:
    """The first rows must be of the data set's format: a server may answer with a page instead of a file."""
    reading = Reading(rng=np.random.default_rng(0), end_s=600.0)
    for _ in islice(dataset.format.read(path, reading), 1000):
        pass
