"""What a request asks for: the SLO it states, the class it belongs to, what happens when it can't be guaranteed.

who says                               what
x-slo-class                            the class, by name
service_tier (body)                    the class that claims the tier
the API key, the configuration         the default class
x-slo-ttft-ms, x-slo-tpot-ms           numbers that replace the class's (also as x-llm-d-slo-*)
x-slo-think-tpot-ms, x-slo-e2e-ms      the same: the pace while the model thinks, and the whole call
x-slo-session-e2e-ms                   given with a session's first call: when all of its calls are to be over

Any other x-slo-* header changes nothing, and neither does a service_tier that OpenAI's clients don't have. It may be
misspelt, mean something to another provider, or a proxy on the way may have added it for its own ends: that is no
reason to refuse the request, but the answer names it in x-slo-ignored. So it does with a number that doesn't hold,
because the key's class is looser or the session began without one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

from slosgate.gateway.config import LONGEST_MS, SERVICE_TIERS, SHORTEST_MS, ClassConfig, Config, KeyConfig, Policy
from slosgate.gateway.errors import Forbidden, InvalidRequest
from slosgate.gateway.state.sessions import SESSION_HEADERS
from slosgate.planner.pace import Asked

TTFT_HEADERS = (b"x-slo-ttft-ms", b"x-llm-d-slo-ttft-ms")
TPOT_HEADERS = (b"x-slo-tpot-ms", b"x-llm-d-slo-tpot-ms")
THINK_HEADERS = (b"x-slo-think-tpot-ms",)
E2E_HEADERS = (b"x-slo-e2e-ms",)
SESSION_E2E_HEADERS = (b"x-slo-session-e2e-ms",)
CLASS_HEADER = b"x-slo-class"
CLASS_SAID_IN = (CLASS_HEADER.decode(), "service_tier")  # where clients choose a class
NUMBERS = (TTFT_HEADERS, TPOT_HEADERS, THINK_HEADERS, E2E_HEADERS, SESSION_E2E_HEADERS)  # as `Numbers` has them
KNOWN_HEADERS = frozenset((*(name for names in NUMBERS for name in names), *SESSION_HEADERS, CLASS_HEADER))
FAMILIES = (b"x-slo-", b"x_slo_", b"x-llm-d-slo-", b"slo-")  # what a header about SLOs begins with, or nearly
MOST_IGNORED = 8  # that an answer names
LONGEST_NAME = 64


class Numbers(NamedTuple):
    """What a client states, in seconds; None where it states nothing."""

    ttft_s: float | None
    tpot_s: float | None
    think_tpot_s: float | None
    e2e_s: float | None
    session_e2e_s: float | None


@dataclass(frozen=True, slots=True)
class Contract:
    """What a request asks for. Of a TTFT both absolute and as a slowdown the looser holds."""

    slo_class: str
    ttft_s: float  # inf: no absolute TTFT SLO
    ttft_slowdown: float  # the TTFT SLO as a multiple of the prompt's zero-load TTFT; 0: none
    tpot_s: float  # inf: no TPOT SLO
    weight: float
    when_full: Policy  # what happens when it can't be guaranteed
    overflow: str  # where it goes when that is "overflow"
    tier: str | None  # the service_tier to echo when the contract is kept; None: the request named none
    think_tpot_s: float = math.inf  # while the model thinks; inf: as in the answer
    ttft_of_answer: bool = False  # the TTFT SLO is the first answer token's
    e2e_s: float = math.inf  # of the whole call; inf: no such SLO
    session_e2e_s: float = math.inf  # of its whole session, from its first call on
    least_e2e_s: float = 0.0  # that may be asked for
    not_held: tuple[bytes, ...] = ()  # headers whose numbers the key may not have
    held: tuple[bytes, ...] = ()  # headers whose numbers hold
    class_said_in: str = CLASS_SAID_IN[0]  # what chose the class, or could choose another

    @property
    def has_slo(self) -> bool:
        said = (self.ttft_s, self.tpot_s, self.think_tpot_s, self.e2e_s)
        return self.ttft_slowdown > 0 or any(math.isfinite(number) for number in said)

    def within(self, seconds: float) -> Contract:
        """The same for a call of a session of which so much time is left; a session that is late asks for no more."""
        return replace(self, e2e_s=min(self.e2e_s, max(seconds, self.least_e2e_s))) if seconds > 0 else self

    def asked(self, ttft_s: float, *, thinks: bool) -> Asked:
        """What it says, given its TTFT in seconds, for the planner."""
        return Asked(ttft_s, self.tpot_s, self.think_tpot_s, self.ttft_of_answer, self.e2e_s, thinks)

    def said_in(self, headers: Iterable[bytes]) -> str:
        """Where a client can change an SLO for which these headers are: in one of them, if its number holds, else where
        it chooses its class."""
        return next((name.decode() for name in headers if name in self.held), self.class_said_in)

    def served_tier(self, guaranteed: bool) -> str:
        """What `service_tier` echoes: `flex` when a promise was downgraded to best effort."""
        return "flex" if self.has_slo and not guaranteed else (self.tier or "default")


def resolve(
    headers: Mapping[bytes, bytes], service_tier: str | None, config: Config, key: KeyConfig | None = None
) -> Contract:
    """The contract of one request. Raises InvalidRequest for bad values, Forbidden for a class the key lacks."""
    name, said_in = _class_name(headers, service_tier, config, key)
    slo_class = config.classes[name]
    asked = Numbers(*(_milliseconds(headers, names) for names in NUMBERS))
    held = asked if key is None else _within_key(asked, slo_class, key)
    slowdown = slo_class.ttft_slowdown or 0.0
    return Contract(
        slo_class=name,
        ttft_s=_first(held.ttft_s, slo_class.ttft_ms),
        ttft_slowdown=slowdown if key is not None or held.ttft_s is None else 0.0,
        tpot_s=_first(held.tpot_s, slo_class.tpot_ms),
        weight=slo_class.weight * (key.weight if key else 1.0),
        when_full=slo_class.when_full,
        overflow=slo_class.overflow,
        tier=_tier(service_tier, name, config),
        think_tpot_s=_first(held.think_tpot_s, slo_class.think_tpot_ms),
        ttft_of_answer=slo_class.ttft_of == "answer",
        e2e_s=_first(held.e2e_s, slo_class.e2e_ms),
        session_e2e_s=_first(held.session_e2e_s, None),
        least_e2e_s=_least_e2e_s(slo_class) if key is not None else 0.0,
        not_held=tuple(
            name
            for names, said, holds in zip(NUMBERS, asked, held, strict=True)
            for name in names
            if name in headers and said != holds
        ),
        held=tuple(_first_of(headers, names) for names, holds in zip(NUMBERS, held, strict=True) if holds is not None),
        class_said_in=said_in,
    )


def ignored(
    headers: Iterable[bytes], contract: Contract, service_tier: str | None, ttft_s: float, session_due_s: float
) -> tuple[bytes, ...]:
    """Of a request's headers and its tier, those that look as if they said something about its SLO, and don't.

    `ttft_s` is the TTFT SLO that holds, `session_due_s` when the request's session is to be over; inf: it has no such
    SLO.
    """
    unheard = {name for name in headers if name.startswith(FAMILIES) and name not in KNOWN_HEADERS}
    unheard |= set(contract.not_held)
    if service_tier is not None and service_tier not in SERVICE_TIERS:
        unheard.add(b"service_tier")
    if contract.ttft_s < ttft_s:  # the class's slowdown is looser
        unheard |= {*TTFT_HEADERS}.intersection(headers)
    if math.isinf(session_due_s):
        unheard |= {*SESSION_E2E_HEADERS}.intersection(headers)
    return tuple(sorted(name[:LONGEST_NAME] for name in unheard)[:MOST_IGNORED])


def _tier(service_tier: str | None, slo_class: str, config: Config) -> str | None:
    """The tier to echo when the request gets what it asked for; None when it names no tier."""
    if service_tier is None:
        return None
    return service_tier if service_tier != "auto" and config.class_of_tier(service_tier) == slo_class else "default"


def _within_key(asked: Numbers, slo_class: ClassConfig, key: KeyConfig) -> Numbers:
    """A client's own numbers as far as its key allows them: looser than the class's, never tighter. How a TTFT compares
    with a slowdown shows with the prompt."""
    if not key.may_set_slo:
        return Numbers(None, None, None, None, None)
    least_e2e_ms = _least_e2e_s(slo_class) * 1000
    return Numbers(
        ttft_s=_looser(asked.ttft_s, slo_class.ttft_ms),
        tpot_s=_looser(asked.tpot_s, slo_class.tpot_ms),
        think_tpot_s=_looser(asked.think_tpot_s, slo_class.think_tpot_ms or slo_class.tpot_ms),
        e2e_s=_looser(asked.e2e_s, least_e2e_ms),
        session_e2e_s=_looser(asked.session_e2e_s, least_e2e_ms),
    )


def _least_e2e_s(slo_class: ClassConfig) -> float:
    """The tightest SLO for a whole call that fits a class; inf where it would ask for another pace than the class's."""
    if slo_class.e2e_ms is not None:
        return slo_class.e2e_ms / 1000
    return math.inf if slo_class.promises else 0.0


def _looser(asked_s: float | None, class_ms: float | None) -> float | None:
    """A client's number, unless it is tighter than its class's."""
    tighter = asked_s is not None and class_ms is not None and asked_s < class_ms / 1000
    return None if tighter else asked_s


def default_class(config: Config, key: KeyConfig | None) -> str:
    """The class of a request that names none."""
    default = (key.default_class if key else "") or config.admission.default_class
    allowed = (key.classes if key else ()) or tuple(config.classes)
    return default if default in allowed else allowed[0]


def _class_name(
    headers: Mapping[bytes, bytes], service_tier: str | None, config: Config, key: KeyConfig | None
) -> tuple[str, str]:
    """The class of a request, and where its client says it, or could."""
    by_name, by_tier = CLASS_SAID_IN
    default = default_class(config, key)
    allowed = (key.classes if key else ()) or tuple(config.classes)
    asked = headers.get(CLASS_HEADER)
    if asked is not None:
        name = asked.decode("latin-1")
        if name not in config.classes:
            raise InvalidRequest(f"x-slo-class must be one of {', '.join(allowed)}, not {name!r}", param=by_name)
        if name not in allowed:
            raise Forbidden(f"this API key may use {', '.join(allowed)}, not {name!r}", param=by_name)
        return name, by_name
    if service_tier in (None, "auto"):
        return default, by_name
    # A tier that is unknown, that no class claims, or that the key lacks, is served as the default class, and the echo
    # says so.
    claimed = config.class_of_tier(str(service_tier))
    return (claimed, by_tier) if claimed in allowed else (default, by_name)


def _milliseconds(headers: Mapping[bytes, bytes], names: tuple[bytes, ...]) -> float | None:
    """The first of these headers that is there, in seconds."""
    name = _first_of(headers, names)
    if (text := headers.get(name)) is None:
        return None
    return _positive(text, name) / 1000


def _first_of(headers: Mapping[bytes, bytes], names: tuple[bytes, ...]) -> bytes:
    """The first of these names that is among the headers; empty when none is."""
    return next((name for name in names if name in headers), b"")


def _positive(text: bytes, name: bytes) -> float:
    try:
        value = math.nan if b"_" in text else float(text)  # Python reads 1_000, nobody else does
    except ValueError:
        value = math.nan
    if not SHORTEST_MS <= value <= LONGEST_MS:
        raise InvalidRequest(
            f"{name.decode()} must be a positive number of milliseconds, {SHORTEST_MS:g} to {LONGEST_MS:.0f}, not "
            f"{text.decode('latin-1')!r}",
            param=name.decode(),
        )
    return value


def _first(seconds: float | None, class_ms: float | None, without_s: float = math.inf) -> float:
    """The client's own number, else the class's, else `without_s`."""
    if seconds is not None:
        return seconds
    return without_s if class_ms is None else class_ms / 1000


def describe(slo_class: ClassConfig) -> str:
    """A class in half a sentence, for people."""
    parts = []
    if slo_class.ttft_slowdown is not None:
        parts.append(f"TTFT {slo_class.ttft_slowdown:g} x zero load")
    if slo_class.ttft_ms is not None:
        parts.append(f"TTFT {slo_class.ttft_ms:g} ms")
    if slo_class.tpot_ms is not None:
        parts.append(f"TPOT {slo_class.tpot_ms:g} ms")
    if slo_class.think_tpot_ms is not None:
        parts.append(f"TPOT {slo_class.think_tpot_ms:g} ms while thinking")
    if slo_class.ttft_of == "answer":
        parts.append("TTFT of the answer")
    if slo_class.e2e_ms is not None:
        parts.append(f"the whole call {slo_class.e2e_ms:g} ms")
    otherwise = f"{slo_class.when_full} {slo_class.overflow}".rstrip()
    return ", ".join(parts) + f", else {otherwise}" if parts else "no SLO, best effort"
