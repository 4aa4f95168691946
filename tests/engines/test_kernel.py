from collections.abc import Callable

import pytest

from slosgate.engines.sim.kernel import Kernel


def test_events_run_by_time_then_priority_then_order_of_scheduling() -> None:
    kernel, log = Kernel(), list[str]()

    def note(name: str) -> Callable[[float], None]:
        return lambda now_s: log.append(f"{name}@{now_s:g}")

    kernel.at(2.0, note("late"), priority=0)
    kernel.at(1.0, note("starts"), priority=2)
    kernel.at(1.0, note("arrives first"), priority=1)
    kernel.at(1.0, note("arrives second"), priority=1)
    kernel.at(1.0, note("ends"), priority=0)
    kernel.run()
    assert log == ["ends@1", "arrives first@1", "arrives second@1", "starts@1", "late@2"]


def test_an_event_may_schedule_more_for_the_same_time() -> None:
    kernel, log = Kernel(), list[str]()
    kernel.at(1.0, lambda now_s: kernel.at(now_s, lambda _: log.append("child"), priority=0), priority=1)
    kernel.at(1.0, lambda _: log.append("other"), priority=2)
    kernel.run()
    assert log == ["child", "other"]


def test_time_stops_at_the_limit_and_never_runs_backwards() -> None:
    kernel, log = Kernel(), list[float]()
    kernel.at(1.0, log.append)
    kernel.at(3.0, log.append)
    kernel.run(until_s=2.0)
    assert (log, len(kernel)) == ([1.0], 1)
    with pytest.raises(ValueError, match="already"):
        kernel.at(0.5, log.append)
