"""The controller's word: the round document that says where its tenure is."""

from __future__ import annotations

from edge_peer.protocol.context import Context
from edge_peer.protocol.fields import SECONDS_MAX
from edge_peer.protocol.messages import FINISHED, TRAINING, WAITING, Round
from edge_peer.protocol.tenure import MERGING, OPEN, REPORTING, Tenure


def round_document(context: Context, tenure: Tenure) -> Round:
    """What the controller says now."""
    settings, opening, scores = context.settings, tenure.opening, tenure.scores
    state = {OPEN: TRAINING, MERGING: TRAINING, REPORTING: FINISHED}.get(tenure.phase, WAITING)
    if tenure.is_short:
        state = WAITING
    base = tenure.base if tenure.phase in (OPEN, MERGING, REPORTING) else None
    run = tenure.run if base is not None else None
    return Round(
        session=settings.session,
        term=tenure.term,
        beat=max(tenure.lease.beat, 0),
        state=state,
        model_id=settings.model_id,
        model_digest=settings.model_digest,
        settings=run.settings if run is not None else settings.run,
        run_id=run.run_id if run is not None else None,
        run_number=run.number if run is not None else 0,
        round=(base.round + (state == TRAINING)) if base is not None else 0,
        base=base,
        attempt=opening.attempt,
        participants=opening.participants,
        deadline_s=min(max(tenure.deadline_s - context.now_s, 0.0), SECONDS_MAX),
        accepted={peer: offer.digest for peer, offer in opening.accepted.items()},
        closed_accepted=opening.closed,
        refused=opening.refused,
        missing=opening.missing if state == TRAINING or tenure.is_short else _silent(context),
        wanted=tenure.wanted[0].sha256 if tenure.wanted is not None else None,
        wanted_from=tenure.wanted[1] if tenure.wanted is not None else None,
        reason=tenure.reason if state != TRAINING else "",
        accuracy=scores.accuracy,
        int8_accuracy=scores.int8_accuracy,
        accuracy_round=scores.round,
        reports=scores.reports if state == FINISHED else {},
        complete=tenure.complete if state == FINISHED else False,
        epsilon=settings.aggregation.epsilon(run.settings, base.round)
        if run is not None and base is not None
        else None,
    )


def _silent(context: Context) -> dict[str, str]:
    """Who is taken for gone though its presence says online: it reads this, and answers if it is there."""
    roster = context.roster
    return {peer: roster.suspicion(peer)[:300] for peer in roster.said_online() if roster.suspicion(peer)}
