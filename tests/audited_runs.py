"""Runs as two controllers leave them, made by their own code without a broker: what `edge-peer audit` is tried on."""

from __future__ import annotations

import dataclasses
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from edge_peer.config import Config, ModelSection, PeerSection, to_toml
from edge_peer.operator.fleet.collect import gather
from edge_peer.protocol import commands as do
from edge_peer.protocol import events as ev
from edge_peer.protocol.messages import Report
from edge_peer.protocol.run_settings import RunSettings
from edge_peer.protocol.tensors import ModelRef, UpdateOffer
from edge_peer.protocol.topics import UPDATE, Topics
from edge_peer.shell.changes import Change, encoded
from edge_peer.shell.global_model import GlobalModel
from edge_peer.shell.health import Health
from edge_peer.shell.history import History
from edge_peer.shell.inbox import Inbox
from edge_peer.shell.kept_updates import KeptUpdates
from edge_peer.shell.merging import Merger
from edge_peer.shell.mqtt import Message
from edge_peer.shell.noise import Noise
from edge_peer.shell.payload import encode_model, encode_update
from edge_peer.shell.vectors import Own, Vectors
from edge_peer.trainers.artifacts import load_artifacts

ARTIFACTS = Path(__file__).resolve().parent.parent / "models/artifacts/image_cnn"
RUN_ID = "20260101-000000-abcdef"
TOPICS = Topics("home")
MODEL = load_artifacts(ARTIFACTS)
LAYOUT = MODEL.layout
PEERS = ("a", "b", "c")


def change_of(peer: str, round_: int, scaffold: bool = False) -> Change:
    """What a training might have changed."""
    rng = np.random.default_rng([ord(peer), round_])
    vector = rng.normal(scale=0.01, size=LAYOUT.size).astype(np.float32)
    control = None
    if scaffold:
        control = rng.normal(scale=0.01, size=LAYOUT.size).astype(np.float32)
        control[LAYOUT.trained_size :] = 0
    return Change(vector, control)


class Controller:
    """One that trains, too: its own update is never received."""

    def __init__(self, folder: Path, name: str, run: RunSettings, bytes_max: int = 10**9) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.name, self.run = name, run
        self.history = History(folder / "runs", name)
        self.vectors = Vectors(GlobalModel(MODEL.initial()))
        self.inbox = Inbox(TOPICS, LAYOUT, self.vectors, 99, lambda: run)
        self.merger = Merger(LAYOUT, self.vectors, Noise(folder, LAYOUT.trained_size), MODEL.optimizer)
        self.kept = KeptUpdates(folder / "runs", LAYOUT, self.vectors, bytes_max, lambda: run)

    def offer(self, peer: str, term: int, round_: int, base: str) -> tuple[UpdateOffer, bytes]:
        """A peer's update; a controller holds its own."""
        change = change_of(peer, round_, self.run.scaffold)
        sent = encoded(self.run.codec, change, LAYOUT, random.Random(f"{peer}{round_}"))
        seen = sent.decode(self.run.codec, LAYOUT)
        place = ord(peer) - ord("a")
        offer = UpdateOffer(
            f"session-{peer}", RUN_ID, term, round_, base, seen.digest, 100 + 50 * place, self.run.codec,
            1.5 / round_ + place / 10, 0.25 + place / 100, 3 + place,
            0.5 + place / 7 if self.run.rule == "qfedavg" else None,
        )  # fmt: skip
        if peer == self.name:
            self.vectors.hold_own(Own(seen.digest, seen, sent))
        return offer, encode_update(offer, sent)

    def receive(self, peer: str, payload: bytes) -> None:
        """As the daemon does."""
        event = self.inbox.read(Message(TOPICS.of(peer, UPDATE), payload, False))
        assert isinstance(event, ev.UpdateReceived)
        assert event.problem == ""
        self.kept.receive(event.offer, payload)

    def round(self, term: int, round_: int, base: GlobalModel) -> tuple[GlobalModel, do.Aggregate]:
        """Lead a round to its commit."""
        offers = {}
        # In an order of its own: that of the network is of no consequence.
        for peer in random.Random(f"{self.name}{round_ * term}").sample(PEERS, len(PEERS)):
            offers[peer], payload = self.offer(peer, term, round_, base.digest)
            if peer != self.name:
                self.receive(peer, payload)
        updates = tuple(do.Contribution(peer, offers[peer]) for peer in PEERS)
        command = do.Aggregate(term, RUN_ID, round_, base.digest, updates, self.run, 600)
        event = self.merger.merge(command)
        assert isinstance(event, ev.AggregateReady), event
        self.kept.merge(command, event)
        made = self.vectors.model(event.sha256)
        assert made is not None
        self.history.log_round(RUN_ID, "committed", committed(command, made))
        self.kept.commit(made.digest)
        self.vectors.keep_updates(frozenset())
        self.kept.forget(frozenset())
        return made, command


def committed(command: do.Aggregate, made: GlobalModel) -> dict[str, object]:
    """What the round log says of a commit."""
    accepted = {
        it.peer: {
            "digest": it.offer.digest, "examples": it.offer.examples, "steps": it.offer.steps, "codec": it.offer.codec,
            "loss": it.offer.loss, "s": it.offer.seconds,
            **({} if it.offer.base_loss is None else {"base_loss": it.offer.base_loss}),
        }
        for it in command.updates
    }  # fmt: skip
    return {
        "term": command.term, "round": command.round, "sha256": made.digest, "base": command.base,
        "accepted": accepted, "population": command.population, "attempt": 1, "refused": {}, "missing": {},
    }  # fmt: skip


@dataclass
class Made:
    """A run of four rounds: a leads two of them, b goes on.

    Attributes:
        run: Settings.
        keep: Who keeps updates.
        lost: b has not heard of a's last round, and makes it again with other updates.
    """

    run: RunSettings = field(default_factory=RunSettings)
    keep: tuple[str, ...] = ("a", "b")
    bytes_max: int = 10**9
    lost: bool = False

    def boards(self, folder: Path) -> dict[str, Path]:
        """State folders."""
        states = {peer: folder / peer for peer in PEERS}
        settings = dataclasses.asdict(self.run)
        models = {0: GlobalModel(MODEL.initial())}
        terms = {0: 1}
        first, second = (Controller(states[name], name, self.run, self.bytes_max) for name in ("a", "b"))
        first.history.log_round(RUN_ID, "started", {"term": 1, "peers": list(PEERS), "settings": settings})
        for round_ in (1, 2):
            models[round_], _ = first.round(1, round_, models[round_ - 1])
            terms[round_] = 1
        done = 2
        if self.lost:
            first.round(1, 3, models[2])
        at = {"round": done, "sha256": models[done].digest}
        second.vectors.hold_model(models[2].digest, models[2])
        second.history.log_round(RUN_ID, "resumed", {"term": 2, **at, "settings": settings})
        for round_ in (3, 4):
            models[round_], _ = second.round(2, round_, models[round_ - 1])
            terms[round_] = 2
        end = {"term": 2, "round": 4, "sha256": models[4].digest, "reason": "reached 4 rounds"}
        for round_ in range(5):
            scores = [self.report(peer, round_) for peer in PEERS]
            mean = sum(it.accuracy * it.examples for it in scores) / sum(it.examples for it in scores)
            fields = {"term": terms[round_], "round": round_, "accuracy": mean, "int8_accuracy": None, "peers": 3}
            (first if terms[round_] == 1 else second).history.log_round(RUN_ID, "evaluated", fields)
        second.history.log_round(RUN_ID, "finished", end)
        for it in (first, second):
            it.kept.stop()
            if it.name not in self.keep:
                for path in sorted((states[it.name] / "runs" / RUN_ID).glob("updates/*/*")):
                    path.unlink()
        for peer, state in states.items():
            self._rows(peer, state, terms)
            run = state / "runs" / RUN_ID
            config = Config(PeerSection(peer, state), ModelSection(ARTIFACTS), run=self.run)
            (run / "config.toml").write_text(
                to_toml(dataclasses.replace(config, peer=dataclasses.replace(config.peer, train=False)))
            )
            ref = ModelRef(RUN_ID, 1, 4, 2, models[4].digest)
            (run / "model.safetensors").write_bytes(encode_model(LAYOUT, ref, models[4]))
        return states

    @staticmethod
    def report(peer: str, round_: int) -> Report:
        return Report((0.1 + 0.2 * round_) * (1 - ord(peer) / 1000), 2.0 / (1 + round_), 10 * (ord(peer) - 90))

    def _rows(self, peer: str, state: Path, terms: dict[int, int]) -> None:
        history, place = History(state / "runs", peer), ord(peer) - ord("a")
        for round_, term in terms.items():
            given: dict[str, Any] = {"examples": 0, "train_loss": None, "training_s": None}
            if round_:
                given = {"examples": 100 + 50 * place, "train_loss": 1.5 / round_ + place / 10}
                given["training_s"] = 0.25 + place / 100
            row = do.WriteRow(
                run_id=RUN_ID, term=term, round=round_, role="trainer", controller="a" if term == 1 else "b",
                report=self.report(peer, round_), evaluation_s=0.1, local=None, **given,
            )  # fmt: skip
            history.write_row(row, 1000, 2000, 50_000_000, Health())

    def folder(self, where: Path) -> Path:
        """The run's folder, as a demo or a collection leaves it."""
        out = where / RUN_ID
        refused = gather(self.boards(where / "boards"), RUN_ID, out)
        assert refused == []
        return out
