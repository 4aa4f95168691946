"""Downloads against a real HTTP server that knows ranges and breaks off when told to."""

import gzip
import hashlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from slosgate.traces import fetch
from slosgate.traces.errors import TraceError
from slosgate.traces.formats import plain
from slosgate.traces.formats.base import Dataset

ROWS = b"arrival_s,prompt_tokens,output_tokens\n" + b"".join(b"%d,12,3\n" % i for i in range(5000))
DATASET = Dataset(
    name="own",
    title="five thousand rows",
    format=plain.FORMAT,
    files=("own.csv", "other.csv"),
    url="set by the test",
    sha256=hashlib.sha256(ROWS).hexdigest(),
)


@dataclass
class Shop:
    """What the server sends, and what it was asked for."""

    content: bytes = ROWS
    knows_ranges: bool = True
    breaks_after: int | None = None
    announces_length: bool = True
    asked: list[str | None] = field(default_factory=list)
    url: str = ""


@pytest.fixture
def shop() -> Iterator[Shop]:
    sold = Shop()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers.get("Range")
            sold.asked.append(wanted)
            start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and sold.knows_ranges else 0
            if start >= len(sold.content):
                self.send_error(416)
                return
            rest = sold.content[start:]
            self.send_response(206 if start else 200)
            if sold.announces_length:
                self.send_header("Content-Length", str(len(rest)))
            self.end_headers()
            self.wfile.write(rest[: sold.breaks_after])

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        sold.url = f"http://127.0.0.1:{server.server_port}/own.csv"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield sold
        server.shutdown()
        thread.join()


def download(shop: Shop, cache: Path, dataset: Dataset = DATASET) -> Path:
    return fetch.download(dataset, cache, url=shop.url, timeout_s=5)


def files(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.iterdir())


def test_a_download_is_checked_moved_into_place_and_reports_progress(shop: Shop, tmp_path: Path) -> None:
    steps: list[tuple[int, int | None]] = []
    path = fetch.download(DATASET, tmp_path, url=shop.url, progress=lambda done, total: steps.append((done, total)))
    assert path.read_bytes() == ROWS
    assert files(tmp_path) == ["own.csv", "own.csv.sha256"]
    assert steps[0] == (0, len(ROWS))
    assert steps[-1] == (len(ROWS), len(ROWS))


def test_a_download_that_breaks_off_goes_on_where_it_stopped(shop: Shop, tmp_path: Path) -> None:
    shop.breaks_after = 1000
    with pytest.raises(TraceError, match=r"own: the download from .* broke off: .*1,000 bytes are kept"):
        download(shop, tmp_path)
    assert files(tmp_path) == ["own.csv.part"]
    shop.breaks_after = None
    assert download(shop, tmp_path).read_bytes() == ROWS
    assert shop.asked == [None, "bytes=1000-"]
    assert files(tmp_path) == ["own.csv", "own.csv.sha256"]


def test_a_server_without_ranges_is_read_from_the_start_again(shop: Shop, tmp_path: Path) -> None:
    (tmp_path / "own.csv.part").write_bytes(ROWS[:777])
    shop.knows_ranges = False
    assert download(shop, tmp_path).read_bytes() == ROWS


def test_a_part_that_is_already_whole_is_only_checked(shop: Shop, tmp_path: Path) -> None:
    (tmp_path / "own.csv.part").write_bytes(ROWS)
    assert download(shop, tmp_path).read_bytes() == ROWS


def test_a_wrong_checksum_is_refused_and_the_cache_untouched(shop: Shop, tmp_path: Path) -> None:
    kept = download(shop, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    shop.content = ROWS.replace(b"12", b"13")
    with pytest.raises(TraceError, match=r"own: wrong checksum: own\.csv should have sha256 \w{64}, but has \w{64}"):
        download(shop, tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert kept.read_bytes() == ROWS


def test_an_unknown_checksum_is_recorded_and_holds_from_then_on(shop: Shop, tmp_path: Path) -> None:
    unknown = replace(DATASET, sha256="")
    download(shop, tmp_path, unknown)
    assert (tmp_path / "own.csv.sha256").read_text() == f"{DATASET.sha256}  own.csv\n"
    shop.content = ROWS + b"5000,1,1\n"
    with pytest.raises(TraceError, match="wrong checksum"):
        download(shop, tmp_path, unknown)


def test_a_truncated_download_of_unannounced_length_is_refused(shop: Shop, tmp_path: Path) -> None:
    shop.announces_length, shop.breaks_after = False, 1000
    with pytest.raises(TraceError, match="wrong checksum"):
        download(shop, tmp_path)
    shop.content, shop.breaks_after = gzip.compress(ROWS), 3000
    with pytest.raises(TraceError, match="the gzip data ends in the middle: the download is incomplete"):
        download(shop, tmp_path, replace(DATASET, sha256=""))
    assert files(tmp_path) == []


def test_a_page_instead_of_a_file_is_refused(shop: Shop, tmp_path: Path) -> None:
    shop.content = b"<html>sign in first</html>\n"
    with pytest.raises(TraceError, match=r"line 1: wrong columns"):
        download(shop, tmp_path, replace(DATASET, sha256=""))
    assert files(tmp_path) == []


def test_no_server_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match=r"own: the download from http://127\.0\.0\.1:9/x broke off: .*refused"):
        fetch.download(DATASET, tmp_path, url="http://127.0.0.1:9/x", timeout_s=5)


def test_from_a_folder_the_same_checks_hold(tmp_path: Path) -> None:
    folder, cache = tmp_path / "usb", tmp_path / "cache"
    folder.mkdir()
    with pytest.raises(TraceError, match=r"own: none of own\.csv, other\.csv \(or with \.gz\) is in"):
        fetch.adopt(DATASET, folder, cache)
    (folder / "own.csv.gz").write_bytes(gzip.compress(ROWS[:-9]))
    with pytest.raises(TraceError, match="wrong checksum"):
        fetch.adopt(DATASET, folder, cache)
    (folder / "own.csv.gz").write_bytes(gzip.compress(ROWS))
    assert fetch.adopt(DATASET, folder, cache) == cache / "own.csv.gz"
    assert files(cache) == ["own.csv.gz", "own.csv.gz.sha256"]


def test_every_name_of_the_published_bytes_is_checked(tmp_path: Path) -> None:
    folder, cache = tmp_path / "usb", tmp_path / "cache"
    folder.mkdir()
    (folder / "other.csv").write_bytes(ROWS[:500])
    with pytest.raises(TraceError, match=r"wrong checksum: other\.csv"):
        fetch.adopt(replace(DATASET, published=2), folder, cache)


def test_another_form_of_the_data_needs_no_published_checksum(tmp_path: Path) -> None:
    folder, cache = tmp_path / "usb", tmp_path / "cache"
    folder.mkdir()
    (folder / "other.csv").write_bytes(ROWS[:500])
    assert fetch.adopt(DATASET, folder, cache).read_bytes() == ROWS[:500]
