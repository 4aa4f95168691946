"""Forms that are handed through: what only the gateway may say can't hide in how a part is written."""

from __future__ import annotations

import aiohttp
import httpx
import pytest

from slosgate.gateway.errors import InvalidRequest
from slosgate.gateway.http.bodies import Through, handed_through

KIND = b"multipart/form-data; boundary=B"


def body(*heads: str) -> bytes:
    parts = "".join(f"--B\r\n{head}\r\n\r\nvalue\r\n" for head in heads)
    return f"{parts}--B--\r\n".encode()


@pytest.mark.parametrize(
    "name", ['"priority"', "priority", '"Priority"', '"vllm_xargs"', '"vllm_xargs[slo_guaranteed]"', '"request_id"']
)
@pytest.mark.parametrize("filename", ["", '; filename="a.txt"'])
def test_a_claim_is_taken_out(name: str, filename: str) -> None:
    plain = 'Content-Disposition: form-data; name="model"'
    got = handed_through(body(plain, f"content-disposition: form-data; name={name}{filename}"), KIND)
    assert got == Through(body(plain), "value")


@pytest.mark.parametrize(
    "head",
    [
        'Content-Disposition: form-data; xname="a"; name="priority"',
        'X-A: name="a"\nContent-Disposition: form-data; name="vllm_xargs"',
        'Content-Disposition: form-data; name="a"\r\nContent-Disposition: form-data; name="priority"',
        'Content-Disposition: form-data; name="a"; name="priority"',
        'Content-Disposition: form-data; name ="priority"',
        'Content-Disposition: form-data; name= "priority"',
        'Content-Disposition: form-data; name*0="prio"; name*1="rity"',
        "Content-Disposition: form-data; name*=UTF-8''prio%72ity",
        'Content-Disposition: form-data; filename="a\\"; name="priority"; x="',
        'Content-Disposition: form-data; name="a"\r\n folded: name="priority"',
        'Content-Disposition : form-data; name="priority"',
        "Content-Type: text/plain",
        f'X-A: {" " * 10_000}\r\nContent-Disposition: form-data; name="a"',
        "",
    ],
)
def test_a_head_that_readers_could_take_for_several_things_is_refused(head: str) -> None:
    with pytest.raises(InvalidRequest):
        handed_through(body(head), KIND)


def test_another_header_of_a_part_names_nothing() -> None:
    sent = body('X-A: name="a"\r\nContent-Disposition: form-data; name="vllm_xargs"')
    assert handed_through(sent, KIND).data == b"--B--\r\n"


@pytest.mark.parametrize(
    "kind",
    [
        b"multipart/form-data",
        b"multipart/form-data; xboundary=A; boundary=B",
        b"multipart/form-data; boundary=A; boundary=B",
        b'multipart/form-data; boundary="\\B"',
        b"multipart/form-data; boundary*=utf-8''B",
    ],
)
def test_one_boundary_is_needed(kind: bytes) -> None:
    with pytest.raises(InvalidRequest, match="boundary"):
        handed_through(body('Content-Disposition: form-data; name="a"'), kind)


@pytest.mark.parametrize(
    "boundary",
    [
        "----WebKitFormBoundary7MA4YWxkTrZu0gW", "----geckoformboundaryc0ffee", "Boundary-4711",
        "alamofire.boundary.1f",
        "dart-http-boundary-x", "--dio-boundary-0123", "__X_PAW_BOUNDARY__", "boundary",
    ],
)  # fmt: skip
def test_a_boundary_may_be_called_one(boundary: str) -> None:
    sent = body('Content-Disposition: form-data; name="model"').replace(b"--B", f"--{boundary}".encode())
    assert handed_through(sent, f"multipart/form-data; boundary={boundary}".encode()) == Through(sent, "value")


@pytest.mark.parametrize("name", ['a\\"b.wav', "C:\\dir\\", 'x\\" y'])
def test_file_names_with_quotes_and_backslashes_are_handed_through(name: str) -> None:
    file = f'Content-Disposition: form-data; name="f"; filename="{name}"'
    sent = body('Content-Disposition: form-data; name="model"', file)
    assert handed_through(sent, KIND) == Through(sent, "value")


def test_a_boundary_within_a_line_is_a_files_own() -> None:
    sent = body('Content-Disposition: form-data; name="file"; filename="a"').replace(b"value", b"\x00x--B\x00--B--")
    assert handed_through(sent, KIND) == Through(sent, None)


@pytest.mark.parametrize("inside", [b"\r\n--Bx", b"\n--B\r\n", b"\r\n--B \r\n"])
def test_a_line_that_some_take_for_a_delimiter_is_refused(inside: bytes) -> None:
    sent = body('Content-Disposition: form-data; name="file"; filename="a"').replace(b"value", b"x" + inside + b"y")
    with pytest.raises(InvalidRequest, match="begins with its boundary"):
        handed_through(sent, KIND)


async def test_what_clients_write_is_handed_through_as_it_is() -> None:
    form = aiohttp.FormData({"model": "whisper"})
    form.add_field("file", b"\x00--B\r\n", filename='take "1".wav', content_type="audio/wav")
    written = form()
    assert isinstance(written, aiohttp.MultipartWriter)
    by_aiohttp = await written.as_bytes(), written.content_type.encode()
    files = {"file": ("é.wav", b"\x00\r\n\r\n", "audio/wav")}
    sent = httpx.Request("POST", "http://x", data={"model": "whisper"}, files=files)
    by_httpx = sent.read(), sent.headers["content-type"].encode()
    for data, kind in (by_aiohttp, by_httpx):
        assert handed_through(data, kind) == Through(data, "whisper")


CURL = "application/x-www-form-urlencoded"


def test_what_curl_sends_without_a_content_type_is_json() -> None:
    body = b'{"model": "m", "input": "a+b c%20d;x=1"}'
    assert handed_through(body, CURL.encode()) == Through(body, "m")
    assert handed_through(b"model=m&text=a+b", CURL.encode()) == Through(b"model=m&text=a+b", "m")


@pytest.mark.parametrize("claim", ["priority", "vllm_xargs", "request_id"])
def test_json_under_the_name_of_a_form_hides_no_claim(claim: str) -> None:
    with pytest.raises(InvalidRequest, match="JSON under the name of a form"):
        handed_through(b'{"input": "x&%s=1"}' % claim.encode(), CURL.encode())
    assert b"priority" not in handed_through(b'{"input": "x", "priority": 1}', CURL.encode()).data
