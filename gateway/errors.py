"""Errors a client can meet, and how they look over HTTP.

    GatewayError
    ├── InvalidRequest      400   what was asked can never be served as asked: do not retry
    │   ├── Unauthorized    401
    │   ├── Forbidden       403
    │   ├── ModelNotFound   404
    │   ├── RequestTimeout  408   the body came too slowly
    │   ├── BodyTooLarge    413
    │   └── UnknownEncoding 415
    ├── NotAdmitted         429   it could be served later: retry-after-ms says when
    │   └── RateLimited     429
    └── Unavailable         503   no replica, or no state: Retry-After
        └── ReplicaLost     503   the replica died under the request and none could take over

Bodies are OpenAI's: {"error": {"message", "type", "param", "code"}}, and under /v1/messages Anthropic's:
{"type": "error", "error": {"type", "message"}}. The `openai` package retries 429 and 5xx, waits
for `retry-after-ms` (else `retry-after`), and obeys `x-should-retry`.
"""

from __future__ import annotations

import math
from collections.abc import Collection

import msgspec
from starlette.requests import Request
from starlette.responses import Response

MOST_NAMES = 20  # in one message
ANTHROPIC_PATH = "/v1/messages"
_ANTHROPIC_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}


# As `planner.controller` and `gateway.decisions.admission` say it of what they serve as best effort.
_REASONS = {
    "slo_not_admitted": "no replica can guarantee it now",
    "state_unavailable": "the gateway's shared state is away",
    "no_replica": "no replica is up",
}


def some(names: Collection[str]) -> str:
    """Names for a message, as many as one reads."""
    shown = sorted(names)[:MOST_NAMES]
    more = len(names) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")


class GatewayError(Exception):
    status = 500
    type = "server_error"
    code = "internal_error"

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code or type(self).code

    @property
    def reason(self) -> str:
        """Why nothing was guaranteed, as operators see it counted."""
        return _REASONS.get(self.code, self.code)

    @property
    def headers(self) -> dict[str, str]:
        return {}

    def body(self) -> bytes:
        return error_body(self.message, self.type, self.param, self.code)


class InvalidRequest(GatewayError):
    status = 400
    type = "invalid_request_error"
    code = "invalid_request"

    def __init__(
        self, message: str, *, param: str | None = None, code: str | None = None, status: int | None = None
    ) -> None:
        super().__init__(message, param=param, code=code)
        self.status = status or type(self).status

    @property
    def headers(self) -> dict[str, str]:
        return {"x-should-retry": "false"}


class Unauthorized(InvalidRequest):
    status = 401
    type = "authentication_error"
    code = "invalid_api_key"

    @property
    def headers(self) -> dict[str, str]:
        return {**super().headers, "www-authenticate": "Bearer"}


class Forbidden(InvalidRequest):
    status = 403
    type = "permission_error"
    code = "class_not_allowed"


class ModelNotFound(InvalidRequest):
    status = 404
    code = "model_not_found"


class BodyTooLarge(InvalidRequest):
    status = 413
    code = "request_too_large"


class UnknownEncoding(InvalidRequest):
    status = 415
    code = "unsupported_content_encoding"

    @property
    def headers(self) -> dict[str, str]:
        return {**super().headers, "accept-encoding": "gzip, deflate, identity"}


class RequestTimeout(InvalidRequest):
    status = 408
    code = "request_timeout"

    @property
    def headers(self) -> dict[str, str]:
        return {**super().headers, "connection": "close"}


class NotAdmitted(GatewayError):
    """The SLO can't be guaranteed now; `retry_after_s` is when the plan says that it could be."""

    status = 429
    type = "rate_limit_error"
    code = "slo_not_admitted"

    def __init__(
        self, message: str, *, retry_after_s: float, param: str | None = None, code: str | None = None
    ) -> None:
        super().__init__(message, param=param, code=code)
        self.retry_after_s = retry_after_s

    @property
    def headers(self) -> dict[str, str]:
        return retry_headers(self.retry_after_s)


class RateLimited(NotAdmitted):
    code = "rate_limit_exceeded"


class Unavailable(GatewayError):
    status = 503
    type = "service_unavailable_error"
    code = "service_unavailable"

    def __init__(
        self, message: str, *, retry_after_s: float = 1.0, param: str | None = None, code: str | None = None
    ) -> None:
        super().__init__(message, param=param, code=code)
        self.retry_after_s = retry_after_s

    @property
    def headers(self) -> dict[str, str]:
        return retry_headers(self.retry_after_s)


class ReplicaLost(Unavailable):
    """`final`: it must not be sent again, since replicas died of it."""

    code = "replica_lost"

    def __init__(self, message: str, *, final: bool = False, retry_after_s: float = 1.0) -> None:
        super().__init__(message, retry_after_s=retry_after_s)
        self.final = final

    @property
    def headers(self) -> dict[str, str]:
        return {"x-should-retry": "false"} if self.final else super().headers


def retry_headers(seconds: float) -> dict[str, str]:
    """`retry-after-ms` for clients that know it, `retry-after` in whole seconds for the others."""
    return {"retry-after-ms": str(max(1, math.ceil(seconds * 1000))), "retry-after": str(max(1, math.ceil(seconds)))}


def error_body(message: str, type_: str, param: str | None, code: str | None) -> bytes:
    return msgspec.json.encode({"error": {"message": message, "type": type_, "param": param, "code": code}})


def anthropic_error_body(message: str, status: int) -> bytes:
    type_ = _ANTHROPIC_TYPES.get(status, "invalid_request_error" if status < 500 else "api_error")
    return msgspec.json.encode({"type": "error", "error": {"type": type_, "message": message}})


def speaks_anthropic(path: str) -> bool:
    """Whether clients of this path read Anthropic's errors."""
    return path == ANTHROPIC_PATH or path.startswith((f"{ANTHROPIC_PATH}/", f"{ANTHROPIC_PATH}?"))


def error_event(error: GatewayError) -> bytes:
    """The same error inside a stream that has already begun: clients raise it and stop reading."""
    return b"data: " + error.body() + b"\n\n"


def error_response(error: GatewayError, request: Request) -> Response:
    request_id = request.scope.get("slosgate_request_id", "")
    headers = {**error.headers, **({"x-request-id": request_id} if request_id else {})}
    anthropic = speaks_anthropic(request.scope["path"])
    body = anthropic_error_body(error.message, error.status) if anthropic else error.body()
    return Response(body, error.status, headers, media_type="application/json")


async def handle(request: Request, exc: Exception) -> Response:
    """The one place where exceptions become responses, and where refusals are counted."""
    if isinstance(exc, GatewayError):
        request.app.state.gateway.metrics.refused(exc.code)
        return error_response(exc, request)
    status = getattr(exc, "status_code", 500)
    if status == 404:
        return error_response(ModelNotFound(f"no such path: {request.url.path}", code="not_found"), request)
    if status == 405:
        return _not_allowed(request, exc)
    return error_response(GatewayError("the gateway failed; the log says why"), request)


def _not_allowed(request: Request, exc: Exception) -> Response:
    """405 with what is allowed, which is also the answer to OPTIONS."""
    allowed = sorted({*(getattr(exc, "headers", None) or {}).get("Allow", "").split(", "), "OPTIONS"} - {""})
    allow = {"allow": ", ".join(allowed)}
    if request.method == "OPTIONS":
        return Response(status_code=204, headers=allow)
    message = f"{request.method} is not allowed on {request.url.path}; accepted: {allow['allow']}"
    response = error_response(InvalidRequest(message, code="method_not_allowed", status=405), request)
    response.headers["allow"] = allow["allow"]
    return response
