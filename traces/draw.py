"""One figure of a trace: arrivals over time, and the CDF of each length. Needs matplotlib (extra `bench`)."""

from __future__ import annotations

from pathlib import Path

from slosgate.traces.errors import TraceError
from slosgate.traces.stats import TraceStats


def figure(title: str, parts: dict[str, TraceStats], path: Path) -> None:
    """Write a picture (PNG, SVG, PDF by the name's ending). A part is a trace, or a class of a scenario."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise TraceError("drawing needs matplotlib: pip install 'slosgate[bench]'") from None

    canvas = Figure(figsize=(11, 3.4 * len(parts)), layout="constrained")
    canvas.suptitle(title)
    rows = canvas.subplots(len(parts), 2, squeeze=False)
    for (name, stats), (left, right) in zip(parts.items(), rows, strict=True):
        left.set_title(f"{name}: arrivals")
        left.set_xlabel("time (s)")
        left.set_ylabel("requests/s")
        if stats.arrivals is not None:
            step_s = stats.arrivals.step_s
            edges = [i * step_s for i in range(len(stats.arrivals.counts) + 1)]
            left.stairs([count / step_s for count in stats.arrivals.counts], edges, fill=True)
        else:
            left.text(0.5, 0.5, "lengths only", ha="center", va="center", transform=left.transAxes)
        right.set_title(f"{name}: lengths")
        right.set_xlabel("tokens")
        right.set_ylabel("share of calls")
        right.set_xscale("log")
        for lengths in stats.lengths:
            tokens = [max(1.0, value) for value in lengths.quantiles]
            right.plot(tokens, [percent / 100 for percent in lengths.quantile_percents], label=lengths.name)
        right.legend(loc="upper left")
        right.grid(alpha=0.3)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        canvas.savefig(path, dpi=120)
    except ValueError as error:
        raise TraceError(f"cannot draw {path}: {error}") from None
