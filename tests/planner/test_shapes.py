from __future__ import annotations

from typing import Any

import pytest

from slosgate.planner.devices import A100, H100, H200, UnknownDevice, device
from slosgate.planner.roofline import DoesNotFit, derive
from slosgate.planner.shapes import LLAMA_31_8B, OPT_13B, QWEN_3_32B, UnknownModel, known, shape

LLAMA = {
    "model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256, "max_position_embeddings": 131072,
    "tie_word_embeddings": False,
}  # fmt: skip
OPT = {
    "model_type": "opt", "hidden_size": 5120, "ffn_dim": 20480, "num_hidden_layers": 40, "num_attention_heads": 40,
    "vocab_size": 50272, "max_position_embeddings": 2048,
}  # fmt: skip
QWEN = {
    "model_type": "qwen3", "hidden_size": 5120, "intermediate_size": 25600, "num_hidden_layers": 64, "head_dim": 128,
    "num_attention_heads": 64, "num_key_value_heads": 8, "vocab_size": 151936, "max_position_embeddings": 40960,
    "tie_word_embeddings": False,
}  # fmt: skip
MIXTRAL = {
    "model_type": "mixtral", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 32000, "max_position_embeddings": 32768,
    "num_local_experts": 8, "num_experts_per_tok": 2, "tie_word_embeddings": False,
}  # fmt: skip
DEEPSEEK = {
    "model_type": "deepseek_v3", "hidden_size": 7168, "intermediate_size": 18432, "moe_intermediate_size": 2048,
    "num_hidden_layers": 61, "num_attention_heads": 128, "num_key_value_heads": 128, "vocab_size": 129280,
    "max_position_embeddings": 163840, "n_routed_experts": 256, "num_experts_per_tok": 8, "n_shared_experts": 1,
    "first_k_dense_replace": 3, "kv_lora_rank": 512, "q_lora_rank": 1536, "qk_rope_head_dim": 64,
    "qk_nope_head_dim": 128, "v_head_dim": 128, "tie_word_embeddings": False,
    "quantization_config": {"quant_method": "fp8"},
}  # fmt: skip


@pytest.mark.parametrize(
    ("config", "parameters", "active", "kv_bytes"),
    [
        (LLAMA, 8.03e9, 0.0, LLAMA_31_8B.kv_bytes_per_token),
        (OPT, 12.85e9, 0.0, OPT_13B.kv_bytes_per_token),
        (QWEN, 32.76e9, 0.0, QWEN_3_32B.kv_bytes_per_token),
        (MIXTRAL, 46.7e9, 12.9e9, 131072),
        (DEEPSEEK, 671e9, 37e9, 2 * 61 * 576),
        ({"model_type": "llava", "text_config": LLAMA, "hidden_size": 1}, 8.03e9, 0.0, 131072),
    ],
    ids=["gated, grouped heads", "two matrices, tied", "heads of their own size", "experts", "latent KV", "multimodal"],
)
def test_a_config_tells_what_the_model_card_says(
    config: dict[str, Any], parameters: float, active: float, kv_bytes: int
) -> None:
    found = shape("x", config)
    assert found.parameters == pytest.approx(parameters, rel=0.005)
    assert found.active_parameters == pytest.approx(active, rel=0.02)
    assert found.kv_bytes_per_token == kv_bytes


@pytest.mark.parametrize(
    ("config", "flop"),
    [
        (LLAMA, LLAMA_31_8B.pair_flop),
        (OPT, OPT_13B.pair_flop),
        (QWEN, QWEN_3_32B.pair_flop),
        (DEEPSEEK, 2 * 61 * 128 * (192 + 128)),
    ],
    ids=["grouped heads", "all heads with keys", "heads of their own size", "latent KV"],
)
def test_every_head_that_asks_multiplies_with_a_key_and_a_value(config: dict[str, Any], flop: int) -> None:
    assert shape("x", config).pair_flop == flop


def test_what_a_pair_takes_is_what_it_took_on_an_h200_and_half_of_that_on_two() -> None:
    one, two = (derive("x", LLAMA_31_8B, H200, gpus).perf.terms[-1].per_pair_s for gpus in (1, 2))
    assert one == pytest.approx(8e-10, rel=0.02)
    assert two == pytest.approx(one / 2, rel=0.01)


@pytest.mark.parametrize(
    ("quantization", "bits"),
    [
        ({"quant_method": "awq", "bits": 4}, 4.25),
        ({"quant_method": "fp8"}, 8.0),
        ({"quant_method": "compressed-tensors", "config_groups": {"g": {"weights": {"num_bits": 4}}}}, 4.25),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, 4.5),
    ],
)
def test_quantized_weights_count_less_and_embeddings_stay_whole(quantization: dict[str, Any], bits: float) -> None:
    found = shape("x", {**LLAMA, "quantization_config": quantization})
    embedding = 2 * 128256 * 4096
    assert found.weight_bytes == pytest.approx(2 * embedding + bits / 8 * (found.parameters - embedding))


def test_eight_bit_weights_compute_faster_only_where_the_device_can() -> None:
    whole, small = shape("x", LLAMA), shape("x", {**LLAMA, "quantization_config": {"quant_method": "fp8"}})
    for on, faster in ((H200, True), (A100, False)):
        slow_s, fast_s = (derive("x", each, on).perf.iteration_s(16_000, 16_000, 1) for each in (whole, small))
        assert (fast_s < 0.6 * slow_s) == faster


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_hidden_layers": None}, "its config has no num_hidden_layers or n_layer"),
        ({"hidden_size": "4k"}, "hidden_size in its config should be a whole number, not '4k'"),
        ({"quantization_config": {"quant_method": "aqlm"}}, "unknown quantization 'aqlm': known are fp8"),
    ],
)
def test_a_config_that_does_not_tell_is_named_with_the_field(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UnknownModel, match=message):
        shape("x", {**LLAMA, **change})


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("NVIDIA H200", H200),
        ("h200", H200),
        ("NVIDIA H100 80GB HBM3", H100),
        ("NVIDIA A100-SXM4-80GB", A100),
        ("A100", A100),
    ],
)
def test_a_device_goes_by_its_short_name_and_by_its_drivers(name: str, expected: object) -> None:
    assert device(name) is expected


def test_an_unknown_device_or_model_is_named_with_the_choices() -> None:
    with pytest.raises(UnknownDevice, match=r"unknown GPU 'H300': choose one of t4, .*h200"):
        device("H300")
    assert known("llama-3.1-8b-instruct") is LLAMA_31_8B
    with pytest.raises(UnknownModel, match=r"'gpt-9': name a folder that holds a config\.json, or one of facebook/opt"):
        known("gpt-9")


def test_two_devices_hold_more_and_a_model_that_does_not_fit_is_refused() -> None:
    alone, both = derive("x", QWEN_3_32B, H200), derive("x", QWEN_3_32B, H200, 2)
    assert both.kv_blocks > 2 * alone.kv_blocks
    assert both.perf.iteration_s(64, 64_000, 64) < alone.perf.iteration_s(64, 64_000, 64)
    with pytest.raises(DoesNotFit, match=r"672\.\d GB of weights, and 2 x NVIDIA H200 hold 274"):
        derive("x", shape("r1", DEEPSEEK), H200, 2)
