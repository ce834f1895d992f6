"""Every round's model once more, of the updates that its controller has kept, by the code that the controller runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from aggregator_core import RefusedUpdateError
from aggregator_core.codecs import CodecNameError
from aggregator_core.parameters import ParameterError
from edge_peer.errors import RemoteProtocolError, ResourceError
from edge_peer.operator.audit.log import Commit, Counted, RoundLog, Verdict, content
from edge_peer.protocol.commands import Contribution
from edge_peer.protocol.run_settings import RunSettings
from edge_peer.protocol.tensors import UpdateOffer
from edge_peer.shell.aggregation import merge
from edge_peer.shell.changes import Change
from edge_peer.shell.global_model import GlobalModel
from edge_peer.shell.kept_updates import BASE, SUFFIX, UPDATES, round_of
from edge_peer.shell.noise import Noise
from edge_peer.shell.payload import decode_model, decode_offer, decode_update
from edge_peer.trainers.artifacts import ModelArtifacts

RECOMPUTED = "recomputed"
DIGESTS = "digests only"
MISSING = "missing"
Updates = dict[str, tuple[UpdateOffer, Change]]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How far a round could be checked: one of the three words, and why or how."""

    state: str
    why: str


class Replay:
    """Makes one round after another, in their order.

    Args:
        run: The run's folder.
        run_id: Its name, as its files say.
        artifacts: What the run was made with.
        log: Of its controllers.
        verdict: Gets what does not fit.
    """

    def __init__(self, run: Path, run_id: str, artifacts: ModelArtifacts, log: RoundLog, verdict: Verdict) -> None:
        self._run = run
        self._run_id = run_id
        self._layout = artifacts.layout
        self._optimizer = artifacts.optimizer
        self._log = log
        self._verdict = verdict
        #: The model of the round before, where it could be made.
        self._model: GlobalModel | None = GlobalModel(artifacts.initial())
        self._digest = artifacts.initial_sha256

    @property
    def final(self) -> GlobalModel | None:
        """The model of the last round; None: it could not be made."""
        return self._model

    def round(self, commit: Commit) -> Outcome:
        """Make a round's model again, as far as it can be."""
        outcome, made = self._round(commit)
        self._model, self._digest = made, commit.sha256
        return outcome

    def _round(self, commit: Commit) -> tuple[Outcome, GlobalModel | None]:
        folder = self._folder(commit)
        updates = self._updates(commit, folder) if folder is not None else {}
        settings = self._log.settings
        if updates is None:
            return Outcome(DIGESTS, "what was kept of it cannot be used"), None
        if settings is None:
            return Outcome(DIGESTS, "no log tells of the run's settings"), None
        if settings.privacy == "central":
            return Outcome(DIGESTS, "nobody else can draw the controller's noise"), None
        if folder is None or not updates:
            return Outcome(DIGESTS, "its updates were not kept"), None
        if settings.scaffold and commit.population is None:
            return Outcome(DIGESTS, "its log is of a release that did not tell the population"), None
        base = self._base(commit, folder)
        if base is None:
            return Outcome(DIGESTS, "the model that it begins with is not here"), None
        return self._merged(commit, base, updates, settings)

    def _merged(
        self, commit: Commit, base: GlobalModel, updates: Updates, settings: RunSettings
    ) -> tuple[Outcome, GlobalModel | None]:
        ordered = sorted(updates.items())
        try:
            merged = merge(
                self._layout,
                base,
                [change for _, (_, change) in ordered],
                [Contribution(peer, offer) for peer, (offer, _) in ordered],
                settings,
                max(commit.population or 0, 1),
                Noise(self._run, self._layout.trained_size),
                self._optimizer,
            )
        except (RefusedUpdateError, ParameterError, CodecNameError) as error:
            self._verdict.fault(f"{commit}: no model can be made of the updates that were kept: {error}")
            return Outcome(DIGESTS, "no model comes of what was kept"), None
        found = merged.model.digest
        if found != commit.sha256:
            self._verdict.fault(
                f"{commit}: the updates that were kept make model {found[:12]}, committed was {commit.sha256[:12]}"
            )
            return Outcome(DIGESTS, "another model comes of what was kept"), None
        return Outcome(RECOMPUTED, f"of {len(ordered)} updates, byte for byte"), merged.model

    # ------------------------------------------------------------------ what was kept

    def _folder(self, commit: Commit) -> Path | None:
        """Where this commit's updates are: in an assembled run by controller, on a board not."""
        updates = self._run / UPDATES
        for folder in (updates / commit.peer / str(commit.round), updates / str(commit.round)):
            if folder.is_dir() and any(folder.glob(f"*{SUFFIX}")):
                return folder
        return None

    def _updates(self, commit: Commit, folder: Path) -> Updates | None:
        """Offer and values by peer; none: of another commit of this round. None: they cannot be used."""
        found: Updates = {}
        good = True
        terms = {it.term for it in self._log.commits if (it.peer, it.round) == (commit.peer, commit.round)}
        for peer, counted in commit.accepted.items():
            path = folder / f"{peer}{SUFFIX}"
            try:
                payload = content(path)
                offer = decode_offer(payload)
                if offer.term != commit.term and offer.term in terms:
                    return {}
                self._fits(commit, counted, offer)
                found[peer] = (offer, decode_update(payload, offer, self._layout))
            except (ResourceError, RemoteProtocolError) as error:
                self._verdict.fault(f"{self._shown(path)}: {error}")
                good = False
        for path in sorted(folder.glob(f"*{SUFFIX}")):
            if path.name != BASE and path.name.removesuffix(SUFFIX) not in commit.accepted:
                self._verdict.fault(f"{self._shown(path)}: {commit} has counted no update of this peer")
                good = False
        return found if good else None

    def _fits(self, commit: Commit, counted: Counted, offer: UpdateOffer) -> None:
        """Raises RemoteProtocolError where an update is not the one that the log tells of."""
        pairs: list[tuple[str, object, object]] = [
            ("run_id", offer.run_id, self._run_id),
            ("term", offer.term, commit.term),
            ("round", offer.round, commit.round),
            ("base", offer.base, commit.base),
            ("digest", offer.digest, counted.digest),
            ("examples", offer.examples, counted.examples),
            ("codec", offer.codec, counted.codec),
            ("loss", offer.loss, counted.loss),
            ("seconds", offer.seconds, counted.seconds),
        ]
        if counted.steps is not None:
            pairs += [("steps", offer.steps, counted.steps), ("base_loss", offer.base_loss, counted.base_loss)]
        for name, said, logged in pairs:
            if said != logged:
                raise RemoteProtocolError(f"{name} is {said}, the log says {logged}")

    def _base(self, commit: Commit, folder: Path) -> GlobalModel | None:
        """What the round begins with: the model that was made just now, or the one that was kept."""
        path = folder / BASE
        kept = None
        if path.is_file():
            try:
                kept = decode_model(self._layout, content(path))[1]
                if kept.digest != commit.base:
                    self._verdict.fault(f"{self._shown(path)}: is {kept.digest[:12]}, {commit} begins with another")
            except (ResourceError, RemoteProtocolError) as error:
                self._verdict.fault(f"{self._shown(path)}: {error}")
        if self._model is not None and self._digest == commit.base:
            return self._model
        return kept if kept is not None and kept.digest == commit.base else None

    def unknown_folders(self) -> None:
        """Find updates of rounds that no log tells of."""
        known = {(it.peer, it.round) for it in self._log.commits}
        rounds = {round_ for _, round_ in known}
        updates = self._run / UPDATES
        for path in sorted({it.parent for depth in ("*/*", "*/*/*") for it in updates.glob(f"{depth}{SUFFIX}")}):
            number = round_of(path)
            flat = path.parent == updates
            if number is None or (number not in rounds if flat else (path.parent.name, number) not in known):
                self._verdict.fault(f"{self._shown(path)}: updates are kept, but no log tells of such a round")

    def _shown(self, path: Path) -> str:
        return str(path.relative_to(self._run))
