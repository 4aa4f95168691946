"""Simulated replicas: one engine with exact bookkeeping, in virtual time (`cluster`) and in real time (`server`)."""
