"""What a federation of n peers costs on one machine: `python -m bench.scale`."""
