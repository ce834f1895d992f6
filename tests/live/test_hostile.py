"""Strangers and broken peers on the broker: every message is answered with a line in the log at most."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import random
import shutil
import socket
import struct
import threading
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from safetensors.numpy import load_file, save, save_file

from edge_peer.__main__ import main
from edge_peer.config import BrokerSection
from edge_peer.operator.live.session import Session
from edge_peer.operator.local.broker import HOST
from edge_peer.protocol.messages import Evaluation, Presence, Report, Round, Start, Stop, Vote, encode
from edge_peer.protocol.run_settings import RunSettings
from edge_peer.protocol.tensors import ModelRef
from edge_peer.protocol.topics import KINDS, PRESENCE, TENSORS, Topics
from edge_peer.shell.global_model import GlobalModel
from edge_peer.shell.mqtt import Connection
from edge_peer.shell.payload import encode_model
from edge_peer.trainers.artifacts import FEDERATED, load_artifacts
from tests.live.harness import ARTIFACTS, FEDERATION, Live

pytestmark = pytest.mark.live
Make = Callable[..., Live]
SIZE = load_artifacts(ARTIFACTS).layout.size


def tensors(document: dict[str, object], values: np.ndarray) -> bytes:
    """An update whose digest is right, so that what else is wrong with it is looked at."""
    digest = hashlib.sha256(values.astype("<f4").tobytes()).hexdigest()
    content = np.frombuffer(values.tobytes(), np.uint8) if values.dtype == np.float32 and values.ndim == 1 else values
    return save({"update": content}, {"edge_peer": json.dumps({**document, "digest": digest})})


def bomb(document: dict[str, object]) -> bytes:
    """An update in int8 that is a gigabyte of zeros when it is inflated."""
    packed = zlib.compress(bytes(1 << 30), 9)[:26_000]
    return save({"update": np.frombuffer(packed, np.uint8)}, {"edge_peer": json.dumps({**document, "codec": "int8"})})


def hostile_payloads(run_id: str, base: str, session: str, term: int, round_: int) -> list[bytes]:
    """Empty, garbage, huge, truncated, of another dtype or shape, not finite; and JSON that lies."""
    offer = {
        "session": session,
        "run_id": run_id,
        "term": term,
        "round": round_,
        "base": base,
        "examples": 10,
        "codec": "float32",
        "loss": 1.0,
        "seconds": 1.0,
        "steps": 10,
    }
    good = tensors(offer, np.zeros(SIZE, np.float32))
    rng = random.Random(1)
    return [
        b"",
        b"\0",
        rng.randbytes(1000),
        b"{" * 100_000,
        b"[" * 200_000,
        b'{"a":' * 50_000,
        json.dumps({"session": "x" * 100_000}).encode(),
        json.dumps({"term": 10**400}).encode(),
        json.dumps({"term": -1, "session": [], "candidate": {}}).encode(),
        b'{"session": "a", "term": NaN, "candidate": "peer1"}',
        b'{"session": "\xff", "term": 1}',
        json.dumps(dict.fromkeys(map(str, range(5000)), 1)).encode(),
        struct.pack("<Q", 2**63) + b"{}",
        struct.pack("<Q", 100) + b"{}",
        struct.pack("<Q", 2) + b"[]",
        good[:-1],
        good[: len(good) // 2],
        good + b"\0",
        tensors(offer, np.zeros(SIZE - 1, np.float32)),
        tensors(offer, np.zeros((SIZE, 1), np.float32)),
        tensors(offer, np.zeros(SIZE, np.float64)),
        tensors(offer, np.full(SIZE, np.nan, np.float32)),
        tensors({**offer, "examples": -1}, np.zeros(SIZE, np.float32)),
        tensors({**offer, "codec": "pickle"}, np.zeros(SIZE, np.float32)),
        tensors({**offer, "codec": "int8"}, np.zeros(SIZE, np.float32)),
        bomb({**offer, "digest": "0" * 64}),
        good,
        b"\0" * 8_000_000,
    ]


def test_hostile_messages_on_every_topic_stop_nobody(live: Make, small: Path) -> None:
    it = live(small, 3, {"run": {"rounds_max": 100_000}})
    it.configure(peer1={"peer": {"priority": 500_000.0}})
    it.start()
    running = it.wait_round(2)
    assert running.base is not None
    session = it.federation.presences["peer2"].session
    payloads = hostile_payloads(str(running.run_id), running.base.sha256, session, running.term, running.round)
    with Session(BrokerSection(port=it.broker.port), FEDERATION, "stranger") as stranger:
        connection: Connection = stranger._connection
        topics = Topics(FEDERATION)
        for peer in ("stranger", "peer2", "peer1", "..", "peer 9", "\u00e9", "x" * 300):
            for kind in [*sorted(KINDS), "unknown", "a/b"]:
                for payload in payloads:
                    if len(payload) < 1_000_000 or kind in TENSORS:
                        # Not retained: what peers have said themselves stays the latest word of theirs.
                        connection.publish(topics.of(peer, kind), payload, retain=False)
        # Allowed by MQTT 5, and refused by paho: retained, it would come again at each connection.
        properties = Properties(PacketTypes.PUBLISH)
        properties.UserProperty = ("a", "\ufeffb")
        connection._client.publish(topics.of("stranger", PRESENCE), b"{}", qos=1, retain=True, properties=properties)
        stranger._await(lambda: connection.idle, 60, "the hostile messages were not taken")
    # Nobody has seen to the onlooker's connection meanwhile, and the broker may have taken it for gone.
    it.watch()
    after = it.wait_round(running.round + 3)
    it.stop()
    assert after.run_id == running.run_id
    for peer in it.peers:
        log = it.fleet.log(peer).read_text()
        assert "dropped:" in log, f"{peer} says that it dropped something"
        assert "Traceback" not in log
        assert "connection lost" not in log
        assert log.count("connected to") == 1
        assert it.fleet.processes[peer].returncode == 0
    complaints = it.fleet.log("peer1").read_text()
    for part in ("not finite", "shape", "not a JSON document", "no safetensors file", "codec"):
        assert part in complaints, part
    assert complaints.count("dropped:") < 400, "a flood of messages is not a flood of log lines"


def test_a_peer_with_another_model_is_not_selected_and_both_sides_say_why(
    live: Make, small: Path, tmp_path: Path
) -> None:
    other = shutil.copytree(ARTIFACTS, tmp_path / "artifacts")
    weights = load_file(ARTIFACTS / "initial.safetensors")
    weights["image_cnn/logits/bias"] = weights["image_cnn/logits/bias"] + 1
    save_file(weights, other / "initial.safetensors")
    _write_manifest(other)
    it = live(small, 4, {"run": {"rounds_max": 3}, "federation": {"min_peers": 3}})
    it.configure(peer1={"peer": {"priority": 500_000.0}}, peer4={"model": {"artifacts": str(other)}})
    it.start()
    end = it.wait_finished()
    it.stop()
    lines = it.committed(str(end.run_id))
    assert all(set(line["accepted"]) == {"peer1", "peer2", "peer3"} for line in lines)
    assert "deploy the same artifacts" in lines[-1]["missing"]["peer4"]
    assert "deploy the same artifacts" in it.fleet.log("peer4").read_text()


def _write_manifest(folder: Path) -> None:
    manifest = json.loads((ARTIFACTS / "manifest.json").read_text())
    for name in manifest["files"]:
        content = (folder / name).read_bytes()
        manifest["files"][name] = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    shared = {name: manifest[name] for name in FEDERATED}
    text = json.dumps(shared, sort_keys=True, separators=(",", ":"))
    manifest["digest"] = hashlib.sha256(text.encode()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))


# ---------------------------------------------------------------------- floods

FLOOD = 20_000
#: Every so many messages one of a megabyte.
LARGE_EVERY, LARGE_BYTES = 500, 1 << 20
#: What a flood may add to a peer's memory: what is read in a turn of its loop, what paho and Python's allocator hold on
#: to, and some models and updates of the flood's sender. The flood is a hundred times as much.
GROWTH_MAX = 32 << 20


def flood(port: int, running: Round, count: int) -> None:
    """Documents of every kind, good ones and rubbish, small and large, as fast as the broker takes them."""
    mallory = paho.Client(CallbackAPIVersion.VERSION2, client_id="mallory", protocol=paho.MQTTv5)
    mallory.max_inflight_messages_set(1000)
    mallory.connect(HOST, port, 600)
    mallory.loop_start()
    topics, rng = Topics(FEDERATION), random.Random(1)
    model_digest = running.model_digest
    report = Report(0.0, 9.0, 10**6)
    sent = []
    for number in range(count):
        session = f"s{number}"
        documents = (
            (PRESENCE, encode(Presence(session, True, model_id="cnn", model_digest=model_digest, wants_run=True))),
            ("vote", encode(Vote(session, number + 1, "mallory"))),
            ("round", encode(dataclasses.replace(running, session=session, term=1, beat=number))),
            ("evaluation", encode(Evaluation(session, str(running.run_id), running.round, "0" * 64, report))),
            ("presence", rng.randbytes(200)),
            ("update", tensors({"session": session}, np.zeros(100, np.float32))),
            ("start", encode(Start(0))),
        )
        kind, payload = documents[number % len(documents)]
        if number % LARGE_EVERY == 0:
            kind, payload = ("model", "delta", "update")[number // LARGE_EVERY % 3], rng.randbytes(LARGE_BYTES)
        sent.append(mallory.publish(topics.of("mallory", kind), payload, qos=1))
    for it in sent:
        it.wait_for_publish(120)
    assert sent[-1].is_published(), "the broker has not taken the flood"
    mallory.disconnect()
    mallory.loop_stop()


def rss_peak(pid: int) -> int:
    """Largest resident memory of a process so far, bytes."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return 1024 * int(status["VmHWM"].split()[0])


def collect(systemd: socket.socket, statuses: list[str]) -> None:
    """What a process tells systemd, until it stops."""
    while not statuses or "STOPPING=1" not in statuses[-1]:
        statuses.append(systemd.recv(10_000).decode())
    systemd.close()


def test_a_peer_that_floods_is_cut_off_and_named_and_changes_no_byte_of_a_run(
    live: Make, small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    it = live(small, 3, {"run": {"rounds_max": 100_000, "seed": 5}})
    it.configure()
    systemd = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    systemd.bind(str(tmp_path / "notify"))
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    it.start("peer1")
    monkeypatch.delenv("NOTIFY_SOCKET")
    statuses: list[str] = []
    threading.Thread(target=lambda: collect(systemd, statuses), daemon=True).start()
    it.start("peer2", "peer3")
    before = it.wait_round(8)
    config = str(it.fleet.configuration("peer2"))
    assert main(["stop", "--config", config, "--as", "operator"]) == 0
    first = it.wait_finished(str(before.run_id))
    assert main(["start", "--config", config, "--as", "operator"]) == 0
    running = it.wait(lambda doc: doc is not None and doc.run_id != first.run_id and doc.round >= 2, "a second run")
    memory = {peer: rss_peak(it.fleet.processes[peer].pid) for peer in it.peers}
    # The onlooker has no guard, and would be late for the rest of the test.
    it.close()
    flood(it.broker.port, running, FLOOD)
    it.watch()
    named = "mallory floods and is cut off"
    it.wait(lambda _: all(named in it.fleet.log(peer).read_text() for peer in it.peers), "names", 150)
    after = it.wait_round(running.round)
    it.wait_round(max(after.round + 2, 8))
    # Others are not named, and mallory is heard again.
    it.wait(
        lambda _: all("mallory has calmed down" in it.fleet.log(peer).read_text() for peer in it.peers), "calm", 150
    )
    growth = {peer: rss_peak(it.fleet.processes[peer].pid) - memory[peer] for peer in it.peers}
    assert main(["stop", "--config", config, "--as", "operator"]) == 0
    second = it.wait_finished(str(running.run_id))
    it.stop()
    capsys.readouterr()
    assert max(growth.values()) < GROWTH_MAX, growth
    one, other = (
        {line["round"]: (line["sha256"], sorted(line["accepted"])) for line in it.committed(str(run.run_id))}
        for run in (first, second)
    )
    common = one.keys() & other.keys()
    assert len(common) >= 7
    assert {number: one[number] for number in common} == {number: other[number] for number in common}
    cut = [number for number, text in enumerate(statuses) if text.endswith("; cut off because of a flood: mallory")]
    assert cut, "the status of the process does not tell"
    assert all(text.startswith("STATUS=") for text in (statuses[number] for number in cut))
    assert "flood" not in statuses[-2], "the status does not tell that it is over"
    for peer in it.peers:
        log = it.fleet.log(peer).read_text()
        assert "Traceback" not in log
        assert log.count(" floods and is cut off") == log.count("mallory floods and is cut off") < 6
        assert it.fleet.processes[peer].returncode == 0


# ---------------------------------------------------------------------- what a broker has kept


DEAD_RUN = "20250101-000000-00dead"


def is_complete(known: set[str], document: Round | None) -> bool:
    """Whether it is the end of another run."""
    return document is not None and document.complete and document.run_id not in known


def left_behind(model_digest: str) -> list[tuple[str, bytes]]:
    """Retained messages of dead runs, of other models, of other versions of the protocol, and of nothing at all."""
    topics, rng = Topics(FEDERATION), random.Random(1)
    layout = load_artifacts(ARTIFACTS).layout
    other_model = GlobalModel(np.linspace(-1, 1, layout.size, dtype=np.float32))
    done = ModelRef(DEAD_RUN, 3, 7, 4, other_model.digest)
    dead = Presence(
        "gone",
        True,
        True,
        True,
        1e9,
        examples=10**6,
        model_id="cnn",
        model_digest=model_digest,
        newest=done,
        finished=3,
    )
    finished = Round(
        *("gone", 4, 9, "finished", "cnn", model_digest, RunSettings(), done.run_id, 3, 7, done),
        reports={"ghost": Report(0.9, 0.1, 100)},
        complete=True,
    )
    # Of another model, and as if it were on: its controller lost power together with the broker.
    foreign = dataclasses.replace(dead, model_digest="f" * 64, newest=None, finished=0)
    ref = ModelRef("20250202-000000-00beef", 9, 2, 50, "e" * 64)
    training = Round(
        *("gone", 50, 9, "training", "other", "f" * 64, RunSettings(rounds_max=9), ref.run_id, 9, 3, ref, 1),
        participants=("peer1", "peer2", "peer3", "other"),
    )
    messages = [
        (topics.of("ghost", "presence"), encode(dead)),
        (topics.of("ghost", "round"), encode(finished)),
        (topics.of("ghost", "model"), encode_model(layout, done, other_model)),
        (topics.of("ghost", "vote"), encode(Vote("gone", 60, "ghost"))),
        (topics.of("ghost", "stop"), encode(Stop(done.run_id, "enough"))),
        (topics.of("ghost", "start"), encode(Start(2))),
        (topics.of("other", "presence"), encode(foreign)),
        (topics.of("other", "round"), encode(training)),
        # Under the names of those who come: of their earlier processes, whose disks are lost.
        (topics.of("peer1", "presence"), encode(dead)),
        (topics.of("peer1", "round"), encode(dataclasses.replace(finished, session="older"))),
        (topics.of("peer2", "vote"), encode(Vote("gone", 70, "ghost"))),
        (topics.of("peer3", "model"), rng.randbytes(5000)),
    ]
    for version in ("v0", "v2"):
        messages += [(topic.replace("fl/v1", f"fl/{version}"), payload) for topic, payload in messages[:8]]
    older = {name: value for name, value in json.loads(encode(dead)).items() if name != "elected"}
    newer = {**json.loads(encode(foreign)), "of_a_later_release": {"a": [1]}, "online": False}
    messages += [
        (topics.of("older", "presence"), json.dumps(older).encode()),
        (topics.of("newer", "presence"), json.dumps(newer).encode()),
        *((topics.of("rubbish", kind), rng.randbytes(2000)) for kind in sorted(KINDS)),
        *((topics.of("peer2", kind), b'{"session": 1}') for kind in ("presence", "round")),
    ]
    return messages


def test_what_a_broker_has_kept_of_dead_runs_and_other_versions_confuses_no_new_run(live: Make, small: Path) -> None:
    # One whose presence is stale is waited for in the first round, until its deadline.
    run = {"rounds_max": 3, "seed": 5, "round_deadline_s": 8.0}
    it = live(small, 3, {"run": run, "timing": {"lease_s": 3.0}, "broker": {"keepalive_s": 2}})
    it.configure()
    artifacts = load_artifacts(ARTIFACTS)
    with Session(BrokerSection(port=it.broker.port), FEDERATION, "stranger") as stranger:
        connection: Connection = stranger._connection
        for topic, payload in left_behind(artifacts.digest):
            connection.publish(topic, payload, retain=True)
        stranger._await(lambda: connection.idle, 60, "they were not taken")
    it.start()
    config = str(it.fleet.configuration("peer2"))
    runs: list[Round] = []
    for _ in range(2):
        known = {DEAD_RUN, *(end.run_id for end in runs)}
        runs.append(it.wait(partial(is_complete, known), "the run's end"))
        if len(runs) == 1:
            # Beside one that begins when nothing is left but what these peers have said themselves.
            with Session(BrokerSection(port=it.broker.port), FEDERATION, "stranger") as stranger:
                for topic, _ in left_behind(artifacts.digest):
                    if not any(f"/peer{number}/" in topic for number in (1, 2, 3)):
                        stranger._connection.publish(topic, b"", retain=True)
                stranger._await(lambda: stranger._connection.idle, 60, "they were not cleared")
            assert main(["start", "--config", config, "--as", "operator"]) == 0
    it.stop()
    for end in runs:
        assert end.reason == "reached 3 rounds"
        assert set(end.reports) == set(it.peers)
        lines = it.committed(str(end.run_id))
        assert [line["round"] for line in lines] == [1, 2, 3]
        assert lines[0]["base"] == artifacts.initial_sha256
        assert all(set(line["accepted"]) == set(it.peers) for line in lines)
        for peer in it.peers:
            assert [row["round"] for row in it.rows(peer, str(end.run_id))] == ["0", "1", "2", "3"]
    first, second = runs
    assert set(it.committed(str(first.run_id))[0]["missing"]) == {"ghost", "other"}
    assert first.run_number > 3, "a run's number is above that of every run that is known as finished"
    assert first.term > 50
    assert first.base is not None
    assert second.base is not None
    assert first.base.sha256 == second.base.sha256
    for peer in it.peers:
        log = it.fleet.log(peer).read_text()
        assert "Traceback" not in log
        assert "rubbish's presence dropped" in log
        assert "older's presence dropped: document.elected is missing" in log
        assert not it.run_folder(peer, DEAD_RUN).exists()
