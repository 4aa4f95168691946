"""What launching an iteration costs, and which sizes are worth it.

An engine's host needs time to give the device an iteration: by kind, and whatever the size. An iteration that follows
on another is launched while that one runs, so it has to be chosen so long before its end; what arrives after that waits
for the one behind it, and where the one in flight is shorter than the launch, the device waits.

CUDA graphs of whole iterations are captured for sizes up to `captured_tokens`. A prefill is not worth going beyond them
for fewer tokens than take as long to compute as its launch takes longer: it stays within them, and what is left goes
along with the next one.

The device begins with what it has been given while the host launches the rest: it loses only what launching takes
longer than computing. (Lone prompts of 64 and of 256 tokens took the same 12 to 17 ms on H200s, as long as a launch and
the way there, and ones of 1,024 no longer than computing them.)
"""

from __future__ import annotations

from typing import NamedTuple

from slosgate.planner import profile
from slosgate.planner.compiling import compiled
from slosgate.planner.kernels import PAIR, Floats, Ints, Load
from slosgate.planner.pacing import slope_of, steepest_term
from slosgate.planner.profile import BEYOND as BEYOND
from slosgate.planner.profile import CAPTURED as CAPTURED
from slosgate.planner.profile import DECODES as DECODES
from slosgate.planner.profile import Launches

KINDS = 3
MARGIN_S = 0.001  # by which an iteration is chosen earlier than its launch takes, as its beginning is only expected


class Sizes(NamedTuple):
    """Which numbers of new tokens launch fast, for compiled kernels."""

    captured_tokens: int  # 0: it makes no difference
    extra_s: float  # how much longer a launch beyond takes


def sizes_of(launches: Launches | None) -> Sizes:
    """The sizes of an engine; without launches it makes no difference."""
    if launches is None or launches.captured_tokens == 0:
        return Sizes(0, 0.0)
    return Sizes(launches.captured_tokens, max(0.0, launches.beyond_s - launches.captured_s))


prefill_kind = compiled(profile.prefill_kind)


@compiled
def begins_s(free_s: float, chosen_s: float, launch_s: float, duration_s: float) -> float:
    """When an iteration begins that was chosen then, as if the device computed all of it at once: it is free by then,
    or later where the launch takes longer than the iteration."""
    return max(free_s, chosen_s + launch_s - duration_s)


@compiled
def kind_of(decode: Ints, drafts: Ints, tokens: Ints, captured_tokens: int) -> int:
    """The kind of an iteration with these decodes, their drafts, and so many tokens of each prompt."""
    if len(tokens) == 0:
        return DECODES
    new = len(decode)
    for count in drafts:
        new += count
    for count in tokens:
        new += count
    return int(prefill_kind(new, captured_tokens))


@compiled
def goes_just_beyond(load: Load, decodes: int, sizes: Sizes, coef: Floats) -> bool:
    """Whether an iteration is larger than the captured sizes, by less than its launch is worth.

    `decodes` of its tokens are no prompt's, and can't be left out.
    """
    beyond = load.new - sizes.captured_tokens
    if sizes.captured_tokens == 0 or beyond <= 0 or decodes >= sizes.captured_tokens:
        return False
    big = steepest_term(coef)
    return bool(beyond * (slope_of(coef, big) + coef[big, PAIR] * load.pairs / load.new) < sizes.extra_s)
