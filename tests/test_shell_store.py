"""The state and the model on disk: old or new after a loss of power at any step, and never written for nothing."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny import LAYOUT, model, ref_of

from aggregator_core import Layout, Tensor
from edge_peer.errors import ResourceError
from edge_peer.protocol.run_settings import RunSettings
from edge_peer.protocol.state import Memory, RunRecord, SavedState
from edge_peer.protocol.tensors import ModelRef
from edge_peer.shell.global_model import SLOTS, GlobalModel
from edge_peer.shell.store import Store, write_atomically

STATE = SavedState(voted_term=4, voted_for="roof", elected_term=3, run=RunRecord("run-1", 1, RunSettings()), finished=0)


class PowerLossError(BaseException):
    """The process is gone; no handler of ours may swallow it."""


def save(store: Store, layout: Layout, ref: ModelRef, it: GlobalModel) -> None:
    """Write a model, and wait for it."""
    store.save_model(layout, ref, it)
    store.settle()


def assert_same(found: GlobalModel | None, expected: GlobalModel) -> None:
    assert found is not None
    np.testing.assert_array_equal(found.vector, expected.vector)
    assert found.digest == expected.digest


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


def test_what_was_saved_is_loaded_by_the_next_process(tmp_path: Path) -> None:
    store, saved = Store(tmp_path / "new" / "state"), model()
    assert store.load(LAYOUT) == (SavedState(), None)
    store.save_state(STATE)
    save(store, LAYOUT, ref_of(saved), saved)
    state, found = Store(tmp_path / "new" / "state").load(LAYOUT)
    assert state == replace(STATE, held=ref_of(saved))
    assert found is not None
    assert_same(found, saved)


def test_what_belongs_to_a_model_is_saved_with_it(tmp_path: Path) -> None:
    store, saved = Store(tmp_path), model(1, LAYOUT, *SLOTS)
    save(store, LAYOUT, ref_of(saved), saved)
    state, found = Store(tmp_path).load(LAYOUT)
    assert state.held == ref_of(saved)
    assert_same(found, saved)
    assert found is not None
    assert found.server.keys() == set(SLOTS)
    for slot in SLOTS:
        np.testing.assert_array_equal(found.server[slot], saved.server[slot])


def test_memories_are_not_in_the_state_but_in_files_of_their_own(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.save_state(replace(STATE, memories=(Memory("run-1", 3, "a" * 64),)))
    assert Store(tmp_path).load(LAYOUT) == (STATE, None)


def test_the_checkpoint_says_which_model_is_held(tmp_path: Path) -> None:
    """It is written more often than the state, whose own word is not asked."""
    store, saved = Store(tmp_path), model()
    store.save_state(replace(STATE, held=ref_of(model(9))))
    assert Store(tmp_path).load(LAYOUT)[0].held is None
    save(store, LAYOUT, ref_of(saved, 7), saved)
    assert Store(tmp_path).load(LAYOUT)[0].held == ref_of(saved, 7)


def test_the_order_of_steps_is_that_of_a_durable_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = dying_at(99, monkeypatch)
    write_atomically(tmp_path / "it", b"new")
    assert calls == ["fsync", "replace", "fsync"]


@pytest.mark.parametrize("step", [1, 2, 3])
def test_after_a_loss_of_power_the_state_is_the_old_or_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    store, new = Store(tmp_path), replace(STATE, voted_term=5, voted_for="cellar")
    store.save_state(STATE)
    with monkeypatch.context() as patch:
        dying_at(step, patch)
        with pytest.raises(PowerLossError):
            store.save_state(new)
    found, _ = Store(tmp_path).load(LAYOUT)
    assert found == (STATE if step < 3 else new)
    # The next process writes as if nothing had happened.
    Store(tmp_path).save_state(new)
    assert Store(tmp_path).load(LAYOUT)[0] == new


@pytest.mark.parametrize("step", [1, 2, 3])
def test_after_a_loss_of_power_the_model_is_the_old_or_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    store, old, new = Store(tmp_path), model(1), model(2)
    save(store, LAYOUT, ref_of(old, 1), old)
    with monkeypatch.context() as patch:
        dying_at(step, patch)
        with pytest.raises(PowerLossError):
            save(store, LAYOUT, ref_of(new, 2), new)
    state, found = Store(tmp_path).load(LAYOUT)
    expected, round_ = (old, 1) if step < 3 else (new, 2)
    assert state.held == ref_of(expected, round_)
    assert_same(found, expected)


def test_half_a_temporary_file_is_never_read(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.save_state(STATE)
    (tmp_path / ".state.json.new").write_bytes(b'{"voted_term": 99')
    assert Store(tmp_path).load(LAYOUT)[0] == STATE


@pytest.mark.parametrize("step", [1, 2, 3])
def test_a_disk_that_refuses_is_told_and_the_state_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    store = Store(tmp_path)
    store.load(LAYOUT)
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
            ResourceError, match=r"state\.json: cannot be written \(No space left on device\); free some"
        ):
            store.save_state(STATE)
    assert store.bytes_written == 0
    # It was not taken for saved: the same state is written now.
    store.save_state(STATE)
    assert Store(tmp_path).load(LAYOUT)[0] == STATE


def counting(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    return dying_at(-1, monkeypatch)


def test_nothing_is_written_when_nothing_has_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, saved = Store(tmp_path), model()
    store.save_state(STATE)
    save(store, LAYOUT, ref_of(saved), saved)
    before = store.bytes_written
    calls = counting(monkeypatch)
    store.save_state(STATE)
    store.save_state(replace(STATE, held=ref_of(saved)))
    save(store, LAYOUT, ref_of(saved), saved)
    assert (calls, store.bytes_written) == ([], before)


def test_nothing_is_written_after_a_restart_either(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, saved = Store(tmp_path), model()
    store.save_state(STATE)
    save(store, LAYOUT, ref_of(saved), saved)
    store = Store(tmp_path)
    state, found = store.load(LAYOUT)
    calls = counting(monkeypatch)
    store.save_state(state)
    save(store, LAYOUT, ref_of(saved), found)
    assert (calls, store.bytes_written) == ([], 0)


def test_bytes_are_counted(tmp_path: Path) -> None:
    store, saved = Store(tmp_path), model()
    store.save_state(STATE)
    save(store, LAYOUT, ref_of(saved), saved)
    names = ("state.json", "checkpoint.safetensors")
    assert store.bytes_written == sum((tmp_path / name).stat().st_size for name in names)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)


DAMAGED = {
    "empty": b"",
    "zeros": bytes(300),
    "text": b"not json",
    "list": b"[]",
    "depth": b"[" * 100_000,
    "half": b'{"vot',
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_state_is_set_aside(tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str) -> None:
    store, saved = Store(tmp_path), model()
    store.save_state(STATE)
    save(store, LAYOUT, ref_of(saved), saved)
    (tmp_path / "state.json").write_bytes(DAMAGED[name])
    with caplog.at_level(logging.ERROR):
        state, found = Store(tmp_path).load(LAYOUT)
    assert state == SavedState(held=ref_of(saved))
    assert_same(found, saved)
    assert (tmp_path / "state.json.damaged").read_bytes() == DAMAGED[name]
    assert not (tmp_path / "state.json").exists()
    assert "state.json is damaged" in caplog.text
    assert "set aside as state.json.damaged" in caplog.text


def test_a_checkpoint_with_any_byte_changed_is_set_aside(tmp_path: Path) -> None:
    store, saved = Store(tmp_path), model()
    store.save_state(STATE)
    save(store, LAYOUT, ref_of(saved), saved)
    whole = (tmp_path / "checkpoint.safetensors").read_bytes()
    values = len(whole) - 4 * LAYOUT.size
    for place in range(values, len(whole)):
        (tmp_path / "checkpoint.safetensors").write_bytes(
            whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :]
        )
        assert Store(tmp_path).load(LAYOUT) == (STATE, None)
        assert (tmp_path / "checkpoint.safetensors.damaged").exists()


def test_a_checkpoint_of_another_model_is_set_aside(tmp_path: Path) -> None:
    saved = model()
    save(Store(tmp_path), LAYOUT, ref_of(saved), saved)
    other = Layout((Tensor("dense/kernel", (9,), 0),))
    assert Store(tmp_path).load(other) == (SavedState(), None)
    assert (tmp_path / "checkpoint.safetensors.damaged").exists()


def test_a_damaged_checkpoint_is_written_anew(tmp_path: Path) -> None:
    saved = model()
    (tmp_path / "checkpoint.safetensors").write_bytes(b"rubbish")
    store = Store(tmp_path)
    store.load(LAYOUT)
    save(store, LAYOUT, ref_of(saved), saved)
    assert Store(tmp_path).load(LAYOUT)[0].held == ref_of(saved)


def test_a_folder_that_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(
        ResourceError, match=r"\[peer\] state_dir = '.*/file/state' cannot be written to \(.*\); make it"
    ):
        Store(tmp_path / "file" / "state")


def test_a_state_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "state.json").mkdir()
    with pytest.raises(ResourceError, match=r"state\.json: cannot be read \(Is a directory\)"):
        Store(tmp_path).load(LAYOUT)


def test_a_model_that_the_disk_refuses_is_told_when_it_matters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, saved = Store(tmp_path), model()
    (tmp_path / ".checkpoint.safetensors.new").mkdir()
    store.save_model(LAYOUT, ref_of(saved), saved)
    for _ in range(2):
        with pytest.raises(ResourceError, match=r"checkpoint\.safetensors: cannot be written"):
            store.settle()
    with pytest.raises(ResourceError):
        store.settle(wait=False)
