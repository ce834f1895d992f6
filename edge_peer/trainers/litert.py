"""Train with a TFLite interpreter alone: `ai-edge-litert`, or `tflite-runtime` where that is what the board has."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_peer.trainers.artifacts import ModelArtifacts, ModelError
from edge_peer.trainers.runtimes import load_runtime
from edge_peer.trainers.steps import StepTrainer


class PrimaryGraph:
    """A file's primary graph, on its own tensors.

    The same bytes as from the signature's runner, which resizes, allocates and copies every input in every call.

    Args:
        interpreter: With its tensors allocated.
        signature: What the graph is called.

    Raises:
        ValueError: The signature is another graph's.
    """

    def __init__(self, interpreter: Any, signature: str) -> None:
        runner = interpreter.get_signature_runner(signature)
        inputs, outputs = runner.get_input_details(), runner.get_output_details()
        primary = interpreter.get_input_details(), interpreter.get_output_details()
        if [_tensors(it.values()) for it in (inputs, outputs)] != [_tensors(it) for it in primary]:
            raise ValueError(f"{signature} is not its first graph")
        self._interpreter, self._details = interpreter, inputs
        self.inputs = {name: interpreter.tensor(it["index"]) for name, it in inputs.items()}
        self.outputs = {name: interpreter.tensor(it["index"]) for name, it in outputs.items()}
        self.run = interpreter.invoke

    def set(self, name: str, value: npt.ArrayLike) -> None:
        """See `Step.set`."""
        it = self._details[name]
        self._interpreter.set_tensor(it["index"], np.full(it["shape"], value, it["dtype"]))


def _tensors(details: Iterable[Mapping[str, Any]]) -> list[tuple[int, str]]:
    return sorted((it["index"], it["name"]) for it in details)


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
            step = PrimaryGraph(interpreter, "train")
        except (ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())
            raise ModelError(
                f"{artifacts.train_path}: {runtime} cannot load it ({reason}); export it again with `make model`"
            ) from None

        def infer(**inputs: Any) -> Mapping[str, Any]:
            # A runner for each call, in 5 us: the interpreter does not run its primary graph while there is one.
            outputs: Mapping[str, Any] = interpreter.get_signature_runner("infer")(**inputs)
            return outputs

        super().__init__(artifacts, runtime, step, infer)
