"""`python -m slosgate` is the command `slosgate`, also where the environment's scripts are not on the path."""

from slosgate.gateway.cli import main

main()
