"""Faults on real processes, by a seed, while runs go on; and a checker of what they have left behind."""
