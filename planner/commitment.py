"""Where `planner.arrivals` was."""

from slosgate.planner.arrivals import Patience as Patience
