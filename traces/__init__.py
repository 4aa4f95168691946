"""Traces supply load: one file per trace format, fetch with checksums, fitted generators, rate scaling."""
