"""Profiles for hardware that was not measured for us: the roofline, with the efficiencies of the measured H200.

    T = max(t_weights, (2/3) t_weights + (2/3) x t_token, x t_token) + c t_kv + q t_pair + n t_seq + v t_draft + t_host,
    roughly:
    t_weights = parameter bytes / (bandwidth 80 %)     t_token = 2 FLOP a parameter / (peak 64 %)
    t_kv = KV bytes a token / (bandwidth 96 %)         t_seq, t_host: vLLM's own cost, as measured
    t_pair = 4 FLOP a value of the queries and layer / (16-bit peak 66 %)

Vendors' figures are dense 16-bit tensor FLOP/s and memory bandwidth. Tensor parallelism over g devices multiplies both
by g and adds two all-reduces a layer. Of a mixture of experts all weights are read, as a full batch does, and each
token is computed with its share of them.
"""

from __future__ import annotations

from slosgate.planner.devices import Device
from slosgate.planner.perf_model import PerfModel, Term
from slosgate.planner.profile import HardwareProfile
from slosgate.planner.shapes import Model

BANDWIDTH_SHARE = 0.80  # of the peak while weights are read: 25.7 GB in 6.7 ms on the H200
KV_SHARE = 0.96  # of the peak while KV is read: 819,200 bytes in 0.177 us
ATTENTION_SHARE = 0.66  # of the 16-bit peak FLOP/s while long prompts attend: 0.8 ns a pair (Llama-3.1-8B, to 100k)
COMPUTE_SHARE = 0.64  # of the peak FLOP/s in large prefills: 40.8 us a token
SEQUENCE_S = 16e-6  # per sequence: sampling and bookkeeping
REQUEST_S = 0.0053  # per request: HTTP, tokens, waking an idle engine
ALL_REDUCE_S = 20e-6  # one all-reduce over NVLink at decode sizes
BLEND = 0.66  # between the memory-bound and the compute-bound end, matrices are too small for either peak
MEMORY_SHARE = 0.92  # vLLM's gpu_memory_utilization
RESERVED_BYTES = 1.0e9  # activations and graphs, as measured on the H200
BLOCK_TOKENS = 16


class DoesNotFit(ValueError):
    """The model's weights are larger than the memory of the devices; the message says by how much."""


def derive(name: str, model: Model, device: Device, gpus: int = 1) -> HardwareProfile:
    """The profile of `model` on `gpus` devices, tensor parallel. Raises DoesNotFit."""
    bandwidth, flops = gpus * device.bytes_per_s, gpus * device.flops
    if model.computes_in_8_bit and device.flops_8_bit:
        flops = gpus * device.flops_8_bit
    weights_s = model.weight_bytes / (bandwidth * BANDWIDTH_SHARE)
    token_s = 2 * (model.active_parameters or model.parameters) / (flops * COMPUTE_SHARE)
    host_s = device.host_s + (2 * model.layers * ALL_REDUCE_S if gpus > 1 else 0.0)
    kv_bytes = model.kv_bytes_per_token * gpus // min(gpus, model.kv_heads)  # too few heads: several keep the same
    shared = {
        "per_context_token_s": significant(kv_bytes / (bandwidth * KV_SHARE)),
        "per_sequence_s": SEQUENCE_S,
        "per_draft_step_s": device.draft_step_s,
        "per_pair_s": significant(model.pair_flop / (gpus * device.flops * ATTENTION_SHARE)),
    }
    terms = (
        Term(per_new_token_s=significant(token_s / 10), constant_s=significant(weights_s + host_s), **shared),
        Term(per_new_token_s=significant(BLEND * token_s), constant_s=significant(0.8 * weights_s + host_s), **shared),
        Term(per_new_token_s=significant(token_s), constant_s=significant(0.1 * weights_s + host_s), **shared),
    )
    return HardwareProfile(
        name=name,
        model=model.name,
        device=device.name if gpus == 1 else f"{gpus} x {device.name}, tensor parallel",
        gpus=gpus,
        perf=PerfModel(terms),
        kv_blocks=kv_blocks(model, device, gpus, kv_bytes),
        block_tokens=BLOCK_TOKENS,
        max_model_tokens=model.max_tokens,
        kv_bytes_per_token=model.kv_bytes_per_token,
        request_overhead_s=REQUEST_S,
        source=(
            f"derived (planner/roofline.py): {model.parameters / 1e9:.2f} G parameters in {model.weight_bits:.3g} bit "
            f"on {gpus} x {flops / gpus / 1e12:.0f} TFLOP/s and {device.bytes_per_s / 1e12:.3g} TB/s, "
            f"{model.kv_bytes_per_token} KV bytes a token; shares of the peaks as measured with OPT-13B on an H200, "
            f"of attention (per_pair_s) with Llama-3.1-8B's shape there, at contexts of up to 100k; "
            f"not measured on this device. Rates per GPU divide by {gpus}."
        ),
    )


def kv_blocks(model: Model, device: Device, gpus: int, kv_bytes_per_token: int) -> int:
    """Blocks that fit beside the weights. Raises DoesNotFit when there is no room for any."""
    usable = gpus * (device.memory_bytes * MEMORY_SHARE - RESERVED_BYTES)
    blocks = int((usable - model.weight_bytes) / kv_bytes_per_token / BLOCK_TOKENS)
    if blocks < 1:
        raise DoesNotFit(
            f"{model.name} has {model.weight_bytes / 1e9:.1f} GB of weights, and {gpus} x {device.name} hold "
            f"{usable / 1e9:.1f} GB: take more devices"
        )
    return blocks


def significant(value: float) -> float:
    """Three digits: more would pretend a precision that a derivation doesn't have."""
    return float(f"{value:.3g}")
