"""Cores that are broken on purpose: each breaks one promise, and the checkers must notice."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any
from unittest.mock import patch

from aggregator_core import weighted_mean
from edge_peer.protocol import commands as do
from edge_peer.protocol import election as election_module
from edge_peer.protocol import events as ev
from edge_peer.protocol import rounds as rounds_module
from edge_peer.protocol.context import Context
from edge_peer.protocol.downlink import Downlink
from edge_peer.protocol.election import Election, choose
from edge_peer.protocol.leaders import Leaders
from edge_peer.protocol.lease import Lease
from edge_peer.protocol.memories import Memories
from edge_peer.protocol.messages import Round, Vote
from edge_peer.protocol.peer import Peer
from edge_peer.protocol.roster import Roster
from edge_peer.protocol.rounds import Rounds
from edge_peer.protocol.run_settings import WHOLE, RunSettings
from edge_peer.protocol.runs import Runs
from edge_peer.protocol.settings import PeerSettings
from edge_peer.protocol.state import SavedState
from edge_peer.protocol.tensors import Delta, ModelRef, UpdateOffer
from edge_peer.protocol.tenure import OPEN
from edge_peer.protocol.topics import ROOT, VOTE, Topics
from edge_peer.protocol.training import Trainer
from tests.sim import process as process_module
from tests.sim.__main__ import failure
from tests.sim.checkers import Violation
from tests.sim.process import Process
from tests.sim.scenario import PROFILES
from tests.sim.story import long_run, lost_branch

STORY = "story"
LONG_RUN = "long run"


@dataclass(frozen=True)
class Mutant:
    """One broken core.

    Attributes:
        caught_as: Part of the complaint that must come, so that it is caught for what it does.
        owner: What is patched, in its `attribute`, by `broken`.
        also: Further patches: a promise that is kept twice over must be broken twice.
        profile: The kind of scenario that shows it soonest; `STORY`: the told one.
    """

    name: str
    caught_as: str
    owner: Any
    attribute: str
    broken: Callable[..., Any]
    profile: str = "everything"
    also: tuple[tuple[Any, str, Callable[..., Any]], ...] = ()

    @contextmanager
    def installed(self) -> Iterator[None]:
        """The core is broken while this lasts."""
        with ExitStack() as stack:
            for owner, attribute, broken in ((self.owner, self.attribute, self.broken), *self.also):
                stack.enter_context(patch.object(owner, attribute, broken))
            yield


# The sound parts, which the broken ones call.
_step = Election.step
_peer_init = Peer.__init__
_handle = Peer.handle
_best = Leaders.best
_open = Rounds._open
_send = Trainer._send
_emit = Context.emit
_save = Context.save
_before = Memories.before
_ask_for_model = Trainer._ask_for_model
_send_model = Downlink.send
_send_whole = Downlink._send_whole


def _votes_twice(self: Election) -> bool:
    won = _step(self)
    state = self._context.state
    best = choose(self._fresh())
    if self.active and state.voted_term == self.term and best not in (None, state.voted_for):
        self._context.save(voted_for=best)
        self._context.emit(do.Publish(VOTE, Vote(self._context.settings.session, self.term, best)))
    return won


def _forgets_its_vote(
    self: Peer, settings: PeerSettings, state: SavedState, rng: random.Random, stamp: Callable[[], str]
) -> None:
    _peer_init(self, settings, replace(state, voted_term=0, voted_for=""), rng, stamp)


def _best_of_any_term(self: Leaders, own_term: int, in_grace: bool) -> str | None:
    context = self._context
    state, context.state = context.state, replace(context.state, elected_term=0)
    best = _best(self, own_term, in_grace)
    context.state = state
    return best


def _does_not_step_down(self: Leaders, own_term: int, in_grace: bool) -> str | None:
    return None if own_term else _best(self, own_term, in_grace)


def _counts_twice(self: Context, command: do.Command) -> None:
    if isinstance(command, do.Aggregate):
        command = replace(command, updates=(command.updates[0], *command.updates))
    _emit(self, command)


def _counts_wrong_weights(self: Context, command: do.Command) -> None:
    if isinstance(command, do.Aggregate):
        updates = tuple(replace(it, offer=replace(it.offer, examples=1)) for it in command.updates)
        command = replace(command, updates=updates)
    _emit(self, command)


def _takes_any_round(self: Rounds, peer: str, offer: UpdateOffer) -> str:
    return "" if self._tenure.phase == OPEN and peer in self._tenure.opening.participants else "no round is open"


def _saves_last(self: Peer, event: ev.Event, now_s: float) -> tuple[do.Command, ...]:
    return tuple(sorted(_handle(self, event, now_s), key=lambda it: isinstance(it, do.SaveModel)))


def _saves_its_state_last(self: Peer, event: ev.Event, now_s: float) -> tuple[do.Command, ...]:
    return tuple(sorted(_handle(self, event, now_s), key=lambda it: isinstance(it, do.SaveState)))


def _keeps_every_update(self: Context, command: do.Command) -> None:
    if not isinstance(command, do.KeepUpdates):
        _emit(self, command)


def _saves_no_state(self: Context, **changes: object) -> None:
    self.state = replace(self.state, **changes)


def _forgets_the_end(self: Context, **changes: Any) -> None:
    run = self.state.run
    if "elected_term" in changes and run is not None:
        changes["run"] = replace(run, finished=None)
    _save(self, **changes)


def _of_term_one(run_id: str, number: int, round_: int, term: int, sha256: str) -> ModelRef:
    return ModelRef(run_id, number, round_, 1, sha256)


def _plain_mean(changes: Any, examples: list[int]) -> Any:
    return weighted_mean(changes, [1] * len(examples))


def _goes_back(self: Trainer, base: ModelRef) -> bool:
    return False


_NOT_SUPERSEDED = ((Runs, "is_superseded", lambda self: False),)


def _never_closes(self: Rounds) -> None:
    _open(self)
    self._tenure.deadline_s = float("inf")


def _sends_once(self: Trainer, controller: str, document: Round, update: ev.TrainingDone) -> None:
    sent = self.__dict__.setdefault("sent_once", set())
    if update.key not in sent:
        sent.add(update.key)
        _send(self, controller, document, update)


def _advances_anyway(self: Memories, document: Round) -> None:
    """Nothing is heard of what was not counted."""


def _never_advances(self: Memories, key: ev.TrainingKey) -> str | None:
    sound = _before(self, key)
    earlier = [it.digest for it in self._memories if it.run_id == key.run_id and it.digest != sound]
    return earlier[0] if earlier else sound


def _forgets_memories(self: Memories, key: ev.TrainingKey) -> str | None:
    return None


def _remembers_what_it_never_sent(self: Memories, key: ev.TrainingKey) -> str | None:
    earlier = [it.digest for it in self._memories if it.run_id == key.run_id and it.round < key.round]
    return earlier[-1] if earlier else None


def _adds_to_what_it_holds(self: Process, delta: Delta) -> str:
    newest = self.peer.state.held
    return newest.sha256 if newest is not None else delta.base


def _tells_no_needs(self: Trainer, document: Round, base: ModelRef) -> None:
    _ask_for_model(self, replace(document, settings=replace(document.settings, downlink=WHOLE)), base)


def _sends_every_model_whole(self: Downlink, base: ModelRef, settings: RunSettings, last: bool = False) -> None:
    self._delta = None
    _send_model(self, base, settings, last)


def _sends_the_last_one_like_any_other(
    self: Downlink, base: ModelRef, settings: RunSettings, last: bool = False
) -> None:
    _send_model(self, base, settings)


def _takes_over_without_the_model(self: Downlink, base: ModelRef) -> None:
    if base.term == self._context.state.elected_term or base.round == 0:
        _send_whole(self, base)


#: A mutant must be caught within so many scenarios of its profile.
SEEDS_MAX = 250


def complaint(mutant: Mutant) -> str:
    """What the checkers say of a mutant; empty: it was not caught as what it is."""
    with mutant.installed():
        for why in _complaints(mutant):
            if mutant.caught_as in why:
                return why
    return ""


def _complaints(mutant: Mutant) -> Iterator[str]:
    if mutant.profile in (STORY, LONG_RUN):
        try:
            if mutant.profile == STORY:
                lost_branch()
            else:
                long_run()
        except Violation as violation:
            yield str(violation)
        return
    profile = list(PROFILES).index(mutant.profile)
    for number in range(SEEDS_MAX):
        yield failure(profile + len(PROFILES) * number)


MUTANTS = (
    Mutant("votes twice in a term", "votes in term", Election, "step", _votes_twice),
    Mutant("forgets its vote over a restart", "votes in term", Peer, "__init__", _forgets_its_vote),
    Mutant(
        "elects with one vote",
        "two controllers",
        election_module,
        "quorum",
        lambda roster, seen: 1,
        also=((Roster, "voted", lambda self, term, candidate: 10**6),),
    ),
    Mutant("follows controllers of old terms", "which is over", Leaders, "best", _best_of_any_term, "hangs"),
    Mutant("does not step down", "controllers: [", Leaders, "best", _does_not_step_down, "network"),
    Mutant("counts an update twice", "not each once", Context, "emit", _counts_twice),
    Mutant("counts every update alike", "that was made for", Context, "emit", _counts_wrong_weights),
    Mutant(
        "takes updates of other rounds",
        "that was made for",
        Rounds,
        "_not_for_this_round",
        _takes_any_round,
        "operator",
    ),
    Mutant("stamps every model with term 1", "two models of round", rounds_module, "ModelRef", _of_term_one, "network"),
    Mutant("weighs all updates alike", "is not the mean", process_module, "weighted_mean", _plain_mean, "calm"),
    Mutant("forgets that a run is over", "and goes on", Context, "save", _forgets_the_end, "network"),
    Mutant("publishes before it saves", "its disk holds", Peer, "handle", _saves_last),
    Mutant("publishes before its state is saved", "its disk does not hold", Peer, "handle", _saves_its_state_last),
    Mutant("lets go of no update", "holds too many updates", Context, "emit", _keeps_every_update, "calm"),
    Mutant("lets go of no model", "holds too many models", Trainer, "forget_models", lambda self, *but: None, LONG_RUN),
    Mutant(
        "listens to all federations",
        "holds too many peers",
        Topics,
        "of",
        lambda self, peer, kind: f"{ROOT}/one/{peer}/{kind}",
        "neighbours",
        (
            (Topics, "filter", lambda self, kind: f"{ROOT}/one/+/{kind}"),
            (Topics, "parse", lambda self, topic: tuple(topic.split("/")[-2:])),
        ),
    ),
    Mutant("does not save its state", "its disk does not hold", Context, "save", _saves_no_state),
    Mutant("commits without a lease", "has not answered", Lease, "holds", property(lambda self: True), "hangs"),
    Mutant("goes back a round", "after round", Trainer, "_is_ahead", _goes_back, STORY, _NOT_SUPERSEDED),
    Mutant("never closes a round", "without faults", Rounds, "_open", _never_closes, "operator"),
    Mutant("never sends an update again", "in vain", Trainer, "_send", _sends_once, "network"),
    Mutant(
        "goes on with a finished run",
        "knows as finished",
        Context,
        "is_finished",
        lambda self, record: False,
        "hangs",
    ),
    Mutant("takes every update for counted", "knows was not counted", Memories, "hear", _advances_anyway, "operator"),
    Mutant("begins with an old memory", "which was counted", Memories, "before", _never_advances, "calm"),
    Mutant("begins without its memory", "which was counted", Memories, "before", _forgets_memories, "calm"),
    Mutant(
        "remembers what it never sent",
        "never sent",
        Memories,
        "before",
        _remembers_what_it_never_sent,
        "network",
    ),
    Mutant("trains for a run that it cannot do", "it has not", Trainer, "_lacking", lambda self, document: False),
    Mutant("adds a delta to another model", "nobody has committed", Process, "_base_of", _adds_to_what_it_holds),
    Mutant("does not say what it needs", "lacks the models", Trainer, "_ask_for_model", _tells_no_needs, "crashes"),
    Mutant(
        "does not answer who needs a model",
        "lacks the models",
        Downlink,
        "answer_needs",
        lambda self, base: None,
        "crashes",
    ),
    Mutant("sends every model whole", "nobody needs", Downlink, "send", _sends_every_model_whole, "calm"),
    Mutant(
        "takes over without the model",
        "has not sent its model",
        Downlink,
        "_send_whole",
        _takes_over_without_the_model,
        "crashes",
    ),
    Mutant(
        "leaves the last model to those who hear its delta",
        "does not keep its last model",
        Downlink,
        "send",
        _sends_the_last_one_like_any_other,
        "calm",
    ),
    Mutant("wakes for what is past", "busy loop", Trainer, "next_deadline_s", lambda self: self._context.now_s),
)
