"""The checker of chaos runs: good records pass, and each way of tampering with them is found."""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from tests.chaos import document as document_
from tests.chaos.checker import CHECKS, RECOVERY_MAX_S, accuracy_findings, findings
from tests.chaos.delay import carry
from tests.chaos.losses import LATE, LEFT_OUT, LOST, missed
from tests.chaos.outcome import BETWEEN, COLUMNS, recovery_s, runs_lost, table, write
from tests.chaos.play import PLAY, WITNESS, End, Injection, Played
from tests.chaos.records import Line, Records, read
from tests.chaos.schedule import (
    ALONE,
    CONTROLLER,
    KILL_CONTROLLER,
    KILL_TRAINER,
    KINDS,
    LATENCY,
    LOSS,
    MEMORY_LIMIT,
    TRAINER,
    draw,
)

PEERS = ["a", "b", "c"]
ROUNDS = 4
RUN = "run1"


def loss(peer: str, round_: int) -> float:
    return round_ + PEERS.index(peer) / 8


def update(peer: str, round_: int) -> str:
    return f"update of {peer} for {round_}"


def seen(at_s: float, peer: str, kind: str, **document: object) -> Line:
    return {"at_s": at_s, "peer": peer, "kind": kind, "kept": False, "document": document}


def base(round_: int) -> Line:
    return {"run_id": RUN, "run_number": 1, "round": round_, "term": term(round_), "sha256": f"model {round_}"}


def term(round_: int) -> int:
    """`a` leads the first two rounds, `b` the others."""
    return 1 if round_ <= 2 else 2


def leader(round_: int) -> str:
    return "a" if round_ <= 2 else "b"


def good() -> Records:
    """Four rounds of three peers, of which `a` is killed in the third, comes back in it, and is in the fourth."""
    kill = Injection(KILL_CONTROLLER, "a", RUN, 3, 2.05, 2.3, 3.2)
    end = End(RUN, 1, ROUNDS, "reached 4 rounds", dict.fromkeys(PEERS, (0.8, 100)))
    records = Records(Played(list(PEERS), ROUNDS, [kill], [end]))
    records.lines.append({"event": "started", "run_id": RUN, "peer": "a", "term": 1, "at_s": 0.0})
    for round_ in range(1, ROUNDS + 1):
        who = [peer for peer in PEERS if (round_, peer) != (3, "a")]
        common = {"run_id": RUN, "term": term(round_), "peer": leader(round_)}
        accepted = {peer: {"digest": update(peer, round_), "loss": loss(peer, round_)} for peer in who}
        records.seen += [
            seen(
                round_ - 0.9,
                leader(round_),
                "round",
                run_id=RUN,
                term=term(round_),
                session=f"session of {leader(round_)}",
                state="training",
                round=round_,
                base=base(round_ - 1),
                accepted={},
            ),
            *(
                seen(
                    round_ - 0.7,
                    peer,
                    "update",
                    digest=update(peer, round_),
                    run_id=RUN,
                    term=term(round_),
                    round=round_,
                    base=f"model {round_ - 1}",
                )
                for peer in who
                if peer != leader(round_)
            ),
            *(seen(round_, peer, "presence", online=True, train=True, newest=base(round_)) for peer in who),
        ]
        records.lines.append(
            {
                **common,
                "event": "committed",
                "round": round_,
                "sha256": f"model {round_}",
                "base": f"model {round_ - 1}",
                "accepted": accepted,
                "seconds": 0.9,
                "at_s": float(round_),
            }
        )
        for peer in who:
            row = {"round": str(round_), "examples": "10", "train_loss": f"{loss(peer, round_):.6g}"}
            records.rows.setdefault((peer, RUN), []).append(row)
    records.seen += [seen(0.05, peer, "presence", online=True, train=True, newest=None) for peer in PEERS]
    records.seen += [seen(0.1, peer, "vote", term=1, candidate="a") for peer in PEERS]
    records.seen += [seen(2.06, peer, "vote", term=2, candidate="b") for peer in "bc"]
    records.seen.append(seen(2.4, "a", "presence", online=True, train=True, newest=base(2)))
    last = {"run_id": RUN, "term": 2, "session": "session of b"}
    records.seen.append(seen(4.1, "b", "round", state="finished", round=ROUNDS, base=base(ROUNDS), accepted={}, **last))
    finished = {"event": "finished", "round": ROUNDS, "sha256": f"model {ROUNDS}", "at_s": 4.1}
    records.lines.append({"run_id": RUN, "term": 2, "peer": "b", **finished})
    records.seen.sort(key=lambda it: it["at_s"])
    return records


def commit(records: Records, round_: int) -> Line:
    return next(line for line in records.committed(RUN) if line["round"] == round_)


def document(records: Records, kind: str, place: int) -> Line:
    found: Line = [it for it in records.seen if it["kind"] == kind][place]["document"]
    return found


def test_good_records_pass() -> None:
    assert findings(good()) == []


def two_controllers(records: Records) -> None:
    document(records, "round", 0)["term"] = 2


def two_sessions(records: Records) -> None:
    document(records, "round", 1)["session"] = "another"


def two_in_the_logs(records: Records) -> None:
    records.lines.append({"event": "elected", "run_id": "", "peer": "c", "term": 2, "at_s": 2.9})


def two_votes(records: Records) -> None:
    records.seen.append(seen(2.7, "b", "vote", term=2, candidate="c"))


def two_models(records: Records) -> None:
    records.lines.append({**commit(records, 3), "sha256": "another", "at_s": 3.1})


def another_model_published(records: Records) -> None:
    document(records, "round", 3)["base"]["sha256"] = "another"


def peer_goes_back(records: Records) -> None:
    records.seen.append(seen(4.2, "c", "presence", online=True, train=True, newest=base(2)))


def controller_goes_back(records: Records) -> None:
    first, second = document(records, "round", 2), document(records, "round", 3)
    first["base"], second["base"] = second["base"], first["base"]


def csv_goes_back(records: Records) -> None:
    records.rows["c", RUN].append(records.rows["c", RUN][1])


def trained_after_the_end(records: Records) -> None:
    records.seen.append(seen(4.5, "b", "round", **{**document(records, "round", 3), "base": base(4)}))


def another_end(records: Records) -> None:
    last = document(records, "round", -1)
    records.seen.append(seen(5.0, "c", "round", **{**last, "term": 3, "base": base(3)}))


def counted_in_two_rounds(records: Records) -> None:
    commit(records, 4)["accepted"]["a"]["digest"] = update("a", 2)


def counted_for_two_peers(records: Records) -> None:
    commit(records, 4)["accepted"]["a"]["digest"] = update("b", 4)


def counted_for_another_round(records: Records) -> None:
    commit(records, 3)["accepted"]["c"]["digest"] = update("c", 2)
    commit(records, 2)["accepted"].pop("c")


def counted_for_another_run(records: Records) -> None:
    offer = document(records, "update", 0)
    records.seen.append(seen(0.8, "b", "update", **{**offer, "digest": "another", "run_id": "run0"}))
    commit(records, 1)["accepted"]["b"]["digest"] = "another"


def counted_for_another_base(records: Records) -> None:
    document(records, "update", 0)["base"] = "another"


def another_loss(records: Records) -> None:
    records.rows["c", RUN][3]["train_loss"] = "0.1"


def no_end(records: Records) -> None:
    records.lines.pop()


def round_not_in_the_model(records: Records) -> None:
    commit(records, 3)["base"] = "model 1"


def too_few_rounds(records: Records) -> None:
    records.played.rounds = ROUNDS + 1


def update_lost(records: Records) -> None:
    del commit(records, 2)["accepted"]["c"]


def left_out(records: Records) -> None:
    update_lost(records)
    records.seen = [it for it in records.seen if it["document"].get("digest") != update("c", 2)]


def row_missing(records: Records) -> None:
    del records.rows["c", RUN][1]


def never_recovered(records: Records) -> None:
    records.played.injections.append(Injection(LOSS, "c", RUN, 4, 4.05, 4.1, 4.2))


def ended(records: Records) -> None:
    records.played.ended.append(("c", 1))


def traceback_logged(records: Records) -> None:
    records.logs["c"] = "Traceback (most recent call last):\n"


def waited_in_vain(records: Records) -> None:
    records.played.failures.append("not within 60 s")


TAMPERING: dict[Callable[[Records], None], str] = {
    two_controllers: "one_controller_a_term",
    two_sessions: "one_controller_a_term",
    two_in_the_logs: "one_controller_a_term",
    two_votes: "one_vote_a_term",
    two_models: "one_model_a_round",
    another_model_published: "one_model_a_round",
    peer_goes_back: "rounds_never_go_back",
    controller_goes_back: "rounds_never_go_back",
    csv_goes_back: "rounds_never_go_back",
    trained_after_the_end: "finished_stays",
    another_end: "finished_stays",
    counted_in_two_rounds: "counted_once",
    counted_for_two_peers: "counted_once",
    counted_for_another_round: "counted_where_made",
    counted_for_another_run: "counted_where_made",
    counted_for_another_base: "counted_where_made",
    another_loss: "counted_where_made",
    no_end: "runs_end",
    round_not_in_the_model: "runs_end",
    too_few_rounds: "runs_end",
    update_lost: "nothing_is_lost",
    left_out: "nobody_is_left_out",
    row_missing: "csvs_are_complete",
    never_recovered: "recovers_soon",
    ended: "nobody_stops",
    traceback_logged: "nobody_stops",
    waited_in_vain: "nobody_stops",
}


@pytest.mark.parametrize("tamper", TAMPERING, ids=lambda it: it.__name__)
def test_tampered_records_are_found(tamper: Callable[[Records], None]) -> None:
    records = good()
    tamper(records)
    assert TAMPERING[tamper] in {finding.partition(":")[0] for finding in findings(records)}


def test_every_check_has_been_seen_to_find_something() -> None:
    assert {check.__name__ for check in CHECKS} == set(TAMPERING.values())


def test_what_rules_allow_is_not_found() -> None:
    """An old will; a stale controller's word; a row of a peer under a fault; a run without rounds."""
    records = good()
    records.seen.append(seen(4.3, "c", "presence", online=False, newest=base(1)))
    records.seen.append(seen(4.4, "a", "round", **document(records, "round", 1)))
    del records.rows["a", RUN][1]
    records.lines.append({"event": "started", "run_id": "never", "peer": "b", "term": 2, "at_s": 5.0})
    # The same round again in a later term, because nobody who was there had the model.
    again = {**commit(records, 2), "term": 2, "peer": "b", "sha256": "forgotten"}
    records.lines.append(again)
    records.logs["c"] = "Traceback (most recent call last):\n"
    records.played.injections.append(Injection(MEMORY_LIMIT, "c", RUN, 4, 3.9, 4.0, 4.0))
    # Another run from the same initial model: the same first update, of which the witness has seen only this sending.
    offer = {**document(records, "update", 0), "run_id": "run0"}
    records.seen = [it for it in records.seen if it["document"] != document(records, "update", 0)]
    records.seen.append(seen(0.8, "b", "update", **offer))
    assert findings(records) == []


def test_recovery_is_the_next_commit_and_everything_is_put_down_to_a_fault() -> None:
    records = good()
    assert recovery_s(records, records.played.injections[0]) == pytest.approx(0.95)
    row = {"fault": KILL_CONTROLLER, "times": 1, "recoveries": 1, "median s": 0.95, "worst s": 0.95}
    assert table(records) == [{**row, "updates late": 1, "updates lost": 0, "runs lost": 0}]
    # Of a peer to which nothing was done; the killed one was in reach before and after.
    del commit(records, 3)["accepted"]["c"]
    assert table(records) == [{**row, "updates late": 1, "updates lost": 1, "runs lost": 0}]
    records = good()
    del commit(records, 1)["accepted"]["c"]
    assert table(records)[1]["fault"] == BETWEEN
    assert table(records)[1]["updates lost"] == 1
    records = good()
    records.lines.pop()
    assert list(runs_lost(records)) == [RUN]
    late = Injection(LOSS, "c", RUN, 4, 4.05, 4.1, 4.2)
    assert recovery_s(records, late) is None


def kinds(records: Records) -> dict[tuple[str, int], str]:
    return {(it.peer, it.round): it.what for it in missed(records)}


def test_late_is_who_was_kept_away_for_a_part_of_the_round() -> None:
    records = good()
    assert kinds(records) == {("a", 3): LATE}
    # It is heard again before the round is opened: then it must be in it.
    (kill,) = records.played.injections
    records.played.injections[0] = replace(kill, begun_s=1.0, ended_s=1.2, whole_s=1.5)
    assert kinds(records) == {("a", 3): LEFT_OUT}


def test_who_has_not_been_there_yet_is_not_left_out() -> None:
    records = good()
    left_out(records)
    assert kinds(records)["c", 2] == LEFT_OUT
    # It is heard for the first time while round 2 is on.
    records.seen = [it for it in records.seen if it["peer"] != "c" or it["at_s"] > 1.5]
    del commit(records, 1)["accepted"]["c"]
    assert kinds(records) == {("a", 3): LATE}


def test_what_a_controller_had_accepted_of_itself_is_late_when_it_dies_and_lost_when_it_lives() -> None:
    records = good()
    records.seen.append(
        seen(2.02, "a", "round", **{**document(records, "round", 1), "round": 3, "accepted": {"a": "x"}})
    )
    assert kinds(records) == {("a", 3): LATE}
    records.played.injections.clear()
    assert kinds(records) == {("a", 3): LOST}


@pytest.mark.parametrize("taken_s", [2.02, 2.3])
def test_an_update_that_the_broker_has_of_a_peer_that_stays_is_lost_whoever_closes_the_round(taken_s: float) -> None:
    records = good()
    del commit(records, 3)["accepted"]["c"]
    offer = next(it for it in records.seen if it["document"].get("digest") == update("c", 3))
    offer["at_s"], offer["document"]["term"] = taken_s, 1 if taken_s < 2.05 else 2
    assert kinds(records)["c", 3] == LOST


def test_an_update_whose_peer_dies_is_lost_if_its_controller_lives_and_late_if_that_dies_too() -> None:
    records = good()
    del commit(records, 3)["accepted"]["c"]
    offer = next(it for it in records.seen if it["document"].get("digest") == update("c", 3))
    records.played.injections.append(Injection(KILL_TRAINER, "c", RUN, 3, 2.35, 3.1, 3.2))
    assert kinds(records)["c", 3] == LOST
    # The controller that had it was killed, and so was the peer: nobody had it any more.
    offer["at_s"], offer["document"]["term"] = 2.02, 1
    assert kinds(records)["c", 3] == LATE


def test_an_update_that_is_on_its_way_when_the_round_closes_is_late() -> None:
    records = good()
    back = {**document(records, "update", 0), "digest": update("a", 3), "round": 3, "term": 2, "base": "model 2"}
    records.seen.append(seen(2.8, "a", "update", **back))
    assert kinds(records) == {("a", 3): LATE}
    records.seen[-1]["at_s"] = 2.45
    assert kinds(records) == {("a", 3): LOST}
    # Its controller's cable is slow.
    records.played.injections.append(Injection(LATENCY, "b", RUN, 3, 2.0, 2.9, 3.2))
    assert kinds(records) == {("a", 3): LATE}


def test_accuracy_is_compared_over_the_peers_that_have_reported_both() -> None:
    undisturbed = End(RUN, 1, ROUNDS, "", {"a": (0.8, 100), "b": (0.9, 300)})
    without_b = End("run2", 2, ROUNDS, "", {"a": (0.791, 100)})
    assert accuracy_findings([without_b], undisturbed, 1.0) == []
    worse = End("run3", 3, ROUNDS, "", {"a": (0.8, 100), "b": (0.88, 300)})
    assert len(accuracy_findings([worse], undisturbed, 1.0)) == 1
    nobody = End("run4", 4, ROUNDS, "", {})
    assert len(accuracy_findings([nobody], undisturbed, 1.0)) == 1


def test_the_seed_makes_the_schedule() -> None:
    kinds = list(KINDS)
    steps = list(islice(draw(7, kinds), 200))
    assert steps == list(islice(draw(7, kinds[::-1]), 200))
    assert steps != list(islice(draw(8, kinds), 200))
    counts = Counter(fault.kind for step in steps for fault in step.faults)
    assert max(counts.values()) - min(counts.values()) <= 2, "each kind once before any comes again"
    pairs = [step.faults for step in steps if len(step.faults) > 1]
    assert pairs
    for pair in pairs:
        assert {fault.whom for fault in pair} == {CONTROLLER, TRAINER}
        assert not {fault.kind for fault in pair} & ALONE


def test_reads_what_a_fleet_has_left(tmp_path: Path) -> None:
    records = good()
    records.played.write(tmp_path)
    (tmp_path / WITNESS).write_text("".join(json.dumps(it) + "\n" for it in records.seen) + '{"torn')
    (tmp_path / "logs").mkdir()
    for peer in PEERS:
        folder = tmp_path / peer / "runs" / RUN
        folder.mkdir(parents=True)
        (tmp_path / f"logs/{peer}.log").write_text("")
        lines = [it for it in records.lines if it["peer"] == peer]
        for line in lines:
            line["time_utc"] = f"1970-01-01T00:00:0{line['at_s']:.6f}+00:00"
        (folder / "rounds.jsonl").write_text("".join(json.dumps(it) + "\n" for it in lines))
        rows = records.rows[peer, RUN]
        text = [",".join(rows[0]), *(",".join(row.values()) for row in rows)]
        (folder / f"{peer}.csv").write_text("\n".join(text) + "\n")
    again = read(tmp_path)
    assert (tmp_path / PLAY).exists()
    assert again.played == records.played
    assert (again.seen, again.rows) == (records.seen, records.rows)
    assert again.chain(RUN) == records.chain(RUN)
    assert findings(again) == []


# ---------------------------------------------------------------------- the table in docs/guarantees.md


def result(tmp_path: Path) -> dict[str, Any]:
    records = good()
    more = {
        "seed": 2,
        "peers": 3,
        "minutes": 10.0,
        "run": [],
        "busy": False,
        "means": {LATENCY: "a slow cable"},
        "left_out": {},
        "findings": [],
    }
    replayed = {"replayed": {"rounds": ROUNDS, "recomputed": 3}}
    write(
        tmp_path / "chaos.json", "title", table(records), records.played.ends, records.played.ends[0], more | replayed
    )
    it: dict[str, Any] = json.loads((tmp_path / "chaos.json").read_text())
    return it


def test_a_result_is_put_between_the_marks(tmp_path: Path) -> None:
    path = tmp_path / "guarantees.md"
    path.write_text("before\n<!-- chaos -->\nold\n<!-- end of chaos -->\nafter\n")
    document_.write(result(tmp_path), path)
    assert path.read_text().startswith(
        "before\n<!-- chaos -->\n`make chaos MINUTES=10 SEED=2 PEERS=3` gave this: 1 faults"
    )
    assert path.read_text().endswith("which `make chaos` writes.\n<!-- end of chaos -->\nafter\n")
    text, (row,) = document_.read(path)
    assert "made 3 of 4 rounds' models again" in " ".join(text.split())
    assert row == dict(zip(COLUMNS, (KILL_CONTROLLER, "1", "1", "0.95", "0.95", "1", "0", "0"), strict=True))


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"findings": ["one"]}, "the checker found 1, first: one"),
        ({"left_out": {LOSS: "no nft"}}, "this machine does not allow loss"),
        ({"minutes": None}, "no --steps"),
        ({"run": ["codec=int4"]}, "no --steps, --run"),
        ({"busy": True}, "or --busy"),
    ],
)
def test_what_is_no_guarantee_is_not_documented(tmp_path: Path, changed: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        document_.block({**result(tmp_path), **changed})


def test_the_documented_table_is_one_that_the_checker_could_have_written() -> None:
    text, rows = document_.read()
    words = " ".join(text.split())
    said = re.search(r"MINUTES=([\d.]+) SEED=\d+ PEERS=(\d+)` gave this: (\d+) faults on (\d+) real peers", words)
    assert said is not None
    assert float(said[1]) >= 10
    assert said[2] == said[4]
    assert [row["fault"] for row in rows] == sorted(KINDS), "every kind, and nothing between them"
    assert sum(int(row["times"]) for row in rows) == int(said[3])
    for row in rows:
        assert tuple(row) == COLUMNS
        assert int(row["recoveries"]) == int(row["times"]) > 0
        assert 0 < float(row["median s"]) <= float(row["worst s"]) <= RECOVERY_MAX_S
        assert (row["updates lost"], row["runs lost"]) == ("0", "0")
    accuracy = re.search(r"accuracy was ([\d.]+) to ([\d.]+), undisturbed ([\d.]+)\.", words)
    assert accuracy is not None
    lowest, highest, undisturbed = map(float, accuracy.groups())
    assert undisturbed - 0.01 <= lowest <= highest <= undisturbed + 0.01
    replayed = re.search(r"made (\d+) of (\d+) rounds' models again", words)
    assert replayed is not None
    assert 0 < int(replayed[1]) <= int(replayed[2])


# ---------------------------------------------------------------------- a cable that delays


def test_a_slow_cable_keeps_every_frame_for_its_time_and_in_order() -> None:
    """Two pairs of sockets stand for the devices: what is written into one comes out of the other."""
    (near, here), (far, there) = (socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM) for _ in range(2))
    threading.Thread(target=carry, args=(here.fileno(), there.fileno(), 0.05, 0.04), daemon=True).start()
    for one, other in ((near, far), (far, near)):
        other.settimeout(60)
        begun_s = time.monotonic()
        for number in range(50):
            one.send(bytes([number]))
        assert [other.recv(9) for _ in range(50)] == [bytes([number]) for number in range(50)]
        assert time.monotonic() - begun_s > 0.05 - 0.04
