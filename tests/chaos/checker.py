"""The invariants of docs/protocol.md, looked for in what a played fleet has left behind.

Each check gives a sentence for everything that it finds wrong. The round logs say what controllers did, the witness
what was published, the CSVs what each trainer did: what one of them tells must agree with the others.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

from tests.chaos.losses import LEFT_OUT, LOST, missed
from tests.chaos.play import End
from tests.chaos.records import Line, Records
from tests.chaos.schedule import ALL, MEMORY_LIMIT

Check = Callable[[Records], Iterator[str]]
#: A lease, a keepalive and some rounds take less, even on a busy machine; waiting for a deadline takes more.
RECOVERY_MAX_S = 18.0


def one_controller_a_term(records: Records) -> Iterator[str]:
    """I1."""
    leaders: dict[int, set[str]] = {}
    for line in records.lines:
        leaders.setdefault(line["term"], set()).add(line["peer"])
    sessions: dict[int, set[str]] = {}
    for peer, document in records.documents("round"):
        leaders.setdefault(document["term"], set()).add(peer)
        sessions.setdefault(document["term"], set()).add(document["session"])
    for term in sorted(leaders):
        if len(leaders[term]) > 1 or len(sessions.get(term, ())) > 1:
            yield f"term {term} has two controllers: {sorted(leaders[term])}, sessions {sorted(sessions.get(term, ()))}"


def one_vote_a_term(records: Records) -> Iterator[str]:
    """I2."""
    votes: dict[tuple[str, int], str] = {}
    for peer, vote in records.documents("vote"):
        first = votes.setdefault((peer, vote["term"]), vote["candidate"])
        if first != vote["candidate"]:
            yield f"{peer} votes in term {vote['term']} for {vote['candidate']} after {first}"


def one_model_a_round(records: Records) -> Iterator[str]:
    """I3; and that a model is the same whoever names it: committed in a round log, published as a round's base."""
    models: dict[tuple[str, int, int], str] = {}

    def differs(run_id: str, term: int, round_: int, sha256: str) -> bool:
        return models.setdefault((run_id, term, round_), sha256) != sha256

    for line in records.lines:
        if line["event"] == "committed" and differs(line["run_id"], line["term"], line["round"], line["sha256"]):
            yield f"two models of round {line['round']} of run {line['run_id']} are committed in term {line['term']}"
    for peer, document in records.documents("round"):
        base = document["base"]
        if base is not None and differs(base["run_id"], base["term"], base["round"], base["sha256"]):
            yield f"{peer} publishes another model of round {base['round']} of term {base['term']} than was committed"


def rounds_never_go_back(records: Records) -> Iterator[str]:
    """I4: of what a peer holds, of what a controller goes by, of what stands in a CSV."""
    held: dict[str, tuple[int, str, int, int]] = {}
    for peer, presence in records.documents("presence"):
        newest = presence["newest"]
        if not presence["online"] or newest is None:
            # The will was written when its peer connected.
            continue
        order = (newest["run_number"], newest["run_id"], newest["round"], newest["term"])
        if order < held.get(peer, order):
            yield f"{peer} goes back from {held[peer]} to {order} (run, name, round, term)"
        held[peer] = order
    bases: dict[tuple[str, str, int, str], int] = {}
    for peer, document in records.documents("round"):
        if document["base"] is not None:
            key = (peer, document["session"], document["term"], document["run_id"])
            round_ = document["base"]["round"]
            if round_ < bases.get(key, round_):
                yield f"controller {peer} of term {document['term']} goes back from round {bases[key]} to {round_}"
            bases[key] = round_
    for (peer, run_id), rows in records.rows.items():
        rounds = [int(row["round"]) for row in rows]
        if rounds != sorted(set(rounds)):
            yield f"the CSV of {peer} of run {run_id} goes back, or has a round twice: {rounds}"


def finished_stays(records: Records) -> Iterator[str]:
    """I4: a run whose end was published has that end, and no round after it."""
    ends: dict[str, tuple[int, str]] = {}
    for peer, document in records.documents("round"):
        run_id, term = document["run_id"], document["term"]
        if document["state"] == "finished":
            first = ends.setdefault(run_id, (term, document["base"]["sha256"]))
            if document["base"]["sha256"] != first[1]:
                yield f"run {run_id} finished in term {first[0]}; {peer} ends it with another model in term {term}"
        elif document["state"] == "training" and run_id in ends and term >= ends[run_id][0]:
            yield f"run {run_id} finished in term {ends[run_id][0]}; {peer} trains it in term {term}"


def counted_once(records: Records) -> Iterator[str]:
    """I5: no update is in a model twice."""
    for run_id in records.runs():
        counts = Counter(it["digest"] for line in records.chain(run_id) for it in line["accepted"].values())
        for digest, count in counts.items():
            if count > 1:
                yield f"update {digest[:12]} is {count} times in the model of run {run_id}"


def counted_where_made(records: Records) -> Iterator[str]:
    """I5: by what its sender published with it; and by the loss in its sender's CSV, where it has trained itself."""
    made: dict[str, set[tuple[str, int, str]]] = {}
    offered: dict[tuple[str, str, int], set[str]] = {}
    for peer, offer in records.documents("update"):
        made.setdefault(offer["digest"], set()).add((peer, offer["round"], offer["base"]))
        offered.setdefault((peer, offer["run_id"], offer["round"]), set()).add(offer["digest"])
    losses = {
        (peer, run_id, int(row["round"])): row["train_loss"]
        for (peer, run_id), rows in records.rows.items()
        for row in rows
        if int(row["examples"])
    }
    for line in records.lines:
        if line["event"] != "committed":
            continue
        for peer, it in line["accepted"].items():
            where, digest = f"round {line['round']} of run {line['run_id']}", it["digest"]
            # A controller's own update goes over no broker; and the witness is not there at once after its death. Then
            # another run may have the same: of the same initial model and seed comes the same first update.
            wanted = (peer, line["round"], line["base"])
            if wanted not in made.get(digest, {wanted}):
                yield f"{where} counts for {peer} an update of {sorted(made[digest])}"
            if digest not in offered.get((peer, line["run_id"], line["round"]), {digest}):
                yield f"{where} counts for {peer} another update than it has sent for this round"
            loss = losses.get((peer, line["run_id"], line["round"]), f"{it['loss']:.6g}")
            if loss != f"{it['loss']:.6g}":
                yield f"{where} counts an update of {peer} with loss {it['loss']:.6g}; it has made one with {loss}"


def runs_end(records: Records) -> Iterator[str]:
    """I8: with all their rounds, each in the model once."""
    for run_id in records.runs():
        end, chain = records.end(run_id), records.chain(run_id)
        if end is None:
            if records.committed(run_id):
                yield f"run {run_id} has not ended"
            continue
        rounds = [line["round"] for line in chain]
        if rounds != list(range(1, end["round"] + 1)) or end["round"] != records.played.rounds:
            yield f"run {run_id} ended after round {end['round']} of {records.played.rounds}; in its model are {rounds}"


def nothing_is_lost(records: Records) -> Iterator[str]:
    """What the broker has taken or a controller accepted is in the model; see `tests.chaos.losses`."""
    for it in missed(records):
        if it.what == LOST:
            yield f"the update of {it} is lost"


def nobody_is_left_out(records: Records) -> Iterator[str]:
    """R1, R4: who is not kept away by a fault is in the round."""
    for it in missed(records):
        if it.what == LEFT_OUT:
            yield f"{it} is not in the model, though nothing kept it away"


def csvs_are_complete(records: Records) -> Iterator[str]:
    """Whoever was there has a row: its updates are in the rounds before and after, and nothing was done to it."""
    for run_id in records.runs():
        chain = records.chain(run_id)
        for line, after in pairwise(chain):
            for peer in line["accepted"].keys() & after["accepted"].keys():
                rounds = {int(row["round"]) for row in records.rows.get((peer, run_id), ())}
                if line["round"] not in rounds and not _disturbed(records, peer, line, after):
                    yield f"the CSV of {peer} of run {run_id} has no round {line['round']}"


def _disturbed(records: Records, peer: str, line: Line, after: Line) -> bool:
    since_s = line["at_s"] - line["seconds"]
    return any(
        it.victim in (peer, ALL) and it.begun_s <= after["at_s"] and since_s <= it.whole_s
        for it in records.played.injections
    )


def recovers_soon(records: Records) -> Iterator[str]:
    """I8: after a fault somebody commits a round within RECOVERY_MAX_S."""
    commits = [line["at_s"] for line in records.lines if line["event"] == "committed"]
    for it in records.played.injections:
        seconds = min((at_s for at_s in commits if at_s > it.begun_s), default=float("inf")) - it.begun_s
        if seconds > RECOVERY_MAX_S:
            yield f"{it.kind} ({it.victim}) in round {it.round} of run {it.run_id}: no commit for {seconds:.1f} s"


def nobody_stops(records: Records) -> Iterator[str]:
    """I10, and what the player waited for in vain."""
    for peer, code in records.played.ended:
        yield f"{peer} ended with code {code}, though nothing was done to it"
    for peer, log in records.logs.items():
        starved = any((it.kind, it.victim) == (MEMORY_LIMIT, peer) for it in records.played.injections)
        if "Traceback (most recent call last)" in log and not starved:
            yield f"the log of {peer} has a traceback"
    yield from records.played.failures


CHECKS: tuple[Check, ...] = (
    one_controller_a_term,
    one_vote_a_term,
    one_model_a_round,
    rounds_never_go_back,
    finished_stays,
    counted_once,
    counted_where_made,
    runs_end,
    nothing_is_lost,
    nobody_is_left_out,
    csvs_are_complete,
    recovers_soon,
    nobody_stops,
)


#: What a machine that is busy with other things can break: it silences a peer for as long as a lease.
TIMED: tuple[Check, ...] = (nobody_is_left_out, recovers_soon)


def findings(records: Records, checks: Sequence[Check] = CHECKS) -> list[str]:
    """Everything that is wrong."""
    return [f"{check.__name__}: {finding}" for check in checks for finding in check(records)]


def accuracy_findings(ends: list[End], undisturbed: End, points: float) -> list[str]:
    """Runs whose final accuracy is further than `points` from that of the undisturbed one."""
    found = []
    for end in ends:
        own, other = accuracies(end, undisturbed)
        if not abs(own - other) <= points / 100:
            found.append(f"accuracy: run {end.run_id} has {own:.4f}, undisturbed {other:.4f}: over {points:g} points")
    return found


def accuracies(end: End, undisturbed: End) -> tuple[float, float]:
    """Of both final models, on the test splits of the peers that have reported both; nan: there are none."""
    both = sorted(end.accuracy.keys() & undisturbed.accuracy.keys())
    weights = sum(undisturbed.accuracy[peer][1] for peer in both)
    if not weights:
        return float("nan"), float("nan")
    own, other = (sum(it.accuracy[peer][0] * it.accuracy[peer][1] for peer in both) for it in (end, undisturbed))
    return own / weights, other / weights
