"""`python -m slosgate.bench` is the command `slosbench`."""

from slosgate.bench.cli import main

main()
