"""Broker and peers as processes of this machine, for demo, tests and benchmarks."""
