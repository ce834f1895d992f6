"""A federation of real processes for a benchmark, in a folder that is gone afterwards."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from data_shards.build import build
from data_shards.datasets import load_dataset
from edge_peer.operator.local.broker import LocalBroker, require_mosquitto
from edge_peer.operator.local.peers import Tables
from tests.live.harness import Live


def shards(folder: Path, peers: int, examples: int, tests: int | None = None) -> Path:
    """IID shards of Fashion-MNIST, seed 1."""
    names = [f"peer{number}" for number in range(1, peers + 1)]
    build(load_dataset("fashion-mnist", say=print), names, "iid", 1, folder, examples, tests)
    return folder


@contextlib.contextmanager
def federation(data: Path, peers: int, common: Tables) -> Iterator[Live]:
    """Broker and configured peers, not started; all ended at the end."""
    with tempfile.TemporaryDirectory() as name:
        broker = LocalBroker(Path(name), require_mosquitto(print))
        broker.start()
        live = Live(Path(name), broker, data, [f"peer{number}" for number in range(1, peers + 1)], common)
        try:
            live.configure()
            yield live
        finally:
            live.close()
            live.stop()
            broker.stop()
