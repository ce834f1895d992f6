"""Fixtures of the live tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from data_shards.build import build
from data_shards.datasets import Dataset, load_dataset
from edge_peer.operator.local.broker import LocalBroker, require_mosquitto
from edge_peer.operator.local.peers import Tables
from tests.live.harness import Live


@pytest.fixture(scope="session")
def dataset() -> Dataset:
    return load_dataset("fashion-mnist", say=print)


@pytest.fixture(scope="session")
def small(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of 320 examples for peer1 to peer6: a round takes a fraction of a second."""
    folder = tmp_path_factory.mktemp("small")
    build(dataset, [f"peer{number}" for number in range(1, 7)], "iid", 1, folder, 320, 100)
    return folder


@pytest.fixture(scope="session")
def large(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of 3,000 examples for peer1 to peer4, with the whole test set divided among them."""
    folder = tmp_path_factory.mktemp("large")
    build(dataset, [f"peer{number}" for number in range(1, 5)], "iid", 1, folder, 3000)
    return folder


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[LocalBroker]:
    it = LocalBroker(tmp_path, require_mosquitto(print))
    it.start()
    yield it
    it.stop()


@pytest.fixture
def live(tmp_path: Path, broker: LocalBroker) -> Iterator[Callable[..., Live]]:
    made: list[Live] = []

    def make(shards: Path, count: int, common: Tables) -> Live:
        it = Live(tmp_path, broker, shards, [f"peer{number}" for number in range(1, count + 1)], common)
        made.append(it)
        return it

    yield make
    for it in made:
        it.close()
        it.stop()
        for peer in it.fleet.processes:
            # Whatever a test does: what a run needs is no flood.
            log = it.fleet.log(peer).read_text(errors="replace")
            assert not [name for name in it.peers if f"{name} floods" in log], log
