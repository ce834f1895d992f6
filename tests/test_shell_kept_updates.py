"""What a controller keeps of its rounds: all of it or nothing, within its bound, and nothing that was not committed."""

from __future__ import annotations

import dataclasses
import resource
from pathlib import Path

import pytest
from audited_runs import LAYOUT, MODEL, RUN_ID, Controller

from edge_peer.protocol import events as ev
from edge_peer.protocol.run_settings import RunSettings
from edge_peer.shell.global_model import GlobalModel
from edge_peer.shell.kept_updates import round_of
from edge_peer.shell.payload import decode_encoded, decode_model, decode_offer, decode_update, encode_update

INITIAL = GlobalModel(MODEL.initial())


def rounds(folder: Path) -> dict[str, set[str]]:
    """Names of the files of each round that is kept."""
    updates = folder / "runs" / RUN_ID / "updates"
    return {it.name: {path.name for path in it.iterdir()} for it in updates.iterdir()} if updates.is_dir() else {}


def led(controller: Controller, count: int, first: int = 1, base: GlobalModel = INITIAL, term: int = 1) -> GlobalModel:
    for round_ in range(first, first + count):
        base, _ = controller.round(term, round_, base)
    return base


def test_each_committed_round_has_every_update_that_was_counted(tmp_path: Path) -> None:
    controller = Controller(tmp_path, "a", RunSettings(codec="int4"))
    led(controller, 2)
    controller.kept.stop()
    files = {"a.safetensors", "b.safetensors", "c.safetensors"}
    assert rounds(tmp_path) == {"1": files, "2": files}
    for peer in "abc":
        payload = (tmp_path / "runs" / RUN_ID / "updates/2" / f"{peer}.safetensors").read_bytes()
        offer = decode_offer(payload)
        assert (offer.round, offer.session) == (2, f"session-{peer}")
        assert decode_update(payload, offer, LAYOUT).digest == offer.digest
        assert len(payload) < LAYOUT.size, "as it was sent: half a byte a value"


def test_what_is_kept_is_what_was_accepted_and_not_what_was_said_of_it_before_or_after(tmp_path: Path) -> None:
    """The same values have been offered for another term, and for a third one with another weight."""
    controller = Controller(tmp_path, "a", RunSettings())
    offer, payload = controller.offer("b", 1, 1, INITIAL.digest)
    encoded = decode_encoded(payload, offer.codec, LAYOUT)
    for said in (offer, dataclasses.replace(offer, term=3, examples=7)):
        controller.receive("b", encode_update(said, encoded))
    led(controller, 1, term=2)
    controller.kept.stop()
    kept = decode_offer((tmp_path / "runs" / RUN_ID / "updates/1/b.safetensors").read_bytes())
    assert (kept.term, kept.examples, kept.digest) == (2, 150, offer.digest)


def test_what_is_in_another_codec_than_the_runs_is_not_held(tmp_path: Path) -> None:
    """It decodes to the same values, and is refused; what is accepted must not be kept in its form."""
    controller = Controller(tmp_path, "a", RunSettings(codec="int8"))
    offer, _ = controller.offer("b", 1, 1, INITIAL.digest)
    plain = Controller(tmp_path / "other", "a", RunSettings(codec="float32"))
    _, payload = plain.offer("b", 1, 1, INITIAL.digest)
    controller.kept.receive(decode_offer(payload), b"not looked at")
    led(controller, 1)
    controller.kept.stop()
    assert decode_offer((tmp_path / "runs" / RUN_ID / "updates/1/b.safetensors").read_bytes()) == offer


def test_nothing_is_kept_before_the_commit_and_nothing_of_a_round_that_failed(tmp_path: Path) -> None:
    controller = Controller(tmp_path, "a", RunSettings())
    _, command = controller.round(1, 1, INITIAL)
    controller.kept.merge(command, ev.AggregateFailed(1, RUN_ID, 1, "it cannot be merged"))
    controller.kept.commit("0" * 64)
    controller.kept.stop()
    assert set(rounds(tmp_path)) == {"1"}
    other = Controller(tmp_path / "b", "a", RunSettings())
    offers = [other.offer(peer, 1, 1, INITIAL.digest) for peer in "abc"]
    for peer, (_, payload) in zip("bc", offers[1:], strict=True):
        other.receive(peer, payload)
    other.kept.merge(command, other.merger.merge(command))
    other.kept.commit("0" * 64)
    other.kept.stop()
    assert rounds(tmp_path / "b") == {}


def test_nothing_is_kept_where_central_privacy_is_promised(tmp_path: Path) -> None:
    controller = Controller(tmp_path, "a", RunSettings(privacy="central"))
    led(controller, 2)
    controller.kept.stop()
    assert rounds(tmp_path) == {}


def test_a_base_is_kept_where_the_rounds_before_are_not_here_and_every_tenth_round(tmp_path: Path) -> None:
    controller = Controller(tmp_path, "a", RunSettings())
    model = led(controller, 12)
    controller.kept.stop()
    with_base = [int(name) for name, files in rounds(tmp_path).items() if "_base.safetensors" in files]
    assert with_base == [11]
    # Another process of the same peer: what it goes on from is no round of its own.
    again = Controller(tmp_path, "a", RunSettings())
    again.vectors.hold_model(model.digest, model)
    led(again, 2, 13, model, term=2)
    again.kept.stop()
    assert sorted(int(name) for name, files in rounds(tmp_path).items() if "_base.safetensors" in files) == [11, 13]
    base = (tmp_path / "runs" / RUN_ID / "updates/13/_base.safetensors").read_bytes()
    assert decode_model(LAYOUT, base)[1].digest == model.digest


def test_the_oldest_rounds_go_first_also_those_of_earlier_runs_and_processes(tmp_path: Path) -> None:
    controller = Controller(tmp_path, "a", RunSettings())
    led(controller, 1)
    controller.kept.stop()
    run = tmp_path / "runs" / RUN_ID
    size = sum(path.stat().st_size for path in (run / "updates/1").iterdir())
    run.rename(run.with_name("20250101-000000-000000"))
    (run.with_name("20250101-000000-000000") / "updates" / ".9.new").mkdir()
    again = Controller(tmp_path, "a", RunSettings(), bytes_max=int(3.5 * size))
    model = led(again, 2)
    again.kept.stop()
    assert set(rounds(tmp_path)) == {"1", "2"}
    old = run.with_name("20250101-000000-000000") / "updates"
    assert {it.name for it in old.iterdir()} == {"1"}, "what was half written is removed"
    once_more = Controller(tmp_path, "a", RunSettings(), bytes_max=int(3.5 * size))
    once_more.vectors.hold_model(model.digest, model)
    # Its first round comes with a base, which is as large as more than one round.
    led(once_more, 2, 3, model)
    once_more.kept.stop()
    assert list(old.iterdir()) == []
    kept = rounds(tmp_path)
    assert "4" in kept
    assert "1" not in kept
    total = sum(path.stat().st_size for path in run.glob("updates/*/*"))
    assert total <= int(3.5 * size)


def test_a_round_that_is_larger_than_the_bound_is_told_and_removes_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = Controller(tmp_path, "a", RunSettings(codec="int4"))
    model = led(first, 1)
    first.kept.stop()
    second = Controller(tmp_path, "a", RunSettings(codec="float32"), bytes_max=100_000)
    second.vectors.hold_model(model.digest, model)
    led(second, 1, 2, model)
    second.kept.stop()
    assert set(rounds(tmp_path)) == {"1"}
    assert "more than [peer] keep_updates_bytes_max = 100000; raise that" in caplog.text


def test_a_round_that_is_committed_again_takes_the_place_of_the_first(tmp_path: Path) -> None:
    for term in (1, 2):
        controller = Controller(tmp_path, "a", RunSettings())
        led(controller, 1, term=term)
        controller.kept.stop()
    assert set(rounds(tmp_path)) == {"1"}
    assert decode_offer((tmp_path / "runs" / RUN_ID / "updates/1/b.safetensors").read_bytes()).term == 2


def test_a_disk_that_takes_nothing_costs_the_record_and_not_the_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A limit on file size stands for the disk."""
    controller = Controller(tmp_path, "a", RunSettings())
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        model = led(controller, 2)
        controller.kept.stop()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caplog.text.count("not kept: ") == 2
    assert [it for it in rounds(tmp_path) if not it.startswith(".")] == []
    again = Controller(tmp_path, "a", RunSettings())
    again.vectors.hold_model(model.digest, model)
    led(again, 1, 3, model)
    again.kept.stop()
    assert set(rounds(tmp_path)) == {"3"}


@pytest.mark.parametrize("name", ["", "x", "-1", "01", "1.5", "٣", "1" * 16, ".1.new"])
def test_no_other_folder_is_one_of_a_round(name: str) -> None:
    assert round_of(Path("updates", name)) is None


def test_rounds_are_told_by_their_folders() -> None:
    assert [round_of(Path("updates", name)) for name in ("1", "20", "123456789012345")] == [1, 20, 123456789012345]
