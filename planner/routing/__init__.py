"""Which replica is asked first for a request: each router is a line in `ROUTERS`, and a file here.

The gateway and the simulator route by the same one, `planner.desk.DeskSettings.router`. Whatever it says, a promise is
given only where it can be kept: the desk asks the replicas in the router's order.
"""

from __future__ import annotations

from slosgate.planner.controller import soonest
from slosgate.planner.routing.base import Router
from slosgate.planner.routing.least_load import least_load
from slosgate.planner.routing.least_work import least_work
from slosgate.planner.routing.polyserve import polyserve
from slosgate.planner.routing.power_of_two import power_of_two
from slosgate.planner.routing.round_robin import round_robin

ROUTERS: dict[str, Router] = {
    "soonest": soonest,
    "least-work": least_work,
    "polyserve": polyserve,
    "power-of-two": power_of_two,
    "least-load": least_load,
    "round-robin": round_robin,
}

__all__ = ["ROUTERS", "Router"]
