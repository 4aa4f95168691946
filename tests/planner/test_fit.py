import json
from pathlib import Path

import numpy as np
import pytest

from slosgate.engines import profiles
from slosgate.planner.devices import A100, H100, H200, Device
from slosgate.planner.fit import MalformedMeasurement, errors, fit, held_out, read_measurements, timing_faults
from slosgate.planner.perf_model import PerfModel, Term
from slosgate.planner.roofline import derive
from slosgate.planner.shapes import LLAMA_31_8B, OPT_7B, OPT_13B, OPT_30B, QWEN_25_7B, TOOLLLAMA_7B, Model

TRUE = PerfModel(
    (
        Term(per_new_token_s=5e-6, per_context_token_s=2e-7, per_sequence_s=2e-5, constant_s=0.008),
        Term(per_new_token_s=4e-5, per_context_token_s=2e-7, per_sequence_s=1e-5, constant_s=0.002),
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
    assert profiles.load(name) == derive(name, *SHIPPED[name])


def test_the_derivation_agrees_with_the_h200_that_was_measured() -> None:
    model, _, _ = SHIPPED["h100-opt-13b"]
    from_peaks, from_measurement = derive("x", model, SHIPPED["h200-llama-3.1-8b"][1]), profiles.load("h200-opt-13b")
    assert from_peaks.kv_blocks == pytest.approx(from_measurement.kv_blocks, rel=0.02)
    for new, context, sequences in ((1, 500, 1), (64, 40_000, 64), (512, 512, 1), (2048, 2048, 1)):
        assert from_peaks.perf.iteration_s(new, context, sequences) == pytest.approx(
            from_measurement.perf.iteration_s(new, context, sequences), rel=0.15
        )
