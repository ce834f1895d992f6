"""The TFLite interpreter that is installed."""

from __future__ import annotations

import importlib
import sys
from typing import Any

from edge_peer.errors import ResourceError

RUNTIMES = (
    ("ai-edge-litert", "ai_edge_litert.interpreter"),
    ("tflite-runtime", "tflite_runtime.interpreter"),
)


def load_runtime() -> tuple[str, Any]:
    """The installed interpreter: (name and version, its module).

    Raises:
        ResourceError: None is installed.
    """
    for package, module in RUNTIMES:
        try:
            runtime = importlib.import_module(module)
        except ImportError:
            continue
        # Not importlib.metadata: that takes most of a megabyte.
        version = getattr(sys.modules[module.partition(".")[0]], "__version__", "of unknown version")
        return f"{package} {version}", runtime
    raise ResourceError(
        "no TFLite interpreter is installed: pip install 'edge-peer[litert]' on 64-bit boards, "
        "'edge-peer[tflite]' on 32-bit ARM"
    )
