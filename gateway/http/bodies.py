"""The bodies of requests: read within limits, unpacked, and for paths that are handed through, cleaned of claims."""

from __future__ import annotations

import asyncio
import re
import zlib
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, urlencode

import msgspec
from msgspec import UNSET, Raw, UnsetType
from starlette.requests import ClientDisconnect
from starlette.types import Receive

from slosgate.gateway.errors import BodyTooLarge, InvalidRequest, RequestTimeout, UnknownEncoding
from slosgate.gateway.promises.completion import BOM, OWN_FIELDS, all_fields, not_json, without_claims
from slosgate.gateway.unzipping import ENCODINGS, Unzip

SLOWEST_BYTES_PER_S = 10_000  # a body that comes slower is not waited for
CLAIMS = (*OWN_FIELDS, "vllm_xargs")
# What multipart clients write. Readers differ on anything else: what one takes for a name another doesn't, and a claim
# could hide in that. So anything else is refused.
_TYPE = re.compile(
    r"""multipart/[\w.+-]+"""
    r"""(?:\s*;\s*(?:charset="?[\w-]+"?|boundary=("[\w'()+,./:=? -]*[\w'()+,./:=?-]"|[\w'+./:=?-]+)))*\s*;?""",
    re.IGNORECASE | re.ASCII,
)
_BOUNDARIES = re.compile(r"[;\s]boundary\s*=", re.IGNORECASE)
_LONGEST_HEAD = 4096  # bytes of a part's headers
_HEADER = re.compile(rb"([A-Za-z0-9-]+):[ \t]*([^\r\n]*?)[ \t]*")
_DISPOSITION = re.compile(
    rb"""form-data(?:[ \t]*;[ \t]*(?:name="([^"\\\r\n]*)"|name=([\w.\[\]-]+)|"""
    rb"""filename="(?:[^"\r\n]|(?<=\\)")*"|filename=[\w.-]+|filename\*=[\w'%.!$&+^`|~-]+))*""",
    re.IGNORECASE | re.ASCII,
)


async def read_body(headers: dict[bytes, bytes], receive: Receive, limit: int, timeout_s: float) -> bytes:
    """The whole body, unpacked. Raises InvalidRequest, and ClientDisconnect when the client goes away."""
    encoding = headers.get(b"content-encoding", b"identity").strip().lower() or b"identity"
    if encoding != b"identity" and encoding not in ENCODINGS:
        raise UnknownEncoding(
            f"content-encoding must be gzip, deflate or identity, not {encoding.decode('latin-1')!r}",
            param="content-encoding",
        )
    announced = headers.get(b"content-length", b"0")
    if announced.isdigit() and int(announced[:20]) > limit:
        raise _too_large(limit)
    body = await _received(receive, limit, timeout_s)
    if encoding == b"identity" or not body:
        return body
    return await asyncio.to_thread(_unpacked, body, encoding, limit)


async def _received(receive: Receive, limit: int, timeout_s: float) -> bytes:
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(timeout_s) as clock:
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientDisconnect
                part = message.get("body", b"")
                size += len(part)
                if size > limit:
                    raise _too_large(limit)
                parts.append(part)
                if not message.get("more_body", False):
                    return parts[0] if len(parts) == 1 else b"".join(parts)
                clock.reschedule(began_s + timeout_s + size / SLOWEST_BYTES_PER_S)
    except TimeoutError:
        raise RequestTimeout(f"the body came too slowly: {size} bytes within {loop.time() - began_s:.0f} s") from None


def _unpacked(body: bytes, encoding: bytes, limit: int) -> bytes:
    unzip = Unzip(encoding)
    try:
        plain = unzip.feed(body, limit + 1)
    except zlib.error as exc:
        raise InvalidRequest(f"the body is not compressed as content-encoding says: {exc}") from None
    if len(plain) > limit:
        raise _too_large(limit)
    if not unzip.complete:
        raise InvalidRequest("the compressed body ends too early")
    return plain


def _too_large(limit: int) -> BodyTooLarge:
    return BodyTooLarge(f"the body is too large; accepted: at most {limit} bytes")


@dataclass(frozen=True, slots=True)
class Through:
    """A body that is handed through: what a replica gets, and the model it names."""

    data: bytes
    model: str | None


class _Json(msgspec.Struct):
    model: Any = None
    vllm_xargs: Raw | UnsetType = UNSET
    priority: Raw | UnsetType = UNSET
    request_id: Raw | UnsetType = UNSET


def handed_through(body: bytes, content_type: bytes) -> Through:
    """Take from a body what only the gateway may say. Raises InvalidRequest where that can't be made sure of."""
    kind = content_type.decode("latin-1")
    if not body:
        return Through(body, None)
    if kind.lower().startswith("multipart/"):
        return _multipart(body, kind)
    if kind.lower().startswith("application/x-www-form-urlencoded"):
        return _json_of_curl(body) if _is_object(body) else _form(body)
    if kind and "json" not in kind.lower() and not _is_object(body):
        return Through(body, None)
    return _json(body)


def _is_object(body: bytes) -> bool:
    return body.removeprefix(BOM).lstrip().startswith(b"{")


def _json_of_curl(body: bytes) -> Through:
    """What `curl -d` sends: an object under the name of a form. It may say nothing to those who take it for a form."""
    through = _json(body)
    if any(_is_claim(name) for name, _ in _pairs(through.data)):
        raise InvalidRequest("content-type: this is JSON under the name of a form; accepted: application/json")
    return through


def _json(body: bytes) -> Through:
    body = body.removeprefix(BOM)
    try:
        fields = msgspec.json.decode(body, type=_Json)
        if all(claim is UNSET for claim in (fields.vllm_xargs, fields.priority, fields.request_id)):
            data = body
        else:
            data = msgspec.json.encode(without_claims(all_fields(body)))
    except RecursionError:
        raise InvalidRequest("the body is nested too deeply", code="invalid_json") from None
    except msgspec.ValidationError:
        return Through(body, None)  # no object: nothing is said by name
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise not_json(body, exc) from None
    return Through(data, fields.model if isinstance(fields.model, str) else None)


def _pairs(body: bytes) -> list[tuple[str, str]]:
    """The fields of a form. Raises InvalidRequest."""
    try:
        return parse_qsl(body.decode("latin-1"), keep_blank_values=True, encoding="latin-1", max_num_fields=1000)
    except ValueError as exc:
        raise InvalidRequest(f"the form can't be read: {exc}") from None


def _form(body: bytes) -> Through:
    kept = [(name, value) for name, value in _pairs(body) if not _is_claim(name)]
    model = next((value for name, value in kept if name == "model"), None)
    return Through(urlencode(kept, encoding="latin-1").encode(), model)


def _multipart(body: bytes, content_type: str) -> Through:
    mark = b"--" + _boundary(content_type)
    before, *parts = _split(body, mark)
    kept, model = [before], None
    for part in parts:
        if part.startswith(b"--"):  # the end
            kept.append(part)
            continue
        head, _, value = part.partition(b"\r\n\r\n")
        name = _part_name(head)
        if _is_claim(name):
            continue
        if name == "model":
            model = value.removesuffix(b"\r\n").decode("utf-8", "replace")
        kept.append(part)
    return Through(mark.join(kept), model)


def _split(body: bytes, mark: bytes) -> list[bytes]:
    """What stands between the delimiters: marks that begin a line. Raises InvalidRequest for a mark that some readers
    take for one and some don't."""
    pieces, begin = [], 0
    for found in re.finditer(re.escape(mark), body):
        at, end = found.span()
        line_begins = at == 0 or body[at - 1 : at] == b"\n"
        if not line_begins:
            continue  # bytes of a file
        if (at and body[at - 2 : at] != b"\r\n") or not body.startswith((b"\r\n", b"--"), end):
            raise InvalidRequest("the body has a line that begins with its boundary, and is no delimiter")
        pieces.append(body[begin:at])
        begin = end
    return [*pieces, body[begin:]]


def _boundary(content_type: str) -> bytes:
    found = _TYPE.fullmatch(content_type.strip())
    if found is None or found[1] is None or len(_BOUNDARIES.findall(content_type)) != 1:
        raise InvalidRequest(
            "content-type: a multipart body needs one boundary; accepted: multipart/form-data; boundary=...",
            param="content-type",
        )
    return found[1].strip('"').encode("latin-1")


def _part_name(head: bytes) -> str:
    """The name of a part. Raises InvalidRequest for a head that readers could take for more than one thing."""
    first, *lines = head[: _LONGEST_HEAD + 1].split(b"\r\n")
    headers = [_HEADER.fullmatch(line) for line in lines]
    said = [found[2] for found in headers if found and found[1].lower() == b"content-disposition"]
    disposition = _DISPOSITION.fullmatch(said[0]) if len(said) == 1 else None
    names = re.findall(rb"[;\s]name=", said[0], re.IGNORECASE) if disposition else []
    if len(head) > _LONGEST_HEAD or first or not all(headers) or disposition is None or len(names) != 1:
        raise InvalidRequest(
            "the body has a part without a plain head; accepted: "
            'one header Content-Disposition: form-data; name="..." or name="..."; filename="..."'
        )
    return (disposition[1] or disposition[2] or b"").decode("latin-1")


def _is_claim(name: str) -> bool:
    """Also as a form spells what is inside: vllm_xargs[slo_guaranteed], vllm_xargs.slo_guaranteed."""
    return re.split(r"[\[.]", name.removeprefix("utf-8''"), maxsplit=1)[0].strip().lower() in CLAIMS
