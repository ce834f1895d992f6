"""Train with a TFLite interpreter alone: `ai-edge-litert`, or `tflite-runtime` where that is what the board has."""

from __future__ import annotations

import importlib
import sys
from typing import Any

from edge_peer.errors import ResourceError
from edge_peer.trainers.artifacts import ModelArtifacts, ModelError
from edge_peer.trainers.steps import StepTrainer

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


class LiteRTTrainer(StepTrainer):
    """The backend of boards without TensorFlow.

    Args:
        artifacts: The exported model.
        threads: Of the interpreter; a small model is faster with one.

    Raises:
        ResourceError: No interpreter is installed, or it cannot load the model.
    """

    def __init__(self, artifacts: ModelArtifacts, threads: int = 1) -> None:
        runtime, module = load_runtime()
        try:
            # With its default delegate (XNNPACK): half the time of a step for 3 MB.
            interpreter = module.Interpreter(model_path=str(artifacts.train_path), num_threads=threads)
            train, infer = (interpreter.get_signature_runner(name) for name in ("train", "infer"))
            details = train.get_input_details()
        except (ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())
            raise ModelError(
                f"{artifacts.train_path}: {runtime} cannot load it ({reason}); export it again with `make model`"
            ) from None
        shapes = {name: tuple(int(size) for size in it["shape"]) for name, it in details.items()}
        super().__init__(artifacts, runtime, train, infer, shapes)
