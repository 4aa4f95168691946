"""Model folders without weights, for `vllm serve FOLDER --load-format dummy`.

Speed does not depend on the weights' values, so a config and a tokenizer are all that timing needs. Tokenizers are
built here, so no hub is asked. One has a token per byte. Of the other each token is a word of four letters: random ones
decode cheaply, where random bytes that are no UTF-8 make vLLM's server stand still for seconds.

    python -m slosgate.bench.gpu.dummy_model opt-13b out/opt-13b
"""

from __future__ import annotations

import functools
import json
import sys
from pathlib import Path
from typing import Any

CONFIGS: dict[str, dict[str, Any]] = {
    # Shapes as in arXiv 2205.01068, table 1.
    "opt-13b": {
        "architectures": ["OPTForCausalLM"],
        "model_type": "opt",
        "hidden_size": 5120,
        "word_embed_proj_dim": 5120,
        "num_hidden_layers": 40,
        "num_attention_heads": 40,
        "ffn_dim": 20480,
        "vocab_size": 50272,
        "max_position_embeddings": 2048,
        "do_layer_norm_before": True,
        "torch_dtype": "float16",
        "bos_token_id": 2,
        "eos_token_id": 2,
        "pad_token_id": 1,
    },
    # OPT's vocabulary over two small layers: drafts for opt-13b.
    "opt-draft": {
        "architectures": ["OPTForCausalLM"],
        "model_type": "opt",
        "hidden_size": 512,
        "word_embed_proj_dim": 512,
        "num_hidden_layers": 2,
        "num_attention_heads": 8,
        "ffn_dim": 2048,
        "vocab_size": 50272,
        "max_position_embeddings": 2048,
        "do_layer_norm_before": True,
        "torch_dtype": "float16",
        "bos_token_id": 2,
        "eos_token_id": 2,
        "pad_token_id": 1,
    },
    # arXiv 2407.21783, table 3, as in meta-llama/Llama-3.1-8B's config.
    "llama-3.1-8b": {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "max_position_embeddings": 131072,
        "vocab_size": 128256,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "bos_token_id": 1,
        "eos_token_id": 2,
    },
    # arXiv 2505.09388, table 1, as in Qwen/Qwen3-32B's config.
    "qwen3-32b": {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "hidden_size": 5120,
        "intermediate_size": 25600,
        "num_hidden_layers": 64,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "max_position_embeddings": 40960,
        "vocab_size": 151936,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "bos_token_id": 1,
        "eos_token_id": 2,
    },
    # Two small layers: a token takes a CPU about a millisecond.
    "tiny-llama": {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": 128,
        "intermediate_size": 384,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
        "vocab_size": 32000,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "bos_token_id": 1,
        "eos_token_id": 2,
    },
}
SPECIAL_TOKENS = ("<unk>", "<s>", "</s>")
THINKING_TOKENS = ("<think>", "</think>")
THINKING_ENDS = len(SPECIAL_TOKENS) + 1  # the id of the last of them
FIRST_WORD = len(SPECIAL_TOKENS) + len(THINKING_TOKENS)
WORD_CHARACTERS = 4
CHAT_TEMPLATE = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}assistant:"


def write_model(name: str, folder: Path, *, words: bool = False) -> Path:
    """Write the folder of the model called `name`, with a tokenizer of bytes or of words.

    Raises KeyError for a name that is not in CONFIGS.
    """
    config = CONFIGS[name]
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / "config.json", config)
    tokens = [_word(n) for n in range(config["vocab_size"] - FIRST_WORD)] if words else _byte_letters()
    _write(folder / "tokenizer.json", _tokenizer(tokens))
    _write(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": "<s>",
            "eos_token": "</s>",
            "unk_token": "<unk>",
            "pad_token": "</s>",
            "chat_template": CHAT_TEMPLATE,
            "model_max_length": config["max_position_embeddings"],
        },
    )
    return folder


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n")


def _tokenizer(tokens: list[str]) -> dict[str, Any]:
    """A byte-level BPE without merges, in the format of the `tokenizers` library."""
    vocabulary = {token: i for i, token in enumerate([*SPECIAL_TOKENS, *THINKING_TOKENS, *tokens])}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": i, "content": token, "special": i < len(SPECIAL_TOKENS),
                "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
            }
            for i, token in enumerate([*SPECIAL_TOKENS, *THINKING_TOKENS])
        ],
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE", "dropout": None, "unk_token": "<unk>", "continuing_subword_prefix": None,
            "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
            "vocab": vocabulary, "merges": [],
        },
    }  # fmt: skip


def _word(number: int) -> str:
    """The word of a number, in base 26."""
    letters = ""
    for _ in range(WORD_CHARACTERS):
        number, letter = divmod(number, 26)
        letters += chr(ord("a") + letter)
    return letters


def word_ids(text: str) -> list[int]:
    """The tokens of a text of words."""
    words = (text[at : at + WORD_CHARACTERS] for at in range(0, len(text), WORD_CHARACTERS))
    return [FIRST_WORD + functools.reduce(lambda n, c: 26 * n + ord(c) - ord("a"), reversed(w), 0) for w in words]


def _byte_letters() -> list[str]:
    """The printable letter that byte-level BPE writes for each of the 256 bytes."""
    printable = {*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    spare = iter(range(0x100, 0x200))
    return [chr(byte) if byte in printable else chr(next(spare)) for byte in range(256)]


def main() -> None:
    name, folder = sys.argv[1:]
    write_model(name, Path(folder))


if __name__ == "__main__":
    main()
