"""All mutants."""

from __future__ import annotations

from tests.mutants import bench, engines, gateway, planner, traces

MUTANTS = (*planner.MUTANTS, *engines.MUTANTS, *gateway.MUTANTS, *bench.MUTANTS, *traces.MUTANTS)
