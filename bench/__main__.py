"""Run every benchmark: `make bench`."""

from __future__ import annotations

from bench import accuracy, failover, memory, quantization, rounds, training

if __name__ == "__main__":
    for benchmark in (rounds, failover, memory, training, accuracy, quantization):
        benchmark.main()
