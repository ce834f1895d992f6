"""What the parts of the state machine share: this peer's facts, its time, and the commands that it gives."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import replace

from edge_peer.errors import LocalProtocolError
from edge_peer.protocol import commands as do
from edge_peer.protocol.events import ModelReceived
from edge_peer.protocol.messages import FINISHED, Presence, Round, Stop
from edge_peer.protocol.roster import Roster
from edge_peer.protocol.settings import PeerSettings
from edge_peer.protocol.state import RunRecord, SavedState
from edge_peer.protocol.tensors import ModelRef
from edge_peer.protocol.topics import PRESENCE

#: So old may be what the presence tells of the board.
HEALTH_S = 300.0
#: What the others, or the documents of this session, count on.
FIXED = (
    "peer",
    "session",
    "model_id",
    "model_digest",
    "initial_sha256",
    "examples",
    "test_examples",
    "roster",
    "min_peers",
    "timing",
    "peers_max",
)


class Context:
    """Shared by election, controller and trainer; nothing outside the protocol sees it.

    Attributes:
        now_s: Monotonic time of the event that is being handled.
        out: Commands given so far.
        state: What is saved, or will be by a command that is already in `out`.
        rounds: The latest round document of each peer, with the time it came.
        stops: The retained stop of each sender.
        models: Digests of the global models that the shell holds.
        run: The newest run that is known, from this peer's disk or anybody's document.
        final: The newest `finished` document that was seen.
        own_end: The final model of a run that this peer has ended as controller, once the broker has heard of it.
    """

    def __init__(self, settings: PeerSettings, state: SavedState, rng: random.Random, stamp: Callable[[], str]) -> None:
        self.settings = settings
        self.timing = settings.timing
        self.peer = settings.peer
        self.rng = rng
        self.stamp = stamp
        self.state = state
        self.now_s = float("-inf")
        self.out: list[do.Command] = []
        self.roster = Roster(settings.peer, settings.peers_max)
        self.rounds: dict[str, tuple[Round, float]] = {}
        self.stops: dict[str, Stop] = {}
        self.models: set[str] = {settings.initial_sha256}
        #: A model of each peer of whom nothing else is known yet, oldest first; the shell holds them, too.
        self.unvouched: dict[str, ModelReceived] = {}
        if state.held is not None:
            self.models.add(state.held.sha256)
        self.run = state.run
        self.final: Round | None = None
        self.own_end: ModelRef | None = None
        self.wants_run = True
        self.election_term = 0
        self.train_able = True
        self.note = ""
        self.failed_note = ""
        #: How the board is; and whether it is strained: as it is, and as it is said in elections.
        self.health: dict[str, float] = {}
        self.strained_now = False
        self.strained = False
        #: Digest of a model that this peer has not and cannot make of what it has.
        self.needs: str | None = None
        self._lacking: tuple[RunRecord | None, str] = (None, "")
        #: What the presence said last, of what can change.
        self._said: tuple[object, ...] = ()
        self._said_s = float("-inf")
        self._unsaved = False
        self._saved_s = float("-inf")
        #: What `everyone` gave last, and of which others.
        self._others: Mapping[str, Presence] | None = None
        self._everyone: Mapping[str, Presence] = {}

    def emit(self, command: do.Command) -> None:
        """Give a command."""
        self.out.append(command)

    def log(self, text: str, level: str = "INFO") -> None:
        """Give a line for the log."""
        self.out.append(do.Log(level, text))

    def save(self, **changes: object) -> None:
        """Change the saved state and have it written before what follows; nothing is written when nothing changed."""
        state = replace(self.state, **changes)  # type: ignore[arg-type]
        if state != self.state:
            self.state = state
            self.emit(do.SaveState(state))

    def hold(self, ref: ModelRef, later: bool = False) -> bool:
        """Keep a model that the shell holds as the newest, if it is; its file names it, so the state need not.

        Args:
            ref: The model.
            later: Writing it can wait until this peer says that it holds it: a card may take as long as a round.
        """
        self.models.add(ref.sha256)
        newer = self.state.held is None or ref.order > self.state.held.order
        if newer:
            self.state = replace(self.state, held=ref)
            self._unsaved = True
        if not later:
            self.save_held()
        return newer

    def save_held(self) -> None:
        """Have the newest model written before what follows."""
        if self._unsaved and self.state.held is not None:
            self._unsaved = False
            self._saved_s = self.now_s
            self.emit(do.SaveModel(self.state.held))

    def save_held_in_time(self) -> float:
        """The same, but not more often than every `checkpoint_s`; returns when to call it again at the latest."""
        due_s = self._saved_s + self.timing.checkpoint_s
        if self.now_s >= due_s:
            self.save_held()
        return due_s if self._unsaved else float("inf")

    def presence(self, online: bool = True) -> Presence:
        """This peer's presence as it is now."""
        settings = self.settings
        lacking = self.lacking()
        return Presence(
            session=settings.session,
            online=online,
            control=settings.control and not lacking,
            train=settings.train and self.train_able and not self.failed_note and not lacking,
            score=settings.score,
            parts=settings.score_parts,
            examples=settings.examples,
            test_examples=settings.test_examples,
            model_id=settings.model_id,
            model_digest=settings.model_digest,
            newest=self.state.held,
            wants_run=self.wants_run,
            election=self.election_term,
            elected=self.state.elected_term,
            finished=self.state.finished,
            note=self.note or lacking or self.failed_note,
            needs=self.needs,
            strained=self.strained,
            health=self.health,
        )

    def reconfigure(self, settings: PeerSettings) -> None:
        """Go by other settings from now on; those that the federation counts on must be the same."""
        changed = [name for name in FIXED if getattr(settings, name) != getattr(self.settings, name)]
        if changed:
            raise LocalProtocolError(f"{', '.join(changed)} of a peer cannot change while it runs")
        self.settings = settings
        # The aggregation that answers for the settings is another one, too.
        self._lacking = (None, "")

    def lacking(self) -> str:
        """What the unfinished run asks for that this peer cannot do; empty: nothing."""
        run = self.run
        if run is not self._lacking[0]:
            text = self.settings.aggregation.lacking(run.settings) if run is not None else ""
            self._lacking = (run, text[:300])
            if text:
                self.log(f"takes no part in run {run.run_id if run else ''}: {text}", "WARNING")
        return self._lacking[1] if run is not None and not self.is_finished(run) else ""

    def publish_presence(self, always: bool = False) -> None:
        """Publish the presence if it says something new.

        A newer model or controller alone is nothing new: they are said when an election needs them, so that a round of
        n peers does not cost n times n presences. Nor is how the board is, but for every `HEALTH_S`.
        """
        facts = (
            self.wants_run,
            self.train_able,
            self.note,
            self.failed_note,
            self.lacking(),
            self.needs,
            self.election_term,
            self.state.finished,
            self.strained,
            self.settings.control,
            self.settings.train,
            self.settings.score,
        )
        stale = bool(self.health) and self.now_s - self._said_s >= HEALTH_S
        if always or stale or facts != self._said:
            self._said, self._said_s = facts, self.now_s
            self.save_held()
            self.emit(do.Publish(PRESENCE, self.presence()))

    def everyone(self) -> Mapping[str, Presence]:
        """The peers that are there, this one included, sorted by name; as of now, whatever changes later."""
        online, own = self.roster.online(), self.presence()
        if self._others is not online or self._everyone.get(self.peer) != own:
            self._others = online
            self._everyone = dict(sorted({**online, self.peer: own}.items()))
        return self._everyone

    def knows_run(self, record: RunRecord) -> None:
        """Hold the newest run; of the same number the one whose name sorts last, on every peer alike."""
        if self.run is None or (record.number, record.run_id) > (self.run.number, self.run.run_id):
            self.run = record

    def is_finished(self, record: RunRecord) -> bool:
        """Whether the run is over, from this peer's or anybody's knowledge."""
        return record.number <= max(self.finished_number(), 0)

    def finished_number(self) -> int:
        """The highest number of a run that anybody knows as finished."""
        return max(self.state.finished, self.roster.highest_finished(), 0)

    def learn(self, document: Round) -> None:
        """Take from a round document what holds whoever is controller: which run is on, and that one has finished."""
        if document.run_id is None or document.run_number < 1:
            return
        if document.model_digest == self.settings.model_digest:
            self.knows_run(RunRecord(document.run_id, document.run_number, document.settings))
        if document.state == FINISHED:
            self.finish(document)

    def finish(self, document: Round) -> None:
        """A run has finished: decided when it was published, by whomever."""
        if self.final is None or (document.run_number, document.complete) >= (
            self.final.run_number,
            self.final.complete,
        ):
            self.final = document
        changes: dict[str, object] = {"finished": max(self.state.finished, document.run_number)}
        run = self.state.run
        if run is not None and run.run_id == document.run_id and run.finished is None:
            changes["run"] = replace(run, finished=document.reason)
            self.wants_run = False
        self.save(**changes)

    def believe_finished(self) -> None:
        """A run that somebody knows as finished is finished for this peer, too, whether it saw the end or not."""
        number = self.finished_number()
        if number <= self.state.finished:
            return
        changes: dict[str, object] = {"finished": number}
        run = self.state.run
        if run is not None and run.number <= number and run.finished is None:
            changes["run"] = replace(run, finished="finished while this peer was away")
            self.wants_run = False
        self.save(**changes)

    def is_current(self, peer: str, session: str) -> bool:
        """Whether the peer is there with this session."""
        if peer == self.peer:
            return session == self.settings.session
        presence = self.roster.online().get(peer)
        return presence is not None and presence.session == session
