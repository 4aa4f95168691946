"""Sessions: which calls belong together, and what gateways remember of them.

A session is what a client says it is (`x-slo-session`, `x-session-id`, or the body's `prompt_cache_key`), under its API
key. It is remembered in Redis, so that any gateway can go on with it, for `TTL_MS` after its last call, in one of
`SLOTS` places: whoever invents sessions takes others' memory, and no more room. Nothing of it is believed that a call
doesn't bear out: where its beginning is cached counts only if the call begins with that very text.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from contextlib import suppress
from hashlib import blake2b
from typing import Annotated
from zlib import crc32

import msgspec
from msgspec import Meta

from slosgate.engines.channel import key
from slosgate.engines.messages import Due
from slosgate.gateway.errors import InvalidRequest
from slosgate.gateway.state.ledger import Ledger, StoreDown
from slosgate.planner.plans import Count, Name
from slosgate.planner.prefixes import Leading

SESSION_HEADERS = (b"x-slo-session", b"x-session-id")
LONGEST_NAME = 512  # bytes
SLOTS = 1 << 16
TTL_MS = 15 * 60_000  # an agent that waits longer, for a person, finds its KV gone as well
KNOWN = 10_000  # that one gateway remembers by itself
CONTEXTS = 4  # of parallel calls: each goes on from its own
OUTPUTS = 8  # latest, that tell how long the next may be,
FEW = 4  # once there are so many
MORE = 1.25  # times the longest of them


class Context(msgspec.Struct, frozen=True, array_like=True):
    """A prompt that a replica has computed: so many leading blocks, and the hash that stands for all of them."""

    replica: Name
    blocks: Count
    last_hash: Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]

    def begins(self, prompt: Leading) -> bool:
        """Whether a prompt begins with it."""
        return 0 < self.blocks <= len(prompt.hashes) and prompt.hashes[self.blocks - 1] == self.last_hash


class Session(msgspec.Struct, frozen=True, kw_only=True):
    """What is remembered between two calls."""

    id: Name
    calls: Count = 0
    contexts: Annotated[tuple[Context, ...], Meta(max_length=CONTEXTS)] = ()  # the newest first
    outputs: Annotated[tuple[Count, ...], Meta(max_length=OUTPUTS)] = ()  # tokens of the latest, the newest last
    due_s: Due = float("inf")  # when the whole session is to be over, on the clock of the gateway where it began
    answered: Count = 0  # calls that have their answer,
    promised: Count = 0  # and those of them that were promised their SLO

    def begun(self, due_s: float) -> Session:
        """One call more; its SLO as a whole is given with the first."""
        due_s = due_s if not self.calls else self.due_s
        return msgspec.structs.replace(self, calls=self.calls + 1, due_s=due_s)

    def goes_on(self, prompt: Leading) -> bool:
        """Whether a call goes on from one of the latest, and all that were answered had been promised their SLO."""
        return 0 < self.answered == self.promised and any(context.begins(prompt) for context in self.contexts)

    def ended(self, context: Context | None, output_tokens: int, *, promised: bool) -> Session:
        """A call has its answer."""
        contexts = self.contexts
        if context is not None:
            others = [c for c in contexts if c.last_hash != context.last_hash]
            contexts = (context, *others)[:CONTEXTS]
        outputs = (*self.outputs, output_tokens)[-OUTPUTS:] if output_tokens else self.outputs
        return msgspec.structs.replace(
            self,
            contexts=contexts,
            outputs=outputs,
            answered=self.answered + 1,
            promised=self.promised + promised,
        )

    def output_tokens(self, planned: int) -> int:
        """What to plan for of the next output, given what its class says: no more than is known of its own."""
        return min(planned, round(MORE * max(self.outputs))) if len(self.outputs) >= FEW else planned


def session_id(headers: Mapping[bytes, bytes], cache_key: str | None, holder: str) -> str:
    """The session that a call belongs to; "" for none. Nobody can name another holder's. Raises InvalidRequest.

    Only the header that is slosgate's own is held to its length: what others put into theirs is no fault of a call.
    """
    own = headers.get(SESSION_HEADERS[0], b"")
    if len(own) > LONGEST_NAME:
        said = SESSION_HEADERS[0].decode()
        raise InvalidRequest(f"{said} must have at most {LONGEST_NAME} bytes, not {len(own)}", param=said)
    name = own or headers.get(SESSION_HEADERS[1], b"") or (cache_key or "").encode(errors="replace")
    if not name:
        return ""
    return blake2b(name, key=blake2b(holder.encode(), digest_size=32).digest(), digest_size=16).hexdigest()


class Sessions:
    """One gateway's view of them."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._known: OrderedDict[str, Session] = OrderedDict()

    def __len__(self) -> int:
        return len(self._known)

    async def recall(self, name: str, *, alone: bool) -> Session:
        """What is known of a session: by this gateway if it is the only one, else by Redis, if that is there."""
        own = self._known.get(name)
        if own is not None and alone:
            return own
        with suppress(StoreDown):
            packed = await self._ledger.read(self._at(name))
            found = self._ledger.door.read(self._at(name), packed, Session) if packed else None
            if found is not None and found.id == name and found.calls >= (own.calls if own else 0):
                return found
        return own or Session(id=name)

    def newest(self, name: str) -> Session:
        """What this gateway knows by now: parallel calls may have ended since it was recalled."""
        return self._known.get(name) or Session(id=name)

    def remember(self, session: Session) -> None:
        """Keep it here and, without waiting, in Redis."""
        self._known[session.id] = session
        self._known.move_to_end(session.id)
        if len(self._known) > KNOWN:
            self._known.popitem(last=False)
        self._ledger.write(self._at(session.id), msgspec.msgpack.encode(session), TTL_MS)

    @staticmethod
    def _at(name: str) -> str:
        return key("session", str(crc32(name.encode()) % SLOTS))
