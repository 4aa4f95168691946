"""The shape of a model, as far as its speed depends on it: known ones by name, others from their config.json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

TEXT_PARTS = ("text_config", "llm_config", "language_config")  # of a multimodal model's config
PLAIN_MLP = {  # two matrices; all others have a gate, too
    "opt", "gpt2", "gpt_neox", "gptj", "gpt_bigcode", "bloom", "falcon", "mpt", "phi", "starcoder2", "nemotron",
}  # fmt: skip
TIED = {"opt", "gpt2", "gpt_bigcode", "bloom", "falcon", "mpt", "gemma", "gemma2", "gemma3", "gemma3_text"}
BITS = {  # of a quantized weight, its scales included
    "fp8": 8.0, "fbgemm_fp8": 8.0, "awq": 4.25, "gptq": 4.25, "auto-round": 4.25, "mxfp4": 4.25, "bitsandbytes": 4.5,
}  # fmt: skip
QUANTIZED = (*BITS, "compressed-tensors", "modelopt")


class UnknownModel(ValueError):
    """The model's shape can't be told; the message names what is missing, or the known models."""


@dataclass(frozen=True, slots=True)
class Model:
    """Sizes of a decoder. Parameters are those of the text part."""

    name: str
    parameters: float
    layers: int  # with KV of their own for every token
    kv_heads: int
    head_size: int
    max_tokens: int
    active_parameters: float = 0.0  # that one token is computed with, if not all: a mixture of experts
    weight_bits: float = 16.0  # mean over all parameters
    computes_in_8_bit: bool = False
    kv_values: int = 0  # per token and layer, where that is not keys and values of all heads
    query_values: int = 0  # per token and layer: what all heads ask with; 0: as many as the keys have

    @property
    def weight_bytes(self) -> float:
        return self.weight_bits * self.parameters / 8

    @property
    def kv_bytes_per_token(self) -> int:
        """Keys and values of all layers, 16 bit."""
        return 2 * self.layers * (self.kv_values or 2 * self.kv_heads * self.head_size)

    @property
    def pair_flop(self) -> int:
        """FLOP for a token to attend to another one: a product with its key and one with its value, in all layers."""
        return 4 * self.layers * (self.query_values or self.kv_heads * self.head_size)


OPT_7B = Model("facebook/opt-6.7b", 6.66e9, 32, 32, 128, 2048)
OPT_13B = Model("facebook/opt-13b", 12.85e9, 40, 40, 128, 2048)
OPT_30B = Model("facebook/opt-30b", 29.97e9, 48, 56, 128, 2048)
TOOLLLAMA_7B = Model("ToolBench/ToolLLaMA-2-7b-v2", 6.74e9, 32, 32, 128, 8192)
LLAMA_31_8B = Model("meta-llama/Llama-3.1-8B-Instruct", 8.03e9, 32, 8, 128, 131072, query_values=4096)
QWEN_25_7B = Model("Qwen/Qwen2.5-7B-Instruct", 7.62e9, 28, 4, 128, 32768, query_values=3584)
QWEN_3_32B = Model("Qwen/Qwen3-32B", 32.76e9, 64, 8, 128, 40960, query_values=8192)

KNOWN = (OPT_7B, OPT_13B, OPT_30B, TOOLLLAMA_7B, LLAMA_31_8B, QWEN_25_7B, QWEN_3_32B)


def known(name: str) -> Model:
    """The known model of that name, with or without its owner's. Raises UnknownModel."""
    for model in KNOWN:
        if name.lower() in (model.name.lower(), model.name.lower().partition("/")[2]):
            return model
    raise UnknownModel(
        f"unknown model {name!r}: name a folder that holds a config.json, or one of {', '.join(m.name for m in KNOWN)}"
    )


def shape(name: str, config: Mapping[str, Any], *, quantization: str | None = None, bits: float = 16.0) -> Model:
    """The shape that a model's config.json describes, its weights in so many bits where they aren't quantized.

    `quantization` names a method that is applied on loading. Raises UnknownModel, naming the field.
    """
    whole = config
    for part in TEXT_PARTS:
        if isinstance(config.get(part), Mapping):
            config = config[part]
    sizes = _Sizes(name, config)
    layers = sizes.layers
    embedding = sizes.hidden * sizes.need("vocab_size") * (1 if _tied(whole, config) else 2)
    attention = layers * sizes.attention
    mlps, active_mlps = sizes.mlps
    parameters = embedding + attention + mlps
    quantized_bits, in_8_bit = _quantization(name, whole, quantization, bits)
    return Model(
        name=name,
        parameters=parameters,
        layers=_kv_layers(config, layers),
        kv_heads=1 if sizes.latent else sizes.kv_heads,
        head_size=sizes.head_size,
        max_tokens=sizes.need("max_position_embeddings", "n_positions", "seq_length", "max_seq_len"),
        active_parameters=0.0 if mlps == active_mlps else embedding + attention + active_mlps,
        weight_bits=(bits * embedding + quantized_bits * (parameters - embedding)) / parameters,
        computes_in_8_bit=in_8_bit,
        kv_values=sizes.latent,
        query_values=sizes.queries,
    )


class _Sizes:
    """The numbers in a config, which every family of models calls by names of its own."""

    def __init__(self, name: str, config: Mapping[str, Any]) -> None:
        self._name, self._config = name, config
        self.hidden = self.need("hidden_size", "n_embd", "d_model")
        self.layers = self.need("num_hidden_layers", "n_layer", "num_layers", "n_layers")
        self.heads = self.need("num_attention_heads", "n_head", "n_heads")
        one_kv_head = config.get("multi_query") is True
        self.kv_heads = 1 if one_kv_head else self.get("num_key_value_heads", "num_kv_heads") or self.heads
        self.head_size = self.get("head_dim") or self.hidden // self.heads
        self.latent = (self.get("kv_lora_rank") or 0) and self.need("kv_lora_rank") + self.need("qk_rope_head_dim")

    def get(self, *names: str) -> int | None:
        """The first of these that the config has. Raises UnknownModel when it is no whole number above 0."""
        for name in names:
            value = self._config.get(name)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                raise UnknownModel(f"model {self._name}: {name} in its config should be a whole number, not {value!r}")
            return value
        return None

    def need(self, *names: str) -> int:
        """As `get`. Raises UnknownModel when there is none."""
        value = self.get(*names)
        if not value:
            raise UnknownModel(f"model {self._name}: its config has no {' or '.join(names)}")
        return value

    @property
    def queries(self) -> int:
        """What all heads of one layer ask with; with latent attention half of queries and values, which differ."""
        if not self.latent:
            return self.heads * self.head_size
        sizes = self.need("qk_nope_head_dim") + self.need("qk_rope_head_dim") + self.need("v_head_dim")
        return self.heads * sizes // 2

    @property
    def attention(self) -> int:
        """Parameters of one layer's attention."""
        hidden, heads = self.hidden, self.heads
        if not self.latent:
            return 2 * hidden * heads * self.head_size + 2 * hidden * self.kv_heads * self.head_size
        rank, rope = self.need("kv_lora_rank"), self.need("qk_rope_head_dim")
        plain, value = self.need("qk_nope_head_dim"), self.need("v_head_dim")
        query = self.get("q_lora_rank")
        queries = query * (hidden + heads * (plain + rope)) if query else hidden * heads * (plain + rope)
        return queries + hidden * (rank + rope) + rank * heads * (plain + value) + heads * value * hidden

    @property
    def mlps(self) -> tuple[int, int]:
        """Parameters of all layers' MLPs: all of them, and those that one token passes."""
        plain = self._config.get("model_type") in PLAIN_MLP
        matrices = 2 if plain else 3
        width = self.get("intermediate_size", "ffn_dim", "n_inner", "ffn_hidden_size") or 4 * self.hidden
        experts = self.get("num_local_experts", "num_experts", "n_routed_experts")
        if not experts:
            everything = self.layers * matrices * self.hidden * width
            return everything, everything
        expert = matrices * self.hidden * (self.get("moe_intermediate_size") or width)
        shared = (self.get("n_shared_experts") or 0) * expert
        shared += matrices * self.hidden * (self.get("shared_expert_intermediate_size") or 0)
        dense = min(self.layers, self.get("first_k_dense_replace") or 0)
        sparse = self.layers - dense
        around = dense * matrices * self.hidden * width + sparse * shared
        chosen = self.need("num_experts_per_tok", "num_experts_per_token")
        return around + sparse * experts * expert, around + sparse * chosen * expert


def _kv_layers(config: Mapping[str, Any], layers: int) -> int:
    """Layers that keep KV for every token: of a hybrid model those with attention."""
    kinds = config.get("layer_types")
    if not isinstance(kinds, list):
        return layers
    return sum("linear" not in str(kind) and "mamba" not in str(kind) for kind in kinds) or layers


def _tied(whole: Mapping[str, Any], config: Mapping[str, Any]) -> bool:
    """Whether the embedding serves for the output, too; families differ in what they mean by silence."""
    said = config.get("tie_word_embeddings", whole.get("tie_word_embeddings"))
    return bool(said) if said is not None else config.get("model_type") in TIED


def _quantization(name: str, config: Mapping[str, Any], method: str | None, bits: float) -> tuple[float, bool]:
    """Bits of a quantized weight with its scales, and whether matrices are multiplied in 8 bits."""
    found = config.get("quantization_config")
    found = found if isinstance(found, Mapping) else {}
    method = str(found.get("quant_method") or method or "").lower().removesuffix("_marlin")
    if not method:
        return bits, False
    if method in ("fp8", "fbgemm_fp8"):
        return 8.0, True
    if method == "compressed-tensors":
        return _compressed(found)
    if method == "modelopt":
        return (4.5, False) if "4" in str(found.get("quant_algo", "FP8")) else (8.0, True)
    if method not in BITS:
        raise UnknownModel(f"model {name}: unknown quantization {method!r}: known are {', '.join(QUANTIZED)}")
    stated = found.get("bits", found.get("w_bit"))
    if method == "bitsandbytes" and found.get("load_in_8bit"):
        stated = 8
    return (float(stated) + 0.25 if isinstance(stated, int) else BITS[method]), False


def _compressed(found: Mapping[str, Any]) -> tuple[float, bool]:
    groups = found.get("config_groups")
    group: Mapping[str, Any] = next(iter(groups.values()), {}) if isinstance(groups, Mapping) else {}
    weights, inputs = (group.get(part) or {} for part in ("weights", "input_activations"))
    stated = weights.get("num_bits", 8)
    return (8.0, bool(inputs)) if stated == 8 else (float(stated) + 0.25, False)
