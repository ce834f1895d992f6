"""Keras models, one module a model, and the exporter that turns one into the artifacts that boards train with.

The only place that needs TensorFlow, on the workstation; boards get what is in `artifacts/`.
"""
