"""slosgate inside vLLM: a scheduler class for unmodified `vllm serve`, and what starts and connects it."""
