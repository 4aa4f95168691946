"""Arrival times as files have them: seconds from a start, Unix time in any unit, or dates with and without offsets."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime
from pathlib import Path

from slosgate.traces.errors import malformed
from slosgate.traces.rows import Clock, number

EPOCH_FROM_S = 1e8  # larger times count from 1970: three years from a trace's start are none
EPOCH_FROM = 1e9  # no trace begins so many milliseconds after its start either: those are seconds since 1970
EPOCH_UNITS = ((1e17, 1e-9), (1e14, 1e-6), (1e11, 1e-3))  # from so large on a Unix time is in ns, us, ms
LARGEST_OFFSET_S = 18 * 3600
LONGEST_S = 400 * 86400.0
_MOMENT = re.compile(
    r"(\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d)(?:[.,](\d+))?\s*(Z|UTC|[+-]\d\d(?::?[0-5]\d)?)?", re.IGNORECASE
)


class SinceFirst:
    """Times in a column, checked to never fall; Unix times start at the first row. `unit_s`: of one in the column."""

    def __init__(self, path: Path, name: str, unit_s: float = 1.0) -> None:
        self._path, self._name, self._unit_s = path, name, unit_s
        self._clock = Clock(path, name)
        self._start = 0.0
        self._first_s: float | None = None

    def arrival_s(self, value: object, line: int) -> float:
        """Seconds. Raises TraceError."""
        time = number(value)
        if not 0 <= time < math.inf:
            unit = "milliseconds" if self._unit_s == 1e-3 else "seconds"
            raise malformed(self._path, line, f"{self._name} must be a time from 0 in {unit}, not {value!r}")
        if self._first_s is None and time >= min(EPOCH_FROM_S / self._unit_s, EPOCH_FROM):
            self._start = time
            self._unit_s = next((unit_s for least, unit_s in EPOCH_UNITS if time >= least), 1.0)
        time_s = round((time - self._start) * self._unit_s, 9)
        self._first_s = time_s if self._first_s is None else self._first_s
        self._clock.check(time_s, line)
        if time_s - self._first_s > LONGEST_S:
            far = f"{self._name} lies {time_s - self._first_s:g} s after the first row's"
            raise malformed(self._path, line, f"{far}; accepted: up to {LONGEST_S / 86400:g} days")
        return time_s


class Moments:
    """Dates to seconds since the first one, to the tick: a float of the epoch would lose the last digit.

    A date without an offset is UTC; offsets may change from row to row (summer time), but not come and go.
    """

    def __init__(self, path: Path, name: str) -> None:
        self._path, self._name = path, name
        self._clock = Clock(path, name)
        self._text, self._whole_s = "", 0  # the last second that was parsed: rows come many to a second
        self._first: tuple[int, float, bool] | None = None

    def arrival_s(self, timestamp: object, line: int) -> float:
        """Seconds. Raises TraceError."""
        match = _MOMENT.fullmatch(timestamp.strip()) if isinstance(timestamp, str) else None
        if match is None:
            raise self._bad(timestamp, line)
        moment, fraction, offset = match.groups()
        if moment != self._text:
            self._whole_s, self._text = self._parsed(moment, timestamp, line), moment
        offset_s = _offset_s(offset)
        if abs(offset_s) > LARGEST_OFFSET_S:
            raise self._bad(timestamp, line)
        whole_s, fraction_s = self._whole_s - offset_s, float(f"0.{fraction or 0}")
        whole_0, fraction_0, has_offset = self._first = self._first or (whole_s, fraction_s, offset is not None)
        if has_offset != (offset is not None):
            rule = f"{self._name} has {'no' if has_offset else 'an'} offset from UTC, unlike the first row's"
            raise malformed(self._path, line, f"{rule}: {timestamp!r}")
        return self._clock.check(round(whole_s - whole_0 + (fraction_s - fraction_0), 7), line)

    def _parsed(self, moment: str, timestamp: object, line: int) -> int:
        try:
            return int(datetime.fromisoformat(moment).replace(tzinfo=UTC).timestamp())
        except ValueError:
            raise self._bad(timestamp, line) from None

    def _bad(self, timestamp: object, line: int) -> ValueError:
        rule = f"{self._name} must read like 2023-11-16 18:17:03.9799600, with or without an offset as +02:00"
        return malformed(self._path, line, f"{rule}, not {timestamp!r}")


def is_moment(value: object) -> bool:
    """Whether a value reads like a date."""
    return isinstance(value, str) and _MOMENT.fullmatch(value.strip()) is not None


def _offset_s(offset: str | None) -> int:
    if offset is None or offset[0] not in "+-":
        return 0
    digits = offset[1:].replace(":", "").ljust(4, "0")
    return (1 if offset[0] == "+" else -1) * (int(digits[:2]) * 3600 + int(digits[2:]) * 60)
