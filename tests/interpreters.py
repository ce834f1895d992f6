"""The interpreters that boards have: the one of this environment, and tflite-runtime in its own, over a pipe.

Run as a program, in the other environment, it answers one call a line: a file of inputs in, a file of outputs out.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
OTHER = ROOT / ".venv-tflite/bin/python"
Arrays = Mapping[str, Any]


def load(path: Path) -> dict[str, Any]:
    """The signatures of a TFLite file, by name."""
    from edge_peer.trainers.runtimes import load_runtime

    interpreter = load_runtime()[1].Interpreter(model_path=str(path), num_threads=1)
    # As the trainer does, or tflite-runtime 2.14 leaves the delegate out.
    interpreter.allocate_tensors()
    return {name: interpreter.get_signature_runner(name) for name in interpreter.get_signature_list()}


def complete(shapes: Mapping[str, tuple[tuple[int, ...], Any]], inputs: Arrays) -> dict[str, Any]:
    """Inputs with what a test does not care about filled in: no correction, empty slots, the first step."""
    filled = {name: np.zeros(shape, kind) for name, (shape, kind) in shapes.items()}
    if "count" in filled:
        filled["count"] = np.float32(1)
    return {**filled, **inputs}


class Here:
    """A file's signatures in this process."""

    def __init__(self, path: Path) -> None:
        self._runners = load(path)

    def shapes(self, name: str) -> dict[str, tuple[tuple[int, ...], Any]]:
        details = self._runners[name].get_input_details()
        return {key: (tuple(int(size) for size in it["shape"]), it["dtype"]) for key, it in details.items()}

    def __call__(self, name: str, **inputs: Any) -> dict[str, Any]:
        outputs = self._runners[name](**complete(self.shapes(name), inputs))
        return {key: np.array(value) for key, value in outputs.items()}


class Other:
    """tflite-runtime in its environment: one process for many files."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process = subprocess.Popen(
            [OTHER, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
        )

    def __call__(self, path: Path, name: str, **inputs: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        given, got = self._folder / "inputs.npz", self._folder / "outputs.npz"
        np.savez(given, **inputs)
        print(json.dumps([str(path), name, str(given), str(got)]), file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline().strip()
        assert answer == "done", answer or "the other interpreter has died"
        with np.load(got) as outputs:
            return dict(outputs)

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=30)


def serve() -> None:
    """Answer calls until the input ends."""
    sys.path.insert(0, str(ROOT))
    last: tuple[str, Here] | None = None
    for line in sys.stdin:
        path, name, given, got = json.loads(line)
        try:
            if last is None or last[0] != path:
                last = (path, Here(Path(path)))
            with np.load(given) as inputs:
                np.savez(got, **last[1](name, **dict(inputs)))
        except Exception as error:  # noqa: BLE001 - told to the test, which fails with it
            print(f"{type(error).__name__}: {error}".replace("\n", " "), flush=True)
        else:
            print("done", flush=True)


if __name__ == "__main__":
    serve()
