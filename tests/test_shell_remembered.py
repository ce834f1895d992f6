"""Memories on disk: of the last counted update and of the one that waits, whatever happens to the power."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny import LARGE, LAYOUT, vector

from aggregator_core import Layout
from edge_peer.errors import ResourceError
from edge_peer.protocol.state import Memory
from edge_peer.shell.payload import encode_tensors
from edge_peer.shell.remembered import Remembered, Remembrance

NOTHING = Remembered()
FILES = ("memory-0.safetensors", "memory-1.safetensors")


def digest(round_: int) -> str:
    return f"{round_:064x}"


def memory(round_: int, run_id: str = "run-1") -> Memory:
    return Memory(run_id, round_, digest(round_))


def remembered(seed: int, layout: Layout = LARGE) -> Remembered:
    return Remembered(vector(seed, layout), vector(seed + 100, layout)[: layout.trained_size])


def assert_same(found: Remembered, expected: Remembered) -> None:
    for one, other in ((found.residual, expected.residual), (found.control, expected.control)):
        assert (one is None) == (other is None)
        if one is not None and other is not None:
            assert one.dtype == np.float32
            assert one.tobytes() == other.tobytes()


def filled(folder: Path, *rounds: int) -> Remembrance:
    """The memories of rounds that were all counted."""
    it = Remembrance(folder, LARGE)
    for before, round_ in zip((0, *rounds), rounds, strict=False):
        it.put(memory(round_), remembered(round_), digest(before))
    return it


@pytest.mark.parametrize(
    "kept",
    [remembered(1), Remembered(residual=vector(1, LARGE)), Remembered(control=vector(1, LARGE)[: LARGE.trained_size])],
    ids=["both", "residual", "control"],
)
def test_a_memory_is_there_for_the_next_process(tmp_path: Path, kept: Remembered) -> None:
    it = Remembrance(tmp_path, LARGE)
    assert it.memories == ()
    it.put(memory(3), kept, None)
    for reader in (it, Remembrance(tmp_path, LARGE)):
        assert reader.memories == (memory(3),)
        assert_same(reader.after(digest(3)), kept)
        for unknown in (None, digest(4)):
            assert reader.after(unknown).empty
    assert not kept.empty


def test_the_memory_that_a_training_began_with_is_not_the_one_that_is_replaced(tmp_path: Path) -> None:
    filled(tmp_path, 1, 2)
    assert set(Remembrance(tmp_path, LARGE).memories) == {memory(1), memory(2)}
    for after, left in ((1, 1), (2, 2)):
        folder = tmp_path / str(after)
        folder.mkdir()
        filled(folder, 1, 2).put(memory(3), remembered(3), digest(after))
        found = Remembrance(folder, LARGE)
        assert set(found.memories) == {memory(left), memory(3)}
        assert_same(found.after(digest(left)), remembered(left))
        assert_same(found.after(digest(3)), remembered(3))


def test_a_round_that_is_trained_again_replaces_what_was_not_counted(tmp_path: Path) -> None:
    it = filled(tmp_path, 1)
    for attempt in (11, 12, 13):
        it.put(Memory("run-1", 2, digest(attempt)), remembered(attempt), digest(1))
        assert set(it.memories) == {memory(1), Memory("run-1", 2, digest(attempt))}


def test_a_run_that_begins_anew_needs_none_of_the_old(tmp_path: Path) -> None:
    it = filled(tmp_path, 1, 2)
    it.put(memory(1, "run-2"), remembered(7), None)
    assert memory(1, "run-2") in it.memories
    assert len(it.memories) == 2


@given(st.lists(st.booleans(), max_size=12), st.booleans())
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_is_counted_or_not_its_memory_is_there(tmp_path: Path, counted: list[bool], restart: bool) -> None:
    """Against the obvious: all memories in a dictionary."""
    for name in FILES:
        (tmp_path / name).unlink(missing_ok=True)
    it, everything, after = Remembrance(tmp_path, LAYOUT), {}, None
    for round_, is_counted in enumerate(counted, 1):
        everything[digest(round_)] = remembered(round_, LAYOUT)
        it.put(memory(round_), everything[digest(round_)], after)
        if restart:
            it = Remembrance(tmp_path, LAYOUT)
        # Until its round closes either may be what the next training begins with.
        for known in {after, digest(round_)} - {None}:
            assert_same(it.after(known), everything[known or ""])
        after = digest(round_) if is_counted else after
    assert len(it.memories) == min(2, len(counted)) or not all(counted)


# ---------------------------------------------------------------------- what can happen to a disk


class PowerLossError(BaseException):
    """The process is gone; no handler of ours may swallow it."""


def dying_at(step: int, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let the power fail before the step-th call that reaches the disk; returns what was called."""
    calls: list[str] = []

    def wrap(owner: Any, name: str) -> None:
        real: Callable[..., Any] = getattr(owner, name)

        def call(*arguments: Any, **options: Any) -> Any:
            calls.append(name)
            if len(calls) == step:
                raise PowerLossError
            return real(*arguments, **options)

        monkeypatch.setattr(owner, name, call)

    wrap(os, "fsync")
    wrap(Path, "replace")
    return calls


def test_the_order_of_steps_is_that_of_a_durable_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    it = filled(tmp_path, 1)
    calls = dying_at(99, monkeypatch)
    it.put(memory(2), remembered(2), digest(1))
    assert calls == ["fsync", "replace", "fsync"]


@pytest.mark.parametrize("step", [1, 2, 3])
@pytest.mark.parametrize("rounds", [(), (1,), (1, 2), (1, 2, 3)], ids=len)
def test_after_a_loss_of_power_the_counted_memory_is_there_and_the_new_one_is_whole_or_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int, rounds: tuple[int, ...]
) -> None:
    it, after = filled(tmp_path, *rounds), digest(len(rounds))
    with monkeypatch.context() as patch:
        dying_at(step, patch)
        with pytest.raises(PowerLossError):
            it.put(memory(9), remembered(9), after)
    found = Remembrance(tmp_path, LARGE)
    assert (memory(9) in found.memories) == (step == 3)
    if rounds:
        assert_same(found.after(after), remembered(len(rounds)))
    # The round is trained again, as if nothing had happened.
    found.put(memory(9), remembered(9), after)
    again = Remembrance(tmp_path, LARGE)
    assert_same(again.after(digest(9)), remembered(9))
    if rounds:
        assert_same(again.after(after), remembered(len(rounds)))


def whole_file(folder: Path) -> bytes:
    filled(folder, 1, 2)
    return (folder / FILES[1]).read_bytes()


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "zeros": lambda it: bytes(len(it)),
    "half": lambda it: it[: len(it) // 2],
    "longer": lambda it: it + b"\0",
    "text": lambda _: b"hello",
    "not finite": lambda it: it[:-4] + b"\0\0\xc0\x7f",
    "without memory": lambda _: encode_tensors({"residual": vector(1, LARGE)}, {"round": 3}),
    "round zero": lambda _: encode_tensors({}, asdict(Memory("run-1", 0, digest(3)))),
    "no digest": lambda _: encode_tensors({}, asdict(Memory("run-1", 3, "x"))),
    "another tensor": lambda _: encode_tensors({"momentum": vector(1, LARGE)}, asdict(memory(3))),
    "another model": lambda _: encode_tensors({"residual": vector(1, LAYOUT)}, asdict(memory(3))),
    "control of all": lambda _: encode_tensors({"control": vector(1, LARGE)}, asdict(memory(3))),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_memory_is_told_and_the_other_one_is_there(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    whole = whole_file(tmp_path)
    (tmp_path / FILES[1]).write_bytes(DAMAGES[name](whole))
    with caplog.at_level(logging.WARNING):
        found = Remembrance(tmp_path, LARGE)
    (record,) = caplog.records
    assert "memory-1.safetensors is of no use (" in record.getMessage()
    assert found.memories == (memory(1),)
    assert_same(found.after(digest(1)), remembered(1))
    assert found.after(digest(2)).empty
    # Its place is the next one's.
    found.put(memory(3), remembered(3), digest(1))
    assert set(Remembrance(tmp_path, LARGE).memories) == {memory(1), memory(3)}


def test_half_a_temporary_file_is_never_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    whole = whole_file(tmp_path)
    (tmp_path / f".{FILES[0]}.new").write_bytes(whole[:100])
    assert set(Remembrance(tmp_path, LARGE).memories) == {memory(1), memory(2)}
    assert caplog.records == []


@pytest.mark.parametrize("step", [1, 2, 3])
def test_a_disk_that_refuses_is_told_and_the_memory_is_not_taken_for_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    it = filled(tmp_path, 1)
    with monkeypatch.context() as patch:
        calls: list[int] = []

        def refuse(*_arguments: Any) -> None:
            calls.append(1)
            if len(calls) == step:
                raise OSError(28, "No space left on device")

        patch.setattr(os, "fsync", refuse)
        real = Path.replace
        patch.setattr(Path, "replace", lambda self, target: refuse() or real(self, target))
        with pytest.raises(
            ResourceError, match=r"memory-1\.safetensors: cannot be written \(No space left on device\); free some"
        ):
            it.put(memory(2), remembered(2), digest(1))
    assert it.memories == (memory(1),)
    assert it.after(digest(2)) == NOTHING


def test_a_memory_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / FILES[0]).mkdir()
    with pytest.raises(ResourceError, match=r"memory-0\.safetensors: cannot be read \(Is a directory\)"):
        Remembrance(tmp_path, LARGE)
