"""Bugs in the planner."""

from __future__ import annotations

from tests.mutants.mutant import Mutant


def _in(file: str) -> str:
    return f"tests/planner/test_{file}.py::test_"


BUDGET, DECIDE, SLACK, KERNELS = _in("budget"), _in("decisions"), _in("slack"), _in("kernels")
ADMIT, CONTROL, REHEARSE = _in("admission"), _in("controller"), _in("rehearsing")
LIMITS = "tests/engines/test_follower_limits.py::test_"
ORACLE = f"{BUDGET}as_much_is_promised_as_the_inequalities_allow"
IN_TIME = f"{BUDGET}the_line_between_in_time_and_too_late_is_where_the_inequalities_have_it"
ROOM = f"{BUDGET}the_line_between_room_and_none_is_where_the_inequalities_have_it"


def _planner(breaks: str, file: str, old: str, new: str, *tests: str) -> Mutant:
    return Mutant("planner", breaks, f"planner/{file}.py", old, new, tests)


MUTANTS = (
    # The budget
    _planner(
        "an answer needs no memory",
        "budget",
        "blocks_for(context + job.output, block_tokens)",
        "blocks_for(context, block_tokens)",
        f"{BUDGET}an_answer_needs_memory_as_its_prompt_does",
    ),
    _planner(
        "deadlines count from the epoch instead of from now",
        "budget",
        "min(job.deadline_s - now_s, FAR_S)",
        "min(job.deadline_s, FAR_S)",
        f"{BUDGET}a_deadline_counts_from_now",
    ),
    _planner(
        "a pace without a first deadline may be had at any time",
        "budget",
        "min(job.deadline_s - now_s, FAR_S)",
        "job.deadline_s - now_s",
        f"{BUDGET}a_pace_without_a_first_deadline_is_admitted_as_if_it_were_due_in_half_a_minute",
    ),
    _planner(
        "the tokens of running answers cost prefills nothing",
        "budget",
        "        charge(table, job, cost_s, now_s)\n",
        "",
        IN_TIME,
    ),
    _planner(
        "of a running answer one token too few is due",
        "budget",
        "(table[k, DEADLINE] - first_s) * per_s + 1.0)",
        "(table[k, DEADLINE] - first_s) * per_s)",
        IN_TIME,
    ),
    _planner(
        "running decodes do not load the replica",
        "budget",
        "        load += cost_s / tier_s(job)\n",
        "        load += 0.0\n",
        f"{BUDGET}running_answers_load_the_replica_as_long_as_they_go_on",
    ),
    _planner(
        "every iteration is free of its constant",
        "budget",
        "share = 1.0 - constant_s / unbroken_s",
        "share = 1.0",
        IN_TIME,
    ),
    _planner(
        "the last token of a running answer takes no block",
        "budget",
        "context[n] = job.context + block_tokens +",
        "context[n] = job.context +",
        ROOM,
    ),
    _planner(
        "memory is looked at when a prefill is due instead of when it must start",
        "budget",
        "max(0.0, table[k, DEADLINE] - table[k, PREFILL] - constant_s)",
        "max(0.0, table[k, DEADLINE])",
        ROOM,
    ),
    _planner(
        "best effort that was late counts as promised",
        "budget",
        "decodes and job.has_slo and job.deadline_s < np.inf and in_time(job)",
        "decodes and job.has_slo and job.deadline_s < np.inf",
        f"{BUDGET}best_effort_in_time_is_as_good_as_promised_and_best_effort_that_is_late_is_not",
    ),
    _planner(
        "guarantees that are held load the replica",
        "budget",
        "(jobs[row].guaranteed and not jobs[row].held)",
        "jobs[row].guaranteed",
        f"{BUDGET}who_is_held_takes_no_part",
    ),
    _planner(
        "only the first tier of a request counts",
        "budget",
        "return float(min(job.tpot_s, job.next_tpot_s))",
        "return float(job.tpot_s)",
        f"{ADMIT}the_tighter_tier_of_a_multi_stage_request_is_what_counts",
    ),
    # The program
    _planner(
        "a state keeps its memory when it accepts",
        "admission",
        "state.m + table[k, MEMORY],",
        "state.m,",
        ORACLE,
    ),
    _planner(
        "accepting does not load",
        "admission",
        "state.u + table[k, LOAD],\n",
        "state.u,\n",
        f"{BUDGET}decodes_of_who_is_admitted_load_the_replica",
    ),
    _planner(
        "a state is dominated without regard to memory",
        "admission",
        "a[3] >= state.v and a[1] <= state.u and a[2] <= state.m and",
        "a[3] >= state.v and a[1] <= state.u and",
        f"{ADMIT}what_takes_less_time_but_more_memory_does_not_stand_for_what_takes_less_memory",
    ),
    _planner(
        "a state that could still win is dropped as hopeless",
        "admission",
        "+ 1e-6)) + 1)",
        "+ 1e-6)) + 2)",
        f"{ADMIT}the_program_finds_the_best_value_in_random_cases",
    ),
    # Placing and promoting
    _planner(
        "the hop limit is ignored",
        "controller",
        "for i in fitting[:hop_limit]:",
        "for i in fitting:",
        f"{DECIDE}no_more_replicas_are_asked_than_the_hop_limit",
    ),
    _planner(
        "the costliest replica is asked first",
        "controller",
        "sorted(range(len(replicas)), key=costs.__getitem__)",
        "sorted(range(len(replicas)), key=costs.__getitem__, reverse=True)",
        f"{DECIDE}the_least_loaded_is_asked_first",
    ),
    _planner(
        "a client is told to stay away for as long as the whole queue takes",
        "controller",
        "costs[fitting[0]] - arrival.ttft_s",
        "costs[fitting[0]]",
        f"{DECIDE}a_retry_pays_once_the_queue_has_gone_down_to_what_the_slo_leaves",
    ),
    _planner(
        "who can never be served is told to come back",
        "controller",
        "return fits and profile.perf",
        "return profile.perf",
        f"{DECIDE}what_the_memory_never_holds_and_what_the_window_never_takes_is_not_worth_a_retry",
    ),
    _planner(
        "a promise is given although it would break an older one",
        "judging",
        "    if broken.any():",
        "    if False:",
        f"{DECIDE}nobody_is_promised_what_would_break_an_older_promise",
    ),
    _planner(
        "a prompt beyond the window is refused on an estimate",
        "desk",
        "if arrival.prompt_is_exact and replicas:",
        "if replicas:",
        "tests/planner/test_desk.py::test_a_prompt_beyond_the_window_is_refused_once_it_is_counted",
    ),
    _planner(
        "of a prompt's blocks the beginning is dropped first",
        "prefixes",
        "for name in reversed(leading.hashes):",
        "for name in leading.hashes:",
        "tests/planner/test_prefixes.py::test_what_was_used_least_recently_is_dropped_once_the_room_is_taken",
    ),
    _planner(
        "thinking ends once more after it has ended",
        "pace",
        '    if job["switch_at"] != NOT_YET:\n        return\n',
        "",
        "tests/planner/test_pace.py::test_tokens_are_due_at_the_answers_pace_once_thinking_has_ended",
    ),
    _planner(
        "what is cached takes no room",
        "controller",
        "return replace(replica, free_blocks=replica.free_blocks - replica.profile.blocks_for(replica.cached.sure))",
        "return replica",
        "tests/planner/test_decisions.py::test_what_is_cached_takes_its_room_among_the_free_blocks",
    ),
    _planner(
        "guesses of what is cached are believed whatever a replica says",
        "prefixes",
        "int(guessed * self.trust)",
        "guessed",
        "tests/planner/test_prefixes.py::test_a_replica_that_has_less_than_was_guessed_is_believed_less",
    ),
    _planner(
        "an SLO is refused without regard to what is cached",
        "desk",
        "1 if replica.cached.likely else prompt",
        "prompt",
        "tests/planner/test_desk.py::test_what_may_be_cached_of_a_prompt_puts_its_slo_in_reach",
    ),
    _planner(
        "the plan may want a first token sooner by any amount",
        "desk",
        "max(ttft_s - settings.headroom_s, ttft_s * (1 - settings.headroom_share))",
        "ttft_s - settings.headroom_s",
        "tests/planner/test_desk.py::test_plans_aim_before_the_slo_by_the_headroom_but_by_a_third_of_it_at_most",
    ),
    _planner(
        "room is made for one request by taking it from another that is as good as promised",
        "controller",
        'spared = rows["guaranteed"].copy()',
        "spared = np.zeros(len(rows), np.bool_)",
        f"{DECIDE}guarantees_make_no_room",
    ),
    _planner(
        "best effort makes room in vain",
        "controller",
        "        if row < 0:\n            return ()\n",
        "        if row < 0:\n            break\n",
        f"{DECIDE}nobody_makes_room_in_vain",
    ),
    _planner(
        "what is owed nothing is promised its place in line",
        "controller",
        '~rows["held"] & rows["has_slo"] &',
        '~rows["held"] &',
        f"{DECIDE}what_has_no_slo_is_never_promoted",
    ),
    _planner(
        "a pace is promised that cannot be kept",
        "controller",
        "    if begun.any() and not sustained(state, now_s):\n        begun[:] = False\n",
        "",
        f"{DECIDE}no_pace_is_promised_that_cannot_be_kept",
    ),
    _planner(
        "who is behind already is promised the rest",
        "controller",
        "on_pace = now_s + state.busy_for_s <= token_due_s(",
        "on_pace = 0.0 <= token_due_s(",
        f"{CONTROL}whoever_got_the_first_token_in_time_is_promised_the_others",
    ),
    _planner(
        "who was late with the first token is promised the rest",
        "controller",
        "begun[row] = on_pace and in_time(rows[row])",
        "begun[row] = on_pace",
        f"{DECIDE}only_what_can_still_be_won_is_promoted",
    ),
    _planner(
        "who was preempted is promised a first token again",
        "controller",
        ' & (rows["generated"] == 0)\n',
        "\n",
        f"{DECIDE}only_what_can_still_be_won_is_promoted",
    ),
    _planner(
        "those due last are looked at for promotion",
        "controller",
        'np.argsort(rows["deadline_s"][candidates], kind="stable")]',
        'np.argsort(-rows["deadline_s"][candidates], kind="stable")]',
        f"{DECIDE}of_many_who_wait_those_due_first_are_looked_at",
    ),
    _planner(
        "a long prompt is promised although short ones may come",
        "controller",
        "if not arrival.at_once and own >",
        "if arrival.at_once and own >",
        f"{CONTROL}a_long_prompt_is_promised_only_when_little_of_it_is_left",
    ),
    # The slack rule
    _planner(
        "prompts are filled in without regard to the deadlines they serve",
        "slack",
        "            tau_s = min(tau_s, left_s)\n",
        "            pass\n",
        f"{SLACK}an_iteration_ends_before_the_first_deadline_in_it",
    ),
    _planner(
        "others start behind a guarantee that has no room",
        "starting",
        "blocked = job.guaranteed or (crowded and not fresh)",
        "blocked = crowded and not fresh",
        f"{SLACK}nobody_starts_behind_a_guarantee_that_has_no_room",
    ),
    _planner(
        "best effort takes the room that guarantees wait for",
        "starting",
        "if job.guaranteed and job.context == 0:",
        "if False:",
        f"{SLACK}best_effort_leaves_room_for_guarantees_that_wait",
    ),
    _planner(
        "one sequence more begins than the engine takes",
        "starting",
        "begun >= max_sequences",
        "begun > max_sequences",
        f"{SLACK}no_more_sequences_begin_than_the_engine_takes",
    ),
    _planner(
        "a guarantee may be dropped for being the longest",
        "urgency",
        "if not chosen[j] or jobs[prefill[j]].guaranteed:",
        "if not chosen[j]:",
        f"{SLACK}a_guarantee_is_served_even_when_it_is_the_longest",
    ),
    _planner(
        "weight counts the wrong way round",
        "urgency",
        "cost[j] * jobs[prefill[longest]].weight > cost[longest] * jobs[prefill[j]].weight",
        "cost[j] * jobs[prefill[j]].weight > cost[longest] * jobs[prefill[longest]].weight",
        f"{SLACK}when_not_all_can_be_in_time_weight_counts",
    ),
    _planner(
        "a guarantee's time is not spared",
        "urgency",
        "sure = SURE if job.guaranteed else 1.0",
        "sure = 1.0",
        f"{SLACK}a_guarantee_is_given_a_tenth_more_time_than_its_prompt_takes",
    ),
    _planner(
        "best effort that was late hurries the others",
        "dues",
        "if not job.guaranteed and not in_time(job):",
        "if False:",
        f"{SLACK}best_effort_that_is_lost_hurries_nobody",
    ),
    _planner(
        "a decode without a block takes others' blocks",
        "slack",
        "        free_blocks -= blocks\n    return lengths",
        "    return lengths",
        f"{SLACK}a_decode_without_a_free_block_waits_and_takes_none_from_others",
    ),
    _planner(
        "prompts take the blocks that decodes need next",
        "slack",
        "spare = free_blocks - growth(jobs, machine.block_tokens)",
        "spare = free_blocks",
        f"{SLACK}prompts_leave_a_block_for_every_decode_that_needs_one_next",
    ),
    _planner(
        "held jobs run",
        "slack",
        "        if job.held:\n            continue\n        if job.prompt_left > 0:",
        "        if job.prompt_left > 0:",
        f"{SLACK}held_jobs_never_run",
    ),
    # Kernels
    _planner(
        "after a change of pace every token is due a period too late",
        "kernels",
        "(k - job.switch_at) * job.next_tpot_s",
        "(k - job.switch_at + 1) * job.next_tpot_s",
        f"{KERNELS}the_pace_changes_after_the_last_token_of_the_first_tier",
    ),
    _planner(
        "the tier changes a token too early",
        "kernels",
        "if 0 < job.switch_at < job.generated:",
        "if 0 < job.switch_at <= job.generated:",
        f"{KERNELS}the_tier_changes_with_it",
    ),
    _planner(
        "who outlives its estimate has nothing to go",
        "kernels",
        "return max(1, job.output - job.generated)",
        "return job.output - job.generated",
        f"{KERNELS}who_outlives_its_estimate_has_one_token_to_go",
    ),
    _planner(
        "the peak of memory leaves out who comes",
        "kernels",
        "peak = max(peak, held + alive * rem)",
        "peak = max(peak, held)",
        f"{KERNELS}the_peak_is_the_most_that_is_held_on_the_way",
    ),
    _planner(
        "draft steps add up instead of running side by side",
        "kernels",
        "max(load.drafts, drafts), load.pairs",
        "load.drafts + drafts, load.pairs",
        f"{KERNELS}a_decode_computes_its_token_and_its_drafts_behind_all_that_it_has",
    ),
    # Rehearsal and roll-forward
    _planner(
        "memory is taken from what was due first",
        "memory",
        "return (not held, guaranteed, -deadline_s)",
        "return (not held, guaranteed, deadline_s)",
        f"{REHEARSE}memory_goes_from_who_was_due_last",
    ),
    _planner(
        "in a rehearsal memory that is taken is not free",
        "rehearsal",
        "        freed += blocks_for(jobs[row].context, block_tokens)\n",
        "",
        f"{REHEARSE}memory_goes_from_who_was_due_last",
    ),
    _planner(
        "arrivals are seen before the engine can see them",
        "rehearsal",
        "if jobs[row].arrival_s > since_s and not jobs[row].held:",
        "if False:",
        f"{REHEARSE}an_arrival_waits_until_it_can_be_seen",
    ),
    _planner(
        "a first token that never comes is not missed",
        "rehearsal",
        "seen.first_token_s[row] == np.inf and jobs[row].deadline_s < flight.end_s",
        "False",
        f"{REHEARSE}whoever_is_not_reached_by_its_deadline_has_missed_it",
    ),
    _planner(
        "a late first token is no miss",
        "rollout",
        "end_s > (job.deadline_s if first else next_late_s(job))",
        "not first and end_s > next_late_s(job)",
        f"{SLACK}when_not_all_can_be_in_time_the_longest_waits",
    ),
    _planner(
        "later tokens are due from the first token even when that came early",
        "dues",
        "else max(deadline_s, first_token_s)",
        "else first_token_s",
        f"{REHEARSE}an_early_first_token_buys_slack",
    ),
    # What a replica does with a plan, and whose memory it takes
    _planner(
        "best effort holds up a plan",
        "obeying",
        "if not job.guaranteed or job.held:",
        "if job.held:",
        f"{LIMITS}a_planned_iteration_ends_before_the_next_token_of_a_guarantee_is_due",
    ),
    _planner(
        "a plan drafts more than the hardware verifies",
        "obeying",
        "row, min(most, int(tiers[i, 1]))",
        "row, int(tiers[i, 1])",
        f"{LIMITS}drafts_are_no_more_than_the_hardware_verifies",
    ),
    _planner(
        "memory is taken from guarantees first",
        "memory",
        "(not held, guaranteed, -deadline_s)",
        "(not held, not guaranteed, -deadline_s)",
        f"{LIMITS}memory_is_taken_first_from_whose_first_token_was_due_last",
    ),
    _planner(
        "memory is taken from those that may run before those that are held",
        "memory",
        "(not held, guaranteed, -deadline_s)",
        "(held, guaranteed, -deadline_s)",
        "tests/engines/test_follower.py::test_memory_is_taken_from_held_jobs_then_best_effort_then_guarantees",
    ),
    _planner(
        "a victim's own growth still counts",
        "memory",
        "blocks_for(job.context, block_tokens) + grows(job, block_tokens)",
        "blocks_for(job.context, block_tokens) - grows(job, block_tokens)",
        f"{LIMITS}memory_is_taken_first_from_whose_first_token_was_due_last",
    ),
    _planner(
        "the last token of a preempted decode is not computed again",
        "memory",
        "job.context + (job.prompt_left == 0)",
        "job.context",
        f"{LIMITS}whoever_is_preempted_computes_all_of_it_again",
    ),
    # Lengths, patience, recalibration
    _planner(
        "an output is planned by the usual one instead of a long one",
        "lengths",
        "PLANNED = 0.9",
        "PLANNED = 0.5",
        f"{_in('lengths')}the_quantile_follows_the_class_and_the_cap",
    ),
    _planner(
        "patience forgets to subtract the prompt's own time",
        "arrivals",
        "ttft_s - profile.soonest_s(prompt_tokens)",
        "ttft_s",
        f"{_in('arrivals')}patience_is_what_the_slo_leaves_beside_the_prompt_itself",
    ),
    _planner(
        "one stray iteration upsets the plan",
        "recalibration",
        "min(max(measured_s / predicted_s - expected, -CLIP * expected), CLIP * expected)",
        "measured_s / predicted_s - expected",
        f"{_in('recalibration')}one_stray_iteration_does_not_upset_the_plan",
    ),
)
