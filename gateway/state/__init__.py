"""What gateways share: the ledger in Redis or Valkey."""
