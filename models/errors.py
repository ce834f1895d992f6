"""What goes wrong when a model is exported."""

from __future__ import annotations


class ExportError(Exception):
    """The model cannot be exported; the message names the layer and what to use instead."""
