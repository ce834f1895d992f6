"""From the initial weights to the final model: every commit begins with the model that the one before has made.

The chain is followed from its end, because only that tells which of two commits of one round the run went on from. A
controller that dies before anybody has heard of its round leaves such a commit: that is noted, and is no fault.
"""

from __future__ import annotations

from dataclasses import dataclass

from edge_peer.operator.audit.log import Commit, RoundLog, Verdict

#: Rounds that a log can leave out before it is not worth counting them one by one.
GAPS_MAX = 1000


@dataclass(frozen=True, slots=True)
class Chain:
    """The run's rounds.

    Attributes:
        commits: By round, ascending.
        missing: Rounds that no log tells of.
        given_up: Commits that the run did not go on from.
    """

    commits: dict[int, Commit]
    missing: list[int]
    given_up: list[Commit]


def follow(log: RoundLog, final: tuple[int, str] | None, initial: str, verdict: Verdict) -> Chain:
    """The chain of a run's commits.

    Args:
        log: Of all the run's controllers.
        final: Round and digest of the final model; None: there is none, the newest commit is the end.
        initial: Digest of the initial weights.
        verdict: Gets what does not fit.
    """
    by_model: dict[tuple[int, str], list[Commit]] = {}
    newest: dict[int, Commit] = {}
    for commit in log.commits:
        by_model.setdefault(commit.made, []).append(commit)
        if commit.round not in newest or newest[commit.round].term <= commit.term:
            newest[commit.round] = commit
    wanted = final or (newest[max(newest)].made if newest else (0, initial))
    chain: dict[int, Commit] = {}
    missing: list[int] = []
    after = "the final model"
    while wanted[0] > 0:
        there = by_model.get(wanted, [])
        if not there:
            round_ = wanted[0]
            if round_ in newest:
                commit = newest[round_]
                verdict.fault(f"{after} is made of {wanted[1][:12]}, but {commit} has made {commit.sha256[:12]}")
            else:
                lower = max((it for it in newest if it < round_), default=0)
                missing += range(max(lower + 1, round_ - GAPS_MAX), round_ + 1)
                verdict.fault(f"{after} is made of round {round_}, and no log tells of {_rounds(lower + 1, round_)}")
                if lower == 0:
                    break
                commit = newest[lower]
        else:
            # The same bytes can have been committed again, by one who had not heard of it.
            commit = max(there, key=lambda it: (it.began in by_model or it.base == initial, it.term))
        chain[commit.round] = commit
        wanted, after = commit.began, str(commit)
    if wanted[0] == 0 and wanted[1] != initial:
        verdict.fault(
            f"{after} begins with {wanted[1][:12]}, the artifacts' initial weights are {initial[:12]}: name those that "
            "the run was made with, --artifacts FOLDER"
        )
    on_chain = {id(it) for it in chain.values()}
    given_up = [it for it in log.commits if id(it) not in on_chain]
    for commit in given_up:
        same = chain.get(commit.round)
        how = "with the same bytes" if same is not None and same.sha256 == commit.sha256 else "and given up for another"
        verdict.note(f"{commit} was committed twice, {how}: its controller was gone before others had heard of it")
    _takeovers(log, set(by_model) | {(0, initial)}, verdict)
    _updates_once(chain, verdict)
    return Chain(dict(sorted(chain.items())), sorted(missing), given_up)


def _rounds(first: int, last: int) -> str:
    return f"round {last}" if first >= last else f"rounds {first} to {last}"


def _takeovers(log: RoundLog, known: set[tuple[int, str]], verdict: Verdict) -> None:
    for line, round_, sha256 in log.resumed:
        if (round_, sha256) not in known:
            verdict.fault(f"line {line}: goes on from {sha256[:12]} of round {round_}, which nobody has committed")


def _updates_once(chain: dict[int, Commit], verdict: Verdict) -> None:
    """No update counts in two rounds, and none for two peers."""
    seen: dict[str, str] = {}
    for round_, commit in sorted(chain.items()):
        if not commit.accepted:
            verdict.fault(f"{commit} has counted no update")
        for peer, update in commit.accepted.items():
            what = f"{peer} in round {round_}"
            if update.digest in seen:
                verdict.fault(f"update {update.digest[:12]} is counted twice: of {seen[update.digest]} and of {what}")
            seen[update.digest] = what
