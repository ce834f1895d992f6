"""What is raised when a model has no int8 form."""

from __future__ import annotations

from models.errors import ExportError


class QuantizationError(ExportError):
    """A model, or a layer of it, cannot be quantized.

    Args:
        layer: Its name.
        what: What it is or does that has no int8 form.
        remedy: What to use instead.
        kind: `layer`, or `model` when it is the model that is named.
    """

    def __init__(self, layer: str, what: str, remedy: str, kind: str = "layer") -> None:
        super().__init__(f"{kind} {layer!r}: {what}; {remedy}")
        self.layer, self.what, self.remedy = layer, what, remedy
