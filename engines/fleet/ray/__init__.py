"""A Ray cluster as the place where a fleet's replicas run (extra `slosgate[ray]`)."""
