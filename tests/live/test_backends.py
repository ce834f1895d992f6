"""One federation of boards that train with different things: LiteRT, tflite-runtime and TensorFlow."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.live.harness import ROOT, Live

pytestmark = [pytest.mark.live, pytest.mark.tensorflow]
#: Peer -> (its environment, its backend, what it says that it trains with).
BOARDS = {
    "peer1": (".venv-models", "litert", "ai-edge-litert"),
    "peer2": (".venv-models", "keras", "tensorflow"),
    "peer3": (".venv-tflite", "litert", "tflite-runtime"),
}


def test_a_federation_mixes_backends(live: Callable[..., Live], small: Path) -> None:
    boards = {peer: it for peer, it in BOARDS.items() if (ROOT / it[0] / "bin/python").exists()}
    # TensorFlow takes seconds to load; nobody is to be left out of a round for it.
    it = live(small, len(boards), {"run": {"rounds_max": 4, "updates_min": len(boards), "round_deadline_s": 120.0}})
    it.configure(**{peer: {"trainer": {"backend": backend}} for peer, (_, backend, _) in boards.items()})
    for peer, (environment, _, _) in boards.items():
        it.fleet.start([peer], str(ROOT / environment / "bin/python"))
    end = it.wait_finished(timeout_s=240)
    it.stop()
    assert end.reason == "reached 4 rounds"
    for peer, (_, _, runtime) in boards.items():
        assert f"trains with {runtime}" in it.fleet.log(peer).read_text()
        rows = it.rows(peer, str(end.run_id))
        assert [row["examples"] for row in rows] == ["0", *["320"] * 4], "it has trained in every round"
        # All have the same model, and all can use it: also in int8.
        assert rows[-1]["global_accuracy"] != rows[0]["global_accuracy"]
        assert abs(float(rows[-1]["int8_accuracy"]) - float(rows[-1]["global_accuracy"])) <= 0.1
    models = {it.run_folder(peer, str(end.run_id)).joinpath("model.int8.tflite").read_bytes() for peer in boards}
    assert len(models) == 1
    assert float(end.accuracy or 0) > 0.3
