"""Which replica is asked first for a request: each router is a file here, and a line and a name below.

The gateway and the simulator route by the same one, `planner.desk.DeskSettings.router`. Whatever it says, a promise is
given only where it can be kept: the desk asks the replicas in the router's order.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

from slosgate.planner.controller import soonest
from slosgate.planner.routing.base import Router
from slosgate.planner.routing.least_load import least_load
from slosgate.planner.routing.least_loss import least_loss
from slosgate.planner.routing.least_work import least_work
from slosgate.planner.routing.polyserve import polyserve
from slosgate.planner.routing.power_of_two import power_of_two
from slosgate.planner.routing.round_robin import round_robin

RouterName: TypeAlias = Literal[
    "soonest", "least-work", "least-loss", "polyserve", "power-of-two", "least-load", "round-robin"
]  # as a configuration may say it

ROUTERS: dict[RouterName, Router] = {
    "soonest": soonest,
    "least-work": least_work,
    "least-loss": least_loss,
    "polyserve": polyserve,
    "power-of-two": power_of_two,
    "least-load": least_load,
    "round-robin": round_robin,
}

__all__ = ["ROUTERS", "Router", "RouterName"]
