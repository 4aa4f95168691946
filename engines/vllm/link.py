"""The engine's end of the plan and telemetry channel. Nothing here waits: not for Redis, not for the courier."""

from __future__ import annotations

import contextlib
import logging
import socket
import subprocess
import sys
import time

import msgspec

from slosgate.engines.channel import ReplicaInfo
from slosgate.engines.messages import Plan, Telemetry
from slosgate.engines.vllm.courier import ROUTINE, URGENT, Heard, Hello
from slosgate.engines.vllm.mailbox import Mailbox

logger = logging.getLogger("slosgate.vllm")

RESTART_S = 5.0
SEND_BUFFER_BYTES = 1 << 20


class Link:
    """Owns the courier process; `close` ends it. A courier that died is started again, at most every RESTART_S."""

    def __init__(self, redis_url: str, info: ReplicaInfo) -> None:
        self._hello = msgspec.msgpack.encode(Hello(redis_url=redis_url, info=info))
        self._plans, self._arrivals = Mailbox.create(), Mailbox.create()
        self._told: frozenset[str] = frozenset()  # what was in the last list of arrivals
        self._start()

    def _start(self) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.setblocking(False)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        self._socket.send(self._hello)
        fds = (theirs.fileno(), self._plans.fd, self._arrivals.fd)
        # -P: what lies in the working directory is not imported.
        command = [sys.executable, "-P", "-m", "slosgate.engines.vllm.courier", *map(str, fds)]
        self._courier = subprocess.Popen(command, pass_fds=fds)
        self._started_s = time.monotonic()
        theirs.close()

    def plan(self) -> Plan | None:
        """A plan that came since the last call, else None."""
        message = self._plans.read()
        if message is None:
            return None
        try:
            return msgspec.msgpack.decode(message, type=Plan)
        except msgspec.MsgspecError as error:
            logger.warning("a plan that cannot be read is ignored: %s", error)
            return None

    def arrivals(self) -> tuple[Heard, ...]:
        """What was announced since the last call."""
        message = self._arrivals.read()
        if message is None:
            return ()
        try:
            heard = msgspec.msgpack.decode(message, type=tuple[Heard, ...])
        except msgspec.MsgspecError as error:
            logger.warning("announcements that cannot be read are ignored: %s", error)
            return ()
        # Lists overlap, and what was told of already may have come and gone.
        told, self._told = self._told, frozenset(each.announcement.request_id for each in heard)
        return tuple(each for each in heard if each.announcement.request_id not in told)

    def send(self, report: Telemetry, *, urgent: bool) -> bool:
        """Hand a report to the courier; False when it was dropped."""
        frame = (URGENT if urgent else ROUTINE) + msgspec.msgpack.encode(report)
        try:
            self._socket.send(frame)
        except BlockingIOError:  # the courier is behind: the next report is complete again
            return False
        except ConnectionError:
            self._restart()
            return False
        except OSError as error:  # larger than a socket takes
            logger.warning("a report of %d bytes is dropped: %s", len(frame), error)
            return False
        return True

    def _restart(self) -> None:
        if time.monotonic() - self._started_s < RESTART_S:
            return
        logger.warning("the courier ended with exit code %s: starting another", self._courier.poll())
        self._socket.close()
        self._start()

    def close(self) -> None:
        """End the courier; it unregisters the replica on its way out."""
        self._socket.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._courier.wait(timeout=2.0)
        if self._courier.poll() is None:
            self._courier.kill()
            self._courier.wait()
        self._plans.close()
        self._arrivals.close()
