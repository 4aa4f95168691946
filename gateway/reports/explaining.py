"""Why a request was late, in a sentence with its numbers, from what ran on its replica meanwhile.

"predicted 210 ms, promised 400 ms, took 620 ms: iteration 3 of 7 ran 60 ms long (118 ms, planned 58 ms)"
"""

from __future__ import annotations

import math

from slosgate.gateway.promises.exchange import Exchange
from slosgate.planner.dues import TOLERANCE

EXCUSED = ("hung-up", "refused")  # the client went away, or asked for what its replica refuses
NOTABLE = 0.3  # of the delay: what ran so much longer than planned is named
IDLE = 0.5  # of the time: when nothing ran for so long, that is said


def is_broken(exchange: Exchange) -> bool:
    """Whether a guarantee was given and not kept, through no doing of the client's."""
    return exchange.guaranteed and not exchange.attained and exchange.outcome not in EXCUSED


def explain(exchange: Exchange, now_s: float) -> str:
    """Empty for a request without an SLO, and for one that attained it or needed no answer."""
    if not exchange.contract.has_slo or exchange.attained or exchange.outcome in EXCUSED or not exchange.attempts:
        return ""
    if exchange.outcome != "completed" or exchange.failure:
        return f"it ended as {exchange.outcome or 'failed'} after {exchange.tokens} tokens"
    if not math.isfinite(exchange.first_token_s):
        promised = (exchange.ttft_s + max(0, exchange.tokens - 1) * exchange.contract.tpot_s) * 1000
        return f"{_moved(exchange)}the whole answer took {_ms(now_s - exchange.arrival_s)}, promised {promised:.0f} ms"
    if exchange.first_token_s > exchange.arrival_s + exchange.ttft_s * (1 + TOLERANCE):
        return _late_first_token(exchange)
    return _late_tokens(exchange)


def _late_first_token(exchange: Exchange) -> str:
    took_s = exchange.first_token_s - exchange.arrival_s
    said = f"predicted {_ms(exchange.predicted_ttft_s)}, " if math.isfinite(exchange.predicted_ttft_s) else ""
    numbers = f"{said}{_word(exchange)} {_ms(exchange.ttft_s)}, took {_ms(took_s)}"
    why = _why(exchange, exchange.arrival_s, exchange.first_token_s, took_s - exchange.ttft_s)
    return f"{_moved(exchange)}{numbers}{why}"


def _late_tokens(exchange: Exchange) -> str:
    took_s = exchange.last_token_s - exchange.first_token_s
    pace_s = took_s / max(1, exchange.tokens - 1)
    numbers = f"{_ms(pace_s)} a token on average, {_word(exchange)} {_ms(exchange.contract.tpot_s)} at every 20th"
    late_s = max(took_s - (exchange.tokens - 1) * exchange.contract.tpot_s, 0.05 * took_s)
    return f"{numbers}{_why(exchange, exchange.first_token_s, exchange.last_token_s, late_s)}"


def _word(exchange: Exchange) -> str:
    return "promised" if exchange.guaranteed else "asked for"


def _moved(exchange: Exchange) -> str:
    failed = [attempt.replica.name for attempt in exchange.attempts[:-1]]
    return f"after {', '.join(failed)} failed it: " if failed else ""


def _why(exchange: Exchange, begin_s: float, end_s: float, late_s: float) -> str:
    """What the iterations of that time say; empty when none is known, as with servers that report none."""
    mirror = exchange.placement.replica.mirror
    ran = mirror.iterations.between(begin_s, end_s) if mirror and not exchange.overflow else []
    if not ran:
        return ""
    worst, over_s = max(ran, key=lambda one: one.over_s), sum(max(0.0, one.over_s) for one in ran)
    if worst.over_s > NOTABLE * late_s:
        number = worst.number - ran[0].number + 1
        long = f"iteration {number} of {len(ran)} ran {_ms(worst.over_s)} long"
        return f": {long} ({_ms(worst.took_s)}, planned {_ms(worst.planned_s)})"
    if over_s > NOTABLE * late_s:
        return f": {len(ran)} iterations ran {_ms(over_s)} longer than planned in all"
    busy_s = sum(min(one.ended_s, end_s) - max(one.ended_s - one.took_s, begin_s) for one in ran)
    if end_s - begin_s - busy_s > IDLE * (end_s - begin_s):
        return f": nothing ran for {_ms(end_s - begin_s - busy_s)} of them"
    return f": {len(ran)} iterations ran as long as planned, and other work came first"


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms"
