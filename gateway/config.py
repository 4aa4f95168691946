"""The gateway's configuration: one TOML file, read once, handed down as frozen records.

    [server]                      # where it listens, limits
    [log]                         # format = "json", level = "warning"
    [tracing]                     # endpoint = "http://127.0.0.1:4318"
    [drain]                       # notice_s: how long /ready is false before the listener closes
    [redis]                       # url; without one a private Valkey is started
    [admission]                   # default class, hop limit, retries
    [classes.interactive]         # an SLO under a name
    ttft_ms = 500
    tpot_ms = 50
    when_full = "reject"          # or "best-effort", or "overflow" with overflow = "cloud"
    service_tiers = ["priority"]
    [overflow.cloud]              # where a class may send what can't be guaranteed, through the litellm package
    model = "openai/gpt-4.1-mini" # as litellm names providers and models
    api_key_env = "OPENAI_API_KEY"
    [keys.team-a]                 # an API key's contract
    sha256 = "..."                # sha256sum of the key; the key itself is nowhere
    classes = ["interactive"]
    [models."facebook/opt-13b"]
    tokenizer = "tokenizer.json"  # counts prompts exactly
    [[replicas]]                  # servers without the plug-in: admission and routing only
    url = "http://10.0.0.7:8000"
    profile = "h200-opt-13b"

Every unknown key and every value out of range is refused with its line.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta, Struct

from slosgate.engines import toml
from slosgate.engines.store import url_problem
from slosgate.engines.toml import Problem
from slosgate.gateway.reports.logs import Format, Level
from slosgate.planner.controller import WhenFull
from slosgate.planner.desk import SHIPPED, DeskSettings
from slosgate.planner.routing import RouterName

SHORTEST_MS = 1e-3  # of an SLO: less may become 0 s, or spoil what is told in shares of it
LONGEST_MS = 1e9  # eleven days: who asks for less than that asks for nothing
SloMs = Annotated[float, Meta(ge=SHORTEST_MS, le=LONGEST_MS)]
Positive = Annotated[float, Meta(gt=0)]
Count = Annotated[int, Meta(ge=1)]
Policy = WhenFull

LAST_PORT = 65535
# What OpenAI's clients may send in `service_tier`.
SERVICE_TIERS = ("auto", "default", "flex", "scale", "priority", "fast")


class ServerConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the gateway listens, and how much and how long it bears."""

    host: str = "127.0.0.1"  # address to listen on
    port: Annotated[int, Meta(ge=0, le=LAST_PORT)] = 8000  # 0 takes a free one
    max_body_bytes: Count = 20_000_000  # a request that is longer is refused with 413
    max_answer_bytes: Count = 256 * 1024 * 1024  # a replica's answer that is longer is taken for one without end
    # how long nothing more of an answer may come: as long as OpenAI's own client waits; one that goes on is never cut
    request_timeout_s: Positive = 600.0
    # A replica that has not begun to answer is left for another one: for streams, its headers count; else the time
    # that max_tokens may take comes on top.
    first_byte_timeout_s: Positive = 60.0
    connect_timeout_s: Positive = 2.0  # for a connection to a replica
    header_timeout_s: Positive = 20.0  # for a request's headers, from its first byte or the connection's beginning
    body_timeout_s: Positive = 30.0  # for its body, and another second for each 10 kB
    max_header_bytes: Annotated[int, Meta(ge=1024)] = 64 * 1024  # of one request
    cors_origins: tuple[str, ...] = ("*",)  # web pages that may call it; vLLM's default
    drain_s: Positive = 30.0  # how long a stopping gateway lets accepted requests finish
    replica_api_key_env: str = ""  # environment variable with the API key that replicas which register ask for
    log_requests: bool = False  # a line of JSON per request on stderr: its decision record, never its prompt


class LogConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the program says on its standard error output."""

    format: Format = "text"  # a line of text, or of JSON, for each event
    level: Level = "info"  # the least that is said


class TracingConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Spans of OpenTelemetry (extra `otel`)."""

    # base address of a collector that speaks OTLP over HTTP, as http://127.0.0.1:4318; empty: no spans
    endpoint: Annotated[str, Meta(pattern="^(https?://.*)?$")] = ""
    # share of the traces begun here that is kept; one that a client has begun is kept as the client says
    sample_ratio: Annotated[float, Meta(ge=0, le=1)] = 1.0


class DrainConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What happens between a signal to stop and the end."""

    notice_s: Annotated[float, Meta(ge=0)] = 0.0  # how long /ready is false before the listener closes


class RedisConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where gateways and replicas share their state."""

    url: str = ""  # empty: a private Valkey that ends with the gateway
    timeout_s: Positive = 1.0  # one that says nothing for so long is away


class AdmissionConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How requests are judged."""

    default_class: str = "default"  # for requests that state no SLO, class or tier
    router: RouterName = SHIPPED.router  # in whose order replicas are asked
    hop_limit: Count = SHIPPED.hop_limit  # replicas asked before a request becomes best effort
    commit_retries: Count = 4  # admissions lost to another gateway before it becomes best effort
    plan_interval_s: Positive = 0.02  # plans of one replica are at least this far apart
    # Plans aim this much before the TTFT SLO; planner/dues.py says why.
    headroom_ms: Annotated[float, Meta(ge=0)] = SHIPPED.headroom_s * 1000
    # While Redis is away nothing can be guaranteed: requests are served as best effort, or refused with a 503.
    when_state_is_away: Literal["best-effort", "refuse"] = "best-effort"
    patience_s: Positive = SHIPPED.overtaken_s  # how long a request without an SLO may be overtaken by best effort

    @property
    def desk(self) -> DeskSettings:
        """How requests are judged, for the planner."""
        return DeskSettings(
            headroom_s=self.headroom_ms / 1000, router=self.router, hop_limit=self.hop_limit,
            overtaken_s=self.patience_s,
        )  # fmt: skip


class ClassConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A latency contract. Without a TTFT or TPOT it promises nothing and is served as best effort."""

    ttft_ms: SloMs | None = None  # SLO for the time to the first token
    ttft_slowdown: Annotated[float, Meta(gt=1)] | None = None  # TTFT SLO = this x zero-load TTFT of the prompt
    tpot_ms: SloMs | None = None  # SLO for the time per output token after the first
    think_tpot_ms: SloMs | None = None  # while the model thinks; tpot_ms then holds for the answer
    ttft_of: Literal["call", "answer"] = "call"  # "answer": the TTFT SLO is the first answer token's, after thinking
    e2e_ms: SloMs | None = None  # the whole call
    weight: Positive = 1.0  # who goes first where not everybody can
    when_full: Policy = "best-effort"  # what happens to a request that can't be guaranteed
    overflow: str = ""  # where it goes when that is "overflow": the name of an [overflow.NAME]
    service_tiers: tuple[str, ...] = ()  # values of `service_tier` in a request's body that stand for this class

    @property
    def promises(self) -> bool:
        said = (self.ttft_ms, self.ttft_slowdown, self.tpot_ms, self.think_tpot_ms, self.e2e_ms)
        return any(number is not None for number in said)


class KeyConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the holder of one API key may ask for."""

    sha256: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]  # digest of the key: printf KEY | sha256sum
    classes: tuple[str, ...] = ()  # empty: every class
    default_class: str = ""  # empty: the configuration's default class
    may_set_slo: bool = False  # honour x-slo-ttft-ms and x-slo-tpot-ms (never tighter than the class, when it has one)
    weight: Positive = 1.0  # multiplies the class's weight
    requests_per_minute: Count | None = None  # more are refused with 429 and when to come back
    max_concurrent: Count | None = None  # requests under way at once


class OverflowConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A provider outside, reached through the litellm package (extra `litellm`)."""

    model: Annotated[str, Meta(min_length=1)]  # litellm's name, provider first: "anthropic/claude-sonnet-4-5"
    api_base: Annotated[str, Meta(pattern="^(https?://.*)?$")] = ""  # empty: the provider's own
    api_key_env: str = ""  # environment variable that holds the API key; empty: the one litellm knows for the provider
    timeout_s: Positive = 60.0  # for its answer to begin
    token_ids: bool = False  # prompts of token ids may go there: right only where the tokenizer is the same


class ModelConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is known of a model beside what its replicas say."""

    tokenizer: str = ""  # path of its tokenizer.json, for exact counts (extra `tokenizers`); else learned from usage


class ReplicaConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An OpenAI-compatible server without the plug-in. Without a profile it only gets best effort."""

    url: Annotated[str, Meta(pattern="^https?://")]  # base address, without /v1
    name: str = ""  # defaults to the address, without http://
    model: str = ""  # defaults to what its /v1/models says; every other name that it lists can be asked for, too
    profile: str = ""  # name of a shipped profile, or a path to one
    api_key_env: str = ""  # environment variable that holds its API key

    @property
    def label(self) -> str:
        """Its name."""
        return self.name or self.url.partition("://")[2].rstrip("/")


class AdminConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who may read decision records, and where and by whom /metrics and /ready are read."""

    sha256: Annotated[str, Meta(pattern="^([0-9a-f]{64})?$")] = ""  # digest of the admin key; empty: no /admin
    records: Count = 10_000  # kept in memory
    # HOST:PORT: /metrics, /ready and /admin are only there; empty: beside the API.
    address: Annotated[str, Meta(pattern=r"^(.+:[0-9]{1,5})?$")] = ""
    pages_need_key: bool = False  # /metrics and /ready ask for the admin key


class Config(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    server: ServerConfig = ServerConfig()
    log: LogConfig = LogConfig()
    tracing: TracingConfig = TracingConfig()
    drain: DrainConfig = DrainConfig()
    redis: RedisConfig = RedisConfig()
    admission: AdmissionConfig = AdmissionConfig()
    admin: AdminConfig = AdminConfig()
    classes: dict[str, ClassConfig] = msgspec.field(default_factory=dict)
    keys: dict[str, KeyConfig] = {}
    overflow: dict[str, OverflowConfig] = {}
    models: dict[str, ModelConfig] = {}
    replicas: tuple[ReplicaConfig, ...] = ()

    def __post_init__(self) -> None:
        """There is always a class named default; it promises nothing unless the file says so, and is OpenAI's flex."""
        free = () if self.class_of_tier("flex") else ("flex",)
        self.classes.setdefault("default", ClassConfig(service_tiers=free))

    def class_of_tier(self, tier: str) -> str | None:
        """The class that a `service_tier` stands for, None when no class claims it."""
        return next((name for name, c in self.classes.items() if tier in c.service_tiers), None)


class ConfigError(toml.Unusable):
    """A configuration that can't be used; `problems` says why, key by key."""


# Further problems of a configuration, as (path, message).
Check = Callable[[Config], Iterable[tuple[tuple[str, ...], str]]]


def load(path: Path, checks: Iterable[Check] = ()) -> Config:
    """Read and check a file. Raises ConfigError, and OSError when the file can't be read."""
    return parse(path.read_text(encoding="utf-8"), checks)


def problem_at(text: str, path: tuple[str, ...], message: str) -> Problem:
    """A problem found with a value of a configuration that is good otherwise, with its line."""
    return toml.Lines(text).problem(path, message)


def parse(text: str, checks: Iterable[Check] = ()) -> Config:
    """Check a configuration's text, by `checks`, too. Raises ConfigError with every problem that was found.

    A value that can't be used stands for nothing in what is checked after it, and is told once.
    """
    try:
        tables = toml.tables(text)
    except toml.Unusable as error:
        raise ConfigError(error.problems) from None
    builder = _Builder(text)
    config = builder.build(tables)
    bad = {problem.key for problem in builder.problems}
    for check in (_cross_checks, *checks):
        for path, message in check(config):
            if ".".join(path) not in bad:
                builder.problem(path, message)
    if builder.problems:
        raise ConfigError(sorted(builder.problems, key=lambda p: p.line))
    return config


_Record = TypeVar("_Record", bound=Struct)

_SINGLE: dict[str, type[Struct]] = {
    "server": ServerConfig,
    "log": LogConfig,
    "tracing": TracingConfig,
    "drain": DrainConfig,
    "redis": RedisConfig,
    "admission": AdmissionConfig,
    "admin": AdminConfig,
}
_NAMED: dict[str, type[Struct]] = {
    "classes": ClassConfig,
    "keys": KeyConfig,
    "overflow": OverflowConfig,
    "models": ModelConfig,
}


TABLES: dict[str, type[Struct]] = {
    **{f"[{name}]": record for name, record in _SINGLE.items()},
    **{f"[{name}.NAME]": record for name, record in _NAMED.items()},
    "[[replicas]]": ReplicaConfig,
}


class _Builder:
    """Builds the records table by table, so that one bad table doesn't hide the problems of the next."""

    def __init__(self, text: str) -> None:
        self._lines = toml.Lines(text)
        self.problems: list[Problem] = []

    def build(self, tables: dict[str, Any]) -> Config:
        parts: dict[str, Any] = {}
        for name, value in tables.items():
            if name in _SINGLE:
                parts[name] = self.record(value, _SINGLE[name], (name,))
            elif name in _NAMED:
                parts[name] = self.named(value, _NAMED[name], name)
            elif name == "replicas":
                parts[name] = self.replicas(value)
            else:
                known = ", ".join([*_SINGLE, *_NAMED, "replicas"])
                self.problem((name,), f"unknown key; accepted: {known}")
        return Config(**parts)

    def named(self, value: Any, kind: type[_Record], name: str) -> dict[str, _Record]:
        if not isinstance(value, dict):
            self.problem((name,), f"must be tables: [{name}.NAME]")
            return {}
        return {key: self.record(entry, kind, (name, key)) for key, entry in value.items()}

    def replicas(self, value: Any) -> tuple[ReplicaConfig, ...]:
        if not isinstance(value, list):
            self.problem(("replicas",), "must be an array of tables: [[replicas]]")
            return ()
        return tuple(self.record(entry, ReplicaConfig, ("replicas", str(i))) for i, entry in enumerate(value))

    def record(self, value: Any, kind: type[_Record], path: tuple[str, ...]) -> _Record:
        """One table as a record; its problems are noted and a record of defaults stands in."""
        if not isinstance(value, dict):
            self.problem(path, "must be a table")
            return msgspec.convert(_stand_in(kind), kind)
        good = dict(value)
        for field in msgspec.structs.fields(kind):
            if field.name in good:
                self._check_value(good, field.name, field.type, path)
            elif field.required:
                self.problem((*path, field.name), "is missing")
        for key in [k for k in good if k not in kind.__struct_fields__]:
            self.problem((*path, key), f"unknown key; accepted: {', '.join(kind.__struct_fields__)}")
            del good[key]
        return msgspec.convert(_stand_in(kind) | good, kind)

    def _check_value(self, table: dict[str, Any], key: str, type_: Any, path: tuple[str, ...]) -> None:
        if problem := toml.of_value(table[key], type_):
            self.problem((*path, key), problem)
            del table[key]

    def problem(self, path: tuple[str, ...], message: str) -> None:
        self.problems.append(self._lines.problem(path, message))


def _stand_in(kind: type[Struct]) -> dict[str, Any]:
    """Values for required fields, so that a faulty table can be read on."""
    return {
        f.name: {"sha256": "0" * 64, "url": "http://", "model": "-"}[f.name]
        for f in msgspec.structs.fields(kind)
        if f.required
    }


def _cross_checks(config: Config) -> Iterator[tuple[tuple[str, ...], str]]:
    """What no single value shows, as (path, message)."""
    if config.admission.default_class not in config.classes:
        yield ("admission", "default_class"), _no_such_class(config.admission.default_class, config)
    if config.redis.url and (problem := url_problem(config.redis.url)):
        yield ("redis", "url"), problem
    if config.admin.address and int(config.admin.address.rpartition(":")[2]) > LAST_PORT:
        yield ("admin", "address"), f"no such port; accepted: HOST:PORT with a port of at most {LAST_PORT}"
    if config.admin.pages_need_key and not config.admin.sha256:
        yield ("admin", "pages_need_key"), "needs the admin key's digest: sha256"
    yield from _class_checks(config)
    yield from _key_checks(config)
    yield from _replica_checks(config)
    for number, replica in enumerate(config.replicas):
        if problem := _address_problem(replica.url):
            yield ("replicas", str(number), "url"), problem


def _class_checks(config: Config) -> Iterator[tuple[tuple[str, ...], str]]:
    claimed: dict[str, str] = {}
    for name, slo_class in config.classes.items():
        if problem := _overflow_problem(slo_class, config):
            yield ("classes", name, "overflow"), problem
        if slo_class.ttft_ms is not None and slo_class.ttft_slowdown is not None:
            yield ("classes", name, "ttft_slowdown"), "give ttft_ms or ttft_slowdown, not both"
        for tier in slo_class.service_tiers:
            path = ("classes", name, "service_tiers")
            if tier not in SERVICE_TIERS:
                yield path, f"unknown tier {tier!r}; accepted: {', '.join(SERVICE_TIERS)}"
            elif tier in claimed:
                yield path, f"{tier!r} already stands for class {claimed[tier]}"
            claimed.setdefault(tier, name)


def _overflow_problem(slo_class: ClassConfig, config: Config) -> str:
    """What is wrong with where a class overflows to; empty when nothing is."""
    target, wanted = slo_class.overflow, slo_class.when_full == "overflow"
    if target and target not in config.overflow:
        return f"no such table: [overflow.{target}]; accepted: {', '.join(config.overflow) or 'none is configured'}"
    if target and not wanted:
        return 'is only for classes with when_full = "overflow"'
    if wanted and not target:
        return f"is missing: name where to overflow to; accepted: {', '.join(config.overflow) or 'none is configured'}"
    return ""


def _key_checks(config: Config) -> Iterator[tuple[tuple[str, ...], str]]:
    holders: dict[str, str] = {}
    for name, key in config.keys.items():
        if (holder := holders.setdefault(key.sha256, name)) != name:
            yield ("keys", name, "sha256"), f"this key is {holder}'s already"
    for name, key in config.keys.items():
        for used in key.classes:
            if used not in config.classes:
                yield ("keys", name, "classes"), _no_such_class(used, config)
        if key.default_class and key.default_class not in config.classes:
            yield ("keys", name, "default_class"), _no_such_class(key.default_class, config)
        elif key.default_class and key.classes and key.default_class not in key.classes:
            yield ("keys", name, "default_class"), f"{key.default_class!r} is not among the key's classes"


def _replica_checks(config: Config) -> Iterator[tuple[tuple[str, ...], str]]:
    labels = [replica.label for replica in config.replicas]
    for number, label in enumerate(labels):
        if label and label in labels[:number]:
            yield ("replicas", str(number), "name"), f"{label!r} is the name of another replica, too; give each its own"


def _address_problem(url: str) -> str:
    """What is wrong with a replica's address; empty when nothing is."""
    accepted = "accepted: http://HOST:PORT, with an IPv6 address in brackets"
    try:
        parts = urlsplit(url)
        if "@" in parts.netloc:
            return f"an address has no user and no password: name a key's variable in api_key_env; {accepted}"
        good = (
            bool(parts.hostname) and parts.port != 0 and (parts.netloc.startswith("[") or parts.netloc.count(":") <= 1)
        )
    except ValueError:
        good = False
    return "" if good else f"no address: {url!r}; {accepted}"


def _no_such_class(name: str, config: Config) -> str:
    return f"no such class: {name!r}; accepted: {', '.join(config.classes)}"
