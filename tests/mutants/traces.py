"""Bugs in the traces."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

SCALING, WINDOWS = "tests/traces/test_scaling.py::test_", "tests/traces/test_windows.py::test_"
FORMATS, FETCH = "tests/traces/test_formats.py::test_", "tests/traces/test_fetch.py::test_"


def _traces(breaks: str, file: str, old: str, new: str, *tests: str) -> Mutant:
    return Mutant("traces", breaks, f"traces/{file}.py", old, new, tests)


MUTANTS = (
    _traces(
        "the last request of a slice is the first after it",
        "windows",
        "if request.arrival_s >= part.end_s:",
        "if request.arrival_s > part.end_s:",
        f"{WINDOWS}a_slice_counts_from_its_start_and_ends_before_its_end",
    ),
    _traces(
        "a slice keeps the whole trace's times",
        "windows",
        "arrival_s=request.arrival_s - part.start_s)",
        "arrival_s=request.arrival_s)",
        f"{WINDOWS}a_slice_counts_from_its_start_and_ends_before_its_end",
    ),
    _traces(
        "what just fits a window is dropped",
        "windows",
        "if request.total_tokens <= window_tokens]",
        "if request.total_tokens < window_tokens]",
        f"{WINDOWS}a_window_drops_what_outgrows_it",
    ),
    _traces(
        "a load ends where its lengths run out",
        "windows",
        "zip(times, cycle(lengths), strict=False)",
        "zip(times, lengths, strict=False)",
        f"{WINDOWS}arrivals_take_lengths_row_by_row",
    ),
    _traces(
        "stretching goes the wrong way",
        "scaling",
        "Scaled(times / factor, np.arange(len(times)), span_s / factor)",
        "Scaled(times * factor, np.arange(len(times)), span_s * factor)",
        f"{SCALING}every_method_reaches_the_rate_with_sorted_times_of_real_rows",
    ),
    _traces(
        "copies are laid over each other unshifted",
        "scaling",
        "(times[kept] + rng.random() * span_s) % span_s",
        "times[kept]",
        f"{SCALING}superposing_smooths_and_resampling_does_not",
    ),
    _traces(
        "what starts over loses its last round",
        "scaling",
        "int(np.ceil(span_s / scaled.span_s))",
        "int(span_s // scaled.span_s)",
        f"{SCALING}repeating_starts_over_and_cuts",
    ),
    _traces(
        "peaks are not relative to the mean",
        "burstiness",
        "float(per_ten.max()) / 10 / rate if rate",
        "float(per_ten.max()) / rate if rate",
        f"{SCALING}figures_of_hand_made_arrivals",
    ),
)
