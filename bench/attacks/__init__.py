"""Accuracy of aggregation rules under attack, with real training: `python -m bench.attacks`."""
