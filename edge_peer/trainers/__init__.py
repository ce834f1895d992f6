"""Backends that train and evaluate the model: one interface, one module a backend."""
