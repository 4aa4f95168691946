"""The gateway accepts and streams: OpenAI API, SLO contracts, admission, routing, relay, Redis state."""
