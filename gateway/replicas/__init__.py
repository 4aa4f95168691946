"""What the gateway knows about its replicas, and how it reaches them."""
