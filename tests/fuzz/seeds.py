"""What corpora begin with: documents and files of a real run of three peers, and small ones of every other kind."""

from __future__ import annotations

import gzip
import json
import pickle
import random
import struct
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import paho.mqtt.client as paho
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from paho.mqtt.enums import CallbackAPIVersion

from data_shards.build import build
from data_shards.datasets import load_dataset
from data_shards.shard import Shard, encode_shard, read_shard
from edge_peer.operator.certificates.x509 import Wanted, make_authority, make_certificate, new_key
from edge_peer.operator.local.broker import HOST, LocalBroker, require_mosquitto
from edge_peer.protocol.messages import Start, Stop, decode, encode
from edge_peer.protocol.state import Memory
from edge_peer.protocol.tensors import Delta, ModelRef, UpdateOffer
from edge_peer.protocol.topics import DELTA, MODEL, TENSORS, UPDATE
from edge_peer.shell.aggregation import advance
from edge_peer.shell.changes import Change, encoded
from edge_peer.shell.global_model import GlobalModel
from edge_peer.shell.payload import DOCUMENT, encode_delta, encode_model, encode_tensors, encode_update
from tests import int8_example
from tests.fuzz.mutators import split_tensors
from tests.fuzz.targets import codecs, inbox, manifests, recipes
from tests.fuzz.targets.certificates import DER, NOW
from tests.live.harness import ARTIFACTS, FEDERATION, Live

LAYOUT = codecs.LAYOUT
Seed = tuple[str, bytes]


def seeds() -> Iterator[Seed]:
    """(target, input) of all."""
    documents: list[tuple[str, bytes]] = []
    with tempfile.TemporaryDirectory() as folder:
        yield from _of_a_run(Path(folder), documents)
    yield from _topics()
    yield from _tensors(documents)
    yield from _data()
    yield from _models()
    yield from _certificates()


def _of_a_run(folder: Path, documents: list[tuple[str, bytes]]) -> Iterator[Seed]:
    """Run a federation; documents as (kind, payload)."""
    broker = LocalBroker(folder / "broker", require_mosquitto(print))
    broker.start()
    onlooker = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
    onlooker.on_message = lambda _client, _data, it: documents.append((it.topic.rpartition("/")[2], it.payload))
    onlooker.connect(HOST, broker.port)
    onlooker.subscribe("fl/v1/+/+/+", qos=1)
    onlooker.loop_start()
    build(
        load_dataset("fashion-mnist", say=print), [f"peer{number}" for number in (1, 2, 3)], "iid", 1, folder, 100, 40
    )
    live = Live(folder, broker, folder, ["peer1", "peer2", "peer3"], {"run": {"rounds_max": 2, "rule": "median"}})
    try:
        live.configure()
        live.start()
        run_id = str(live.wait_finished().run_id)
        live.stop()
    finally:
        live.close()
        live.stop()
        onlooker.loop_stop()
        broker.stop()
    documents += [("stop", encode(Stop(run_id, "enough"))), ("start", encode(Start(1)))]
    # They have found each other too fast to wait.
    waiting = next(decode(kind, payload) for kind, payload in documents if kind == "round" and payload)
    documents.append(("round", encode(replace(waiting, state="waiting", run_id=None, base=None))))
    for kind, payload in documents:
        if kind not in TENSORS and payload:
            yield "messages", f"{kind}\n".encode() + payload
    for peer in live.peers:
        state_dir = live.fleet.state_dir(peer)
        yield "state", b"state\n" + (state_dir / "state.json").read_bytes()
        yield "history", b"csv\n" + (live.run_folder(peer, run_id) / f"{peer}.csv").read_bytes()
        log = live.run_folder(peer, run_id) / "rounds.jsonl"
        if log.exists():
            yield "history", b"log\n" + log.read_bytes()
        yield "config", live.fleet.configuration(peer).read_bytes()
    yield from _configurations()
    shard = read_shard(folder / "peer1.safetensors")
    small = Shard(
        *(shard.x_train[:3][:, ::7, ::7], shard.y_train[:3], shard.x_test[:2][:, ::7, ::7], shard.y_test[:2]),
        shard.classes,
        {key: it for key, it in shard.metadata.items() if key not in ("format", "classes", "sha256")},
    )
    yield "shards", encode_shard(small)


def _configurations() -> Iterator[Seed]:
    """What goes with what, and what does not."""
    head = '[peer]\nname = "peer1"\nstate_dir = "state"\n[model]\nartifacts = "artifacts"\n'
    runs = (
        'privacy = "local"\nprivacy_clip = 0.5\nupdate_norm_max = 1',
        'privacy = "central"\nrule = "krum"',
        'privacy = "central"\ncodec = "topk-0.01"',
        "scaffold = true\nerror_feedback = true",
        'scaffold = true\nprivacy = "local"',
        'codec = "topk-0.01"\nerror_feedback = true\ndownlink = "int8"',
        'codec = "topk-0.01"\ndownlink = "topk-0.1"',
        'rule = "krum"\nrule_parameters = { byzantine = 1 }\nupdates_min = 5',
        'rule = "bulyan"\nrule_parameters = { byzantine = 900 }',
        'server_optimizer = "fedadam"\nserver_parameters = { learning_rate = 0.03 }',
        'strategy = "fraction"\nfraction = 0.5\ntarget_accuracy = 0.9',
        "rounds_max = 0\nround_deadline_s = 1e9\nrows = 3\nepochs = true",
    )
    for run in runs:
        yield "config", f"{head}[run]\n{run}\n".encode()
    rosters = ('["peer1", "peer2"]', '["peer2"]', '["peer1", "peer1"]', '["", "../x"]', "[1]", '"peer1"')
    for roster in rosters:
        yield "config", f'{head}[federation]\nname = "home"\nroster = {roster}\nmin_peers = 3\n'.encode()
    for broker in ('tls_ca = "ca.crt"', 'username = "a"', 'password_file = "p\\u0000"', "reconnect_s_min = 50"):
        yield "config", f"{head}[broker]\n{broker}\nport = 8883\n".encode()
    yield "config", b"peer = 1\nmodell = 3\n[runn]\n"
    yield "config", b"[peer"


def _topics() -> Iterator[Seed]:
    for kind in sorted(inbox.KINDS):
        yield "topics", f"{FEDERATION}\nfl/v1/{FEDERATION}/peer1/{kind}".encode()
    yield "topics", b"home\nfl/v0/home/peer1/vote"


def _tensors(documents: list[tuple[str, bytes]]) -> Iterator[Seed]:
    """Models, updates and deltas of a layout that fits into a corpus."""
    rng = np.random.default_rng(1)

    def change(control: bool = False) -> Change:
        vector, variate = (rng.normal(size=LAYOUT.size).astype(np.float32) for _ in range(2))
        variate[LAYOUT.trained_size :] = 0
        return Change(vector, variate if control else None)

    sent: dict[str, list[bytes]] = {MODEL: [], UPDATE: [], DELTA: []}
    for slots in ((), ("momentum",), ("mean", "square"), ("control",)):
        model = GlobalModel(
            rng.normal(size=LAYOUT.size).astype(np.float32),
            {slot: np.abs(rng.normal(size=LAYOUT.trained_size)).astype(np.float32) for slot in slots},
        )
        sent[MODEL].append(encode_model(LAYOUT, ModelRef("run-1", 1, 3, 2, model.digest), model))
    for codec in (*codecs.CODECS, "topk-0.05"):
        for control in (False, True):
            made = encoded(codec, change(control), LAYOUT, random.Random(1))
            seen = made.decode(codec, LAYOUT)
            offer = UpdateOffer("session", "run-1", 2, 4, "0" * 64, seen.digest, 100, codec, 0.5, 1.25, 3)
            sent[UPDATE].append(encode_update(offer, made))
            after = advance(LAYOUT, inbox.INITIAL, seen, "none", {})
            delta = Delta(ModelRef("run-1", 1, 1, 2, after.digest), inbox.INITIAL.digest, codec, "none", {})
            sent[DELTA].append(encode_delta(delta, made))
            yield "codecs", f"{codec}\n".encode() + bytes(made.vector)
    for kind, payloads in sent.items():
        # The document alone, as the first of its kind has it.
        header, _ = split_tensors(payloads[0])
        yield "messages", f"{kind}\n{header['__metadata__'][DOCUMENT]}".encode()
        for payload in payloads:
            yield "payloads", f"{kind}\n".encode() + payload
            if kind == MODEL:
                yield "state", b"checkpoint\n" + payload
    yield "codecs", b"zip\n"
    parts = {"residual": change().vector, "control": change().vector[: LAYOUT.trained_size]}
    for names in (("residual",), ("control",), ("residual", "control")):
        memory = asdict(Memory("run-1", 4, "a" * 64))
        yield "state", b"memory\n" + encode_tensors({name: parts[name] for name in names}, memory)
    order = {kind: index for index, kind in enumerate(inbox.ORDER)}
    small = [(kind, payload) for kind, payload in documents if kind in order.keys() - TENSORS and len(payload) < 1500]
    rows = [
        *((kind, payload) for kind in (MODEL, DELTA, UPDATE) for payload in sent[kind][:2]),
        *{kind: (kind, payload) for kind, payload in small}.values(),
    ]
    for led in range(len(inbox.LED)):
        for kind, payload in rows:
            yield "inbox", bytes([led]) + inbox.joined([(1, order[kind], payload)])
    yield "inbox", b"\0" + inbox.joined([(1, order["vote"], b"")])
    # More than are held of one sender; those without control variates.
    yield "inbox", b"\0" + inbox.joined([(2, order[UPDATE], it) for it in sent[UPDATE][::2]])
    for optimizer, size in (("fedadam", 1e-3), ("fedavgm", 1e30), ("adam", 1.0)):
        step = Change(np.full(LAYOUT.size, size, np.float32))
        made = encoded("float32", step, LAYOUT, None)
        parameters = {"learning_rate": 1000.0} if size > 1 else {}
        delta = Delta(ModelRef("run-1", 1, 1, 2, "b" * 64), inbox.INITIAL.digest, "float32", optimizer, parameters)
        if optimizer == "fedadam":
            after = advance(LAYOUT, inbox.INITIAL, step, optimizer, parameters)
            delta = replace(delta, ref=replace(delta.ref, sha256=after.digest))
        yield "inbox", b"\0" + inbox.joined([(1, order[DELTA], encode_delta(delta, made))])


def _data() -> Iterator[Seed]:
    """Files of data sets."""
    for shape in ((3,), (2, 4), (2, 3, 3)):
        header = bytes((0, 0, 8, len(shape))) + struct.pack(f">{len(shape)}I", *shape)
        content = header + bytes(range(int(np.prod(shape))))
        yield "idx", bytes([len(shape)]) + content
        yield "idx", bytes([len(shape) | 4]) + gzip.compress(content, mtime=0)
        yield "idx", bytes([len(shape) | 8]) + content
    yield "idx", bytes([1 | 4]) + gzip.compress(bytes(1 << 17), mtime=0)
    array = np.arange(6, dtype=np.float64).reshape(2, 3)
    values: tuple[Any, ...] = (
        {"X": [array, array[:, :1].copy()], "y": np.arange(2), "names": ["a", "é"], "more": ("a", 1, None, True, 2.5)},
        [1, 300, -70_000, [], {}],
        (),
        (1, "a", False),
        array.astype(np.float32),
        np.asfortranarray(array),
        np.arange(3, dtype=np.uint8),
        *(1, 2.5, "text", True, None),
    )
    header = b"{'descr': '|O', 'fortran_order': False, 'shape': (), }"
    header += b" " * (117 - len(header)) + b"\n"
    for value in values:
        held = np.empty((), object)
        held[()] = value
        yield "npy_objects", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + pickle.dumps(held, 2)


def _models() -> Iterator[Seed]:
    manifest = json.loads((ARTIFACTS / "manifest.json").read_text())
    manifest["layout"] = LAYOUT.to_json()
    for optimizer in ({"name": "sgd"}, {"name": "sgd", "momentum": 0.9, "nesterov": True}, {"name": "adam"}):
        yield "manifests", manifests.repaired(json.dumps(manifest | {"optimizer": optimizer}).encode())
    recipe = recipes.RECIPE.to_json()
    yield "recipes", json.dumps(recipe).encode()
    # A weight for a variance: it is not positive everywhere.
    for kernel in recipe["kernels"]:
        if kernel["normalization"] is not None:
            kernel["normalization"] |= {"variance": kernel["normalization"]["gamma"]}
    yield "recipes", json.dumps(recipe).encode()
    yield "recipes", (int8_example.FOLDER / "recipe.json").read_bytes()[:100]


def _certificates() -> Iterator[Seed]:
    key = new_key()
    authority = make_authority(NOW, 10)
    for name in ("roof", "ä" * 12):
        der = make_certificate(Wanted(name), key, authority, NOW, 10).public_bytes(Encoding.DER)
        yield "certificates", DER + der
    yield "certificates", make_certificate(Wanted("roof"), key, authority, NOW, 10).public_bytes(Encoding.PEM) * 2
    nobody = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "other")])
    end = datetime(2060, 1, 1, tzinfo=timezone.utc)
    builder = x509.CertificateBuilder(
        nobody, nobody, key.public_key(), x509.random_serial_number(), NOW - timedelta(1), end
    )
    yield "certificates", DER + builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)
