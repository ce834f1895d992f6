"""`make status`: both sources, either alone, none; and boards that say anything at all."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from edge_peer.operator.certificates.folder import Folder, Lifetimes
from edge_peer.operator.certificates.x509 import Wanted
from edge_peer.operator.fleet.boards import Told, boards_of
from edge_peer.operator.fleet.status import main, show
from edge_peer.operator.live.federation import Federation
from edge_peer.protocol.messages import FINISHED, TRAINING, Presence, Report, Round
from edge_peer.protocol.run_settings import RunSettings
from edge_peer.protocol.tensors import ModelRef
from edge_peer.protocol.topics import PRESENCE, ROUND
from tests.run_folders import RUN_ID, Invented

NOW = datetime(2026, 1, 10, tzinfo=timezone.utc)
ROOT = Path(__file__).resolve().parent.parent
PEERS = ["attic", "cellar", "roof"]
RUN = Invented(PEERS)
ACTIVE = {"ActiveState": "active", "SubState": "running", "Result": "success", "NRestarts": "0"}


def facts(peer: str, **other: Any) -> dict[str, Any]:
    row = {key: str(value) for key, value in RUN.row(peer, 6).items()}
    return {"unit": ACTIVE, "rss_bytes": 68_000_000, "disk_free_bytes": 12_300_000_000, "last_row": row,
            "release": "1.0-abc", "certificate": None, **other}  # fmt: skip


def told(folder: Path, boards: Mapping[str, Any], hosts: list[str] | None = None) -> Told:
    folder.mkdir(parents=True, exist_ok=True)
    fleet = {"hosts": hosts if hosts is not None else PEERS, "federation": "home",
             "broker": {"host": "127.0.0.1", "port": 1}}  # fmt: skip
    (folder / "fleet.json").write_text(json.dumps(fleet))
    for peer, it in boards.items():
        (folder / f"{peer}.json").write_text(json.dumps(it))
    return Told.read(folder)


def federation(state: str = TRAINING, **presences: Presence) -> Federation:
    it = Federation()
    for peer in PEERS:
        it.take(peer, PRESENCE, presences.get(peer, Presence("s", True, control=True, train=True)))
    base = ModelRef(RUN_ID, 1, 6, 1, "0" * 64)
    document = Round(
        "s", 1, 1, state, "image_cnn", "0" * 64, RunSettings(), RUN_ID, 1, 6 + (state == TRAINING), base,
        participants=("attic", "roof"), missing={"cellar": "no update before the deadline"},
        accuracy=0.8875, int8_accuracy=0.8775, accuracy_round=6,
        reports={"roof": Report(0.91, 0.3, 100, 0.9)} if state == FINISHED else {},
    )  # fmt: skip
    it.take("attic", ROUND, document)
    return it


def printed(boards: list[Any], width: int = 80) -> str:
    text = io.StringIO()
    show(boards, Console(file=text, width=width, highlight=False))
    return text.getvalue()


def test_both_sources_together(tmp_path: Path) -> None:
    hot = Presence("s", True, control=True, train=True, strained=True, health={"temperature_c": 83.4, "throttled": 5})
    boards = boards_of(told(tmp_path, {it: facts(it) for it in PEERS}), federation(roof=hot), NOW)
    assert [(it.name, it.state, it.role, it.round) for it in boards] == [
        ("attic", "up", "controller", 6), ("cellar", "up", "waiting", 6), ("roof", "up", "trainer", 6),
    ]  # fmt: skip
    assert all(it.well for it in boards)
    text = printed(boards)
    assert max(map(len, text.splitlines())) <= 80
    assert "0.888 0.878     68" in text
    (line,) = [line for line in text.splitlines() if " roof " in line]
    assert line.split() == ["roof", "up", "trainer", "6", "0.884", "0.874", "68", "83", "yes", "12.3"]
    assert "roof: hot or throttled: its score counts half; slowed down: low voltage, throttled" in " ".join(
        text.split()
    )
    assert "cellar: no update before the deadline" in text


def test_the_final_reports_are_newer_than_the_rows(tmp_path: Path) -> None:
    boards = boards_of(told(tmp_path, {it: facts(it) for it in PEERS}), federation(FINISHED), NOW)
    assert [(it.accuracy, it.int8_accuracy) for it in boards if it.name == "roof"] == [(0.91, 0.9)]


@pytest.mark.parametrize(
    ("active", "online", "state"),
    [
        ("active", True, "up"),
        ("active", False, "no link"),
        ("active", None, "active"),
        ("reloading", True, "up"),
        ("activating", False, "starting"),
        ("failed", False, "failed"),
        ("inactive", None, "stopped"),
        ("", None, "stopped"),
        (None, True, "online"),
        (None, False, "no answer"),
        (None, None, "no answer"),
    ],
)
def test_states(tmp_path: Path, active: str | None, online: bool | None, state: str) -> None:
    said = told(tmp_path, {"roof": facts("roof", unit={"ActiveState": active})} if active is not None else {}, ["roof"])
    seen = None if online is None else federation(roof=Presence("s", online))
    (board,) = [it for it in boards_of(said, seen, NOW) if it.name == "roof"]
    assert board.state == state
    assert board.well == (state in ("up", "active", "online"))
    assert ("does not answer to SSH" in board.notes) == (active is None)


def test_the_broker_alone(tmp_path: Path) -> None:
    boards = boards_of(Told.read(tmp_path), federation(cellar=Presence("s", False)), NOW)
    assert [(it.name, it.state, it.role) for it in boards] == [
        ("attic", "online", "controller"), ("cellar", "offline", "offline"), ("roof", "online", "trainer"),
    ]  # fmt: skip


def test_what_needs_attention_is_noted(tmp_path: Path) -> None:
    Folder(tmp_path / "pki", NOW, Lifetimes(days=20), print).make([Wanted("attic")])
    pem = (tmp_path / "pki/attic.crt").read_text()
    unit = {"ActiveState": "failed", "Result": "watchdog", "NRestarts": "3", "UnitFileState": "disabled"}
    bad = facts("cellar", release="0.9-old", certificate="nonsense", unit=unit)
    none = facts("roof", disk_free_bytes=1_000_000)
    del none["certificate"]
    said = told(tmp_path, {"attic": facts("attic", certificate=pem), "cellar": bad, "roof": none})
    attic, cellar, roof = boards_of(said, None, NOW)
    assert attic.certificate_days in (19, 20)
    assert attic.notes == [f"its certificate expires in {attic.certificate_days} days: make rotate-certs"]
    assert cellar.notes == [
        "systemd has restarted it 3 times", "its unit's last result: watchdog", "does not start at boot",
        "its certificate: no certificate in PEM form", "runs release 0.9-old, others 1.0-abc",
    ]  # fmt: skip
    assert roof.notes == ["has no certificate: make deploy"]
    late = boards_of(said, None, NOW + timedelta(days=30))[0]
    assert late.notes == ["its certificate has expired: make rotate-certs"]


def test_long_and_hostile_texts_stay_in_their_place(tmp_path: Path) -> None:
    name = "a-board-whose-name-is-as-long-as-names-may-be-which-is-64-letters"[:64]
    note = "[bold]hot[/bold] \x1b[2J\u202e [link=https://evil.example]x[/link]"
    said = told(tmp_path, {name: facts("attic", release="[red]x[/red]")}, [name])
    federation_ = Federation()
    federation_.take(name, PRESENCE, Presence("s", True, note=note))
    text = printed(boards_of(said, federation_, NOW))
    assert max(map(len, text.splitlines())) <= 80
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "[bold]hot[/bold]" in text
    # Folded, not cut: the first column's parts are the name again.
    (first, *_) = [number for number, line in enumerate(text.splitlines()) if line.startswith(f" {name[:4]}")]
    parts = [line.split()[0] for line in text.splitlines()[first:] if line.startswith(" ") and line.strip()]
    assert "".join(parts) == name


def test_a_hundred_boards(tmp_path: Path) -> None:
    names = [f"board{it:03}" for it in range(100)]
    big = Invented(names)
    rows = {it: {key: str(value) for key, value in big.row(it, 6).items()} for it in names}
    said = told(tmp_path, {it: {"unit": ACTIVE, "last_row": rows[it], "certificate": None} for it in names}, names)
    text = printed(boards_of(said, None, NOW))
    assert sum(" active " in line for line in text.splitlines()) == 100


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda it: st.lists(it, max_size=3) | st.dictionaries(st.text(max_size=8), it, max_size=3),
    max_leaves=6,
)
KEYS = ("unit", "rss_bytes", "disk_free_bytes", "last_row", "certificate", "release")


@given(
    st.dictionaries(st.sampled_from(KEYS), anything), st.dictionaries(st.sampled_from(list(ACTIVE)), anything), anything
)
def test_a_board_may_say_anything(facts_: dict[str, Any], unit: dict[str, Any], row: Any) -> None:
    mended = {**RUN.row("attic", 6), "round": row}
    for it in (facts_, {**facts_, "unit": unit}, {**facts_, "last_row": mended}):
        said = Told(hosts=("attic",), boards={"attic": it})
        (board,) = boards_of(said, None, NOW)
        assert board.name == "attic"
        assert printed([board])


@given(anything)
def test_a_fleet_file_may_hold_anything(tmp_path_factory: pytest.TempPathFactory, document: Any) -> None:
    folder = tmp_path_factory.mktemp("status")
    (folder / "fleet.json").write_text(json.dumps(document))
    assert Told.read(folder).boards == {}


# ---------------------------------------------------------------------- the command


def test_what_could_not_be_asked_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--status", str(tmp_path / "status"), "--pki", str(tmp_path / "pki")]
    assert main(arguments) == 2
    said = capsys.readouterr()
    assert "broker: not asked: nobody told where it is (--broker HOST:PORT)" in said.out
    assert "boards: not asked" in said.out
    assert said.err == "status: neither boards nor broker answer\n"
    told(tmp_path / "status", {it: facts(it) for it in PEERS})
    assert main(arguments) == 0
    assert "ca.crt, operator.crt, operator.key; make certs" in " ".join(capsys.readouterr().out.split())
    told(tmp_path / "status", {"roof": facts("roof", unit={"ActiveState": "failed"})})
    assert main([*arguments, "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert document["boards"]["roof"]["state"] == "failed"
    assert document["boards"]["attic"]["well"] is True
    assert document["controller"] is None


def test_a_broker_that_does_not_answer_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Folder(tmp_path / "pki", datetime.now(timezone.utc), Lifetimes(), print).make([Wanted("operator")])
    told(tmp_path / "status", {it: facts(it) for it in PEERS})
    capsys.readouterr()
    arguments = ["--status", str(tmp_path / "status"), "--pki", str(tmp_path / "pki")]
    assert main(arguments) == 0
    assert "broker: 127.0.0.1:1" in " ".join(capsys.readouterr().out.split())
    assert main([*arguments, "--broker", "127.0.0.1:2"]) == 0
    assert "broker: 127.0.0.1:2" in " ".join(capsys.readouterr().out.split())


def test_the_probe_reads_what_a_peer_leaves(tmp_path: Path) -> None:
    """The program that the playbook runs on a board, with this Python and no unit."""
    state = RUN.board(tmp_path / "state", "attic")
    csv = state / "runs" / RUN_ID / "attic.csv"
    csv.write_text(csv.read_text() + "torn,line")
    (tmp_path / "peer.crt").write_text("a certificate")
    (tmp_path / "current").symlink_to("releases/1.0-abc")
    script = (ROOT / "ansible/roles/edge_peer/files/status.py").read_text()

    def ask(*arguments: str) -> dict[str, Any]:
        command = [sys.executable, "-c", script, "no-such-unit.service", *arguments]
        document: dict[str, Any] = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
        return document

    said = ask(str(state), "attic", str(tmp_path / "peer.crt"), str(tmp_path / "current"))
    assert said["last_row"] == {key: str(value) for key, value in RUN.row("attic", 6).items()}
    assert (said["certificate"], said["release"]) == ("a certificate", "1.0-abc")
    assert said["disk_free_bytes"] > 0
    assert "rss_bytes" not in said
    assert set(ask("/nowhere", "attic", "/nowhere", "/nowhere")) == {"unit"}
