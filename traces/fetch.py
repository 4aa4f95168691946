"""Getting a data set into the cache: whole and checked, or not at all.

A download goes to NAME.part and is continued from there when it broke off; only a complete file with the right
sha256 is moved to its place. Where the manifest knows no sha256, the first one seen is recorded beside the file and
holds from then on.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import urllib.error
import urllib.request
from collections.abc import Callable
from http.client import HTTPException, HTTPResponse
from pathlib import Path

from traces.errors import TraceError
from traces.formats.base import Dataset

CHUNK_BYTES = 1 << 18
Progress = Callable[[int, int | None], None]  # bytes so far, bytes in all if the server says


def ignore_progress(done: int, total: int | None) -> None:
    """For callers that show none."""


def cached_path(dataset: Dataset, cache: Path) -> Path:
    """Where the data set lies in the cache once it was fetched."""
    suffix = ".gz" if dataset.url.endswith(".gz") and not dataset.files[0].endswith(".gz") else ""
    return cache / f"{dataset.files[0].replace('/', '-')}{suffix}"


def download(
    dataset: Dataset, cache: Path, *, progress: Progress = ignore_progress, timeout_s: float = 30.0, url: str = ""
) -> Path:
    """Fetch the data set's file; `url` replaces the manifest's (a mirror).

    Raises TraceError; then the cache is as it was, apart from the .part file that the next try continues.
    """
    source = url or dataset.url
    if not source:
        raise TraceError(f"{dataset.name} has no file to download: take {dataset.home} and use --from DIR")
    target = cached_path(dataset, cache)
    part = target.with_name(target.name + ".part")
    cache.mkdir(parents=True, exist_ok=True)
    try:
        _transfer(source, part, progress, timeout_s)
    except (OSError, HTTPException, urllib.error.URLError) as error:
        kept = f"; {part.stat().st_size} bytes are kept, fetch again to go on" if part.exists() else ""
        raise TraceError(f"{dataset.name}: the download from {source} broke off: {_reason(error)}{kept}") from None
    return _admit(part, target, dataset, remove_refused=True)


def adopt(dataset: Dataset, folder: Path, cache: Path) -> Path:
    """Copy the data set from a local folder into the cache, checked like a download. Raises TraceError."""
    found = locate(dataset, folder)
    if found is None:
        raise TraceError(f"{dataset.name}: none of {', '.join(dataset.files)} (or .gz) is in {folder}")
    cache.mkdir(parents=True, exist_ok=True)
    target = cache / found.relative_to(folder).as_posix().replace("/", "-")
    part = target.with_name(target.name + ".part")
    if found.is_dir():
        shutil.rmtree(part, ignore_errors=True)
        shutil.copytree(found, part)
        shutil.rmtree(target, ignore_errors=True)
        part.rename(target)
        return target
    shutil.copyfile(found, part)
    return _admit(part, target, dataset, remove_refused=True)


def locate(dataset: Dataset, folder: Path) -> Path | None:
    """The data set's file (or folder) in a folder of traces, under any name it goes by."""
    candidates = (folder / name for file in dataset.files for name in (file, f"{file}.gz"))
    return next((path for path in candidates if path.exists()), None)


def sha256_of(path: Path) -> str:
    """Of the file's bytes as they lie there."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _transfer(url: str, part: Path, progress: Progress, timeout_s: float) -> None:
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = urllib.request.urlopen(request, timeout=timeout_s)
    except urllib.error.HTTPError as error:
        if have and error.code == 416:  # nothing follows: the part is complete
            return
        raise
    with response:
        if have and response.status != 206:  # the server knows no ranges: start over
            have = 0
        with part.open("ab" if have else "wb") as file:
            _copy(response, file.write, have, progress)


def _copy(response: HTTPResponse, write: Callable[[bytes], object], have: int, progress: Progress) -> None:
    """Raises ConnectionError when the server closes before it has sent what it announced."""
    length = response.headers.get("Content-Length")
    total = have + int(length) if length else None
    progress(have, total)
    while block := response.read1(CHUNK_BYTES):
        write(block)
        have += len(block)
        progress(have, total)
    if total is not None and have < total:
        raise ConnectionError(f"{have} of {total} bytes arrived")


def _reason(error: Exception) -> str:
    return str(getattr(error, "reason", "") or error) or type(error).__name__


def _admit(part: Path, target: Path, dataset: Dataset, *, remove_refused: bool) -> Path:
    """Move a complete part to its place if its sha256 is the one expected."""
    found = sha256_of(part)
    record = target.with_name(target.name + ".sha256")
    known = record.read_text().split()[0] if record.exists() else ""
    same_file_as_published = target == cached_path(dataset, target.parent)
    expected = (dataset.sha256 if same_file_as_published else "") or known
    if expected and found != expected:
        if remove_refused:
            part.unlink()
        raise TraceError(
            f"{dataset.name}: wrong checksum: {target.name} should have sha256 {expected}, but has {found}; "
            "it is refused and the cache is unchanged"
        )
    record.write_text(f"{found}  {target.name}\n")
    os.replace(part, target)
    return target
