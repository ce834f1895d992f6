"""Log records as entries of the journal: what is sent is read again by the protocol's document."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_peer.shell.journal import JournalHandler, entry, is_journal


def read_entry(content: bytes) -> dict[str, str]:
    """As the protocol's document says; fails where it is none."""
    fields = {}
    while content:
        line, _, rest = content.partition(b"\n")
        name, equals, value = line.partition(b"=")
        if not equals:
            size = int.from_bytes(rest[:8], "little")
            value, end, rest = rest[8 : 8 + size], rest[8 + size : 9 + size], rest[9 + size :]
            assert len(value) == size
            assert end == b"\n"
        assert name.decode().isupper() or name.decode().replace("_", "").isalnum()
        assert name not in fields
        fields[name.decode()] = value.decode()
        content = rest
    return fields


class Journal:
    """The other end of the socket."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.settimeout(10)

    def next(self) -> dict[str, str]:
        return read_entry(self._socket.recv(1 << 20))

    def close(self) -> None:
        self._socket.close()


class Kept(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.records: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record.getMessage())


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    it = Journal(tmp_path / "socket")
    yield it
    it.close()


@pytest.fixture
def otherwise() -> Kept:
    return Kept()


@pytest.fixture
def log(journal: Journal, otherwise: Kept) -> Iterator[logging.Logger]:
    it = logging.Logger("edge_peer.test", logging.DEBUG)
    handler = JournalHandler(lambda: {"PEER": "kitchen", "ROUND": "7"}, otherwise, journal.path)
    it.addHandler(handler)
    yield it
    handler.close()


@given(st.dictionaries(st.from_regex(r"[A-Z][A-Z0-9_]{0,20}", fullmatch=True), st.text(max_size=300), max_size=9))
def test_any_fields_are_read_again(fields: dict[str, str]) -> None:
    expected = {name: text.encode("utf-8", "replace").decode() for name, text in fields.items()}
    assert read_entry(entry(fields)) == expected


@pytest.mark.parametrize(
    ("level", "priority"),
    [(logging.DEBUG, "7"), (logging.INFO, "6"), (logging.WARNING, "4"), (logging.ERROR, "3"), (logging.CRITICAL, "2")],
)
def test_a_record_is_an_entry(log: logging.Logger, journal: Journal, level: int, priority: str) -> None:
    log.log(level, "round %d of\n%s", 7, "run-1")
    fields = journal.next()
    assert fields["MESSAGE"] == "round 7 of\nrun-1"
    assert fields["PRIORITY"] == priority
    assert fields["PEER"] == "kitchen"
    assert fields["ROUND"] == "7"
    assert fields["LOGGER"] == "edge_peer.test"
    assert fields["SYSLOG_IDENTIFIER"] == "edge-peer"
    assert Path(fields["CODE_FILE"]) == Path(__file__)
    assert fields["CODE_FUNC"] == "test_a_record_is_an_entry"
    assert int(fields["CODE_LINE"]) > 0


def test_a_traceback_is_in_the_message(log: logging.Logger, journal: Journal) -> None:
    try:
        raise ValueError("why")
    except ValueError:
        log.exception("it failed")
    message = journal.next()["MESSAGE"]
    assert message.startswith("it failed\nTraceback")
    assert message.endswith("ValueError: why")


def test_what_the_journal_does_not_take_goes_elsewhere(log: logging.Logger, journal: Journal, otherwise: Kept) -> None:
    log.info("x" * 10_000_000)
    assert [len(it) for it in otherwise.records] == [10_000_000]
    log.info("short")
    assert journal.next()["MESSAGE"] == "short", "the next one is taken again"
    # Nobody reads: the queue is full after some, and nothing waits.
    for number in range(5000):
        log.info("%d", number)
    assert otherwise.records[-1] == "4999"
    journal.close()
    journal.path.unlink()
    log.info("away")
    assert otherwise.records[-1] == "away"


def test_only_a_descriptor_that_systemd_has_connected_is_the_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (tmp_path / "stream").open("w") as file:
        found = os.fstat(file.fileno())
        monkeypatch.delenv("JOURNAL_STREAM", raising=False)
        assert not is_journal(file.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{found.st_dev}:{found.st_ino}")
        assert is_journal(file.fileno())
        # As of somebody who has redirected it.
        monkeypatch.setenv("JOURNAL_STREAM", f"{found.st_dev}:{found.st_ino + 1}")
        assert not is_journal(file.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", "rubbish")
        assert not is_journal(file.fileno())


def test_without_a_journal_nothing_changes() -> None:
    program = (
        "import logging, sys; from edge_peer.shell.journal import log_to_journal; "
        "logging.basicConfig(stream=sys.stderr, format='%(message)s', level='INFO'); "
        "assert not log_to_journal(dict); logging.info('here')"
    )
    environment = {name: value for name, value in os.environ.items() if name != "JOURNAL_STREAM"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stderr) == (0, "here\n")
