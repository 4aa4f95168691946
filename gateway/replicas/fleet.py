"""The replicas a gateway knows: which of them live, which serve a model, and who is told when their jobs change."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator

from slosgate.engines.clock import SteadyClock
from slosgate.engines.messages import DraftReport
from slosgate.gateway.errors import Unavailable
from slosgate.gateway.replicas.breaker import Breaker, State
from slosgate.gateway.replicas.replica import Replica
from slosgate.gateway.reports import events
from slosgate.planner.prefixes import NO_BLOCKS, Leading

__all__ = ["Fleet", "Replica"]


class Fleet:
    """`clock` and `random` are those of the replicas' circuit breakers."""

    def __init__(
        self, *, clock: Callable[[], float] | None = None, random: Callable[[], float] = random.random
    ) -> None:
        self.replicas: dict[str, Replica] = {}
        self.gateways: frozenset[str] = frozenset()  # that live, this one among them
        self.breaks = 0  # times that a breaker has opened
        self.unread = False  # Redis has been away from the start: which replicas have registered is not known yet
        self._clock = clock or SteadyClock()
        self._random = random
        self._listeners: list[Callable[[Replica], None]] = []
        self._draft_listeners: list[Callable[[Replica, Iterable[DraftReport]], None]] = []

    def breaker(self) -> Breaker:
        """A circuit breaker for a new replica."""
        return Breaker(self._random)

    # Who listens

    def on_news(self, listener: Callable[[Replica], None]) -> None:
        """Call `listener` with a replica whose jobs have changed."""
        self._listeners.append(listener)

    def on_drafts(self, listener: Callable[[Replica, Iterable[DraftReport]], None]) -> None:
        """Call `listener` with what replicas report of their drafts."""
        self._draft_listeners.append(listener)

    def tell(self, replica: Replica) -> None:
        for listener in self._listeners:
            listener(replica)

    def tell_drafts(self, replica: Replica, drafts: Iterable[DraftReport]) -> None:
        for listener in self._draft_listeners:
            listener(replica, drafts)

    # Who serves

    def living(self) -> Iterator[Replica]:
        return (replica for replica in list(self.replicas.values()) if replica.alive)

    def taking(self) -> Iterator[Replica]:
        """Living replicas that take new requests."""
        return (replica for replica in self.living() if not replica.draining)

    def serving(self, model: str, tried: frozenset[str] = frozenset()) -> list[Replica]:
        """Living replicas of a model that have not been tried and don't drain; those that keep failing, or have fallen
        silent, only if there is no other."""
        fit = [r for r in self.taking() if r.serves(model) and r.name not in tried]
        fit = [r for r in fit if r.models] or fit  # who lists the name comes before who tells nobody
        now_s = self._clock()
        return [r for r in fit if r.breaker.state(now_s) is not State.OPEN and not r.silent(now_s)] or fit

    def models(self) -> list[str]:
        """Every name that a living replica lists, sorted."""
        return sorted({name for replica in self.living() for name in replica.models})

    def base_models(self) -> list[str]:
        """The models that living replicas were started with, sorted; adapters and aliases are none."""
        return sorted({replica.model for replica in self.living()})

    def knows(self, model: str) -> bool:
        """Whether any replica, living or not, answers to this name."""
        return any(replica.serves(model) for replica in self.replicas.values())

    def nobody(self, model: str = "") -> Unavailable:
        """What a client is told when no replica (of its model) is there."""
        if self.unread:
            said = "the gateway's shared state is away, and has been since its start: no replica is known yet"
            return Unavailable(f"{said}; try again shortly", code="state_unavailable")
        of = f" of {model!r}" if model else ""
        return Unavailable(f"no replica{of} is up; try again shortly", code="no_replica")

    # How they fare

    def drain(self, replica: Replica, draining: bool) -> None:
        """A replica says that it drains, or that it doesn't. What waits there as best effort goes to another one."""
        if draining and not replica.draining:
            replica.draining = True
            events.say(events.ReplicaLeft(replica=replica.name, why="it drains", under_way=len(replica.answers)))
            for answer in replica.waiting():
                if self.serving(answer.model):
                    answer.cut("moved")
        replica.draining = draining

    def dispatched(self, replica: Replica, prefix: Leading = NO_BLOCKS, prompt_tokens: int = 0) -> None:
        """A request leaves for the replica; `succeeded` or `failed` follows, unless its client hangs up."""
        replica.breaker.dispatched(self._clock())
        replica.prefixes.sent(prefix, prompt_tokens)

    def succeeded(self, replica: Replica) -> None:
        if replica.breaker.succeeded():
            events.say(events.BreakerClosed(replica=replica.name))

    def failed(self, replica: Replica) -> None:
        now_s = self._clock()
        if replica.breaker.failed(now_s):
            self.breaks += 1
            events.say(events.BreakerOpened(replica=replica.name, for_s=replica.breaker.opens_in_s(now_s)))
