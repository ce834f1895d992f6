"""One view of a federation for `status --json` and `watch`: of any documents, and on any terminal."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, fields
from datetime import datetime, timezone
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from docs.tables import attributes
from edge_peer.operator.live.federation import Federation
from edge_peer.operator.live.screen import Screen, remarks
from edge_peer.operator.live.status import to_json
from edge_peer.operator.live.view import DOING, BoardView, RunView, View, view
from edge_peer.protocol.messages import (
    FINISHED,
    TRAINING,
    WAITING,
    Evaluation,
    Presence,
    Report,
    Round,
    Vote,
)
from edge_peer.protocol.onlookers import History
from edge_peer.protocol.run_settings import RunSettings
from edge_peer.protocol.topics import EVALUATION, HISTORY, PRESENCE, ROUND, VOTE

PEERS = [f"peer{it}" for it in range(5)]
AT = datetime(2026, 1, 1, tzinfo=timezone.utc)
relaxed = settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
names = st.sampled_from(PEERS)
sessions = st.sampled_from(["s1", "s2"])
reasons = st.dictionaries(names, st.text(max_size=60), max_size=4)
shares = st.none() | st.floats(0, 1)
reports = st.builds(Report, st.floats(0, 1), st.floats(0, 9), st.integers(1, 99), shares)
presences = st.builds(
    Presence, sessions, st.booleans(), st.booleans(), st.booleans(), note=st.text(max_size=60), strained=st.booleans(),
    health=st.dictionaries(st.sampled_from(["temperature_c", "throttled", "disk_free_bytes"]), st.floats(0, 1e15)),
)  # fmt: skip
rounds = st.builds(
    Round, sessions, st.integers(1, 3), st.integers(1, 9), st.sampled_from([WAITING, TRAINING, FINISHED]), st.just("m"),
    st.just("0" * 64), st.builds(RunSettings, target_accuracy=shares), st.none() | st.sampled_from(["run1", "run2"]),
    round=st.integers(0, 9), participants=st.lists(names, unique=True).map(tuple), refused=reasons, missing=reasons,
    accepted=st.dictionaries(names, st.just("0" * 64)), reports=st.dictionaries(names, reports), accuracy=shares,
    int8_accuracy=shares, reason=st.text(max_size=80), complete=st.booleans(), epsilon=shares,
)  # fmt: skip
votes = st.builds(Vote, sessions, st.integers(1, 3), names)
evaluations = st.builds(
    Evaluation,
    sessions,
    st.sampled_from(["run1", "run2"]),
    st.integers(0, 9),
    st.just("0" * 64),
    reports,
    st.booleans(),
)


@st.composite
def histories(draw: Any) -> History:
    at = sorted(draw(st.sets(st.integers(0, 9))))
    column = [None] * len(at)
    rest = dict.fromkeys(["loss", "training_s", "evaluation_s", "bytes_sent", "bytes_received"], tuple(column))
    accuracy, int8 = (tuple(draw(shares) for _ in at) for _ in range(2))
    run_id = draw(st.sampled_from(["run1", "run2"]))
    return History("s1", run_id, 5, tuple(map(float, at)), accuracy, int8_accuracy=int8, **rest)


kinds = {PRESENCE: presences, ROUND: rounds, VOTE: votes, EVALUATION: evaluations, HISTORY: histories()}
said = st.lists(
    st.sampled_from(sorted(kinds)).flatmap(lambda kind: st.tuples(names, st.just(kind), st.none() | kinds[kind])),
    max_size=30,
)


def federation_of(documents: list[Any]) -> Federation:
    it = Federation()
    for document in documents:
        it.take(*document)
    return it


@relaxed
@given(said)
def test_any_documents_make_a_view_that_is_right(documents: list[Any]) -> None:
    federation = federation_of(documents)
    it = view(federation, "farm", {"peer1": 2.5})
    assert [board.name for board in it.boards] == sorted(federation.presences)
    assert it.controller == federation.controller
    assert (it.term is None) == (it.controller is None)
    assert it.run is None or it.controller is not None
    for board in it.boards:
        assert board.doing in DOING
        assert (board.doing == "offline") == (not board.online) == (board.role == "offline")
        assert (board.doing == "electing") == (board.online and it.controller is None)
        assert (board.accuracy is None) == (board.evaluated_round is None) == (not board.curve)
        assert [at for at, _ in board.curve] == sorted({at for at, _ in board.curve})
        if board.curve:
            assert board.curve[-1] == (board.evaluated_round, board.accuracy)
        assert board.silent_s == (2.5 if board.name == "peer1" else None)
    if it.run is not None and it.run.state == TRAINING:
        assert {board.name for board in it.boards if board.doing == "accepted"} <= set(it.run.accepted)
    if it.controller is None:
        assert set(it.votes) <= set(federation.online)
    # What is printed is JSON, and means the same when it is read again.
    document = to_json(federation, "farm")
    assert json.loads(json.dumps(document)) == json.loads(json.dumps({"schema": 1, **asdict(view(federation, "farm"))}))


@relaxed
@given(said, st.lists(st.text(max_size=200), max_size=30), st.integers(20, 200), st.integers(6, 60), st.booleans())
@example([(f"peer{it}", PRESENCE, Presence("s1", True)) for it in range(300)], ["x"] * 9, 80, 24, True)
@example([(f"peer{it}", PRESENCE, Presence("s1", True)) for it in range(300)], ["x"] * 9, 200, 60, False)
def test_a_picture_fits_the_terminal(
    documents: list[Any], news: list[str], width: int, height: int, connected: bool
) -> None:
    screen, console = (
        Screen(),
        Console(width=width, height=height, file=StringIO(), color_system="truecolor", force_terminal=True),
    )
    now = view(federation_of(documents), "farm", {"peer0": 31.0})
    screen.take(now, news, AT)
    with console.capture() as capture:
        console.print(screen.picture(width, height, connected))
    printed = re.sub(r"\x1b\[[0-9;]*m", "", capture.get())
    lines = printed.splitlines()
    assert len(lines) <= height
    assert all(cell_len(line) <= width for line in lines)
    assert "\x1b" not in printed, "what peers say moves no cursor"
    if not connected and width >= 80:
        assert "no connection to the broker" in printed
    hidden = re.search(r"^and (\d+) more", printed, re.MULTILINE)
    shown = sum(line.startswith("peer") for line in lines)
    if width >= 80:
        assert shown + (int(hidden[1]) if hidden else 0) == len(now.boards)


def test_trouble_is_shown_where_there_is_no_room_for_all() -> None:
    documents: list[Any] = [(f"board{it:02}", PRESENCE, Presence("s1", it != 77, True, True)) for it in range(90)]
    settings = RunSettings(rounds_max=9)
    document = Round(
        "s1", 1, 1, TRAINING, "m", "0" * 64, settings, "run1", round=3,
        participants=tuple(f"board{it:02}" for it in range(90)), refused={"board60": "too long"},
        missing={"board88": "no answer"}, accepted={"board05": "0" * 64},
    )  # fmt: skip
    documents.append(("board00", ROUND, document))
    screen, console = Screen(), Console(width=80, height=24, file=StringIO())
    screen.take(view(federation_of(documents), "farm"), ["an event"], AT)
    with console.capture() as capture:
        console.print(screen.picture(80, 24, True))
    printed = capture.get()
    for text in ("board60 waiting", "refused", "too long", "board77 offline", "board88", "no answer", "an event",
                 "run run1: round 3 of 9: 1 of 90 updates in"):  # fmt: skip
        assert text in printed or text.replace(" waiting", " trainer") in printed
    assert re.search(r"and 7\d more: 7\d training, 1 accepted", printed)


def test_health_is_said_in_words() -> None:
    board = view(
        federation_of([("a", PRESENCE, Presence("s1", True, train=False, strained=True, note="disk low", health={
            "temperature_c": 83.6, "throttled": 5, "disk_free_bytes": 4e8})),]), "farm",
    ).boards[0]  # fmt: skip
    assert remarks(board) == ["84 °C", "low voltage", "throttled", "400 MB disk free", "disk low", "does not train"]


@pytest.mark.parametrize("kind", [View, RunView, BoardView])
def test_every_field_is_described(kind: type[Any]) -> None:
    text = (Path(__file__).parent.parent / "docs/monitoring.md").read_text()
    for item in fields(kind):
        assert item.name in attributes(kind), f"{kind.__name__}.{item.name}"
        assert f"`{item.name}`" in text
