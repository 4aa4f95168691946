"""Engines execute plans: the messages, the plan follower every engine shares, the simulator, the vLLM plug-in."""
