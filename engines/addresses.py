"""Where a server of this machine can listen, where gateways reach a replica, and what that is called by default."""

from __future__ import annotations

import errno
import ipaddress
import socket
from urllib.parse import urlsplit


class Unreachable(ValueError):
    """No address can be told; the message says which option is missing."""


class CantListen(ValueError):
    """A server can't listen there; the message says why, `option` what to change."""

    def __init__(self, message: str, option: str) -> None:
        super().__init__(message)
        self.option = option


def default_name(port: int) -> str:
    """A name that no replica on another machine has."""
    return f"{socket.gethostname()}:{port}"


def free_port(host: str, port: int = 0) -> int:
    """A TCP port that is free now; for one that is named, that one. Raises CantListen."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do
            probe.bind(address)
            return int(probe.getsockname()[1])
    except OSError as error:
        raise _cant_listen(host, port, error) from error


def _cant_listen(host: str, port: int, error: OSError) -> CantListen:
    if error.errno == errno.EADDRINUSE:
        return CantListen(f"port {port} is taken by another process", "--port")
    if error.errno == errno.EACCES:
        return CantListen(f"this process may not listen on port {port}", "--port")
    return CantListen(f"{host!r} is no address of this machine", "--host")


def family_of(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def local_url(host: str, port: int, *, tls: bool = False) -> str:
    """Where this machine reaches a server that listens on `host`."""
    reached = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # compared, not bound
    shown = f"[{reached}]" if ":" in reached else reached
    return f"{'https' if tls else 'http'}://{shown}:{port}"


def reachable_url(host: str, port: int, redis_url: str | None) -> str:
    """Where gateways reach a server that listens on `host`: for one that listens on every address, the one that this
    machine has towards Redis. Raises Unreachable."""
    found = host if not _is_wildcard(host) else _towards(redis_url, ipv6=":" in host)
    return f"http://[{found}]:{port}" if ":" in found else f"http://{found}:{port}"


def reach_problem(url: str, redis_url: str | None) -> str:
    """Why gateways may not reach the address that a replica registers; empty when nothing speaks against it."""
    if redis_url is None or not _is_local(urlsplit(url).hostname or "") or _is_local(_redis_host(redis_url)):
        return ""
    return f"{url} is only reached from this machine, and Redis is on another: give --url, or --host with an address"


def _redis_host(redis_url: str) -> str:
    """Empty for a socket, which is local."""
    return urlsplit(redis_url).hostname or "" if not redis_url.startswith("unix:") else ""


def _is_wildcard(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return not host


def _is_local(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host in ("", "localhost")


def _towards(redis_url: str | None, *, ipv6: bool) -> str:
    host = _redis_host(redis_url) if redis_url else ""
    if _is_local(host):
        return "::1" if ipv6 else "127.0.0.1"
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, 6379, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.connect(address)  # sends nothing, but has the kernel choose the way
            return str(probe.getsockname()[0])
    except OSError as error:
        raise Unreachable(
            f"--url is missing: the server listens on every address, and no way leads from here to {host} ({error})"
        ) from error
