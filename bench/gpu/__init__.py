"""Runs on a machine with a GPU: real vLLM, the models' real shapes, random weights."""
