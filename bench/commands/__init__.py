"""The commands of slosbench, one file each; `bench/cli.py` registers each with one line."""
