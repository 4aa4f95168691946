import json
import math
from pathlib import Path

import msgspec
import numpy as np
import pytest

from slosgate.engines import profiles
from slosgate.planner.devices import A100, H100, H200, Device
from slosgate.planner.fit import (
    MalformedMeasurement,
    Measurements,
    errors,
    fit,
    held_out,
    predict,
    read_measurements,
    timing_faults,
)
from slosgate.planner.perf_model import PerfModel, Term, pairs_of
from slosgate.planner.roofline import derive
from slosgate.planner.shapes import LLAMA_31_8B, OPT_7B, OPT_13B, OPT_30B, QWEN_25_7B, TOOLLLAMA_7B, Model

TRUE = PerfModel(
    (
        Term(per_new_token_s=5e-6, per_context_token_s=2e-7, per_sequence_s=2e-5, constant_s=0.008),
        Term(per_new_token_s=4e-5, per_context_token_s=2e-7, per_sequence_s=1e-5, constant_s=0.002),
    )
)

# An H200 whose KV is read at two thirds of the speed that was derived, and whose prompts attend a little slower.
DERIVED = profiles.load("h200-llama-3.1-8b").perf
ATTENDING = PerfModel(
    tuple(
        msgspec.structs.replace(term, per_context_token_s=4.2e-8, per_pair_s=9e-10, per_draft_step_s=0.0)
        for term in DERIVED.terms
    )
)

# How the profiles that ship without having been measured were derived.
SHIPPED: dict[str, tuple[Model, Device, int]] = {
    "a100-opt-7b": (OPT_7B, A100, 1),
    "a100-opt-13b": (OPT_13B, A100, 1),
    "a100-opt-30b": (OPT_30B, A100, 2),
    "a100-toolllama-7b": (TOOLLLAMA_7B, A100, 1),
    "h100-opt-13b": (OPT_13B, H100, 1),
    "h200-llama-3.1-8b": (LLAMA_31_8B, H200, 1),
    "a100-qwen2.5-7b": (QWEN_25_7B, A100, 1),
}

LONG = {"h200-llama-3.1-8b"}  # with what prompts attend to, which others' windows are too short for


def measured(path: Path, *, noise: float, faults: int = 0) -> Path:
    """Iterations of TRUE with relative noise, some noted late."""
    rng = np.random.default_rng(0)
    lines = []
    for n in range(600):
        sequences = int(rng.integers(1, 120))
        new = sequences + int(rng.choice([0, 0, 64, 256, 1024, 2048]))
        context = sequences * int(rng.integers(50, 900))
        ms = TRUE.iteration_s(new, context, sequences) * 1e3 * float(rng.normal(1, noise))
        ms *= 4 if n % 25 == 0 and n < 25 * faults else 1
        lines.append(json.dumps({"new_tokens": new, "sequences": sequences, "context_tokens": context, "ms": ms}))
    path.write_text("\n".join(lines))
    return path


def test_a_model_is_found_again_through_noise_and_mistimed_iterations(tmp_path: Path) -> None:
    data = read_measurements(measured(tmp_path / "i.jsonl", noise=0.02, faults=10))
    faults, test = timing_faults(data), held_out(data, seed=0)
    model = fit(data.subset(~test & ~faults), terms=2)
    assert faults[np.arange(0, 250, 25)].all()
    judged = errors(model, data.subset(test & ~faults), "all")
    assert judged.mape < 0.03
    assert judged.r2 > 0.99
    for new, context, sequences in ((1, 500, 1), (64, 40_000, 64), (2048, 2048, 1)):
        assert model.iteration_s(new, context, sequences) == pytest.approx(
            TRUE.iteration_s(new, context, sequences), rel=0.05
        )


def behind_contexts(longest: int, noise: float = 0.03) -> Measurements:
    """Iterations of `ATTENDING`: lone chunks and batches of decodes behind contexts of up to so many tokens."""
    rng, rows = np.random.default_rng(5), []
    for _ in range(400):
        context = int(np.exp(rng.uniform(np.log(32), np.log(longest))))
        if rng.random() < 0.5:
            tokens = int(min(8192, np.exp(rng.uniform(np.log(16), np.log(longest)))))
            rows.append((tokens, context + tokens, 1, 0, 1.0, pairs_of(context, tokens)))
        else:
            decodes = int(rng.integers(1, 8))
            rows.append((decodes, decodes * context, decodes, 0, 1.0, 0.0))
    features = np.array(rows, np.float64)
    exact = Measurements(features, np.ones(len(features)))
    return Measurements(features, predict(ATTENDING, exact) * rng.normal(1, noise, len(features)))


LONG_ITERATIONS = ((8192, 96_000, 1, 0, 8192 * 91_904.0), (700, 80_000, 1, 0, 700 * 79_650.0), (9, 440_000, 9))


def test_what_long_contexts_take_is_measured_behind_long_contexts() -> None:
    data = behind_contexts(100_000)
    mistimed = timing_faults(data, DERIVED)
    assert mistimed.mean() < 0.01  # none is: those behind long contexts are only unlike each other
    model = fit(data.subset(~mistimed), towards=DERIVED)
    for size in LONG_ITERATIONS:
        assert model.iteration_s(*size) == pytest.approx(ATTENDING.iteration_s(*size), rel=0.07)
    assert len({(term.per_context_token_s, term.per_pair_s) for term in model.terms}) == 1


def test_what_short_contexts_leave_open_is_as_it_was_derived() -> None:
    data = behind_contexts(1500, noise=0.05)
    held, alone = fit(data, towards=DERIVED), fit(data)
    for size in LONG_ITERATIONS:
        assert 0.6 < held.iteration_s(*size) / ATTENDING.iteration_s(*size) < 1.4

    def off(model: PerfModel) -> float:
        return max(abs(math.log(model.iteration_s(*s) / ATTENDING.iteration_s(*s))) for s in LONG_ITERATIONS)

    assert off(held) < off(alone)


def test_durations_that_an_engine_assumed_are_left_out(tmp_path: Path) -> None:
    path = measured(tmp_path / "i.jsonl", noise=0.0)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for n, line in enumerate(lines):
        line["expected_ms"] = line["ms"] if n % 3 == 0 else 1.0
        if n % 3 == 1:
            line["assumed"] = True
    path.write_text("\n".join(json.dumps(line) for line in lines))
    assert len(read_measurements(path).seconds) == 200


def test_coefficients_are_never_negative(tmp_path: Path) -> None:
    data = read_measurements(measured(tmp_path / "i.jsonl", noise=0.1))
    assert (fit(data, terms=3, starts=2).coefficients() >= 0).all()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 1: expected a JSON object"),
        ('{"new_tokens": 1, "sequences": 1, "context_tokens": 1}', "ms"),
        ('{"new_tokens": 0, "sequences": 1, "context_tokens": 1, "ms": 3}', "new_tokens and sequences"),
    ],
    ids=["no JSON", "no duration", "no tokens"],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "i.jsonl"
    path.write_text(line)
    with pytest.raises(MalformedMeasurement, match=message):
        read_measurements(path)


@pytest.mark.parametrize("name", sorted(SHIPPED))
def test_a_derived_profile_is_what_its_derivation_says(name: str) -> None:
    shipped, derived = profiles.load(name), derive(name, *SHIPPED[name])
    if name not in LONG:
        terms = tuple(msgspec.structs.replace(term, per_pair_s=0.0) for term in derived.perf.terms)
        derived = msgspec.structs.replace(derived, perf=PerfModel(terms), source=shipped.source)
    assert shipped.source.startswith(derived.source)  # what was measured of it is told behind that
    assert shipped == msgspec.structs.replace(derived, launches=shipped.launches, source=shipped.source)


def test_the_derivation_agrees_with_the_h200_that_was_measured() -> None:
    model, _, _ = SHIPPED["h100-opt-13b"]
    from_peaks, from_measurement = derive("x", model, SHIPPED["h200-llama-3.1-8b"][1]), profiles.load("h200-opt-13b")
    assert from_peaks.kv_blocks == pytest.approx(from_measurement.kv_blocks, rel=0.02)
    for new, context, sequences in ((1, 500, 1), (64, 40_000, 64), (512, 512, 1), (2048, 2048, 1)):
        assert from_peaks.perf.iteration_s(new, context, sequences) == pytest.approx(
            from_measurement.perf.iteration_s(new, context, sequences), rel=0.15
        )
