"""Benchmarks of shardwise beside its peers: `python -m benchmarks --help`."""
