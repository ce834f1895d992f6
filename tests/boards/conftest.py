"""Fixtures of the tests with boards. They are collected only when this folder is named, because they need root."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from tests.boards import boards as fleet
from tests.boards.board import EMULATED
from tests.boards.boards import Boards
from tests.boards.host import BoardsError, native, require
from tests.boards.image import image as build

HERE = Path(__file__).parent
ARCH = os.environ.get("ARCH") or native()
NAMES = ("board1", "board2", "board3", "board4")
#: What is tried of an emulated processor unless a file is named: a deployment takes an hour there.
EMULATED_MODULES = ("__init__", "test_machine", "test_training")
#: Of one test, with what it has to set up.
TIMEOUT_S = 600.0
FLEETS_MAX = 9
JOURNAL_LINES = 60


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    named = [Path(argument.split("::")[0]).resolve() for argument in config.args]
    if not any(path == HERE or HERE in path.parents for path in named):
        return True
    # The others are about this project's programs, which are the same on every processor.
    slow = native() != ARCH and collection_path.suffix == ".py" and collection_path.stem not in EMULATED_MODULES
    return True if slow and collection_path.resolve() not in named and collection_path.name != "conftest.py" else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.timeout(TIMEOUT_S * (1 if native() == ARCH else EMULATED)))


@pytest.fixture(scope="session")
def arch() -> str:
    """The boards' architecture, from the environment's ARCH."""
    return ARCH


@pytest.fixture(scope="session")
def image(arch: str) -> Path:
    """The root file system that every board begins with."""
    require(arch, print)
    return build(arch, print)


@pytest.fixture(scope="session")
def fleet_name(image: Path) -> Iterator[str]:
    """Of a fleet that no other process of this machine has; what crashed ones have left is gone."""
    fleet.sweep()
    # Workers of pytest-xdist begin at the same time.
    worker = os.environ.get("PYTEST_XDIST_WORKER", "")
    for number in range(1, FLEETS_MAX + 1):
        claim = Boards([], image, f"test{worker}{number}")
        try:
            claim.lock()
        except BoardsError:
            continue
        claim.unlock()
        yield claim.fleet
        return
    raise BoardsError(f"there are {FLEETS_MAX} fleets of other tests on this machine")


@pytest.fixture(scope="module")
def boards(request: pytest.FixtureRequest, image: Path, arch: str, fleet_name: str) -> Iterator[Boards]:
    """Blank boards for the tests of a module, booted: board1 to board4, or those that the module names in BOARDS."""
    names = getattr(request.module, "BOARDS", NAMES)
    with Boards(names, image, fleet_name, arch) as it:
        yield it


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show the boards' journals with a failure."""
    report = yield
    boards = getattr(item, "funcargs", {}).get("boards")
    if report.failed and isinstance(boards, Boards):
        for board in boards:
            with contextlib.suppress(BoardsError):
                report.sections.append(
                    (f"journal of {board.name}", board.journal("--boot", f"--lines={JOURNAL_LINES}"))
                )
    return report
