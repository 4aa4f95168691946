"""Profiles for hardware nobody measured for us: the roofline, with the efficiencies of the measured H200.

    T = max(t_weights, (2/3) t_weights + (2/3) x t_token, x t_token) + c t_kv + n t_seq + v t_draft + t_host, roughly:
    t_weights = parameter bytes / (bandwidth 80 %)     t_token = 2 FLOP a parameter / (peak 64 %)
    t_kv = KV bytes a token / (bandwidth 96 %)         t_seq, t_host: vLLM's own cost, as measured

Vendors' figures are dense 16-bit tensor FLOP/s and memory bandwidth. Tensor parallelism over g devices multiplies both
by g and adds two all-reduces a layer.
"""

from __future__ import annotations

from dataclasses import dataclass

from slosgate.planner.perf_model import PerfModel, Term
from slosgate.planner.profile import HardwareProfile

BANDWIDTH_SHARE = 0.80  # of the peak while weights are read: 25.7 GB in 6.7 ms on the H200
KV_SHARE = 0.96  # of the peak while KV is read: 819,200 bytes in 0.177 us
COMPUTE_SHARE = 0.64  # of the peak FLOP/s in large prefills: 40.8 us a token
HOST_S = 0.0015  # per iteration, outside the model
SEQUENCE_S = 16e-6  # per sequence: sampling and bookkeeping
REQUEST_S = 0.0053  # per request: HTTP, tokens, waking an idle engine
ALL_REDUCE_S = 20e-6  # one all-reduce over NVLink at decode sizes
BLEND = 0.66  # between the memory-bound and the compute-bound end, matrices are too small for either peak
MEMORY_SHARE = 0.92  # vLLM's gpu_memory_utilization
RESERVED_BYTES = 1.0e9  # activations and graphs, as measured on the H200
BLOCK_TOKENS = 16


@dataclass(frozen=True, slots=True)
class Device:
    name: str
    flops: float  # dense 16-bit, per second
    bytes_per_s: float
    memory_bytes: float
    draft_step_s: float  # one run of a 125 M draft model, bound by launches


@dataclass(frozen=True, slots=True)
class Model:
    name: str
    parameters: float
    layers: int
    kv_heads: int
    head_size: int
    max_tokens: int

    @property
    def kv_bytes_per_token(self) -> int:
        """Keys and values of all layers, 16 bit."""
        return 2 * 2 * self.layers * self.kv_heads * self.head_size


A100 = Device("NVIDIA A100 80 GB SXM", 312e12, 2.039e12, 85.1e9, 1.0e-3)
H100 = Device("NVIDIA H100 80 GB SXM", 989e12, 3.35e12, 85.1e9, 0.8e-3)
H200 = Device("NVIDIA H200", 989e12, 4.8e12, 150.1e9, 0.8e-3)

OPT_7B = Model("facebook/opt-6.7b", 6.66e9, 32, 32, 128, 2048)
OPT_13B = Model("facebook/opt-13b", 12.85e9, 40, 40, 128, 2048)
OPT_30B = Model("facebook/opt-30b", 29.97e9, 48, 56, 128, 2048)
TOOLLLAMA_7B = Model("ToolBench/ToolLLaMA-2-7b-v2", 6.74e9, 32, 32, 128, 8192)
LLAMA_31_8B = Model("meta-llama/Llama-3.1-8B-Instruct", 8.03e9, 32, 8, 128, 131072)
QWEN_25_7B = Model("Qwen/Qwen2.5-7B-Instruct", 7.62e9, 28, 4, 128, 32768)

SHIPPED: dict[str, tuple[Model, Device, int]] = {
    "a100-opt-7b": (OPT_7B, A100, 1),
    "a100-opt-13b": (OPT_13B, A100, 1),
    "a100-opt-30b": (OPT_30B, A100, 2),
    "a100-toolllama-7b": (TOOLLLAMA_7B, A100, 1),
    "h100-opt-13b": (OPT_13B, H100, 1),
    "h200-llama-3.1-8b": (LLAMA_31_8B, H200, 1),
    "a100-qwen2.5-7b": (QWEN_25_7B, A100, 1),
}


def derive(name: str, model: Model, device: Device, gpus: int = 1) -> HardwareProfile:
    """The profile of `model` on `gpus` devices, 16-bit weights, tensor parallel."""
    weight_bytes = 2 * model.parameters
    bandwidth, flops = gpus * device.bytes_per_s, gpus * device.flops
    weights_s = weight_bytes / (bandwidth * BANDWIDTH_SHARE)
    token_s = 2 * model.parameters / (flops * COMPUTE_SHARE)
    host_s = HOST_S + (2 * model.layers * ALL_REDUCE_S if gpus > 1 else 0.0)
    shared = {
        "per_context_token_s": significant(model.kv_bytes_per_token / (bandwidth * KV_SHARE)),
        "per_sequence_s": SEQUENCE_S,
        "per_draft_step_s": device.draft_step_s,
    }
    terms = (
        Term(per_new_token_s=significant(token_s / 10), constant_s=significant(weights_s + host_s), **shared),
        Term(per_new_token_s=significant(BLEND * token_s), constant_s=significant(0.8 * weights_s + host_s), **shared),
        Term(per_new_token_s=significant(token_s), constant_s=significant(0.1 * weights_s + host_s), **shared),
    )
    kv_bytes = gpus * (device.memory_bytes * MEMORY_SHARE - RESERVED_BYTES) - weight_bytes
    return HardwareProfile(
        name=name,
        model=model.name,
        device=device.name if gpus == 1 else f"{gpus} x {device.name}, tensor parallel",
        gpus=gpus,
        perf=PerfModel(terms),
        kv_blocks=int(kv_bytes / model.kv_bytes_per_token / BLOCK_TOKENS),
        block_tokens=BLOCK_TOKENS,
        max_model_tokens=model.max_tokens,
        kv_bytes_per_token=model.kv_bytes_per_token,
        request_overhead_s=REQUEST_S,
        source=(
            f"derived (planner/roofline.py): {model.parameters / 1e9:.2f} G parameters in 16 bit on {gpus} x "
            f"{device.flops / 1e12:.0f} TFLOP/s and {device.bytes_per_s / 1e12:.3g} TB/s, {model.kv_bytes_per_token} "
            f"KV bytes a token; shares of the peaks as measured with OPT-13B on an H200; not measured on this device. "
            f"Rates per GPU divide by {gpus}."
        ),
    )


def significant(value: float) -> float:
    """Three digits: more would pretend a precision that a derivation doesn't have."""
    return float(f"{value:.3g}")
