"""What a gateway knows of one replica: guarantees of others, and a clock that is another."""

from __future__ import annotations

import msgspec

from slosgate.engines import profiles
from slosgate.engines.messages import Telemetry
from slosgate.gateway.replicas.mirror import ClockDifference, Mirror
from tests.gateway.test_ledger import entry

PROFILE = profiles.load("h200-opt-13b")


def test_what_a_commit_was_told_of_is_known_unless_it_has_ended_meanwhile() -> None:
    mirror = Mirror(PROFILE)
    mirror.add(entry("ours"))
    mirror.drop("ended", 0.0)
    mirror.committed(7, (entry("before", gateway="b"), entry("ended", gateway="b")))
    assert (sorted(mirror.jobs), mirror.version) == (["before", "ours"], 7)


def test_only_the_next_version_is_known_to_be_whole() -> None:
    mirror = Mirror(PROFILE)
    mirror.load(3, {"x": entry("x")}, 0.0, ())
    mirror.advanced(5, 1)
    assert mirror.version == 3  # the fourth is missing
    mirror.advanced(5, 2)
    assert mirror.version == 5


def test_a_step_of_a_replicas_clock_and_a_bad_message_are_forgotten() -> None:
    difference = ClockDifference()
    assert difference.observe(sent_at_s=1e10, now_s=100.0) < -1e9
    for now_s in (106.0, 112.0):
        found = difference.observe(sent_at_s=now_s + 60.0, now_s=now_s)
    assert found == -60.0


def test_an_epoch_that_no_replica_can_have_seen_is_not_followed() -> None:
    mirror = Mirror(PROFILE)
    report = Telemetry(
        replica="r", sent_at_s=0.0, epoch=5, busy_for_s=0.0, kv_blocks_total=9, kv_blocks_free=9
    )  # fmt: skip
    mirror.take(report, 0.0)
    mirror.take(msgspec.structs.replace(report, epoch=2**52), 0.1)
    assert mirror.epoch == 5
