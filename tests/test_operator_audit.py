"""A run that is as it was written audits clean, and whatever is changed in it is found, whoever has changed it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from audited_runs import ARTIFACTS, LAYOUT, MODEL, RUN_ID, Controller, Made, change_of
from hypothesis import example, given, settings
from hypothesis import strategies as st
from test_aggregator_determinism import ROOT, dispatched

from edge_peer.__main__ import main
from edge_peer.operator.audit.command import examine
from edge_peer.operator.audit.log import FAULTS_MAX, Verdict
from edge_peer.operator.fleet.collect import gather
from edge_peer.protocol.run_settings import RunSettings
from edge_peer.protocol.tensors import ModelRef
from edge_peer.shell.global_model import GlobalModel
from edge_peer.shell.payload import decode_model, decode_offer, encode_model

#: One of each kind of arithmetic.
RUNS = {
    "fedavg": RunSettings(),
    "float32": RunSettings(codec="float32"),
    "delta": RunSettings(codec="int4", downlink="int8"),
    "fedadam": RunSettings(server_optimizer="fedadam", server_parameters={"learning_rate": 0.01}, downlink="float16"),
    "scaffold": RunSettings(
        scaffold=True, learning_rate=0.1, server_optimizer="fedavgm", codec="topk-0.1", error_feedback=True
    ),
    "fednova": RunSettings(rule="fednova", learning_rate=0.1),
    "qfedavg": RunSettings(rule="qfedavg", learning_rate=0.1, rule_parameters={"q": 0.5}),
    "median": RunSettings(rule="median"),
    "geometric median": RunSettings(rule="geometric_median"),
    "local privacy": RunSettings(privacy="local"),
}


def found(run: Path) -> tuple[Verdict, dict[int, str]]:
    verdict = Verdict()
    return verdict, {round_: outcome.state for round_, outcome, _ in examine(run, MODEL, verdict)}


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Made().folder(tmp_path_factory.mktemp("original"))


@pytest.fixture
def run(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / RUN_ID))


def edit(run: Path, line: Callable[[dict[str, Any]], dict[str, Any] | None]) -> None:
    """The round log with each line as this makes it; None: without it."""
    path = run / "rounds.jsonl"
    lines = [line(json.loads(text)) for text in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(it, sort_keys=True) + "\n" for it in lines if it is not None))


# ---------------------------------------------------------------------- as it was written


@pytest.mark.parametrize("name", RUNS)
def test_every_round_is_made_again_byte_for_byte(tmp_path: Path, name: str) -> None:
    verdict, states = found(Made(RUNS[name]).folder(tmp_path))
    assert verdict.faults == verdict.notes == []
    assert states == dict.fromkeys((1, 2, 3, 4), "recomputed")


def test_the_noise_of_a_controller_is_drawn_by_nobody_else_and_no_update_is_kept(tmp_path: Path) -> None:
    run = Made(RunSettings(privacy="central")).folder(tmp_path)
    assert not (run / "updates").exists()
    verdict, states = found(run)
    assert verdict.faults == []
    assert states == dict.fromkeys((1, 2, 3, 4), "digests only")


def test_who_kept_nothing_is_checked_by_digests_and_the_next_one_begins_with_a_base_of_its_own(tmp_path: Path) -> None:
    verdict, states = found(Made(keep=("b",)).folder(tmp_path / "second"))
    assert verdict.faults == []
    assert states == {1: "digests only", 2: "digests only", 3: "recomputed", 4: "recomputed"}
    verdict, states = found(Made(keep=("a",)).folder(tmp_path / "first"))
    assert verdict.faults == []
    assert states == {1: "recomputed", 2: "recomputed", 3: "digests only", 4: "digests only"}


def test_a_round_that_nobody_had_heard_of_is_noted_and_no_fault(tmp_path: Path) -> None:
    """Its controller died; the next one made the round again, of the same updates and to the same bytes."""
    verdict, states = found(Made(lost=True).folder(tmp_path))
    assert verdict.faults == []
    (note,) = verdict.notes
    assert note.startswith("round 3 of term 1 (a) was committed twice, with the same bytes: its controller was gone")
    assert set(states.values()) == {"recomputed"}


def test_a_controllers_own_files_can_be_audited_where_they_are(tmp_path: Path) -> None:
    boards = Made(keep=("a", "b")).boards(tmp_path)
    run = boards["a"] / "runs" / RUN_ID
    (run / "model.safetensors").unlink()
    (run / "a.csv").unlink()
    verdict, states = found(run)
    assert verdict.faults == []
    assert states == {1: "recomputed", 2: "recomputed"}


def test_a_folder_of_another_name_is_the_same_run(run: Path) -> None:
    verdict, states = found(run.rename(run.with_name("kitchen")))
    assert verdict.faults == []
    assert verdict.notes == [f"the folder is called kitchen, the run {RUN_ID}"]
    assert set(states.values()) == {"recomputed"}


@pytest.mark.parametrize(
    "settings_",
    [
        {"OPENBLAS_CORETYPE": "Nehalem", "OPENBLAS_NUM_THREADS": "2", "PYTHONHASHSEED": "1"},
        {"NPY_DISABLE_CPU_FEATURES": " ".join(dispatched), "PYTHONHASHSEED": "2"},
    ],
    ids=["another BLAS", "no vector instructions"],
)
def test_two_controllers_that_are_fed_the_same_updates_make_the_same_bytes(
    tmp_path: Path, settings_: dict[str, str]
) -> None:
    """One in this process, one in another with other kernels: from the payloads to the model's file."""
    for name in ("fedadam", "geometric median"):
        run = Made(RUNS[name]).folder(tmp_path / name.replace(" ", "-"))
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-m", "edge_peer", "audit", run],
            cwd=ROOT,
            env={**os.environ, **settings_},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stdout.splitlines()[-1] == "clean: 4 rounds, 4 recomputed"


@pytest.mark.parametrize("name", RUNS)
def test_two_controllers_that_hear_the_same_updates_in_another_order_make_the_same_file(
    tmp_path: Path, name: str
) -> None:
    """Each has made one of them itself, and received the others."""
    one, other = (Controller(tmp_path / it, it, RUNS[name]) for it in ("a", "b"))
    bases = [GlobalModel(MODEL.initial())] * 2
    for round_ in (1, 2, 3):
        made = [it.round(1, round_, base)[0] for it, base in zip((one, other), bases, strict=True)]
        files = [encode_model(LAYOUT, ModelRef(RUN_ID, 1, round_, 1, it.digest), it) for it in made]
        assert files[0] == files[1]
        assert made[0].digest != bases[0].digest
        bases = made
    for it in (one, other):
        it.kept.stop()


# ---------------------------------------------------------------------- the command


def test_the_command_says_what_holds_of_each_round(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["audit", str(run)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5
    assert lines[0].startswith("round 1    recomputed    ")
    assert lines[0].endswith(", term 1, a: of 3 updates, byte for byte")
    assert lines[4] == "clean: 4 rounds, 4 recomputed"
    shutil.rmtree(run / "updates" / "a")
    (run / "config.toml").write_text("not TOML")
    assert main(["audit", str(run)]) == 2
    assert "name the folder of the model's artifacts: --artifacts FOLDER" in capsys.readouterr().err
    assert main(["audit", str(run), "--artifacts", str(ARTIFACTS)]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[-1] == "clean: 4 rounds, 2 recomputed, 2 digests only"
    edit(run, lambda it: it if it.get("round") != 4 or it["event"] != "committed" else None)
    assert main(["audit", str(run), "--artifacts", str(ARTIFACTS)]) == 1
    out = capsys.readouterr().out
    assert "round 4    missing       no log tells of it" in out
    assert "FAULT  the final model is made of round 4, and no log tells of round 4" in out
    assert main(["audit", str(run / "nothing")]) == 2
    config = run / "config.toml"
    config.write_text('[peer]\nname = "a"\nstate_dir = "s"\ntrain = false\n[model]\nartifacts = "nowhere"\n')
    assert main(["audit", str(run)]) == 2
    assert "nowhere/manifest.json" in capsys.readouterr().err


# ---------------------------------------------------------------------- changed afterwards


def flip(path: Path, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[bit // 8 % len(content)] ^= 1 << bit % 8
    path.write_bytes(content)


@settings(max_examples=40, deadline=None)
@given(round_=st.integers(1, 4), peer=st.sampled_from("abc"), bit=st.integers(0, 8 * 29_000))
def test_any_bit_of_an_update_that_matters_is_missed_by_nobody(
    original: Path, tmp_path_factory: pytest.TempPathFactory, round_: int, peer: str, bit: int
) -> None:
    run = Path(shutil.copytree(original, tmp_path_factory.mktemp("flipped") / RUN_ID))
    path = run / "updates" / ("a" if round_ < 3 else "b") / str(round_) / f"{peer}.safetensors"
    before = decode_offer(path.read_bytes())
    flip(path, bit)
    verdict, states = found(run)
    if verdict.faults:
        assert any(str(path.relative_to(run)) in fault for fault in verdict.faults)
        assert states[round_] == "digests only"
    else:
        # A session's name, or a space in JSON: nothing that a model depends on.
        after = decode_offer(path.read_bytes())
        assert {**vars_of(after), "session": ""} == {**vars_of(before), "session": ""}
        assert set(states.values()) == {"recomputed"}
    shutil.rmtree(run)


def vars_of(offer: Any) -> dict[str, Any]:
    return {name: getattr(offer, name) for name in offer.__dataclass_fields__}


@settings(max_examples=40, deadline=None)
@given(bit=st.integers(0, 2**20), name=st.sampled_from(["rounds.jsonl", "a.csv", "model.safetensors", "config.toml"]))
@example(bit=873, name="model.safetensors")
def test_a_bit_of_any_file_never_raises_and_never_makes_another_model_pass(
    original: Path, tmp_path_factory: pytest.TempPathFactory, bit: int, name: str
) -> None:
    run = Path(shutil.copytree(original, tmp_path_factory.mktemp("flipped") / RUN_ID))
    before = (run / name).read_bytes()
    flip(run / name, bit)
    verdict, states = found(run)
    if name == "model.safetensors" and not any(name in fault for fault in verdict.faults):
        # How many runs were before it: nothing else tells that, and no model depends on it.
        ref, model = decode_model(LAYOUT, (run / name).read_bytes())
        own, its = decode_model(LAYOUT, before)
        assert replace(ref, run_number=own.run_number) == own
        assert model.digest == its.digest
    if not verdict.faults:
        assert set(states.values()) == {"recomputed"}
    shutil.rmtree(run)


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_rubbish_in_any_file_is_named_and_never_raises(
    original: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    run = Path(shutil.copytree(original, tmp_path_factory.mktemp("rubbish") / RUN_ID))
    files = [it for it in sorted(run.rglob("*")) if it.is_file() and it.suffix != ".toml"]
    path = data.draw(st.sampled_from(files))
    json_ = st.recursive(st.none() | st.floats() | st.integers() | st.text(max_size=5), st.lists, max_leaves=5)
    lines = st.dictionaries(st.sampled_from(["event", "term", "peer", "round", "accepted", "settings"]), json_)
    text = lines.map(lambda it: json.dumps({"event": "committed", "term": 1, "peer": "a", **it}).encode() + b"\n")
    path.write_bytes(data.draw(st.binary(max_size=300) | text))
    verdict, _ = found(run)
    # A CSV without a row is one of a peer that has none yet.
    assert verdict.faults or verdict.notes == [f"{path.name}: there is no row in it"]
    shutil.rmtree(run)


#: What is done to the log, and what is said of it.
CHANGES: dict[str, tuple[Callable[[dict[str, Any]], dict[str, Any] | None], str]] = {
    "a round is left out": (
        lambda it: None if it["event"] == "committed" and it["round"] == 2 else it,
        "round 3 of term 2 (b) is made of round 2, and no log tells of round 2",
    ),
    "two rounds change places": (
        lambda it: {**it, "round": {1: 2, 2: 1}.get(it["round"], it["round"])} if it["event"] == "committed" else it,
        "line 3: round 1 of term 1 (a) stands after round 2",
    ),
    "another model": (
        lambda it: {**it, "sha256": "0" * 64} if it["event"] == "committed" and it["round"] == 3 else it,
        "but round 3 of term 2 (b) has made 000000000000",
    ),
    "another base": (
        lambda it: {**it, "base": "1" * 64} if it["event"] == "committed" and it["round"] == 1 else it,
        "begins with 111111111111, the artifacts' initial weights are",
    ),
    "another peer's update": (
        lambda it: with_update(it, 2, "a", "digest", "2" * 64),
        "updates/a/2/a.safetensors: digest is",
    ),
    "other weights": (lambda it: with_update(it, 2, "b", "examples", 9), "b.csv, line 4: examples is 150, the log"),
    "another loss": (lambda it: with_update(it, 2, "b", "loss", 0.75), "b.csv, line 4: train_loss is 0.85, the log"),
    "other steps": (lambda it: with_update(it, 2, "b", "steps", 9), "b.safetensors: steps is 4, the log says 9"),
    "no such update": (
        lambda it: {**it, "accepted": {"a": it["accepted"]["a"]}} if it["event"] == "committed" else it,
        "updates/a/1/b.safetensors: round 1 of term 1 (a) has counted no update of this peer",
    ),
    "another end": (
        lambda it: {**it, "sha256": "3" * 64} if it["event"] == "finished" else it,
        "and no log tells of such an end",
    ),
    "another takeover": (
        lambda it: {**it, "sha256": "4" * 64} if it["event"] == "resumed" else it,
        "goes on from 444444444444 of round 2, which nobody has committed",
    ),
    "other settings": (
        lambda it: {**it, "settings": {**it["settings"], "seed": 2}} if it["event"] == "resumed" else it,
        "b goes on with other settings than the run was started with",
    ),
    "settings of another rule": (
        lambda it: {**it, "settings": {**it["settings"], "rule": "median"}} if "settings" in it else it,
        "the updates that were kept make model",
    ),
    "settings of no rule": (
        lambda it: {**it, "settings": {**it["settings"], "rule": "mode"}} if "settings" in it else it,
        "no model can be made of the updates that were kept: rule 'mode' is not one of",
    ),
    "another accuracy": (
        lambda it: {**it, "accuracy": 0.9} if it["event"] == "evaluated" and it["round"] == 2 else it,
        "accuracy of round 2 is 0.9, the peers' rows make",
    ),
    "another term": (
        lambda it: {**it, "term": 7} if it["event"] == "committed" and it["round"] == 4 else it,
        "no log tells of round 4 in term 2",
    ),
}


def with_update(line: dict[str, Any], round_: int, peer: str, key: str, value: Any) -> dict[str, Any]:
    if line["event"] != "committed" or line["round"] != round_:
        return line
    accepted = line["accepted"]
    return {**line, "accepted": {**accepted, peer: {**accepted[peer], key: value}}}


@pytest.mark.parametrize("what", CHANGES)
def test_a_change_of_the_log_is_found(run: Path, what: str) -> None:
    change, said = CHANGES[what]
    edit(run, change)
    verdict, _ = found(run)
    assert any(said in fault for fault in verdict.faults), verdict.faults


def test_one_update_for_two_peers_or_two_rounds(run: Path) -> None:
    lines = [json.loads(it) for it in (run / "rounds.jsonl").read_text().splitlines()]
    first = next(it for it in lines if it["event"] == "committed")["accepted"]
    shutil.rmtree(run / "updates")
    edit(run, lambda it: with_update(it, 4, "c", "digest", first["a"]["digest"]))
    assert any("is counted twice: of a in round 1 and of c in round 4" in it for it in found(run)[0].faults)
    edit(run, lambda it: with_update(it, 1, "b", "digest", first["a"]["digest"]))
    assert any("is counted twice: of a in round 1 and of b in round 1" in it for it in found(run)[0].faults)


def test_two_models_of_one_round_and_term(run: Path) -> None:
    path = run / "rounds.jsonl"
    line = next(it for it in path.read_text().splitlines() if '"committed"' in it and '"round": 2' in it)
    twin = json.loads(line) | {"sha256": "5" * 64, "peer": "c"}
    path.write_text(path.read_text() + json.dumps(twin) + "\n")
    assert any("two models of one round and term" in it for it in found(run)[0].faults)


def test_a_round_committed_again_in_another_term_is_told(run: Path) -> None:
    path = run / "rounds.jsonl"
    line = next(it for it in path.read_text().splitlines() if '"committed"' in it and '"round": 2' in it)
    path.write_text(path.read_text() + json.dumps(json.loads(line) | {"sha256": "5" * 64, "term": 3}) + "\n")
    verdict, states = found(run)
    assert [it for it in verdict.notes if "was committed twice, and given up for another" in it]
    assert set(states.values()) == {"recomputed"}


def test_rounds_whose_files_changed_places(run: Path) -> None:
    folders = [run / "updates/a" / name for name in ("1", "2", "3")]
    folders[0].rename(folders[2])
    folders[1].rename(folders[0])
    folders[2].rename(folders[1])
    verdict, states = found(run)
    assert sum("the log says" in it for it in verdict.faults) == 6
    assert (states[1], states[2]) == ("digests only", "digests only")
    # b has kept what its first round began with, so the others stand for themselves.
    assert (states[3], states[4]) == ("recomputed", "recomputed")


def test_updates_that_are_missing_or_too_many(run: Path) -> None:
    (run / "updates/a/1/b.safetensors").unlink()
    shutil.copy(run / "updates/a/2/b.safetensors", run / "updates/a/2/stranger.safetensors")
    shutil.copytree(run / "updates/b/4", run / "updates/b/9")
    faults = found(run)[0].faults
    assert "updates/a/1/b.safetensors: b.safetensors is missing" in faults
    assert any(it.startswith("updates/a/2/stranger.safetensors: round 2") for it in faults)
    assert "updates/b/9: updates are kept, but no log tells of such a round" in faults


def test_a_base_that_was_changed(run: Path) -> None:
    path = run / "updates/b/3/_base.safetensors"
    flip(path, 8 * (path.stat().st_size - 1))
    verdict, states = found(run)
    assert any(it.startswith("updates/b/3/_base.safetensors: ") for it in verdict.faults)
    assert set(states.values()) == {"recomputed"}, "it was made again of the rounds before"
    other = GlobalModel(change_of("z", 1).vector)
    path.write_bytes(encode_model(LAYOUT, ModelRef(RUN_ID, 1, 2, 2, other.digest), other))
    assert any("begins with another" in it for it in found(run)[0].faults)


def test_a_final_model_that_is_another(run: Path) -> None:
    path = run / "model.safetensors"
    ref, model = decode_model(LAYOUT, path.read_bytes())
    other = GlobalModel(model.vector + 1)
    path.write_bytes(encode_model(LAYOUT, ModelRef(RUN_ID, 1, 4, 2, other.digest), other))
    verdict, _ = found(run)
    assert any("no log tells of such an end" in it for it in verdict.faults)
    assert any(it.startswith("the final model is made of") for it in verdict.faults)
    path.write_bytes(encode_model(LAYOUT, ModelRef("another-run", 1, 4, 2, model.digest), model))
    assert any("is of run another-run" in it for it in found(run)[0].faults)
    path.write_bytes(encode_model(LAYOUT, ModelRef(RUN_ID, 1, 4, 3, model.digest), model))
    assert found(run)[0].faults == ["model.safetensors: is of term 3, in which no log tells of a round"]
    path.unlink()
    assert found(run)[0].faults == ["the run has ended, but model.safetensors is missing"]
    assert ref.round == 4


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("examples", "101", "examples is 101, the log counts 100"),
        ("train_loss", "0.1", "train_loss is 0.1, the log has"),
        ("term", "2", "no log tells of round 2 in term 2"),
        ("round", "1", "round 1 stands after round 1"),
        ("run_id", "another", f"run_id is 'another', not {RUN_ID}"),
        ("peer", "b", "peer is 'b', not a"),
        ("global_accuracy", "0.9", "the peers' rows make"),
        ("global_accuracy", "nan", "the peers' rows make nan"),
        ("test_examples", "1", "the peers' rows make"),
        ("test_examples", "-1", "test_examples is '-1', which is no count"),
    ],
)
def test_a_change_of_a_csv_is_found(run: Path, column: str, value: str, said: str) -> None:
    path = run / "a.csv"
    head, *lines = path.read_text().splitlines()
    fields = lines[2].split(",")
    fields[head.split(",").index(column)] = value
    lines[2] = ",".join(fields)
    path.write_text("\n".join([head, *lines]) + "\n")
    verdict, _ = found(run)
    assert any(said in fault for fault in verdict.faults), verdict.faults


def test_files_of_a_hostile_board(run: Path, tmp_path: Path) -> None:
    (run / "_.csv").write_text("x\n")
    (run / "d.csv").mkdir()
    (run / "e.csv").write_text("round,term\n1,2\n")
    with (run / "f.csv").open("wb") as file:
        file.truncate(1 << 29)
    link = run / "updates/a/1/a.safetensors"
    link.unlink()
    link.mkdir()
    with (run / "updates/a/1/b.safetensors").open("r+b") as file:
        file.truncate(1 << 29)
    faults = found(run)[0].faults
    assert "_.csv: no peer has such a name" in faults
    assert any("f.csv has more than" in it for it in faults)
    assert any("e.csv: columns" in it for it in faults)
    assert "updates/a/1/a.safetensors: a.safetensors is missing" in faults
    assert any("updates/a/1/b.safetensors: b.safetensors has 536870912 bytes" in it for it in faults)


def test_a_million_lies_are_a_bounded_number_of_lines(run: Path) -> None:
    with (run / "rounds.jsonl").open("a") as file:
        file.write("x\n" * 5000)
    verdict, _ = found(run)
    assert len(verdict.faults) == FAULTS_MAX
    assert verdict.more >= 5000 - FAULTS_MAX


def test_a_log_that_skips_a_million_rounds_is_no_million_lines(run: Path) -> None:
    edit(run, lambda it: {**it, "round": 2**50} if it["event"] == "committed" and it["round"] == 4 else it)
    (run / "model.safetensors").unlink()
    edit(run, lambda it: None if it["event"] == "finished" else it)
    states = Counter(found(run)[1].values())
    assert 900 < states["missing"] < 1100


def test_what_it_says_can_be_printed(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit(run, lambda it: {**it, "peer": "\x1b[31m\n"} if it["event"] == "finished" else it)
    path = run / "a.csv"
    path.write_text(path.read_text().replace(RUN_ID, "\x1b[31m", 1))
    assert main(["audit", str(run)]) == 1
    out = capsys.readouterr().out
    assert all(line.isprintable() for line in out.splitlines())
    assert "FAULT" in out


# ---------------------------------------------------------------------- collecting


def test_what_was_collected_once_stays_when_a_controller_lets_it_go(tmp_path: Path) -> None:
    boards, out = Made().boards(tmp_path / "boards"), tmp_path / RUN_ID
    gather(boards, RUN_ID, out)
    shutil.rmtree(boards["a"] / "runs" / RUN_ID / "updates" / "1")
    gather(boards, RUN_ID, out)
    verdict, states = found(out)
    assert verdict.faults == []
    assert set(states.values()) == {"recomputed"}


def test_no_link_and_no_other_name_is_followed(tmp_path: Path) -> None:
    boards, out = Made().boards(tmp_path / "boards"), tmp_path / RUN_ID
    updates = boards["a"] / "runs" / RUN_ID / "updates"
    secret = tmp_path / "secret.safetensors"
    secret.write_text("secret")
    (updates / "1" / "x.safetensors").symlink_to(secret)
    (updates / "7").symlink_to(tmp_path)
    (updates / ".3.new").mkdir()
    (updates / ".3.new" / "y.safetensors").write_text("half")
    (updates / "1" / "z.safetensors").mkdir()
    gather(boards, RUN_ID, out)
    assert {it.name for it in (out / "updates/a").iterdir()} == {"1", "2"}
    assert found(out)[0].faults == []
