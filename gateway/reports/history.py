"""The last hour, minute by minute and class by class: what was offered, promised, refused, kept."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable
from typing import Literal, TypeVar

from msgspec import Struct

from slosgate.gateway.promises.exchange import Exchange
from slosgate.gateway.reports.explaining import is_broken

MINUTES = 60
MINUTE_S = 60.0
MOST_REASONS = 24  # told apart
OTHER = "other"

T = TypeVar("T")
What = Literal["offered", "guaranteed", "best_effort", "refused", "attained", "kept", "broken", "without_slo"]
ALL: tuple[What, ...] = (
    "offered", "guaranteed", "best_effort", "refused", "attained", "kept", "broken", "without_slo",
)  # fmt: skip


class Bounded:
    """Names as they may be counted by: the first so many as they are, and "other" for those that come later."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._known: set[str] = set()

    def of(self, name: str) -> str:
        if name not in self._known and len(self._known) >= self._most:
            return OTHER
        self._known.add(name)
        return name


class ClassHour(Struct, frozen=True):
    """One class's last hour: sums, and each minute's counts from the oldest to the one under way."""

    total: dict[What, int]
    minutes: dict[What, list[int]]


class History:
    """Times are seconds of one clock."""

    def __init__(self) -> None:
        self._minutes: deque[tuple[int, Counter[tuple[str, str]]]] = deque(maxlen=MINUTES)
        self._reasons: deque[tuple[int, Counter[str]]] = deque(maxlen=MINUTES)
        self._known = Bounded(MOST_REASONS)

    def refused(self, exchange: Exchange, reason: str, now_s: float) -> None:
        """A request that got no place."""
        if exchange.contract.has_slo:
            self._count(exchange, ("offered", "refused"), now_s)
        self._because(reason, now_s)

    def ended(self, exchange: Exchange, now_s: float) -> None:
        """A request that had a place, well or not."""
        if not exchange.contract.has_slo:
            self._count(exchange, ("without_slo",), now_s)
            return
        whats: list[What] = ["offered", "guaranteed" if exchange.guaranteed else "best_effort"]
        if exchange.attained:
            whats.append("attained")
        if exchange.guaranteed and (exchange.attained or is_broken(exchange)):
            whats.append("kept" if exchange.attained else "broken")
        self._count(exchange, whats, now_s)
        if not exchange.guaranteed and exchange.attempts:
            self._because(exchange.placement.reason, now_s)

    def _count(self, exchange: Exchange, whats: Iterable[What], now_s: float) -> None:
        counts = _of_minute(self._minutes, now_s)
        for what in whats:
            counts[exchange.contract.slo_class, what] += 1

    def _because(self, reason: str, now_s: float) -> None:
        _of_minute(self._reasons, now_s)[self._known.of(reason)] += 1

    def classes(self, names: tuple[str, ...], now_s: float) -> dict[str, ClassHour]:
        return {name: self._hour(name, now_s) for name in names}

    def _hour(self, name: str, now_s: float) -> ClassHour:
        last, minutes = _minute(now_s), {what: [0] * MINUTES for what in ALL}
        for minute, counts in self._minutes:
            age = last - minute
            for what in ALL if 0 <= age < MINUTES else ():
                minutes[what][MINUTES - 1 - age] = counts[name, what]
        return ClassHour({what: sum(minutes[what]) for what in ALL}, minutes)

    def reasons(self, now_s: float) -> list[tuple[str, int]]:
        """Why requests were not guaranteed in the last hour, the most frequent first."""
        total: Counter[str] = Counter()
        for minute, counts in self._reasons:
            if _minute(now_s) - minute < MINUTES:
                total += counts
        return total.most_common()


def _minute(now_s: float) -> int:
    return int(now_s // MINUTE_S)


def _of_minute(minutes: deque[tuple[int, Counter[T]]], now_s: float) -> Counter[T]:
    if not minutes or minutes[-1][0] != _minute(now_s):
        minutes.append((_minute(now_s), Counter()))
    return minutes[-1][1]
