"""Bugs in the gateway."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

CONTRACT, EXCHANGE = "tests/gateway/test_contract.py::test_", "tests/gateway/test_exchange.py::test_"
MIRROR, FLEET = "tests/gateway/test_mirror_transitions.py::test_", "tests/gateway/test_fleet.py::test_"
LEDGER, BREAKER = "tests/gateway/test_ledger.py::test_", "tests/gateway/test_breaker.py::test_"
PREFIXES, KEYS, LENGTHS = (f"tests/gateway/test_{name}.py::test_" for name in ("prefixes", "keys", "lengths"))


def _gateway(breaks: str, file: str, old: str, new: str, *tests: str) -> Mutant:
    return Mutant("gateway", breaks, f"gateway/{file}.py", old, new, tests)


MUTANTS = (
    # What was promised to whom
    _gateway(
        "a trusted key may tighten its class's TPOT",
        "promises/contract",
        "tpot_s=_looser(asked.tpot_s, slo_class.tpot_ms),",
        "tpot_s=asked.tpot_s,",
        f"{CONTRACT}a_trusted_key_may_loosen_but_not_tighten_its_class",
    ),
    _gateway(
        "a trusted key may replace a slowdown",
        "promises/contract",
        "slowdown if key is not None or held.ttft_s is None else 0.0",
        "slowdown if held.ttft_s is None else 0.0",
        f"{CONTRACT}a_trusted_key_may_loosen_but_not_tighten_its_class",
    ),
    _gateway(
        "a key's own weight is forgotten",
        "promises/contract",
        "weight=slo_class.weight * (key.weight if key else 1.0),",
        "weight=slo_class.weight,",
        f"{CONTRACT}a_key_has_classes_a_default_and_a_weight",
    ),
    _gateway(
        "milliseconds are taken for seconds",
        "promises/contract",
        "return _positive(text, name) / 1000",
        "return _positive(text, name)",
        f"{CONTRACT}headers_state_an_slo",
    ),
    _gateway(
        "the echo hides that a promise was downgraded",
        "promises/contract",
        'return "flex" if self.has_slo and not guaranteed else',
        'return "flex" if False else',
        f"{CONTRACT}service_tiers_are_classes_and_echoed_as_served",
    ),
    _gateway(
        "a first token is never late",
        "promises/exchange",
        "return first_s > self.arrival_s + self.ttft_s * (1.0 + TOLERANCE)",
        "return False",
        f"{EXCHANGE}a_first_token_is_late_beyond_the_tolerance",
    ),
    _gateway(
        "tokens are due from an early first token on",
        "promises/exchange",
        "begins_s = max(self.deadline_s, begins_s)",
        "begins_s = begins_s + 0.0",
        f"{EXCHANGE}later_tokens_are_due_from_the_deadline_on_even_if_the_first_came_early",
    ),
    _gateway(
        "an answer in one piece has always had its first token in time",
        "promises/exchange",
        "if not math.isnan(self.generating_s) and not self.contract.ttft_of_answer:",
        "if not self.contract.ttft_of_answer:",
        "tests/gateway/test_metrics.py::test_an_answer_in_one_piece_has_its_first_token_when_it_comes_unless_its_replica_told_before",
    ),
    _gateway(
        "only the newest request of a connection hears of a hang-up",
        "http/pipelining",
        "            _disconnect(self._running)\n",
        "            pass\n",
        "tests/gateway/test_pipelining.py::test_a_hang_up_is_noticed_whatever_else_was_asked",
    ),
    _gateway(
        "what follows a compressed body is not looked at",
        "unzipping",
        "data = stream.unused_data if stream.eof else stream.unconsumed_tail",
        "data = stream.unconsumed_tail",
        "tests/gateway/test_wire.py::test_what_cannot_be_unpacked_is_refused",
    ),
    _gateway(
        "an answer that broke off counts as attained",
        "promises/exchange",
        'return self.outcome == "completed" and not self.late',
        "return not self.late",
        f"{EXCHANGE}only_a_completed_answer_in_time_is_attained",
    ),
    _gateway(
        "a client may set what only the gateway may",
        "promises/completion",
        'if not name.lower().startswith("slo_")}',
        "}",
        f"{EXCHANGE}a_replica_is_told_what_is_left_and_what_the_gateway_alone_may_say",
    ),
    # What is known of the replicas
    _gateway(
        "a ledger version that skips one is taken for complete",
        "replicas/mirror",
        "if version == self.version + guarantees:",
        "if version > self.version:",
        "tests/gateway/test_mirror.py::test_only_the_next_version_is_known_to_be_whole",
    ),
    _gateway(
        "what a commit was told of comes back although it has ended",
        "replicas/mirror",
        "if entry.request_id not in self._ended:",
        "if True:",
        "tests/gateway/test_mirror.py::test_what_a_commit_was_told_of_is_known_unless_it_has_ended_meanwhile",
    ),
    _gateway(
        "a late report brings back an answer that has ended",
        "replicas/mirror",
        "progress = [p for p in report.progress if p.request_id not in self._ended]",
        "progress = list(report.progress)",
        f"{MIRROR}a_report_that_left_before_an_answer_ended_does_not_bring_it_back",
    ),
    _gateway(
        "a request that is on its way is forgotten at the next report",
        "replicas/mirror",
        "return entry is None or now_s - entry.dispatched_s > UNSEEN_S",
        "return True",
        f"{MIRROR}who_is_not_shown_yet_is_on_the_way_for_a_second",
    ),
    _gateway(
        "the epoch of the newest plan goes down",
        "replicas/mirror",
        "self.epoch = max(self.epoch, report.epoch)",
        "self.epoch = report.epoch",
        f"{MIRROR}the_newest_epoch_stays_known",
    ),
    _gateway(
        "the slowest message tells the difference of the clocks",
        "replicas/mirror",
        "self._now = min(self._now, now_s - sent_at_s)",
        "self._now = now_s - sent_at_s",
        f"{MIRROR}due_times_are_read_on_our_clock_and_never_before_the_deadline",
    ),
    _gateway(
        "tokens are due before the deadline of the first",
        "replicas/mirror",
        'np.maximum(due, rows["deadline_s"][at])',
        "due",
        f"{MIRROR}due_times_are_read_on_our_clock_and_never_before_the_deadline",
    ),
    _gateway(
        "the iteration in flight never runs down",
        "replicas/mirror",
        "return max(0.0, self._busy_for_s - (now_s - self.heard_s))",
        "return self._busy_for_s",
        f"{MIRROR}the_iteration_in_flight_runs_down_between_reports",
    ),
    _gateway(
        "a promotion does not reach the job",
        "replicas/mirror",
        'job["guaranteed"], job["output"] = entry.guaranteed, entry.output_tokens',
        'job["output"] = entry.output_tokens',
        f"{MIRROR}a_promotion_changes_the_job_and_not_how_far_it_is",
    ),
    _gateway(
        "the streams of a draining engine are cut",
        "replicas/registry",
        "        elif problem:\n            replica.lose(",
        "        elif problem is not None:\n            replica.lose(",
        f"{FLEET}answers_of_a_replica_without_heartbeat_are_cut_only_if_it_is_gone",
    ),
    _gateway(
        "just after Redis came back everybody is given up",
        "replicas/registry",
        "if self._monotonic() - self._returned_s > RETURN_GRACE_S:",
        "if True:",
        f"{FLEET}just_after_redis_came_back_nobody_is_given_up",
    ),
    _gateway(
        "a replica that began anew keeps its old answers waiting",
        "replicas/registry",
        '            else:\n                known.lose("another one has taken its name")\n',
        "",
        f"{FLEET}a_replica_that_began_anew_has_lost_its_answers",
    ),
    _gateway(
        "another gateway may remove what we answer for",
        "replicas/books",
        "            if request_id not in replica.own:\n                replica.mirror.drop(request_id, self._clock())",
        "            replica.mirror.drop(request_id, self._clock())",
        f"{FLEET}what_others_remove_is_gone_here_unless_we_answer_for_it",
    ),
    _gateway(
        "what others promote enters requests that have ended",
        "replicas/books",
        "if change.promote:",
        "if False:",
        f"{FLEET}what_others_promise_and_promote_is_promised_here_too",
    ),
    _gateway(
        "a dead gateway's promises stay",
        "replicas/books",
        "freed=self._strike(gateway)",
        "freed=0",
        f"{FLEET}a_gateway_that_died_has_promised_nothing_any_more",
    ),
    _gateway(
        "what Redis has lost of ours is not put back",
        "replicas/books",
        "if restore and missing:",
        "if missing and not restore:",
        f"{FLEET}a_ledger_that_is_loaded_again_loses_strays_and_gets_back_what_is_ours",
    ),
    _gateway(
        "a replica that has fallen silent is asked like any other",
        "replicas/fleet",
        "is not State.OPEN and not r.silent(now_s)]",
        "is not State.OPEN]",
        f"{FLEET}replicas_that_fail_or_are_silent_are_asked_only_if_there_is_no_other",
    ),
    _gateway(
        "a server without telemetry has all its memory free",
        "replicas/replica",
        "max(0, profile.kv_blocks - used)",
        "profile.kv_blocks",
        f"{FLEET}what_a_server_without_telemetry_does_is_told_from_its_answers",
    ),
    _gateway(
        "requests under way when a breaker opens open it again",
        "replicas/breaker",
        "if not self._probing and (self._opened_in_a_row or self._failures < FAILURES):",
        "if not self._probing and self._failures < FAILURES:",
        f"{BREAKER}it_opens_after_failures_in_a_row_only",
        f"{BREAKER}one_request_tries_a_replica_whose_back_off_is_over",
    ),
    _gateway(
        "tools are no part of a prompt's beginning",
        "promises/completion",
        "yield from (_told(part) for part in (fields.tools, fields.functions, fields.documents))",
        "yield from ()",
        f"{PREFIXES}tools_stand_before_the_messages_and_token_ids_are_a_text_too",
    ),
    _gateway(
        "a session's word is taken for what is cached",
        "state/sessions",
        "return 0 < self.blocks <= len(prompt.hashes) and prompt.hashes[self.blocks - 1] == self.last_hash",
        "return True",
        "tests/gateway/test_sessions.py::test_what_is_remembered_of_a_session_does_not_grow",
    ),
    _gateway(
        "thinking is judged by the answer's pace",
        "promises/exchange",
        "think_s = contract.think_tpot_s if math.isfinite(contract.think_tpot_s) else tpot_s",
        "think_s = tpot_s",
        "tests/gateway/test_thinking.py::test_each_part_is_judged_by_its_own_pace",
    ),
    # The shared state
    _gateway(
        "a promotion is made on an old version",
        "state/scripts",
        "if number(KEYS[1]) ~= tonumber(ARGV[2]) then return 0 end\n",
        "",
        f"{LEDGER}a_promotion_on_an_old_version_is_a_conflict",
    ),
    _gateway(
        "a request that has ended is promoted",
        "state/scripts",
        "if redis.call('HEXISTS', KEYS[3], ARGV[i]) == 1 then",
        "if true then",
        f"{LEDGER}a_request_that_ended_can_not_be_promoted",
    ),
    _gateway(
        "a plan of the same epoch replaces the newest",
        "state/scripts",
        "if newest and newest >= tonumber(ARGV[1])",
        "if newest and newest >= tonumber(ARGV[1]) + 6",
        f"{LEDGER}the_newest_epoch_of_a_plan_stays",
    ),
    # Who asks
    _gateway(
        "a key that has used up its rate is told to come back in a minute",
        "http/keys",
        "retry_after_s=(1 - self._tokens) * 60 / rate",
        "retry_after_s=60.0",
        f"{KEYS}a_key_has_a_rate_and_learns_when_to_come_back",
    ),
    _gateway(
        "the output is planned without its limit",
        "decisions/lengths",
        "limit = completion.max_tokens",
        "limit = None",
        f"{LENGTHS}outputs_are_capped_by_what_was_asked_for_and_by_the_window",
    ),
    # What operators are told
    _gateway(
        "repeats fill the log",
        "reports/logs",
        "if said.times <= AT_ONCE:",
        "if said:",
        "tests/gateway/test_logs.py::test_a_replica_that_comes_and_goes_fills_no_log",
    ),
    _gateway(
        "plans are stale and nobody says so",
        "reports/watch",
        "age_s > STALE_S and replica.name not in self._stale",
        "False",
        "tests/gateway/test_logs.py::test_a_replica_that_plans_do_not_reach_is_told",
    ),
    _gateway(
        "a broken guarantee names the first iteration, not the one that ran long",
        "reports/explaining",
        "max(ran, key=lambda one: one.over_s)",
        "ran[0]",
        "tests/gateway/test_explaining.py::test_a_late_first_token_names_the_iteration_that_ran_long",
    ),
    _gateway(
        "a file that is read again changes no key",
        "gateway",
        "        self.keys.change(config.keys)\n",
        "",
        "tests/gateway/test_reloading.py::test_classes_and_keys_change_under_a_stream",
    ),
    _gateway(
        "replicas are told the client's span, not the gateway's",
        "reports/tracing",
        "exchange.tracing = {**exchange.tracing, **told}",
        "exchange.tracing = {**told, **exchange.tracing}",
        "tests/gateway/test_tracing.py::test_a_request_its_admission_and_its_replica_are_one_trace",
    ),
)
