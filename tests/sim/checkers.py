"""The invariants of docs/protocol.md, checked at every step from outside the protocol's code.

`Checkers` sees what a board does (each command, just before it is run), what its disk holds, and what the broker takes
in. It raises `Violation` at the first broken promise.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from aggregator_core.reference import weighted_mean as reference_mean
from edge_peer.protocol import commands as do
from edge_peer.protocol.events import TrainingKey
from edge_peer.protocol.messages import FINISHED, TRAINING, Presence, Round, Vote
from edge_peer.protocol.peer import MODELS_MAX
from edge_peer.protocol.run_settings import WHOLE
from edge_peer.protocol.tensors import Delta, ModelRef
from edge_peer.protocol.topics import PRESENCE, ROUND, VOTE
from tests.sim.arithmetic import GRID, advance, digest_of
from tests.sim.lineage import Lineage, Made

if TYPE_CHECKING:
    from tests.sim.world import Process

Place = tuple[int, str, int, int]


class Violation(AssertionError):  # noqa: N818 - it is a finding, not an error of this program
    """A promise of the protocol is broken."""


class Checkers:
    """All invariants of one world.

    Args:
        roster: With a roster a term has one controller; without one only the others hold.
    """

    def __init__(self, roster: bool) -> None:
        self._roster = roster
        self._controllers: dict[int, tuple[str, str]] = {}
        self._votes: dict[tuple[str, int], str] = {}
        self._commits: dict[tuple[str, int, int], str] = {}
        self._held: dict[str, Place] = {}
        self._elected: dict[str, int] = {}
        self._finished: dict[str, int] = {}
        self._reasons: dict[tuple[str, str], str] = {}
        self._trained: dict[tuple[str, str], int] = {}
        self._believed: dict[tuple[str, str, int, str], int] = {}
        self._lease: dict[tuple[str, str], float] = {}
        self._said: dict[tuple[str, str, int, int], float] = {}
        self._numbers: dict[str, int] = {}
        #: Models that a controller has made and can send as deltas: (peer, session, term, digest).
        self._own_rounds: set[tuple[str, str, int, str]] = set()
        #: What each process has sent of models on its present connection.
        self._out: dict[tuple[str, str], set[str]] = {}
        #: The same of those that the broker keeps.
        self._kept: dict[tuple[str, str], set[str]] = {}
        #: Digests of models that somebody has said that it needs.
        self._needed: set[str] = set()
        #: How many whole models were sent to everybody.
        self.wholes = 0
        self.made: dict[str, Made] = {}
        self.vectors: dict[str, np.ndarray] = {}
        self.lineage = Lineage(self.made)

    # ------------------------------------------------------------------ the state after each event

    def after(self, process: Process) -> None:
        """After a board has handled an event, before its commands are run."""
        peer, state = process.name, process.peer.state
        self.lineage.hear(process)
        self._holds_little(process)
        self._rises(self._elected, peer, state.elected_term, "elected term")
        self._rises(self._finished, peer, state.finished, "number of the finished run")
        if state.run is not None:
            known = self._reasons.get((peer, state.run.run_id))
            if known is not None and state.run.finished is None:
                raise Violation(f"{peer}: run {state.run.run_id} was finished ({known}) and goes on")
            if state.run.finished is not None:
                self._reasons[peer, state.run.run_id] = state.run.finished

    @staticmethod
    def _holds_little(process: Process) -> None:
        """What a peer holds is bounded by the size of the roster, whatever comes how often."""
        peers = len(process.world.boards)
        context = process.peer._context
        held = {
            "holds too many models": (len(process.models), MODELS_MAX + 4),
            "holds too many digests of models": (len(context.models), MODELS_MAX + 4),
            # Those that count, and the one that has just come.
            "holds too many updates": (len(process.updates), peers + 1),
            # The operator, too, says something.
            "holds too many peers": (len(context.roster.online()), peers),
            "holds too many round documents": (len(context.rounds), peers),
            "holds too many requests to stop": (len(context.stops), peers + 1),
        }
        for what, (count, bound) in held.items():
            if count > bound:
                raise Violation(f"{process.name} {what}: {count}, more than {bound}")

    def restarted(self, peer: str, finished: int, elected: int, held: ModelRef | None) -> None:
        """A board starts from its disk: what was never saved may be forgotten, if nobody could hear of it."""
        self._finished[peer] = finished
        self._elected[peer] = elected
        for key in [key for key in self._reasons if key[0] == peer]:
            del self._reasons[key]
        for key, trained in list(self._trained.items()):
            # A round that this peer trained from a model which it had not yet written, and told nobody of.
            known = held.round + 1 if held is not None and held.run_id == key[1] else 0
            self._trained[key] = min(trained, known) if key[0] == peer else trained
        if held is not None:
            self._rises(self._held, peer, held.order, "newest model on the disk")

    def saved(self, process: Process) -> None:
        """A model is on a board's disk now."""
        held = process.board.held
        assert held is not None
        self._rises(self._held, process.name, held.order, "newest model on the disk")

    @staticmethod
    def _rises(values: dict, peer: str, value: object, what: str) -> None:
        if peer in values and value < values[peer]:
            raise Violation(f"{peer}: {what} went back from {values[peer]} to {value}")
        values[peer] = value

    # ------------------------------------------------------------------ commands

    def before(self, process: Process, command: do.Command) -> None:
        """Just before a board runs a command."""
        if isinstance(command, do.Publish) and command.kind == VOTE:
            assert isinstance(command.document, Vote)
            self._vote(process, command.document)
        elif isinstance(command, do.Publish) and command.kind == ROUND and isinstance(command.document, Round):
            self._round(process, command.document)
        elif isinstance(command, do.Publish) and command.kind == PRESENCE and isinstance(command.document, Presence):
            self._needed.add(command.document.needs or "")
        elif isinstance(command, do.PublishModel):
            self._whole(process, command)
        elif isinstance(command, do.PublishDelta):
            self._delta(process, command.ref)
        elif isinstance(command, do.StartTraining):
            self._training(process, command.key)
            if process.board.facts.lacks and {command.settings.codec, command.settings.downlink} - {"float32", WHOLE}:
                raise Violation(f"{process.name} trains for a run whose codecs it has not")
            if command.settings.error_feedback:
                self._memory(process, command)
        elif isinstance(command, do.PublishUpdate):
            self.lineage.sent.add(command.offer.digest)
            if command.offer.term < process.board.saved.elected_term:
                raise Violation(f"{process.name} sends an update to term {command.offer.term}, which is over")
        elif isinstance(command, do.Aggregate):
            self._aggregate(process, command)
        elif isinstance(command, do.LogRound) and command.event == "committed":
            self._has_lease(process)
        elif isinstance(command, do.Exit) and command.failed and process.world.broker.went_back < 2:
            # A broker that shows an earlier process again and again cannot be told from one that lives.
            raise Violation(f"{process.name} gives up: {command.reason}")
        elif isinstance(command, do.LogRound) and command.event == "finished" and "openings" in str(command.fields):
            # No scenario is so bad: whoever is alive answers long before.
            raise Violation(f"{process.name} ends the run in vain: {command.fields}")

    def echoed(self, process: Process, document: Round) -> None:
        """A board reads its own round document, sent back by the broker: the lease runs from when it was sent."""
        sent_s = self._said.get((process.name, document.session, document.term, document.beat), float("-inf"))
        key = (process.name, process.session)
        self._lease[key] = max(self._lease.get(key, float("-inf")), sent_s)

    def _has_lease(self, process: Process) -> None:
        timing = process.world.scenario.timing
        age_s = process.now_s - self._lease.get((process.name, process.session), float("-inf"))
        if age_s > timing.lease_s + timing.settle_s:
            raise Violation(f"{process.name} commits; the broker has not answered it for {age_s:.2f} s")

    def _vote(self, process: Process, vote: Vote) -> None:
        # The first lease of a controller runs from its election.
        self._lease[process.name, process.session] = process.now_s
        key = (process.name, vote.term)
        if self._votes.setdefault(key, vote.candidate) != vote.candidate:
            raise Violation(f"{process.name} votes in term {vote.term} for {vote.candidate} after {self._votes[key]}")
        saved = process.board.saved
        if (saved.voted_term, saved.voted_for) != (vote.term, vote.candidate):
            raise Violation(f"{process.name} publishes its vote of term {vote.term}, but its disk does not hold it")

    def _round(self, process: Process, document: Round) -> None:
        name, saved = process.name, process.board.saved
        if saved.elected_term < document.term:
            raise Violation(f"{name} speaks as controller of term {document.term}, which its disk does not hold")
        if self._roster:
            holder = self._controllers.setdefault(document.term, (name, process.session))
            if holder != (name, process.session):
                raise Violation(f"term {document.term} has two controllers: {holder} and {(name, process.session)}")
        self._said[name, document.session, document.term, document.beat] = process.now_s
        if document.run_id is None:
            return
        if self._numbers.setdefault(document.run_id, document.run_number) != document.run_number:
            raise Violation(f"run {document.run_id} has two numbers")
        if document.state == FINISHED:
            if saved.finished < document.run_number:
                raise Violation(f"{name} says that run {document.run_id} is finished; its disk does not hold it")
            self._is_kept(process, document.base)
        if document.state == TRAINING:
            if saved.finished >= document.run_number:
                raise Violation(f"{name} trains run {document.run_id}, which it knows as finished")
            self._is_saved(process, document.base)
            self._commit(document.base)
            self._is_out(process, document.base)
        if document.base is not None:
            key = (name, process.session, document.term, document.run_id)
            if document.base.round < self._believed.get(key, 0):
                raise Violation(f"{name}: base went back from round {self._believed[key]} to {document.base.round}")
            self._believed[key] = document.base.round

    def _is_saved(self, process: Process, ref: ModelRef) -> None:
        held = process.board.held
        if held is None or held.order < ref.order:
            raise Violation(f"{process.name} publishes the model of round {ref.round}; its disk holds {held}")

    def _commit(self, ref: ModelRef) -> None:
        """At most one model for each run, term and round."""
        key = (ref.run_id, ref.term, ref.round)
        if self._commits.setdefault(key, ref.sha256) != ref.sha256 and self._roster:
            raise Violation(f"two models of round {ref.round} of run {ref.run_id} in term {ref.term}")

    # ------------------------------------------------------------------ models

    def merged(self, process: Process, command: do.Aggregate, digest: str, vector: np.ndarray) -> None:
        """A controller has combined updates."""
        changes = [self.made[it.offer.digest].change.tolist() for it in command.updates]
        mean = reference_mean(changes, [it.offer.examples for it in command.updates])
        expected = advance(self.vectors[command.base], np.asarray(mean), command.settings.server_optimizer)
        left_out = 0.0 if command.settings.downlink == WHOLE else float(GRID)
        if not np.allclose(vector, expected, rtol=1e-5, atol=1e-5 + left_out):
            raise Violation(f"the model of round {command.round} is not the mean of the accepted updates")
        self.vectors[digest] = vector
        self._own_rounds.add((process.name, process.session, command.term, digest))
        self.lineage.merged(command, digest)

    def made_of_delta(self, process: Process, delta: Delta, vector: np.ndarray) -> None:
        """A peer has made a model of a delta."""
        if digest_of(vector) != delta.ref.sha256:
            raise Violation(f"{process.name} makes of the delta of round {delta.ref.round} what nobody has committed")

    def connected(self, process: Process) -> None:
        """Nothing that was sent on an earlier connection is known to have arrived."""
        self._out[process.name, process.session] = set()
        self._kept[process.name, process.session] = set()

    def _whole(self, process: Process, command: do.PublishModel) -> None:
        ref = command.ref
        self._is_saved(process, ref)
        self._commit(ref)
        if not command.retained:
            return
        self.wholes += 1
        self._out[process.name, process.session].add(ref.sha256)
        self._kept[process.name, process.session].add(ref.sha256)
        own = (process.name, process.session, ref.term, ref.sha256) in self._own_rounds
        leads = process.peer.controller is not None and process.peer.controller.term == ref.term
        last = process.peer.state.finished >= ref.run_number
        needed = last or ref.sha256 in self._needed
        if process.world.scenario.run.downlink != WHOLE and own and leads and not needed:
            raise Violation(f"{process.name} sends the whole model of round {ref.round}, which nobody needs")

    def _delta(self, process: Process, ref: ModelRef) -> None:
        self._is_saved(process, ref)
        self._commit(ref)
        self._out[process.name, process.session].add(ref.sha256)
        if (process.name, process.session, ref.term, ref.sha256) not in self._own_rounds:
            raise Violation(f"{process.name} sends a delta of round {ref.round}, which it has not made")

    def _is_out(self, process: Process, base: ModelRef) -> None:
        """Whoever hears of a round has been sent its model, but for the initial one where only deltas are sent."""
        everybody_has_it = base.round == 0 and process.world.scenario.run.downlink != WHOLE
        if not everybody_has_it and base.sha256 not in self._out[process.name, process.session]:
            raise Violation(f"{process.name} opens round {base.round + 1}, but has not sent its model")

    def _is_kept(self, process: Process, last: ModelRef) -> None:
        """Whoever hears that a run is over finds its model at the broker, if who says so has it."""
        controller = process.peer.controller
        # Without a lease it only repeats what somebody else has said.
        decides = controller is not None and controller.has_lease
        has_it = last.round > 0 and last.sha256 in process.peer._context.models
        if decides and has_it and last.sha256 not in self._kept[process.name, process.session]:
            raise Violation(f"{process.name} ends run {last.run_id}, but the broker does not keep its last model")

    def _memory(self, process: Process, command: do.StartTraining) -> None:
        on_disk = {it.digest for it in process.board.disk.memories}
        why = self.lineage.wrong_memory(process, command.key, command.after, on_disk)
        if why:
            raise Violation(f"{process.name} trains round {command.key.round} {why}")

    # ------------------------------------------------------------------ updates

    def _training(self, process: Process, key: TrainingKey) -> None:
        last = self._trained.get((process.name, key.run_id), 0)
        if key.round < last:
            raise Violation(f"{process.name} trains round {key.round} of run {key.run_id} after round {last}")
        self._trained[process.name, key.run_id] = key.round
        if self._finished.get(process.name, 0) >= self._numbers[key.run_id]:
            raise Violation(f"{process.name} trains run {key.run_id}, which it knows as finished")

    def _aggregate(self, process: Process, command: do.Aggregate) -> None:
        names = [it.peer for it in command.updates]
        if sorted(set(names)) != names:
            raise Violation(f"{process.name} counts updates of {names}: not each once, sorted")
        digests = [it.offer.digest for it in command.updates]
        if len(set(digests)) != len(digests) or not digests:
            raise Violation(f"{process.name} counts an update twice, or none: {digests}")
        for it in command.updates:
            made = self.made.get(it.offer.digest)
            wanted = TrainingKey(command.run_id, command.round, command.base)
            if made is None or (made.peer, made.key, made.examples) != (it.peer, wanted, it.offer.examples):
                raise Violation(f"{process.name} counts for {wanted} an update of {it.peer} that was made for {made}")
