"""The connection to Redis or Valkey: addresses that can be used, what goes wrong there, and how both are told.

    redis://HOST:PORT/0     rediss://... (TLS)     unix:///PATH/OF/SOCKET     with USER:PASSWORD@ where it asks for one

One server, or an address that always leads to the one that takes writes. Passwords are never printed.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from redis.asyncio import Redis
from redis.asyncio.connection import parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, RedisError

# What a Redis that goes away under a command raises; RuntimeError is what uvloop says of a transport that closes.
STORE_ERRORS = (RedisError, OSError, RuntimeError)

TIMEOUT_S = 1.5  # a Redis that says nothing for so long is given up, for a new connection to its address
ACCEPTED = "redis://HOST:PORT/0, rediss://HOST:PORT/0 or unix:///PATH"
_SEVERAL = "give the address of a proxy or service that leads to the server which takes writes"
_CLUSTER = ("MOVED", "CROSSSLOT", "CLUSTERDOWN", "ASK ")


def connect(url: str, timeout_s: float = TIMEOUT_S) -> Redis:
    """A client that fails at once when the server is away, and within `timeout_s` when it doesn't answer: callers
    decide when to try again. Raises ValueError for an address that can't be used."""
    if problem := url_problem(url):
        raise ValueError(problem)
    return Redis.from_url(url, retry=Retry(NoBackoff(), 0), socket_timeout=timeout_s, socket_connect_timeout=timeout_s)


def url_problem(url: str) -> str:
    """What is wrong with the address of a Redis, in a sentence; empty when nothing is."""
    scheme, _, rest = url.partition("://")
    if "sentinel" in scheme or "cluster" in scheme:
        kind = "Sentinel" if "sentinel" in scheme else "Cluster"
        return f"Redis {kind} is not spoken: {_SEVERAL}; accepted: {ACCEPTED}"
    if "," in rest.partition("/")[0]:
        return f"several servers are named: {_SEVERAL}; accepted: {ACCEPTED}"
    try:
        found = parse_url(url)
        if scheme != "unix":
            urlsplit(url).port  # noqa: B018  # raises for a port that is none
    except ValueError:
        return f"no address of a Redis: {without_password(url)!r}; accepted: {ACCEPTED}"
    if scheme == "unix" and not found.get("path"):
        return f"names no socket: {without_password(url)!r}; accepted: {ACCEPTED}"
    return ""


def password_of(url: str) -> str:
    """The password in an address; empty without one, and in what is no address."""
    try:
        return str(parse_url(url).get("password", ""))
    except ValueError:
        return ""


def without_password(url: str) -> str:
    """The address as it may be printed: without credentials, and without a query, which may hold them, too."""
    scheme, mark, rest = url.partition("?")[0].partition("://")
    place = rest.rpartition("@")[2]
    return f"{scheme}{mark}***@{place}" if place != rest else f"{scheme}{mark}{rest}"


def why(error: BaseException) -> str:
    """What a failed command means, in a sentence."""
    text = f"{error}".rpartition(" of pipeline caused error: ")[2] or type(error).__name__  # else with what was written
    if text.startswith(_CLUSTER):
        return f"it is a node of a Redis Cluster, which is not spoken: {_SEVERAL} ({text})"
    if "unknown command" in text.lower():
        return f"it is no Redis that stores values, perhaps a Sentinel: {_SEVERAL} ({text})"
    return f"authentication failed: {text}" if isinstance(error, AuthenticationError) else text
