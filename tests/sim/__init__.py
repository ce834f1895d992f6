"""A deterministic simulation of a federation: real protocol cores, a virtual clock, a star broker and every fault."""
