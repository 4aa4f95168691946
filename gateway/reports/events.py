"""What an operator must know, each thing as a record with its level and its sentence; `say` puts one into the log.

No event holds a prompt, an answer, a key or a password. What servers say of themselves goes through `shown`.
"""

from __future__ import annotations

import logging
from typing import ClassVar

from msgspec import Struct

from slosgate.engines.door import shown

_log = logging.getLogger("slosgate")


class Event(Struct, frozen=True, kw_only=True):
    """`subject` is what it is about: the log holds back repeats of one event about one subject."""

    level: ClassVar[int] = logging.INFO

    @property
    def subject(self) -> str:
        return ""


def say(event: Event) -> None:
    """Put an event into the log; its sentence is only made where its level is wanted."""
    _log.log(event.level, event)


# The gateway itself


class Started(Event, frozen=True, kw_only=True):
    version: str
    address: str
    redis: str  # without its password
    classes: tuple[str, ...]
    keys: int
    replicas: int  # in the configuration
    tls: bool
    add_replica: str  # a command that adds a simulated one
    add_replica_needs: str  # environment variable that it needs beside, for a Redis with a password
    ask: str  # a command that asks the gateway for tokens

    def __str__(self) -> str:
        known = (
            f"{len(self.classes)} classes ({', '.join(self.classes)}), {self.keys} keys and {self.replicas} replicas"
        )
        # Both addresses stand alone: they are copied from here.
        return f"slosgate {self.version} serves {self.address} with {known} configured and its state in {self.redis}"


class DrainBegun(Event, frozen=True, kw_only=True):
    under_way: int
    within_s: float

    def __str__(self) -> str:
        return f"told to stop: nothing new is accepted, {self.under_way} answers have {self.within_s:g} s to end"


class NoticeGiven(Event, frozen=True, kw_only=True):
    notice_s: float

    def __str__(self) -> str:
        return f"told to stop: /ready is false, and everything is served for another {self.notice_s:g} s"


class DrainDone(Event, frozen=True, kw_only=True):
    cut: int
    took_s: float

    def __str__(self) -> str:
        cut = f"{self.cut} answers were cut" if self.cut else "every answer has ended"
        return f"stopped after {self.took_s:.1f} s: {cut}"


class ConfigReloaded(Event, frozen=True, kw_only=True):
    file: str
    taken: tuple[str, ...]
    waiting: tuple[str, ...]

    def __str__(self) -> str:
        taken = f"{', '.join(self.taken)} changed" if self.taken else "nothing has changed that holds at once"
        waiting = f"; a restart is needed for {', '.join(self.waiting)}" if self.waiting else ""
        return f"{self.file} was read again: {taken}{waiting}"


class ConfigRefused(Event, frozen=True, kw_only=True):
    level: ClassVar[int] = logging.ERROR
    why: str

    def __str__(self) -> str:
        return f"the configuration stays as it is: {shown(self.why, longest=2000)}"


class NothingToReload(Event, frozen=True, kw_only=True):
    level: ClassVar[int] = logging.WARNING

    def __str__(self) -> str:
        return (
            "SIGHUP changes nothing: the gateway was started without --config; "
            "started with --config FILE it takes over the file's classes, keys and limits"
        )


class Compiling(Event, frozen=True, kw_only=True):
    def __str__(self) -> str:
        return "compiling the planner, once for an installation: about a minute (slosgate warm-up does it ahead)"


class FewFiles(Event, frozen=True, kw_only=True):
    level: ClassVar[int] = logging.WARNING
    problem: str

    def __str__(self) -> str:
        return self.problem


# Other gateways


class GatewayJoined(Event, frozen=True, kw_only=True):
    gateway: str

    @property
    def subject(self) -> str:
        return self.gateway

    def __str__(self) -> str:
        return f"gateway {self.gateway} shares the replicas from now on"


class GatewayLost(Event, frozen=True, kw_only=True):
    level: ClassVar[int] = logging.WARNING
    gateway: str
    freed: int

    @property
    def subject(self) -> str:
        return self.gateway

    def __str__(self) -> str:
        return f"gateway {self.gateway} is gone; {self.freed} places that it had taken are free again"


# Redis


class RedisAway(Event, frozen=True, kw_only=True):
    level: ClassVar[int] = logging.WARNING
    why: str

    def __str__(self) -> str:
        return f"Redis is away: {shown(self.why)}; until it is back nothing is guaranteed"


class RedisBack(Event, frozen=True, kw_only=True):
    away_s: float

    def __str__(self) -> str:
        return f"Redis is back after {self.away_s:.1f} s"


class ValkeyRestarted(Event, frozen=True, kw_only=True):
    """The private one, empty from here on."""

    level: ClassVar[int] = logging.WARNING
    exit_code: int  # below 0: the signal that ended it

    def __str__(self) -> str:
        return f"the private Valkey ended with exit code {self.exit_code} and is started again, empty"


# Replicas


class ReplicaEvent(Event, frozen=True, kw_only=True):
    replica: str

    @property
    def subject(self) -> str:
        return self.replica


class ReplicaJoined(ReplicaEvent, frozen=True, kw_only=True):
    url: str
    model: str
    engine: str  # empty for a server from the configuration
    plans: bool
    window_tokens: int  # 0: unknown, and nothing can be promised there
    kv_blocks: int

    def __str__(self) -> str:
        engine = f"{shown(self.engine)} engine" if self.engine else "a configured server"
        size = f"window {self.window_tokens}, {self.kv_blocks} KV blocks" if self.window_tokens else "without a profile"
        follows = "follows plans" if self.plans else "takes no plans: admission and routing only"
        return f"replica {self.replica} joined: {shown(self.model)} at {self.url}, {engine}, {size}, {follows}"


class ReplicaLost(ReplicaEvent, frozen=True, kw_only=True):
    level: ClassVar[int] = logging.WARNING
    why: str
    under_way: int

    def __str__(self) -> str:
        answers = f"{self.under_way} answers of this gateway were under way there"
        return f"replica {self.replica} is lost: {shown(self.why)}; {answers}"


class ReplicaLeft(ReplicaEvent, frozen=True, kw_only=True):
    why: str
    under_way: int

    def __str__(self) -> str:
        return f"replica {self.replica} takes nothing new: {self.why}; {self.under_way} answers there may end"


class ReplicaRefused(ReplicaEvent, frozen=True, kw_only=True):
    level: ClassVar[int] = logging.WARNING
    why: str

    def __str__(self) -> str:
        return f"replica {self.replica} can't be used: {shown(self.why)}"


class ReplicaHidden(ReplicaEvent, frozen=True, kw_only=True):
    level: ClassVar[int] = logging.WARNING

    def __str__(self) -> str:
        key = "lists its models only for those who have its key; give api_key_env, or model"
        return f"replica {self.replica} {key}"


class PlansStale(ReplicaEvent, frozen=True, kw_only=True):
    level: ClassVar[int] = logging.WARNING
    age_s: float

    def __str__(self) -> str:
        return f"replica {self.replica} has had no new plan for {self.age_s:.1f} s and plans for itself"


class PlansFresh(ReplicaEvent, frozen=True, kw_only=True):
    def __str__(self) -> str:
        return f"replica {self.replica} gets plans again"


class BreakerOpened(ReplicaEvent, frozen=True, kw_only=True):
    level: ClassVar[int] = logging.WARNING
    for_s: float

    def __str__(self) -> str:
        return f"replica {self.replica} fails requests: it is left alone for {self.for_s:.1f} s, then tried again"


class BreakerClosed(ReplicaEvent, frozen=True, kw_only=True):
    def __str__(self) -> str:
        return f"replica {self.replica} answers again"


# Requests


class PromiseBroken(Event, frozen=True, kw_only=True):
    level: ClassVar[int] = logging.WARNING
    request_id: str
    slo_class: str
    replica: str
    why: str

    @property
    def subject(self) -> str:
        return self.slo_class

    def __str__(self) -> str:
        return f"a guarantee of class {self.slo_class} was broken: {self.why} ({self.request_id} on {self.replica})"
