"""Train with a TFLite interpreter alone: `ai-edge-litert`, or `tflite-runtime` where that is what the board has."""

from __future__ import annotations

from edge_peer.trainers.artifacts import ModelArtifacts, ModelError
from edge_peer.trainers.runtimes import load_runtime
from edge_peer.trainers.steps import StepTrainer


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
            # Or tflite-runtime 2.14 leaves the delegate out.
            interpreter.allocate_tensors()
            train, infer = (interpreter.get_signature_runner(name) for name in ("train", "infer"))
            details = train.get_input_details()
        except (ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())
            raise ModelError(
                f"{artifacts.train_path}: {runtime} cannot load it ({reason}); export it again with `make model`"
            ) from None
        shapes = {name: tuple(int(size) for size in it["shape"]) for name, it in details.items()}
        super().__init__(artifacts, runtime, train, infer, shapes)
