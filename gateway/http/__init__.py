"""What comes in over HTTP, and what goes out: the OpenAI API, keys, the relay to replicas."""
