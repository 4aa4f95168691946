"""One request's life at the gateway: what was asked, what was decided, how the answer went. Facts only."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

from slosgate.gateway.promises.answers import Events, Seen, in_whole
from slosgate.gateway.promises.completion import Completion
from slosgate.gateway.promises.contract import Contract
from slosgate.gateway.promises.tries import Try
from slosgate.gateway.replicas.fleet import Replica
from slosgate.gateway.state.sessions import Session
from slosgate.planner import desk
from slosgate.planner.controller import Arrival
from slosgate.planner.desk import SHIPPED, DeskSettings
from slosgate.planner.dues import TOLERANCE
from slosgate.planner.pace import Pace, pace_of
from slosgate.planner.prefixes import NOT_CACHED, Cached

CHECK_EVERY = 20  # and is looked at every so many tokens


class Size(NamedTuple):
    """How long a prompt is, in what could be counted: "exact" tokens, "tokens" without a chat template's, "bytes"."""

    unit: Literal["exact", "tokens", "bytes"]
    amount: int


UNMEASURED = Size("bytes", 0)


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a request went, and with what promise. `predicted_ttft_s` counts from its arrival."""

    replica: Replica
    guaranteed: bool
    predicted_ttft_s: float
    reason: str


@dataclass(slots=True)
class Exchange:
    request_id: str
    completion: Completion
    contract: Contract
    arrival_s: float
    prompt_tokens: int  # exact for token ids and where a tokenizer counts, else an estimate
    output_tokens: int  # planning value
    ttft_s: float  # SLO, absolute; inf without one
    thinking_planned: int = 0  # of the output tokens planned for, those of thinking
    acceptance: float = 0.0  # planning value for the chance that a drafted token is accepted; 0: no drafts
    stated: bool = False  # the client said the numbers of its SLO
    settings: DeskSettings = SHIPPED  # it is judged by
    longest_tokens: int = 0  # of the prompts in a batch, each of which has its own window; 0: the one prompt
    prompt_is_exact: bool = False  # prompt_tokens was counted, not estimated: only then may it refuse
    size: Size = UNMEASURED  # of the prompt, as measured on arrival
    replicas: list[Replica] = field(default_factory=list)  # that could serve it when it came
    dispatched_s: float = math.inf  # when it last left for a replica
    pace: Pace = field(init=False)  # that is promised
    tokens: int = 0  # output tokens seen
    thinking_tokens: int = 0  # of those, thinking
    answer_s: float = math.nan  # when the first token that is no thinking came
    first_token_s: float = math.nan
    last_token_s: float = math.nan
    generating_s: float = math.nan  # when the replica reported a token of an answer in one piece
    begun: bool = False  # the client has seen a byte of the answer
    status: int = 0  # HTTP status of the answer
    outcome: str = ""  # "completed", or why not
    late: bool = False  # a token came later than the SLO allows
    failure: str = ""  # the error that the answer itself reports
    touch: Callable[[], None] = lambda: None  # tells that something of the answer has come
    e2e_s: float = math.inf  # that the call itself asks for; its session may leave it less
    usage_tokens: int = 0  # output tokens by the answer's usage; 0: it has none
    _events: Events = field(default_factory=Events)
    _checks: list[tuple[int, float]] = field(default_factory=list)  # (tokens seen, when), for the judgement at the end
    attempts: list[Placement] = field(default_factory=list)
    tries: list[Try] = field(default_factory=list)  # at replicas it was placed on, and outside
    overflow: str = ""  # the provider outside that answers
    cut_reason: str = ""
    task: asyncio.Task[None] | None = None
    counted_prompt: bool = False  # prompt_tokens is what the replica counted
    cached: Cached = NOT_CACHED  # of the prompt, as expected where it went
    cached_tokens: int | None = None  # as the replica has counted; None: it has not
    session: Session | None = None  # that it belongs to, as it was before this call's answer
    key: str = ""  # name of the API key's holder; empty when keys are not asked for
    authorization: str = ""  # the client's, for replicas that check keys themselves
    client_id: str = ""  # the x-request-id that the client gave it
    ignored: tuple[bytes, ...] = ()  # headers of the client's that look like an SLO's and are none
    tracing: Mapping[str, str] = field(default_factory=dict)  # headers that replicas are told as they came

    def __post_init__(self) -> None:
        asked = self.contract.asked(self.ttft_s, thinks=self.completion.thinks)
        self.pace = pace_of(asked, self.thinking_planned, self.output_tokens)

    @property
    def placement(self) -> Placement:
        return self.attempts[-1]

    @property
    def guaranteed(self) -> bool:
        return bool(self.attempts) and not self.overflow and self.placement.guaranteed

    @property
    def admission(self) -> str:
        return "guaranteed" if self.guaranteed else "best-effort"

    @property
    def server(self) -> tuple[str, str]:
        """Who answers, and how the SLO is kept there."""
        if self.overflow:
            return f"overflow:{self.overflow}", "overflow"
        replica = self.placement.replica
        return replica.name, "planned" if replica.follows_plans else "admission-only"

    @property
    def predicted_ttft_s(self) -> float:
        return math.inf if self.overflow or not self.attempts else self.placement.predicted_ttft_s

    def answer_headers(self) -> list[tuple[bytes, bytes]]:
        """What the answer says about itself: the promise, who keeps it, and how."""
        server, enforcement = self.server
        headers = [
            (b"x-request-id", (self.client_id or self.request_id).encode()),
            (b"x-slo-request-id", self.request_id.encode()),
            (b"x-slo-admission", self.admission.encode()),
            (b"x-slo-class", self.contract.slo_class.encode("latin-1", "replace")),
            (b"x-slo-replica", server.encode("latin-1", "replace")),
            (b"x-slo-enforcement", enforcement.encode()),
            (b"x-slo-service-tier", self.contract.served_tier(self.guaranteed).encode()),
        ]
        for name, seconds in (
            (b"x-slo-predicted-ttft-ms", self.predicted_ttft_s),
            (b"x-slo-effective-ttft-ms", self.ttft_s),
            (b"x-slo-effective-tpot-ms", self.contract.tpot_s),
            (b"x-slo-effective-think-tpot-ms", self.contract.think_tpot_s),
            (b"x-slo-effective-e2e-ms", self.contract.e2e_s),
        ):
            if math.isfinite(seconds):
                headers.append((name, f"{seconds * 1000:.1f}".encode()))
        if self.ignored:
            headers.append((b"x-slo-ignored", b", ".join(self.ignored)))
        if self.session is not None:
            headers.append((b"x-slo-session-calls", str(self.session.calls).encode()))
            if math.isfinite(self.session.due_s):
                left_ms = max(0.0, (self.session.due_s - self.arrival_s) * 1000)
                headers.append((b"x-slo-session-left-ms", f"{left_ms:.1f}".encode()))
        return headers

    @property
    def deadline_s(self) -> float:
        return self.arrival_s + self.ttft_s

    def arrival(self, now_s: float) -> Arrival:
        """The request as the planner judges it."""
        waited_s = now_s - self.arrival_s
        return Arrival(
            request_id=self.request_id,
            ttft_s=self.pace.ttft_s - waited_s,
            tpot_s=self.pace.tpot_s,
            switch_at=self.pace.switch_at,
            next_tpot_s=self.pace.next_tpot_s,
            prompt_tokens=self.prompt_tokens,
            output_tokens=self.output_tokens,
            weight=self.contract.weight,
            acceptance=self.acceptance,
            waited_s=waited_s,
            when_full=self.contract.when_full,
            stated=self.stated,
            derived=self.contract.ttft_of_answer or math.isfinite(self.contract.e2e_s),
            relative=self.contract.ttft_slowdown > 0 and math.isinf(self.ttft_s),
            whole_s=self.e2e_s - waited_s,
            fewest_tokens=self.output_tokens if self.completion.exact_output else 1,
            sequences=self.completion.sequences,
            prompt_is_exact=self.prompt_is_exact,
            longest_tokens=self.longest_tokens,
        )

    @property
    def turn_s(self) -> float:
        """When the first token is planned for; without an SLO, when nobody may overtake it any more."""
        return self.arrival_s + desk.due_in_s(self.arrival(self.arrival_s), self.settings)

    def promote(self) -> None:
        """It has been promised its SLO after all; a client that has its first token already was told otherwise."""
        self.attempts[-1] = replace(self.placement, guaranteed=True)

    @property
    def model(self) -> str:
        return self.completion.model

    @property
    def movable(self) -> bool:
        """Whether another replica can take over without anybody's loss: nothing is promised, and nothing was seen."""
        return not self.guaranteed and not self.begun

    def cut(self, reason: str) -> None:
        """End the answer from outside: the client hung up ("hung-up"), the replica is "lost", the request is "moved"
        away from it, or "timeout"."""
        if not self.cut_reason and self.task is not None:
            self.cut_reason = reason
            self.task.cancel()

    def note_cached(self, cached_tokens: int) -> None:
        """The replica says that it had so many tokens of the prompt cached; more than it has are not believed."""
        if cached_tokens <= (self.prompt_tokens if self.counted_prompt else self._most(self._window_tokens)):
            self.cached_tokens = cached_tokens

    def note_events(self, events: bytes, now_s: float) -> Seen:
        """Note what more whole events of a stream say: tokens, usage, an error."""
        seen = self._events.seen(events)
        if seen.tokens:
            self.count(seen.tokens, now_s, seen.thoughts)
        self._note(seen)
        return seen

    def generating(self, now_s: float) -> None:
        """The replica's report shows that the answer has a first token."""
        if math.isnan(self.generating_s):
            self.generating_s = now_s

    def note_whole(self, body: bytes, now_s: float) -> Seen:
        """Note what an answer in one piece says."""
        seen = in_whole(body)
        self._note(seen)
        self.tokens, self.last_token_s = max(self.tokens, self.usage_tokens), now_s
        self.late = self._whole_is_late(now_s)
        self._judge_end(now_s)
        return seen

    def _whole_is_late(self, now_s: float) -> bool:
        """A replica that reports its progress tells when the first token of an answer in one piece was there. Of others
        only the end is seen: with a TPOT SLO the answer is due when its last token is, else when its first one is.
        """
        count, tpot_s, slack = self.tokens // self.completion.sequences, self._loosest_tpot_s, 1.0 + TOLERANCE
        pace_s = max(0, count - 1) * tpot_s if math.isfinite(tpot_s) else 0.0
        if not math.isnan(self.generating_s) and not self.contract.ttft_of_answer:
            begins_s = max(self.deadline_s, self.generating_s) if math.isfinite(self.ttft_s) else self.generating_s
            return self._first_is_late(self.generating_s) or (pace_s > 0 and now_s > begins_s + pace_s * slack)
        if math.isinf(self.ttft_s):
            return now_s > self.arrival_s + max(1, count) * tpot_s * slack
        return now_s > self.arrival_s + (self.ttft_s + pace_s) * slack

    def _first_is_late(self, first_s: float) -> bool:
        return first_s > self.arrival_s + self.ttft_s * (1.0 + TOLERANCE)

    @property
    def _loosest_tpot_s(self) -> float:
        """Of thinking and answer, where nothing tells which is which."""
        think_s = self.contract.think_tpot_s
        return max(self.contract.tpot_s, think_s) if math.isfinite(think_s) else self.contract.tpot_s

    def _judge_end(self, now_s: float) -> None:
        self.late |= now_s > self.arrival_s + self.contract.e2e_s * (1.0 + TOLERANCE)

    def end(self, now_s: float) -> None:
        """The stream is complete: judge its pace, by the tokens that its usage counts where it has one."""
        if not self.tokens:
            self.late = self._first_is_late(now_s)
            self.tokens = self.usage_tokens
            self.failure = self.failure or ("" if self.tokens else "it had no token")
            return
        usage = self.usage_tokens or self.tokens
        self._checks.append((self.tokens, self.last_token_s))
        scale = usage / self.tokens  # an event may hold several tokens: drafts were accepted
        self.tokens = usage
        for seen, then_s in self._checks:
            self.late |= then_s > self._due_s(seen * scale - 1, max(0.0, self.thinking_tokens * scale))
        self._judge_end(self.last_token_s)

    def _due_s(self, k: float, thinking: float) -> float:
        """When token k after the first is late, the first so many of all being thinking."""
        contract, slack = self.contract, 1.0 + TOLERANCE
        begins_s = self.first_token_s
        tpot_s = contract.tpot_s if thinking or self.completion.kind == "chat" else self._loosest_tpot_s
        think_s = contract.think_tpot_s if math.isfinite(contract.think_tpot_s) else tpot_s
        if contract.ttft_of_answer:
            if k < thinking:
                return begins_s + k * contract.think_tpot_s * slack if k else math.inf
            begins_s = self.answer_s
        if math.isfinite(self.ttft_s):
            begins_s = max(self.deadline_s, begins_s)
        if contract.ttft_of_answer:
            return begins_s + (k - thinking) * tpot_s * slack
        thoughts = min(k, max(0.0, thinking - 1))
        return begins_s + ((thoughts * think_s if thoughts else 0.0) + (k - thoughts) * tpot_s) * slack

    def count(self, tokens: int, now_s: float, thoughts: int = 0) -> None:
        """Note that `tokens` more output tokens came, so many of them thinking."""
        before, self.tokens = self.tokens, self.tokens + tokens
        self.last_token_s = now_s
        self.thinking_tokens += thoughts
        if thoughts < tokens and math.isnan(self.answer_s):
            self.answer_s = now_s
            if self.contract.ttft_of_answer:
                self.late |= self._first_is_late(now_s)
        if before == 0:
            self.first_token_s = now_s
            if not self.contract.ttft_of_answer:
                self.late = self._first_is_late(now_s)
        elif self.tokens // CHECK_EVERY != before // CHECK_EVERY:
            self._checks.append((self.tokens, now_s))

    def _note(self, seen: Seen) -> None:
        if seen.error:
            self.failure = seen.error
        if seen.usage is None:
            return
        prompt, output, details = (
            seen.usage.prompt_tokens, seen.usage.completion_tokens, seen.usage.prompt_tokens_details
        )  # fmt: skip
        if prompt and prompt <= self._most(self._window_tokens):  # some servers write 0 for what they don't count
            self.prompt_tokens, self.counted_prompt = prompt, True
        if output is not None and output <= self._most(self.completion.max_tokens or self._window_tokens):
            self.usage_tokens = output
        if details is not None and details.cached_tokens is not None:
            self.note_cached(details.cached_tokens)

    @property
    def _window_tokens(self) -> int:
        """That prompt and output may have together where it is answered; a large number where nobody says."""
        mirror = self.attempts[-1].replica.mirror if self.attempts and not self.overflow else None
        return desk.window_tokens([mirror.profile] if mirror else [])

    def _most(self, each: int) -> int:
        """Tokens of all its sequences, if each may have so many within the window: usage that counts more is wrong, and
        is taken for none."""
        return min(each, self._window_tokens) * self.completion.sequences

    @property
    def attained(self) -> bool:
        """Whether the whole answer kept its SLO, by the paper's rule."""
        return self.outcome == "completed" and not self.late and not self.failure
