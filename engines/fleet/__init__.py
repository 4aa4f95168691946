"""A fleet: gateways, replicas and Redis from one file, kept up as processes of this machine or of a Ray cluster."""
